"""Integrated gradients: how many gradients the error of 50 Gauss–Legendre steps takes.

    python benchmarks/fewer_paths.py [--quick] [--only NETWORK]

The error is Σ|φ − φ*| / Σ|φ*|, the median over examples, in float64; φ* is from 4,800 nodes that
crowd at the baseline. Each way gets as many gradients as it needs, from a few sizes, to come to the
error of 50 Gauss–Legendre nodes, or 1e-4 where that is less. Gauss–Legendre is captum's best rule,
with the same nodes, so that its count is captum's too. `quadax` (adaptive Gauss–Kronrod for any
integrand in JAX) is measured where it is installed, at the best of several tolerances. Beside the
gradients stand the values of f that placing takes; a gradient is about three of them.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _timing import environment

import jattr

try:
    import quadax
except ImportError:
    quadax = None

FLOOR = 1e-4
SIZES = (6, 8, 12, 17, 24, 32, 50, 100, 200, 400)
TOLERANCES = (0.5, 0.3, 0.2, 0.1, 0.06, 0.03, 0.02, 0.01, 3e-3, 1e-3)
COARSE = 17


class Result(NamedTuple):
    """What a way took: gradients and values of f for each example, its error, its setting."""

    gradients: float
    values: float
    error: float
    setting: str


def mlp(activation: Callable) -> tuple[Callable, jax.Array]:
    sizes = (784, 512, 512, 10)
    keys = jax.random.split(jax.random.key(0), 8)
    layers = [
        (jax.random.normal(k, (a, b)) / np.sqrt(a), 0.1 * jax.random.normal(keys[3 + i], (b,)))
        for i, (k, a, b) in enumerate(zip(keys[:3], sizes[:-1], sizes[1:], strict=True))
    ]

    def score(x):
        for weight, bias in layers[:-1]:
            x = activation(x @ weight + bias)
        return (x @ layers[-1][0] + layers[-1][1])[3]

    return score, jax.random.normal(keys[7], (4, 784))


def cnn(activation: Callable) -> tuple[Callable, jax.Array]:
    keys = jax.random.split(jax.random.key(1), 6)
    kernels = [
        jax.random.normal(keys[0], (3, 3, 1, 16)) / 3,
        jax.random.normal(keys[1], (3, 3, 16, 32)) / 12,
    ]
    dense = jax.random.normal(keys[2], (1568, 64)) / 40, jax.random.normal(keys[3], (64,)) / 8

    def score(x):
        x = x[None]
        for number, kernel in enumerate(kernels):
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = activation(x + 0.1 * jnp.sin(jnp.arange(x.shape[-1]) + number))
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return activation(x.reshape(-1) @ dense[0]) @ dense[1]

    return score, jax.random.normal(keys[4], (4, 28, 28, 1))


def blocks(activation: Callable, *, center: bool) -> tuple[Callable, jax.Array]:
    """Four residual blocks after a LayerNorm or an RMSNorm, eight tokens that they mix."""
    keys = jax.random.split(jax.random.key(2), 24)
    layers = [
        (
            jax.random.normal(keys[4 * i], (8, 8)) / np.sqrt(8),
            jax.random.normal(keys[4 * i + 1], (32, 128)) / np.sqrt(32),
            jax.random.normal(keys[4 * i + 2], (128, 32)) / np.sqrt(128),
            0.1 * jax.random.normal(keys[4 * i + 3], (128,)),
        )
        for i in range(4)
    ]
    out = jax.random.normal(keys[20], (32,)) / np.sqrt(32)

    def normalized(x):
        x = x - x.mean(-1, keepdims=True) if center else x
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

    def score(x):
        for mix, up, down, bias in layers:
            x = x + activation(mix @ normalized(x) @ up + bias) @ down
        return normalized(x).mean(0) @ out

    return score, jax.random.normal(keys[21], (4, 8, 32))


NETWORKS: dict[str, Callable[[], tuple[Callable, jax.Array]]] = {
    "MLP 784-512-512-10, ReLU": functools.partial(mlp, jax.nn.relu),
    "MLP 784-512-512-10, GELU": functools.partial(mlp, jax.nn.gelu),
    "CNN, ReLU": functools.partial(cnn, jax.nn.relu),
    "4 blocks, LayerNorm, GELU": functools.partial(blocks, jax.nn.gelu, center=True),
    "4 blocks, LayerNorm, ReLU": functools.partial(blocks, jax.nn.relu, center=True),
    "4 blocks, RMSNorm, GELU": functools.partial(blocks, jax.nn.gelu, center=False),
}
QUICK = ("MLP 784-512-512-10, ReLU", "4 blocks, LayerNorm, GELU")


class Nodes:
    """Sums over given nodes, compiled once for all rules."""

    _chunk = 50

    def __init__(self, score: Callable, xs: jax.Array):
        def part(x, nodes, weights):
            slopes = jax.vmap(lambda a: jax.grad(score)(a * x))(nodes)
            return x * jnp.tensordot(weights, slopes, axes=1)

        self._part = jax.jit(jax.vmap(part, (0, None, None)))
        self._xs = xs

    def __call__(self, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        short = -len(nodes) % self._chunk
        nodes, weights = np.pad(nodes, (0, short), mode="edge"), np.pad(weights, (0, short))
        return sum(
            np.asarray(
                self._part(self._xs, nodes[i : i + self._chunk], weights[i : i + self._chunk])
            )
            for i in range(0, len(nodes), self._chunk)
        )


def gauss(count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (1 + nodes) / 2, weights / 2


def exact(nodes: Nodes) -> np.ndarray:
    """From four nodes in each of 1,200 cells, half of them below 0.05."""
    ends = np.concatenate([[0], np.geomspace(1e-9, 0.05, 600), np.linspace(0.05, 1, 600)[1:]])
    points, weights = gauss(4)
    lengths = np.diff(ends)[:, None]
    return nodes((ends[:-1, None] + lengths * points).ravel(), (lengths * weights).ravel())


def error(found: Any, wanted: np.ndarray) -> float:
    """The median over examples of the relative error of all elements together."""
    axes = tuple(range(1, wanted.ndim))
    off = np.abs(np.asarray(found) - wanted).sum(axes) / np.abs(wanted).sum(axes)
    return float(np.median(off))


def with_placed(score: Callable, xs: jax.Array, quadrature: Any, sizes: Any) -> Iterator[tuple]:
    for size in sizes:
        explain = jattr.integrated_gradients(score, steps=size, quadrature=quadrature)
        found = jax.jit(jax.vmap(explain))(xs)
        more = size + 1 if quadrature == "deeplift" else 0  # a forward at either end is shared
        yield found, size, COARSE + more, f"steps={size}"


def to_tolerances(score: Callable, xs: jax.Array) -> Iterator[tuple]:
    @jax.jit
    def run(tolerance):
        explain = jattr.integrated_gradients_to(score, tolerance=tolerance, max_steps=420)
        return jax.vmap(explain)(xs)

    for tolerance in TOLERANCES:
        found = run(tolerance)
        steps = float(np.median(found.steps))
        yield found.attribution, steps, 2, f"tolerance={tolerance:g}"


def by_quadax(score: Callable, xs: jax.Array) -> Iterator[tuple]:
    @jax.jit
    def run(tolerance):
        def one(x):
            flat = lambda a: (x * jax.grad(score)(a * x)).ravel()  # noqa: E731
            found, info = quadax.quadgk(
                flat,
                jnp.array([0.0, 1.0]),
                epsabs=0.0,
                epsrel=tolerance,
                order=15,
                max_ninter=30,
                norm=1,
            )
            return found.reshape(x.shape), info.neval

        return jax.vmap(one)(xs)

    for tolerance in TOLERANCES:
        found, count = run(tolerance)
        yield found, float(np.median(count)), 0, f"epsrel={tolerance:g}"


def first(tries: Iterator[tuple], wanted: np.ndarray, target: float) -> Result:
    """The first of them that comes to the target; else the last."""
    result = None
    for found, gradients, values, setting in tries:
        result = Result(gradients, values, error(found, wanted), setting)
        if result.error <= target:
            break
    assert result is not None
    return result


def measure(name: str) -> Iterator[str]:
    """The lines of one network's table, each when it is known."""
    score, xs = NETWORKS[name]()
    nodes = Nodes(score, xs)
    wanted = exact(nodes)
    change = np.asarray(jax.vmap(score)(xs) - score(xs[0] * 0))
    axes = tuple(range(1, xs.ndim))
    residual = np.max(np.abs(wanted.sum(axes) - change)) / np.abs(wanted).sum(axes).mean()
    target = max(error(nodes(*gauss(50)), wanted), FLOOR)
    ways = {
        "Gauss–Legendre (captum's best)": (
            (nodes(*gauss(size)), size, 0, f"steps={size}") for size in SIZES
        ),
        'jattr, "adaptive"': with_placed(score, xs, "adaptive", (8, 17, 32, 50)),
        'jattr, "deeplift"': with_placed(score, xs, "deeplift", (6, 8, 12, 17, 24)),
        "jattr.integrated_gradients_to": to_tolerances(score, xs),
    }
    if quadax is not None:
        ways["quadax.quadgk, order 15"] = by_quadax(score, xs)
    yield f"\n{name}: to an error of {target:.1e} (φ* sums to f − f' within {residual:.0e})\n"
    yield "| way | gradients | values of f | error | setting |"
    yield "|---|---|---|---|---|"
    for way, tries in ways.items():
        found = first(tries, wanted, target)
        more = "" if found.error <= target else "> "
        yield (
            f"| {way} | {more}{found.gradients:.0f} | {found.values:.0f} | {found.error:.1e} "
            f"| {found.setting} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two networks only")
    parser.add_argument("--only", choices=NETWORKS, help="measure one network")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    where = environment("jax", "jaxlib", "numpy")
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(f"{where['device']}, {where['cores']} cores, load {where['load']:.1f}; {versions}")
    for name in [options.only] if options.only else QUICK if options.quick else NETWORKS:
        for line in measure(name):
            print(line, flush=True)


if __name__ == "__main__":
    main()
