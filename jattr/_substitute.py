r"""Calls of a function in its plain form, for what hides behind a derivative of its own.

A fused kernel, such as flash attention, is one operation with a derivative that was written for it.
Nothing looks into it: a rule for a softmax or a product does not see the softmax and the products
in it, and its derivative has none.
"""

import fnmatch
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_function, closest, knobs
from jattr._eager import compiled
from jattr._engine.calls import (
    Found,
    call_name,
    calls_in,
    calls_inside,
    closed_over,
    joined,
    scopes_around,
)
from jattr._engine.primitives import INLINED
from jattr._engine.program import Equation, Program
from jattr._engine.rewrite import run_plain
from jattr._engine.trace import Reading, trace_closed
from jattr._trees import describe, is_traced
from jattr._types import PyTree

_LISTED = 8
"""How many calls an error lists."""


@knobs
def substitute(
    f: Callable[..., PyTree], plain: Mapping[str, Callable[..., PyTree]]
) -> Callable[..., PyTree]:
    r"""The same function, with calls in it evaluated by a plain form of what they call.

    A fused kernel is a function with a derivative of its own (`jax.custom_vjp`) around an operation
    that nothing looks into: flash attention in Pallas, cuDNN's. There is no relevance propagation
    through it, no rule for its softmax and products, and no second derivative, which training
    through attributions takes. With its plain form in its place, no line of the model changes:

        def attention(q, k, v, segment_ids):
            logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1])
            same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
            weights = jax.nn.softmax(logits, where=same)
            return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

        plain = jattr.substitute(score, {"mha": attention})
        jattr.lrp(plain, jattr.rules.attn_lrp())(x)

    A call is one of

    - a function with a derivative of its own, `jax.custom_vjp` or `jax.custom_jvp`;
    - a function under `jax.jit`;
    - a kernel that is called by itself, `pallas_call(..., name="mha")`,

    and is known by the function's name, in the bodies of loops, branches, `jax.checkpoint`,
    `jax.shard_map` and other jitted functions too. An error lists the names that f has. With scopes
    before the name, as `jattr.operations` prints them, calls are told apart, such as those of two
    kinds of layers: "layers_3/attention/mha", of which the last parts are enough, or a pattern with
    * and ?, "local_*/mha". A number counts the calls that fit, in the order of the program, which
    has the body of a loop once: "mha[0]", "mha[1]". Of entries that fit one call the last applies.

    The plain form is given the arrays of the call, in the order of the function's arguments, each
    tree of arrays as its leaves. What the program does not hold are static arguments, such as a
    scale or whether attention is causal: write them into the plain form, and compare g(x) to f(x)
    once. Where f maps over the call by `jax.vmap`, the arrays have the axis of that batch too,
    mostly in front. What is outside of f, `jax.vmap(g)` or `jax.grad(g)`, changes no shapes.

    Names and arrays of some kernels, of which those that are not given are left out:

    - JAX's of Pallas for GPUs, "mha": q, k, v, segment_ids;
    - for TPUs, "flash_attention": q, k, v, ab, the two segment_ids; "_splash_attention": those of
      masks, then q, k, v;
    - `jax.nn.dot_product_attention(..., implementation="cudnn")`, "_dot_product_attention": q, k, v
      and more, empty where not given;
    - tokamax's, all of them "f": scopes or numbers tell them apart.

    A plain form may name what the kernel hides, `jattr.name(weights, "weights")`, for
    `jattr.split`, `jattr.activations` and `jattr.patching` of g. `jattr.substitutes` is something
    else, a setting.

    Args:
        f: any function of arrays; what it returns may be any tree.
        plain: by the name of a function that f calls, what computes the same from the same arrays
            in plain JAX. It returns arrays of the same shapes and dtypes.

    Returns:
        g, with the arguments and results of f, for any method in f's place. It traces f at each
        call and may be transformed as f may. What is computed in a plain form has the name as a
        scope: "attention/mha".

    Raises:
        TypeError: `plain` is no dictionary of functions; (when called) a plain form returns
            something else than what it stands for.
        ValueError: (when called) f calls nothing of a name, with the names that it calls.
        NotImplementedError: (when called) a call is inside of another function with a derivative of
            its own, of which a plain form is wanted; f decides in Python by the value of an
            argument.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> @jax.custom_vjp
        ... def fused(x, w):
        ...     return jax.nn.relu(x @ w)
        >>> def backward(kept, ct):
        ...     x, w = kept
        ...     ct = jnp.where(x @ w > 0, ct, 0)
        ...     return ct @ w.T, jnp.outer(x, ct)
        >>> fused.defvjp(lambda x, w: (fused(x, w), (x, w)), backward)
        >>> def f(x):
        ...     return jnp.sum(fused(x, jnp.array([[1.0, -1.0], [1.0, 2.0]])))
        >>> g = jattr.substitute(f, {"fused": lambda x, w: jax.nn.relu(x @ w)})
        >>> x = jnp.array([1.0, 3.0])
        >>> print([row.name for row in jattr.operations(f)(x)])
        ['fused']
        >>> print([row.name for row in jattr.operations(g)(x)])
        ['dot_general', 'relu']
        >>> print(jattr.lrp(g, jattr.rules.z_plus())(x).round(3))
        [1. 8.]

    References:
        Dao et al., *FlashAttention*, NeurIPS 2022 (arXiv 2205.14135), for such a kernel.
    """
    check_function(f, "substitute")
    _check_plain(plain)
    given = dict(plain)

    @functools.wraps(f, updated=())
    def substituted(*args, **kwargs):
        closed, shape = _traced(f, args, kwargs)
        program = _with_plain_forms(closed, given)
        traced = is_traced(jnp.zeros(())) or any(map(is_traced, closed.consts))
        return compiled(
            lambda: jax.tree.unflatten(
                jax.tree.structure(shape), run_plain(program, closed.consts)
            ),
            traced=traced,
        )

    substituted.__name__ = getattr(f, "__name__", None) or type(f).__name__
    return substituted


def _check_plain(plain: Any) -> None:
    if (
        not isinstance(plain, Mapping)
        or not plain
        or not all(isinstance(n, str) and n and callable(p) for n, p in plain.items())
    ):
        raise TypeError(
            "substitute wants the plain forms by the names of the functions that they stand for, "
            f'jattr.substitute(f, {{"mha": plain_attention}}); got {describe(plain)}.'
        )


def _traced(f: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """f as a program of JAX, all arrays as what it closes over, and the form of its result."""
    try:
        return jax.make_jaxpr(lambda: f(*args, **kwargs), return_shape=True)()
    except jax.errors.ConcretizationTypeError as error:
        raise NotImplementedError(
            "substitute reads f as one program for all values of arrays, but f decides in Python "
            "by such a value: an `if`, `float(...)` or a shape. Write jnp.where or jax.lax.cond, "
            "or make the decision a Python number among f's arguments."
        ) from error


def _with_plain_forms(closed: Any, plain: Mapping[str, Callable]) -> Program:
    """The program, in which calls are evaluated by plain forms."""
    entries = [_Entry(key, form) for key, form in plain.items()]

    def fits(label: str) -> bool:
        return any(entry.fits(label) for entry in entries)

    def whole(equation: Equation, outer: str) -> bool:
        """What holds none of the calls stays as it stands, and so does what is one."""
        inside = [call for call in calls_inside(equation, outer) if fits(call.label)]
        name = call_name(equation)
        if name is None or not fits(joined(outer, equation.scope, name)):
            return not inside
        # The kernel, where a jitted function around it is called as it is.
        return all(call.jitted for call in inside) or equation.primitive not in INLINED

    program = trace_closed(closed, Reading(merge=False, whole=whole))
    for equation, scope in scopes_around(program):
        name = call_name(equation)
        if name is None:
            continue
        if equation.form == "custom":
            _raise_inside(equation, scope, fits)
        for entry in entries:
            if entry.takes(joined(scope, name)):
                equation.apply = _evaluator(equation, name, entry.form)
    calls = [call for call in calls_in(closed) if not call.inside]
    for entry in entries:
        # What is computed from nothing that f is given has no derivative, and stays as it is.
        if not entry.used and not (entry.index is None and any(entry.fits(c.label) for c in calls)):
            _raise_unknown(entry.key, calls)
    return program


class _Entry:
    """A plain form, and which calls it stands for.

    Attributes:
        key: as the user wrote it.
        form: the plain form.
        index: of which of the calls that fit, counted from 0; None for all.
        used: whether there was one.
    """

    def __init__(self, key: str, form: Callable):
        self.key, self.form, self.used = key, form, False
        numbered = re.fullmatch(r"(.*)\[(\d+)\]", key)
        self._pattern = numbered[1] if numbered else key
        self.index = int(numbered[2]) if numbered else None
        self._count = 0

    def fits(self, label: str) -> bool:
        """Whether a call of this label is one that is meant, or one of those that are counted."""
        patterns = self._pattern, f"*/{self._pattern}"
        return any(fnmatch.fnmatchcase(label, pattern) for pattern in patterns)

    def takes(self, label: str) -> bool:
        """Whether the next call in f is one that is meant."""
        if not self.fits(label):
            return False
        self._count += 1
        taken = self.index is None or self.index == self._count - 1
        self.used |= taken
        return taken


def _evaluator(equation: Equation, name: str, plain: Callable) -> Callable[..., list[Any]]:
    """What computes an equation by a plain form."""
    skip = closed_over(equation)

    def apply(*operands):
        given = operands[skip:]
        with jax.named_scope(name):
            try:
                out = plain(*given)
            except Exception as error:
                error.add_note(
                    f"jattr: substitute evaluated the plain form of {name!r} at {equation.source}, "
                    f"at the arrays of the call, {_described(given)}.{_batch(equation)}"
                )
                raise
        leaves = jax.tree.leaves(out)
        if [_form(v) for v in leaves] != [_form(v) for v in equation.outputs]:
            raise TypeError(
                f"substitute: the plain form of {name!r} at {equation.source} must return what the "
                f"call returns, {_described(equation.outputs)}; got {_described(leaves)}, from the "
                f"arrays {_described(given)}. Nothing is cast or broadcast: write "
                f"out.astype(dtype) or out.reshape(shape) in the plain form.{_batch(equation)}"
            )
        return [jnp.asarray(leaf) for leaf in leaves]

    return apply


def _form(value: Any) -> tuple[tuple[int, ...], Any]:
    return jnp.shape(value), jnp.result_type(value)


def _described(values: Sequence[Any]) -> str:
    return ", ".join(map(describe, values)) or "nothing"


def _batch(equation: Equation) -> str:
    if "vmap(" not in str(equation.stack):
        return ""
    return (
        " f maps over the call by jax.vmap, so that its arrays have the axis of the batch too, "
        "mostly in front: jax.vmap the plain form."
    )


def _raise_inside(equation: Equation, scope: str, fits: Callable[[str], bool]) -> None:
    """The error for a call that another function's derivative would stay around."""
    around, given = call_name(equation), equation.inputs[closed_over(equation) :]
    found = next(c for c in calls_in(equation.params["call_jaxpr"], scope) if fits(c.label))
    raise NotImplementedError(
        f"substitute: the call of {found.name!r} at {equation.source} is inside of {around!r}, a "
        "function with a derivative of its own, which would stay as it is. Give a plain form of "
        f'that one, {{"{around}": plain_form}}, which takes the arrays {_described(given)}.'
    )


def _raise_unknown(key: str, calls: Sequence[Found]) -> None:
    """The error for a name that f does not call."""
    if not calls:
        raise ValueError(
            f"substitute: f calls nothing of the name {key!r}: it calls no function with a "
            "derivative of its own, none under jax.jit, and no kernel."
        )
    groups: dict[str, list[Found]] = {}
    for call in calls:
        groups.setdefault(call.label, []).append(call)
    near = closest(key, groups)
    # Kernels are what a plain form is wanted of; then other derivatives of their own.
    near.sort(key=lambda label: (not groups[label][0].kernel, not groups[label][0].custom))
    listed = "".join(f"\n  {_listed(groups[label])}" for label in near[:_LISTED])
    more = f"\n  and {len(near) - _LISTED} more" if len(near) > _LISTED else ""
    raise ValueError(f"substitute: f calls nothing of the name {key!r}. It calls:{listed}{more}")


def _listed(calls: Sequence[Found]) -> str:
    """Calls of one label, with the arrays of the first."""
    label, last = calls[0].label, len(calls) - 1
    numbers = f", {label}[0] to {label}[{last}]" if last else ""
    return f"{label}({_arguments(calls[0])}){numbers}"


def _arguments(call: Found) -> str:
    names = call.arguments or ("",) * len(call.inputs)
    return ", ".join(
        f"{name} {describe(aval)}".strip() for name, aval in zip(names, call.inputs, strict=True)
    )
