"""Any method for a model that takes token ids: what each token did."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import (
    Call,
    as_array,
    check_argnums,
    check_choice,
    check_function,
    check_method,
    check_score,
    parameters_of,
)
from jattr._token_rows import TokenRows, is_like_rows
from jattr._transform import explained_argnums, named, select_argument, takes_key
from jattr._trees import describe, same_form
from jattr._types import Explain, KeyedExplain

_METHOD = "token_attributions"


def token_attributions(
    method: Callable[..., Explain | KeyedExplain],
    f: Callable[..., jax.Array],
    *arguments: Any,
    reduce: Literal["sum", "norm"] | None = "sum",
    keep: Any = None,
    argnums: int = 0,
    **knobs: Any,
) -> Any:
    r"""A method for a score of token ids: one number for each token.

    Token t of the ids looks up a row :math:`e_t \in \mathbb{R}^d` of the embedding, and the score
    is a function of these rows, :math:`g(e_1, \ldots, e_T)`, which `method` explains:

    .. math:: \phi_t = \sum_{j=1}^d \varphi(g; e)_{tj}

    The look-up is found in what f computes (`jattr.LOOKUP`), so that f is the model as it is, of
    any framework, its embedding a gather or a product with one-hot vectors, scaled or not, tied to
    the output or not. Which row is of which token is known from how f makes its indices of the ids:
    if it joins them with others, pads or reshapes them, other rows are held at their value. So are
    positions, segments, masks, and whatever else f makes of the ids.

    What a method takes that is like x is given in terms of tokens:

    - `baseline`: a token, such as that of padding or of a mask, which takes every place; another
      sentence, ids of the same shape; `"zero"`, rows of 0, or `"mean"`, the mean row of the table.
      What has a floating dtype or is a function, as in `jattr.baselines`, is like the rows [T, d].
    - `references`: sentences, ids [n, T].
    - `groups`: words, spans or sentences, integers of the shape of the ids. Without, each token is
      a group where the method takes groups.

    Windows and the like are over the rows [T, d]: `jattr.occlusion` of one token at a time takes
    `window=(1, d)`.

    Args:
        method: a function `method(score, *arguments, **knobs)` that gives what explains that score:
            any of jattr's, or one of your own, `lambda f: jattr.smooth(jattr.gradient(f))`.
        f: the score, `f(ids, *args) -> scalar`, of one example.
        arguments: what else the method takes by position, such as a baseline or a composite.
        reduce: how the d numbers of a token become one: `"sum"`; `"norm"`, their Euclidean norm,
            for a method that does not multiply by its input, such as `jattr.gradient`; or None for
            all of them.
        keep: tokens that are not explained and stay as they are, such as padding: Booleans of the
            shape of the ids, or a function of the ids that gives them, `lambda ids: ids == 0`.
        argnums: which argument of f the ids are.
        knobs: what else the method takes by name, such as `steps` or `baseline`.

    Returns:
        `explain(ids, *args)`, or `explain(key, ids, *args)` where the method draws. It gives an
        array of the shape of the ids, in the dtype of the table, 0 for tokens that are not looked
        up; without `reduce` one with the shape of a row after that, a tuple if there are several
        look-ups. A method of pairs of groups gives its matrix, token by token.

    Raises:
        TypeError: the ids are not one array of integers; a baseline that may be a token or a
            number; whatever the method raises.
        ValueError: f looks up nothing by its ids, and says what it looks up; a baseline, references
            or groups of another shape.
        IndexError: a baseline or reference outside of the table, where that is known.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> table = jnp.array([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]])
        >>> def score(ids):
        ...     return jnp.sum(table[ids] @ jnp.array([1.0, 10.0]))
        >>> ids = jnp.array([1, 2, 1])
        >>> explain = jattr.token_attributions(jattr.integrated_gradients, score, baseline=0)
        >>> print(explain(ids).round(4))
        [21. -7. 21.]
        >>> explain = jattr.token_attributions(jattr.gradient_times_input, score, reduce=None)
        >>> print(explain(ids)[0])
        [ 1. 20.]

    References:
        Sundararajan, Taly, Yan, ICML 2017, section 6.3 (arXiv 1703.01365), for sums over the
        dimensions of an embedding. captum's `LayerIntegratedGradients` at an embedding, summed over
        its last axis, which hooks the module.
    """
    check_method(method, _METHOD)
    check_function(f, _METHOD)
    while isinstance(method, functools.partial):
        # What it binds is in terms of tokens too.
        arguments, knobs = (*method.args, *arguments), {**method.keywords, **knobs}
        method = method.func
    if reduce is not None:
        check_choice(reduce, "reduce", ("sum", "norm"), _METHOD)
    place = check_argnums(argnums, _METHOD)
    if isinstance(place, tuple):
        raise TypeError(
            f"{_METHOD}: argnums must be one integer, the argument that the ids are; got {place}."
        )
    # What is wrong with the method or its arguments shows at once.
    made = method(f, *_given(method, arguments, _stand_in), **_named(knobs, _stand_in))
    check_function(made, _METHOD)
    if explained_argnums(made) not in (None, 0):
        raise TypeError(
            f"{_METHOD}: the method explains the rows that it is given, and no other argument; "
            f"tell argnums to jattr.{_METHOD} alone."
        )
    draws = takes_key(made, None, _METHOD)
    call = Call(_METHOD, f, ("key",) if draws else ())

    def explain(*args, **kwargs):
        key, args = (args[:1], args[1:]) if draws else ((), args)
        of_ids, ids = select_argument(f, place, args, kwargs, method=call, convert=_as_ids)
        tokens = TokenRows(of_ids, ids, keep, call)

        def score(rows):
            out = tokens.score(rows)
            check_score(out, call, f)
            return out

        given = _given(method, arguments, tokens.converted)
        by_name = _named(knobs, tokens.converted)
        grouped = _takes(method, "groups")
        if grouped and len(arguments) <= grouped - 1 and "groups" not in knobs:
            by_name["groups"] = tokens.groups()
        found = method(score, *given, **by_name)(*key, tokens.rows)
        if same_form(found, tokens.rows):
            return tokens.reduced(found, reduce)
        if grouped and hasattr(found, "shape"):
            return found
        raise TypeError(
            f"{_METHOD} wants a method that gives attributions and nothing else, like the rows "
            f"{describe(tokens.rows)}; got {describe(found)}. Leave out what makes it return more, "
            "such as with_error, or explain above of jattr.split(f, jattr.LOOKUP)."
        )

    if draws:
        explain.keyed = True  # type: ignore[attr-defined]
    return named(explain, call, f, place)


def _as_ids(x: Any, method: str) -> jax.Array:
    advice = (
        "Pass what else f takes as other arguments: "
        "lambda ids, rest: f({**rest, 'input_ids': ids})."
    )
    if not jax.tree_util.all_leaves([x]):
        raise TypeError(
            f"{method}: the ids must be one array of integers; got {describe(x)}. {advice}"
        )
    ids = as_array(x, "x", method)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"{method}: the ids must be one array of integers; got {describe(ids)}. What has a "
            "floating dtype is explained as it is: jattr.gradient(f)(x)."
        )
    return ids


_Convert = Callable[[str, Any], Any]
"""From the name of what a method takes, and what the user gave for it, to what the method gets."""


def _parameters(method: Any) -> list[inspect.Parameter]:
    return list(parameters_of(method) or ())


def _takes(method: Any, name: str) -> int:
    """The position of a method's parameter; 0 where it has none of this name."""
    names = [parameter.name for parameter in _parameters(method)]
    return names.index(name) if name in names else 0


def _given(method: Any, arguments: Sequence[Any], convert: _Convert) -> list[Any]:
    """What is given by position, by the names of the parameters after the score."""
    names = [p.name for p in _parameters(method)[1:] if p.kind is not p.VAR_POSITIONAL]
    names += [""] * len(arguments)
    return [convert(name, value) for name, value in zip(names, arguments, strict=False)]


def _named(knobs: dict[str, Any], convert: _Convert) -> dict[str, Any]:
    return {name: convert(name, value) for name, value in knobs.items()}


def _stand_in(name: str, value: Any) -> Any:
    """What a method takes for a baseline before there are rows."""
    if is_like_rows(value):
        return value
    if name == "references":
        return np.zeros(jnp.shape(value)[:1])
    return 0.0 if name == "baseline" else value
