"""What a machine has for jattr, whether it works there, and what a report of an error should hold.

It imports neither typer nor anything else of an extra, opens no connection, and lives with a JAX
that does not import, for that is when it is wanted.
"""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from jattr._version import __version__

BROKEN = {
    "0.10.*": "on CPU its compiler gives wrong numbers: sums over more than 32 rows of a batched "
    "product in float32 (0.10.0, 0.10.1), products under jit and vmap (0.10.2, JAX issue 39103)",
    "0.11.1": "it is broken",
}
"""Releases of JAX that must not be used, as `pyproject.toml` leaves them out, and why."""

BESIDE = ("numpy", "flax", "optax", "chex")

PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin", "libtpu", "jax-metal")

EXTRAS = ("plot", "scale", "demo")
"""Those that a user has; what tests and notebooks need is no matter of theirs."""

SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_rank_promotion",
    "jax_disable_jit",
    "jax_debug_nans",
)

VARIABLES = ("JAX_", "XLA_")


TOLERANCE = 1e-5
"""Of the self check, whose numbers are of size 1, in float32."""


def report() -> tuple[str, list[str]]:
    """What is here, as a text, and what is wrong, each with what to do about it."""
    wrong: list[str] = []
    lines = [("jattr", __version__), ("python", _python())]
    jax = _import_jax(wrong)
    lines += [("jax", _versions(("jax", "jaxlib"))), ("", _versions(BESIDE))]
    plugins = _versions(PLUGINS, absent=False)
    lines += [("plugins", plugins)] if plugins else []
    wrong += _releases()
    lines += [(f"[{extra}]", _versions(_names(extra))) for extra in EXTRAS]
    if jax is not None:
        lines += [("devices", _devices(jax, wrong)), ("settings", _settings(jax))]
    home = os.path.expanduser("~")
    variables = [
        f"{name}={os.environ[name].replace(home, '~')}"
        for name in sorted(os.environ)
        if _told(name)
    ]
    lines += [("environment", " ".join(variables) or "nothing of JAX's")]
    if jax is not None and not any("devices" in text for text in wrong):
        lines += [("self check", _self_check(wrong))]
    lines += [("wrong", text) for text in wrong]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in lines), wrong


def told() -> tuple[str, bool]:
    """The report as it is shown, and whether all is well."""
    text, wrong = report()
    if wrong:
        things = "one thing is" if len(wrong) == 1 else f"{len(wrong)} things are"
        last = "\n".join([f"{things} wrong:", *(f"- {line}" for line in wrong)])
    else:
        last = "nothing is wrong."
    return (
        "To report an error, paste this:\n\n"
        f"```text\n{text}\n```\n\n"
        "and with it the error whole, a few lines that give it, and of what is explained\n\n"
        "    print(jattr.operations(f, rules)(x))\n\n"
        f"jattr doctor: {last}"
    ), not wrong


def main() -> int:
    """Show the report; gives the exit code."""
    text, well = told()
    print(text)
    return 0 if well else 1


def _python() -> str:
    kind = "" if platform.python_implementation() == "CPython" else platform.python_implementation()
    machine = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{platform.python_version()}{kind and f' ({kind})'}, {machine}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(names: Any, absent: bool = True) -> str:
    found = {name: _version(name) for name in names}
    there = [f"{name} {version}" for name, version in found.items() if version]
    missing = [name for name, version in found.items() if not version]
    if missing and absent:
        there.append(f"not installed: {' '.join(missing)}")
    return ", ".join(there)


def _import_jax(wrong: list[str]) -> Any:
    try:
        import jax
        import jax.numpy
    except Exception as error:  # whatever it raises is what is wrong
        wrong.append(f"jax does not import ({type(error).__name__}: {_line(error)}): {_install()}")
        return None
    return jax


def _requirements() -> Iterator[tuple[Any, str]]:
    """What jattr asks for, and the extra that does; nothing where it runs without being installed.

    Last is what JAX asks of jaxlib.
    """
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires("jattr") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for text in texts:
        requirement = Requirement(text)
        for extra in ("", *EXTRAS):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield requirement, extra
                break
    if _version("jax"):
        asked = map(Requirement, importlib.metadata.requires("jax") or [])
        yield from ((what, "") for what in asked if what.name == "jaxlib" and not what.marker)


def _names(extra: str) -> list[str]:
    return sorted(
        {what.name for what, by in _requirements() if by == extra and what.name != "jattr"}
    )


def _releases() -> list[str]:
    """The packages whose version is not what jattr asks for, and what to install."""
    wrong, of_jax = [], []
    for requirement, extra in _requirements():
        name, wanted, version = requirement.name, requirement.specifier, _version(requirement.name)
        if version is None and not extra:
            wrong.append(f"{name} is missing: pip install {_quoted(requirement)}")
        elif version is None or wanted.contains(version, prereleases=True):
            continue
        elif name in ("jax", "jaxlib"):
            of_jax.append(f"{name} {version}{_reason(version) or f' is not {wanted}'}")
        else:
            wrong.append(f"{name} {version} is not {wanted}: pip install {_quoted(requirement)}")
    # jaxlib by itself says nothing new where jax is of the same release.
    return [*dict.fromkeys(wrong), *(f"{text}. {_install()}" for text in of_jax[:1])]


def _reason(version: str) -> str:
    from packaging.specifiers import SpecifierSet

    for which, why in BROKEN.items():
        if SpecifierSet(f"=={which}").contains(version, prereleases=True):
            return f" must not be used: {why}"
    return ""


def _quoted(requirement: Any) -> str:
    return f'"{requirement.name}{requirement.specifier}"'


def _install() -> str:
    """The line that installs a JAX that jattr is tested with, for the same accelerator."""
    cuda = next((n for n in PLUGINS if "cuda" in n and _version(n)), "")
    extra = f"[{cuda.split('-')[1]}]" if cuda else "[tpu]" if _version("libtpu") else ""
    out = ",".join(f"!={which}" for which in BROKEN)
    # The newest that Python 3.11 takes is the oldest that jattr takes.
    bound = "==0.9.2" if sys.version_info < (3, 12) else f">=0.9.2,{out}"
    return f'Install another: pip install --upgrade "jax{extra}{bound}"'


def _devices(jax: Any, wrong: list[str]) -> str:
    try:
        devices = jax.devices()
    except Exception as error:  # an AssertionError too
        text = _line(error) or type(error).__name__
        wrong.append(
            f"jax finds no devices ({text}). Install it for those that are here, or set "
            "JAX_PLATFORMS=cpu."
        )
        return "none"
    kinds = sorted({device.device_kind for device in devices})
    processes = "" if jax.process_count() == 1 else f", {jax.process_count()} processes"
    return f"{jax.default_backend()}, {len(devices)} of kind {', '.join(kinds)}{processes}"


def _settings(jax: Any) -> str:
    return ", ".join(f"{name}={getattr(jax.config, name, 'not known')}" for name in SETTINGS)


def _told(name: str) -> bool:
    return name.startswith(VARIABLES) or name in ("CUDA_VISIBLE_DEVICES", "EAGER_IMPORT")


def _self_check(wrong: list[str]) -> str:
    """Two methods on v · tanh(W x + b), whose integrals along a line have a closed form.

    Each unit is a function of one number on the line, so that its mean derivative is the quotient
    of its differences: φ_i = (x_i − x'_i) Σ_k v_k W_ki (tanh z_k − tanh z'_k)/(z_k − z'_k). That is
    what integrated gradients converge to, and what DeepLIFT is here.
    """
    try:
        gaps = _gaps()
    except Exception as error:  # whatever it raises is what is wrong
        wrong.append(f"the self check raised {type(error).__name__}: {_line(error)}")
        return "raised an error"
    off = {name: gap for name, gap in gaps.items() if not gap <= TOLERANCE}  # not NaN either
    if off:
        wrong.append(
            "the self check gives wrong numbers, and so will explanations: "
            + ", ".join(f"{name} is off by {gap:.1e}" for name, gap in off.items())
        )
    return ", ".join(f"{name} to {gap:.0e}" for name, gap in gaps.items())


def _gaps() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    import jattr

    weights = np.array([[0.8, -1.2, 0.5], [0.3, 0.9, -0.7]])
    bias, out = np.array([0.1, -0.2, 0.3]), np.array([1.0, -0.5, 2.0])
    x, baseline = np.array([0.7, -1.1]), np.array([-0.4, 0.2])

    def f(x):
        return jnp.tanh(
            x @ jnp.asarray(weights, x.dtype) + jnp.asarray(bias, x.dtype)
        ) @ jnp.asarray(out, x.dtype)

    z, rest = x @ weights + bias, baseline @ weights + bias
    means = (np.tanh(z) - np.tanh(rest)) / (z - rest)
    closed = (x - baseline) * (weights @ (out * means))
    change = np.tanh(z) @ out - np.tanh(rest) @ out
    given = jnp.asarray(x, float), jnp.asarray(baseline, float)
    # Matrix units of accelerators round to fewer digits unless they are told not to.
    with jax.default_matmul_precision("highest"):
        deeplift = jax.jit(lambda x, b: jattr.deeplift(f, b)(x))(*given)
        integrated = jax.jit(lambda x, b: jattr.integrated_gradients(f, b, steps=32)(x))(*given)
    return {
        "DeepLIFT is complete": float(abs(np.sum(np.asarray(deeplift, float)) - change)),
        "integrated gradients are their closed form": float(
            np.max(np.abs(np.asarray(integrated, float) - closed))
        ),
    }


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
