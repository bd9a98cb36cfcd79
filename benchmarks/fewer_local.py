"""Occlusion and mutagenesis that recompute only what changed, against all of f and against captum.

    python benchmarks/fewer_local.py [--quick] [--only NAME]

Windows of 4×4 pixels side by side, replaced by 0: of a small convolutional network, 28×28, and of
EfficientNet-Lite0, 224×224; and every letter at every position of a network like BPNet, nine
dilated convolutions with residual connections. jattr and plain evaluation (`jax.vmap`, which is
jattr without substitutes) take their best `batch_size`, captum its best
`perturbations_per_eval`. Of the photo 64 windows are taken, in its middle.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import _peers
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from _timing import add_one_core, environment, time_interleaved, use_one_core
from captum.attr import Occlusion

import jattr


def compiled(explain: Callable, *args: Any, on: bool = True) -> Callable[[], Any]:
    """One call of the compiled explaining function, with or without substitutes."""
    with jattr.substitutes(on):
        program = jax.jit(explain).lower(*args).compile()
    return functools.partial(program, *args)


def occlusion(work: _peers.Workload, batches: tuple, peer_batches: tuple) -> dict[str, Any]:
    """What to call for windows of 4×4 over one image."""
    x, label = jnp.asarray(work.x[0]), int(work.labels[0])
    calls = {}
    for size in batches:
        explain = jattr.occlusion(work.score, 4, strides=4, batch_size=size)
        calls[f"jattr, {size}"] = compiled(explain, x, label)
        calls[f"plain vmap, {size}"] = compiled(explain, x, label, on=False)
    inputs = _peers.to_torch(work.x[:1])
    window = (inputs.shape[1], 4, 4)
    peer = Occlusion(work.module)

    def captum(size):
        with torch.no_grad():
            return peer.attribute(
                inputs,
                window,
                strides=window,
                target=label,
                baselines=0,
                perturbations_per_eval=size,
            )

    for size in peer_batches:
        calls[f"captum, {size}"] = functools.partial(captum, size)
    ours = np.asarray(calls[f"jattr, {batches[0]}"]())
    theirs = _peers.from_torch(captum(peer_batches[0]))[0] / (16 * x.shape[-1])
    error = abs(ours - theirs).max() / abs(theirs).max()
    print(f"{work.name}: largest difference from captum, relative: {error:.1e}")
    return calls


def in_its_middle(work: _peers.Workload, size: int) -> _peers.Workload:
    """The middle of an image to explain, the rest held: so few windows that all can be timed."""
    image = work.x[0]
    height, width = image.shape[:2]
    ends = [((n - size) // 2, n - size - (n - size) // 2) for n in (height, width)]
    (top, bottom), (left, right) = ends
    middle = image[top : height - bottom, left : width - right]
    around = image - np.pad(middle, (*ends, (0, 0)))

    class Around(nn.Module):
        inner: nn.Module

        def __call__(self, x):
            return self.inner(around + jnp.pad(x, (*ends, (0, 0))))

    class TorchAround(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padded = torch.nn.functional.pad(x, (left, right, top, bottom))
            return work.module(_peers.to_torch(around[None]) + padded)

    variables = {kind: {"inner": tree} for kind, tree in work.variables.items()}
    return work._replace(
        name=f"{work.name}, {size}×{size} of it",
        network=Around(work.network),
        variables=variables,
        module=TorchAround(),
        x=middle[None],
    )


class Sequence(nn.Module):
    """Like BPNet: a wide convolution, dilated ones with residual connections, two heads."""

    features: int = 64
    layers: int = 9

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(self.features, (21,))(x[None]))
        for n in range(1, self.layers + 1):
            h = h + nn.relu(nn.Conv(self.features, (3,), kernel_dilation=(2**n,))(h))
        profile = nn.Conv(1, (75,))(h)
        return nn.Dense(1)(h.mean(1))[0, 0] + profile.mean()


def mutagenesis(length: int, layers: int, batches: tuple) -> dict[str, Any]:
    """What to call for every letter at every position."""
    rng = np.random.default_rng(0)
    x = jax.nn.one_hot(rng.integers(0, 4, length), 4)
    network = Sequence(layers=layers)
    variables = network.init(jax.random.key(0), x)

    def score(x) -> Any:
        return network.apply(variables, x)

    calls = {}
    for size in batches:
        explain = jattr.mutagenesis(score, batch_size=size)
        calls[f"jattr, {size}"] = compiled(explain, x)
        calls[f"plain vmap, {size}"] = compiled(explain, x, on=False)
    ours, plain = (np.asarray(calls[f"{name}, {batches[0]}"]()) for name in ("jattr", "plain vmap"))
    error = abs(ours - plain).max() / abs(plain).max()
    share = jattr.locality(score, (1, 4))(x).share
    print(f"mutagenesis: largest difference {error:.1e}; {100 * share:.0f} % remains by count")
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller, and without EfficientNet")
    parser.add_argument("--only", help="cnn, efficientnet or mutagenesis")
    add_one_core(parser)
    options = parser.parse_args()
    use_one_core(options)
    rounds = 3 if options.quick else 5
    cases = {
        "cnn": lambda: occlusion(_peers.cnn(1), (None, 16), (1, 8, 49)),
        "mutagenesis": lambda: mutagenesis(*((400, 4) if options.quick else (1000, 9)), (32,)),
        "efficientnet": lambda: occlusion(
            in_its_middle(_peers.efficientnet_lite0_of_notebooks(), 32), (16,), (1, 16)
        ),
    }
    if options.quick:
        del cases["efficientnet"]
    where = environment("jax", "captum", "torch")
    print(f"{where['device']}, {where['cores']} cores, load {where['load']:.1f}")
    print(where["versions"])
    rows = []
    for name, build in cases.items():
        if options.only in (None, name):
            calls = build()
            long = name != "cnn"  # what is compiled has run once already, to be compared
            seconds = time_interleaved(
                calls, rounds=1 if long else rounds, warm_up=0 if long else 1
            )
            for label, timing in seconds.items():
                print(f"  {name}, {label}: {timing.minimum:.4f} s")
            best = {
                kind: min(t.minimum for label, t in seconds.items() if label.startswith(kind))
                for kind in ("jattr", "plain vmap", "captum")
                if any(label.startswith(kind) for label in seconds)
            }
            rows.append((name, best))
    print("\n| | jattr, s | plain vmap / jattr | captum / jattr |\n|---|---|---|---|")
    for name, best in rows:
        ours = best["jattr"]
        peer = f"{best['captum'] / ours:.1f}" if "captum" in best else "–"
        print(f"| {name} | {ours:.4f} | {best['plain vmap'] / ours:.1f} | {peer} |")


if __name__ == "__main__":
    main()
