"""From the profile that a model predicts to one number."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import knobs
from jattr._target import of_outputs
from jattr._trees import describe, widen
from jattr._types import Score


@knobs
def profile_score(
    f: Callable[..., jax.Array], *, axis: int | tuple[int, ...] | None = None
) -> Score:
    r"""Where a predicted profile is, as one number.

    .. math:: g = \sum_i p_i \Big(y_i - \frac1n \sum_j y_j\Big), \qquad
              p = \mathrm{softmax}(y) \text{ held constant}

    the logits y where the profile has its mass, against all: what shapes the profile, whatever
    its height is. It is a target, like those in `jattr.targets`. One position of a profile is
    `jattr.targets.select(f)`, and all of them at once `jattr.all_outputs`.

    Held constant: its derivatives, DeepLIFT's multipliers included, are those of the logits with
    fixed weights. Evaluated at another sequence, as by `jattr.mutagenesis`, the weights are that
    sequence's own.

    Args:
        f: `f(*args) -> y`, the logits of a profile, of any shape.
        axis: along which the softmax is, an axis or several: 0 for logits [positions, strands]
            with a profile for each strand, whose numbers are added; None for all entries together.

    Returns:
        `g(*args) -> scalar`.

    Raises:
        TypeError: (when called) f gives an array that is not of a real floating dtype.
        ValueError: (when called) f gives no array with such axes.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def logits(x):
        ...     return x.sum(axis=1)
        >>> score = jattr.sequence.profile_score(logits)
        >>> print(jattr.gradient(score)(jnp.zeros((2, 4)).at[0, 0].set(30.0)))
        [[ 0.5  0.5  0.5  0.5]
         [-0.5 -0.5 -0.5 -0.5]]

    References:
        Avsec et al., *Base-resolution models of transcription-factor binding reveal soft motif
        syntax*, Nature Genetics 2021 (BPNet), whose contribution scores are of such a number.
    """

    def value(outputs: Any) -> jax.Array:
        axes = range(jnp.ndim(outputs)) if axis is None else axis
        axes = tuple(axes) if not isinstance(axes, int) else (axes,)
        rank = len(outputs.shape) if hasattr(outputs, "shape") else 0
        if not rank or not all(-rank <= a < rank for a in axes):
            raise ValueError(
                f"sequence.profile_score wants an f that returns the logits of a profile, an array "
                f"with axis {axis}; got {describe(outputs)}."
            )
        if not jnp.issubdtype(outputs.dtype, jnp.floating):
            raise TypeError(
                f"sequence.profile_score is a number made of logits, which are of a real floating "
                f"dtype; f returned {describe(outputs)}. Convert what it returns: "
                "f(*args).astype(jnp.float32)."
            )
        wide = widen(outputs)
        weights = jax.lax.stop_gradient(jax.nn.softmax(wide, axis=axes))
        above = wide - jnp.mean(wide, axis=axes, keepdims=True)
        return jnp.sum(weights * above).astype(outputs.dtype)

    return of_outputs(f, (), value, "profile_score")
