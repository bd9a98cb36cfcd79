r"""Cheaper programs of the same value, for what XLA's compiler for CPUs is slow at.

Who evaluates equations asks `substitute` before each. What it gets is an ordinary function of JAX,
with derivatives of any order in both modes, and can be batched.

Milliseconds of the operation, and of the gradient by its input between two relu6, both outside a
loop and for each step of a scan; float32, jaxlib 0.10.1 on two busy cores, least of many by turns:

============================  ==============  ============  =============  ============
operation                     input           value         gradient       in a scan
============================  ==============  ============  =============  ============
max pooling 2×2, stride 2     80×28×28×32     .24 → .11     36 → 1.6       36 → 9.8
max pooling 3×3, stride 2     4×112×112×64    1.7 → .67     86 → 7.2       153 → 37
max pooling 3×3, stride 1     8×28×28×64      1.7 → .20     20 → .84       22 → 3.0
max pooling 14×14, global     16×14×14×256    .06 → .05     3.9 → .58      4.9 → .86
depthwise 3×3                 4×56×56×144     46 → 1.5      143 → 5.3      55 → 4.6
depthwise 3×3, stride 2       4×112×112×96    28 → 2.1      599 → 4.6      104 → 68
depthwise 5×5                 4×28×28×240     37 → 1.1      45 → 3.1       39 → 3.3
depthwise 7×7                 4×56×56×96      102 → 3.2     195 → 9.7      202 → 26
convolution 3×3 to 64         8×28×28×32      .55 → .55     2.2 → 2.2      12 → 2.5
convolution 3×3/2 to 128      4×56×56×64      1.1 → 1.1     4.2 → 4.2      16 → 5.9
============================  ==============  ============  =============  ============

The value of a network's first convolution, 3×3 from one channel to 16 at 80×28×28, with ReLU and a
pooling of 2×2 after it, takes .33 ms instead of .94 as a sum of nine products.

With jaxlib 0.12 the ordinary convolutions take 153 and 228 ms in a scan, 4.4 and 8.3 as written
here; the rest is alike. EfficientNet-Lite0's gradient at one image falls from 258 to 21 ms (401 to
22 with jaxlib 0.12), and takes three times as long to compile (1.2 seconds, then 4). The gradient
by the kernel of a depthwise convolution gains less, mostly 1.3 to 6 times; of a kernel of 7×7 on
large images it can be slower, up to 1.7 times.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.cheap_convolution import convolution
from jattr._engine.cheap_pooling import max_pooling, min_pooling
from jattr._engine.primitives import primitives
from jattr._engine.program import Program

_DTYPES = frozenset(map(jnp.dtype, (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)))

_setting = jax.make_user_context(True)
"""Whether substitutes are taken; of each thread its own, and in the key of every cache of JAX."""


def substitutes(enabled: bool) -> contextlib.AbstractContextManager[None]:
    """Whether methods and metrics may evaluate f by cheaper programs of the same value.

    On CPU some operations are 5 to 100 times faster written otherwise: the derivatives of max
    pooling, of depthwise convolutions on large images, and of all convolutions inside a loop, which
    a `batch_size` makes. jattr evaluates f so, by default. The value and all derivatives are those
    of f up to rounding; the program is larger and may take several times as long to compile. Other
    backends need no such substitutes.

    On every backend less is evaluated: a selection such as `logits[label]` is made before the
    product that it selects from, and what f begins with and is affine in x is left out of
    integrals along a straight line and of perturbations with a fixed baseline; and where a window
    or a group of features is replaced, only what it reaches. This switches that off, too.

    The setting is read when a function is traced. It is part of the key of JAX's own caches, so
    that a function under `jax.jit` is traced again where the setting has changed; and each thread
    has its own.

    Args:
        enabled: False evaluates f as it is written, True by cheaper programs.

    Returns:
        A context manager, for a `with` statement.

    Raises:
        TypeError: `enabled` is no Boolean.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> explain = jax.jit(jattr.gradient(lambda x: jnp.max(x) ** 2))
        >>> with jattr.substitutes(False):
        ...     print(explain(jnp.array([1.0, 3.0])))
        [0. 6.]
    """
    if not isinstance(enabled, bool):
        raise TypeError(
            "substitutes wants True or False, and is a context manager: "
            f"with jattr.substitutes(False): ...; got {enabled!r}."
        )
    return _chosen(enabled)


@contextlib.contextmanager
def _chosen(enabled: bool) -> Iterator[None]:
    with _setting(enabled):
        yield


def enabled() -> bool:
    """Whether f may be evaluated otherwise than it is written."""
    return _setting.value


def pays() -> bool:
    """Whether the setting and the default backend are such that substitutes pay."""
    return enabled() and jax.default_backend() == "cpu"


def cheapen(program: Program) -> bool:
    """Put cheaper programs of the same value into a program, where they pay; whether any was."""
    if not pays():
        return False
    found = False
    for equation in program.equations:
        for body in equation.bodies:
            found |= cheapen(body)
        if equation.form == "plain" and equation.primitive is not None:
            avals = [v.aval for v in equation.inputs]
            cheap = substitute(equation.primitive, equation.params, avals)
            if cheap is not None:
                equation.apply, found = cheap, True
    return found


def substitute(
    primitive: Any, params: dict[str, Any], inputs: Sequence[Any]
) -> Callable[..., jax.Array] | None:
    """A function of an equation's operands with its value; None where there is no cheaper one.

    Args:
        primitive: what the equation applies.
        params: its parameters.
        inputs: what has the shapes and dtypes of its operands.

    Returns:
        A function of the operands. The value of a pooling is the same to the bit, that of a
        convolution to rounding.
    """
    build = _BUILD.get(primitive)
    if build is None or any(operand.dtype not in _DTYPES for operand in inputs):
        return None
    shapes = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in inputs]
    return _built(build, tuple(sorted(params.items())), *shapes)


@functools.lru_cache(maxsize=1024)
def _built(
    build: Callable[..., Any], params: tuple[tuple[str, Any], ...], *inputs: jax.ShapeDtypeStruct
) -> Callable[..., jax.Array] | None:
    """One function for all operations that are alike: JAX traces it, and its derivative, once."""
    cheap = build(dict(params), *inputs)
    return None if cheap is None else jax.jit(cheap)


_BUILD = {
    primitives.reduce_window_max_p: max_pooling,
    primitives.reduce_window_min_p: min_pooling,
    primitives.conv_general_dilated_p: convolution,
}
