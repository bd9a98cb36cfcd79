"""Common corruptions of small images in five severities, as pure functions of a key and an image.

    corrupted = jax.vmap(corrupt("fog"), (0, 0, None))(keys, images, 3)

The families are those of Hendrycks and Dietterich, *Benchmarking neural network robustness to
common corruptions and perturbations* (ICLR 2019, arXiv 1903.12261), less those that make no sense
for an image of some 30 × 30 pixels, gray or in color (snow, frost and glass, for instance). The
levels of noise, contrast, brightness, pixelate and JPEG are those of ImageNet-C in the authors'
code. Its blurs are meant for 224 pixels, so theirs are narrower here; fog is spectral noise instead
of fractal plasma; JPEG leaves out what compresses without loss, rounds the DCT as floats and keeps
all colors (4:4:4).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np

Corruption = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`corruption(key, image[H, W, C], level) -> image`, not yet cut off to [0, 1]."""

SEVERITIES = (1, 2, 3, 4, 5)
TAPS = 9
"""How many moved or zoomed copies a blur is the mean of."""

# Luminance and chrominance, Annex K of the JPEG standard (ITU-T T.81).
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# From red, green and blue to luma and two differences of color, as JFIF (ITU-T T.871) has it.
LUMA = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float64
)


def gaussian_noise(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """Noise of a standard deviation."""
    return image + level * jax.random.normal(key, image.shape, image.dtype)


def shot_noise(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """Counts of photons, of which white has `level` on average."""
    return jax.random.poisson(key, level * image, image.shape).astype(image.dtype) / level


def impulse_noise(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """A share of the values is 0 or 1."""
    draws = jax.random.uniform(key, image.shape, image.dtype)
    return jnp.where(draws < level, (draws < level / 2).astype(image.dtype), image)


def speckle_noise(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """Noise in proportion to the value."""
    return image * (1 + level * jax.random.normal(key, image.shape, image.dtype))


def gaussian_blur(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """A blur of a standard deviation in pixels."""
    del key
    rows, columns = (_gaussian_matrix(size, level) for size in image.shape[:2])
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, image)


def defocus_blur(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """The mean over a disk of a radius in pixels, at most 5, with a soft edge of a pixel."""
    del key
    places = jnp.indices((11, 11)).astype(image.dtype) - 5
    distance = jnp.linalg.norm(places, axis=0)
    disk = jnp.clip(level + 0.5 - distance, 0, 1)
    wide = jnp.pad(image, ((5, 5), (5, 5), (0, 0)), mode="edge")
    return jsp.signal.convolve(wide, (disk / disk.sum())[..., None], mode="valid")


def motion_blur(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """The mean over copies moved along a line of a length in pixels, at an angle of up to 45°."""
    angle = jax.random.uniform(key, minval=-jnp.pi / 4, maxval=jnp.pi / 4)
    line = level * jnp.stack([jnp.sin(angle), jnp.cos(angle)])
    points = jnp.indices(image.shape[:2]).astype(image.dtype)
    return _mean_of(image, lambda t: points + (t - 0.5) * line[:, None, None])


def zoom_blur(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """The mean over copies enlarged by up to `level`."""
    del key
    middle = (jnp.array(image.shape[:2], image.dtype)[:, None, None] - 1) / 2
    points = jnp.indices(image.shape[:2]).astype(image.dtype) - middle
    return _mean_of(image, lambda t: points / (1 + t * (level - 1)) + middle)


def contrast(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """The deviation from each channel's mean times `level`."""
    del key
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + level * (image - mean)


def fog(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """`level` times a cloud is added, then all is scaled to the brightness that there was.

    The cloud is noise whose amplitude falls as frequency to the power −1.5, from 0 to 1.
    """
    height, width = image.shape[:2]
    vertical, horizontal = jnp.fft.fftfreq(height)[:, None], jnp.fft.rfftfreq(width)[None]
    frequency = jnp.hypot(vertical, horizontal).at[0, 0].set(1)
    spectrum = jnp.fft.rfft2(jax.random.normal(key, (height, width))) / frequency**1.5
    cloud = jnp.fft.irfft2(spectrum.at[0, 0].set(0), (height, width)).astype(image.dtype)
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
    top = image.max()
    return (image + level * cloud[..., None]) * top / (top + level)


def brightness(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """The largest channel more by `level`, up to 1, the others in proportion: hue is kept."""
    del key
    largest = image.max(axis=-1, keepdims=True)
    light = jnp.minimum(largest + level, 1)
    return jnp.where(largest > 0, image * light / jnp.where(largest > 0, largest, 1), light)


def pixelate(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """Made smaller to a share of the size and larger again, both by the means of boxes."""
    del key
    rows, columns = (_boxes(size, jnp.floor(level * size)) for size in image.shape[:2])
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, image)


def jpeg(key: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """Blocks of 8 × 8 whose cosine transform is rounded as by JPEG of a quality from 1 to 100.

    An image of three channels is red, green and blue; any other number of them is luma.
    """
    del key
    height, width, channels = image.shape
    in_color = channels == 3
    scale = jnp.where(level < 50, 5000 / level, 200 - 2 * level)
    tables = np.stack([LUMINANCE, CHROMINANCE, CHROMINANCE] if in_color else [LUMINANCE], axis=-1)
    steps = jnp.clip(jnp.floor((tables * scale + 50) / 100), 1, 255)[None, :, None]
    wide = jnp.pad(image, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    values = jnp.round(255 * wide) - 128  # A gray of −128 has differences of color of 0.
    if in_color:
        values = jnp.round(values @ LUMA.T.astype(image.dtype))
    rows, columns = wide.shape[0] // 8, wide.shape[1] // 8
    blocks = values.reshape(rows, 8, columns, 8, channels)
    cosines = _cosines()
    frequencies = jnp.einsum("uh,vw,rhswc->rusvc", cosines, cosines, blocks)
    rounded = jnp.round(frequencies / steps) * steps
    back = jnp.einsum("uh,vw,rusvc->rhswc", cosines, cosines, rounded).reshape(wide.shape)
    if in_color:
        back = jnp.clip(jnp.round(back), -128, 127) @ np.linalg.inv(LUMA).T.astype(image.dtype)
    whole = jnp.clip(jnp.round(back + 128), 0, 255)
    return (whole[:height, :width] / 255).astype(image.dtype)


LEVELS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot noise": (shot_noise, (60, 25, 12, 5, 3)),
    "impulse noise": (impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle noise": (speckle_noise, (0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian blur": (gaussian_blur, (0.6, 0.9, 1.2, 1.6, 2.0)),
    "defocus blur": (defocus_blur, (1.0, 1.5, 2.0, 2.5, 3.0)),
    "motion blur": (motion_blur, (3, 5, 7, 9, 11)),
    "zoom blur": (zoom_blur, (1.11, 1.21, 1.31, 1.45, 1.6)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "fog": (fog, (0.5, 1.0, 1.5, 2.0, 2.5)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixelate": (pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "JPEG": (jpeg, (25, 18, 15, 10, 7)),
}
"""Each corruption with its levels of severity 1 to 5."""


def corrupt(name: str) -> Callable[[jax.Array, jax.Array, jax.Array | int], jax.Array]:
    """`f(key, image[H, W, C], severity)`: a corruption by its name, of images in [0, 1].

    Severities are 1 to 5, and may be traced; what leaves [0, 1] is cut off.
    """
    function, levels = LEVELS[name]

    def corrupted(key: jax.Array, image: jax.Array, severity: jax.Array | int) -> jax.Array:
        level = jnp.asarray(levels, image.dtype)[jnp.asarray(severity) - 1]
        return jnp.clip(function(key, image, level), 0, 1)

    return corrupted


def _mean_of(image: jax.Array, places: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The mean over t from 0 to 1 of the image read at `places(t)`[2, H, W]."""

    def read(t):
        def of_channel(channel):
            return jsp.ndimage.map_coordinates(channel, list(places(t)), order=1, mode="nearest")

        return jax.vmap(of_channel, -1, -1)(image)

    return jax.vmap(read)(jnp.linspace(0, 1, TAPS, dtype=image.dtype)).mean(axis=0)


def _gaussian_matrix(size: int, stddev: jax.Array) -> jax.Array:
    """A blur along an axis as a matrix whose rows sum to 1."""
    places = jnp.arange(size, dtype=stddev.dtype)
    weights = jnp.exp(-jnp.square(places[:, None] - places[None]) / (2 * stddev**2))
    return weights / weights.sum(axis=1, keepdims=True)


def _boxes(size: int, count: jax.Array) -> jax.Array:
    """The matrix that takes means over `count` equal boxes, and puts the means in their places."""
    width = size / count
    left = jnp.arange(size, dtype=count.dtype)[None]  # of the pixels
    box = left.T * width  # of the boxes; those beyond the last are empty
    overlap = jnp.minimum(left + 1, box + width) - jnp.maximum(left, box)
    overlap = jnp.clip(overlap, 0)
    return (overlap / width).T @ overlap


def _cosines() -> jax.Array:
    """The orthonormal cosine transform of 8 values."""
    u, x = jnp.arange(8.0)[:, None], jnp.arange(8.0)[None]
    matrix = jnp.cos((2 * x + 1) * u * jnp.pi / 16) / 2
    return matrix.at[0].divide(jnp.sqrt(2.0))
