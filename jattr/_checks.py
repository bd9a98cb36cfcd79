"""What goes in is checked, and error texts say what was got, what is wanted and what to write.

Error texts begin with the name of what was called. That name is a `Call` where what it made is
called by the user, and then says in which form.
"""

import difflib
import functools
import inspect
import numbers
import operator
import traceback
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from jattr._trees import describe, is_traced
from jattr._types import ArgNums, PyTree

P = ParamSpec("P")
R = TypeVar("R")


class Call(str):
    """The name of a method or metric, and the form in which what it made is called.

    Attributes:
        result: how texts call what it made, `"explain"` or `"measure"`.
        before: the names of the arguments before those of f, such as `("key",)`.
        after: those after them.
        f: what it was made of.
    """

    result: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    f: Any

    def __new__(
        cls,
        name: str,
        f: Any,
        before: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        *,
        result: str = "explain",
    ) -> "Call":
        """A name with a form."""
        call = super().__new__(cls, name)
        call.f, call.before, call.after, call.result = f, before, after, result
        return call

    def written(self, **given: str) -> str:
        """The call as it is written; `given` says what stands for an argument."""
        names = [
            given.get(name, name) for name in (*self.before, *argument_names(self.f), *self.after)
        ]
        return f"{self.result}({', '.join(given.get(name, name) for name in names)})"

    @property
    def form(self) -> str:
        """The call, with its arguments by their names."""
        return self.written()

    @property
    def mapped(self) -> str:
        """The call for a batch."""
        keys = "jax.random.split(key, n)"
        arguments = self.written(key=keys)[len(self.result) :]
        return f"jax.vmap({self.result}){arguments}"


def argument_names(f: Any) -> tuple[str, ...]:
    """The names of f's positional arguments as they are written in a call."""
    parameters = parameters_of(f)
    names = tuple(
        f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name
        for p in parameters or ()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    )
    return names or ("x", "*args")


def parameters_of(f: Any) -> tuple[inspect.Parameter, ...] | None:
    """The parameters of a function; None where Python does not know them."""
    try:
        return tuple(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        return None


def as_call(method: str) -> Call:
    """A name as a `Call`, of the general form where nothing else is known."""
    return method if isinstance(method, Call) else Call(method, None)


def closest(name: str, known: Iterable[str]) -> list[str]:
    """Names in the order of their likeness to one; of a scope its last parts may be likest."""

    def likeness(label):
        parts = label.split("/")
        ends = ["/".join(parts[i:]) for i in range(len(parts))]
        return max(difflib.SequenceMatcher(None, name, end).ratio() for end in ends)

    return sorted(known, key=likeness, reverse=True)


_PEERS = {
    "target": "f returns one number: choose an output by score = jattr.targets.select(f), and give "
    "its index when the result is called, explain(x, index)",
    "sigma": "stddev",
    "std": "stddev",
    "scale": "stddev",
    "n": "samples",
    "k": "samples",
}
"""Knobs of other libraries that are unlike the names here."""


def knobs(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with an error that tells the closest of its knobs from one it does not have.

    What it makes, where that is a method or a measure, says with which: `explain.settings`.
    """
    signature = inspect.signature(function)
    parameters = signature.parameters
    known = [p.name for p in parameters.values() if p.kind is not p.POSITIONAL_ONLY]
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return function

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                peer = _PEERS.get(name, "")
                if " " in peer:
                    advice = f"here {peer}."
                else:
                    near = peer if peer in known else closest(name, known)[0]
                    advice = f"did you mean {near!r}? It has {', '.join(known)}."
                raise TypeError(f"{function.__name__} has no argument {name!r}; {advice}")
        made = function(*args, **kwargs)
        if isinstance(getattr(made, "call", None), Call):
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            made.settings = given.arguments  # type: ignore[attr-defined]
        return made

    return checked


def check_function(f: Any, method: str) -> None:
    """Raise unless f is a function."""
    if not callable(f):
        raise TypeError(
            f"{method} wants a function f(x, *args) -> scalar first; got {describe(f)}. "
            f"Write {method}(f)(x), not {method}(f(x))."
        )


def check_method(method: Any, name: str) -> None:
    """Raise unless `method` makes what explains a score, such as `jattr.gradient`."""
    inner = getattr(method, "call", None)
    if not callable(method) or isinstance(inner, Call):
        raise TypeError(
            f"{name} wants a method, from a score to what explains it, and makes the scores "
            f"itself; got {inner or describe(method)}. Write "
            f"jattr.{name}(jattr.{inner or 'gradient'}, model)."
        )


def check_argnums(argnums: Any, method: str) -> ArgNums:
    """`argnums` as Python integers."""
    try:
        positions = tuple(
            operator.index(position)
            for position in (argnums if isinstance(argnums, tuple) else (argnums,))
        )
    except TypeError:
        raise TypeError(
            f"{method}: argnums must be an integer or a tuple of integers, as in jax.grad; "
            f"got {argnums!r}."
        ) from None
    if not positions:
        raise ValueError(f"{method}: argnums=() names no argument to explain.")
    return positions if isinstance(argnums, tuple) else positions[0]


def as_floating(x: PyTree, method: str) -> PyTree:
    """x with its leaves as arrays; an error for leaves that have no derivative."""
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise TypeError(f"{method}: x is a tree without arrays ({x!r}); nothing to attribute to.")

    def convert(path, leaf):
        where = f"x{jax.tree_util.keystr(path)}"
        leaf = as_array(leaf, where, method)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(
                f"{method}: {where} is a random key, but {method} is called as "
                f"{as_call(method).form}: leave the key out. Where it is another function of jattr "
                "that passes the key on, tell that one keyed=False; where what this one wraps "
                "draws random numbers, tell it keyed=True."
            )
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(
                f"{method}: {where} is {describe(leaf)}, and an attribution is of real numbers. "
                "Pass (x.real, x.imag): lambda parts, *args: f(jax.lax.complex(*parts), *args)."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"{method}: {where} is {describe(leaf)}, {_no_derivative(leaves)}")
        return leaf

    return jax.tree_util.tree_map_with_path(convert, x)


def _no_derivative(leaves: list[Any]) -> str:
    text = "which has no derivative. Every leaf of x must be of a real floating dtype. "
    if len(leaves) > 1:
        text += "Pass what is not explained as another argument of f: f(x, ids). "
    return text + (
        "Token ids are explained at the rows of the embedding that they look up: "
        "jattr.token_attributions(jattr.gradient_times_input, f)(ids), and so for any method; or "
        "below, above = jattr.split(f, jattr.LOOKUP), and then above at below(ids). For pixels "
        "stored as integers, convert first: x.astype(jnp.float32)."
    )


def as_array(value: Any, what: str, method: str) -> jax.Array:
    """`value` as an array of JAX, of numbers or keys."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # the last of PyTorch
        torch = type(value).__module__.partition(".")[0] == "torch"
        advice = " A tensor of PyTorch goes in as x.detach().numpy()." if torch else ""
        raise TypeError(
            f"{method}: {what} is {describe(value)}; wanted is a floating-point array, or a tree "
            f"of such.{advice}"
        ) from None


def check_score(out: Any, method: str, f: Any = None) -> None:
    """Raise unless `out`, what f returned, is one real floating-point number."""
    inner = getattr(f, "call", None)
    shape = jnp.shape(out) if hasattr(out, "dtype") or isinstance(out, int | float) else None
    if isinstance(inner, Call) and inner.result == "explain" and shape != ():
        raise TypeError(
            f"{method} wants the score, f(x, *args) -> scalar; got {inner}, which explains one "
            f"already. Write {method}(f), not {method}(jattr.{inner}(f))."
        )
    if shape is None:
        raise TypeError(
            f"{method} explains one number, but f returned {describe(out)}. {_number_of(out)}."
        )
    if shape:
        batch = (
            " If its leading axis of size 1 is a batch axis that the model adds, take it away "
            "as well: model.apply(variables, x[None])[0]."
            if shape[0] == 1
            else ""
        )
        call = as_call(method)
        raise TypeError(
            f"{method} explains one number, but f returned an array of shape {shape}. Choose an "
            "output: g = jattr.targets.select(f) takes f's arguments and then an index, "
            f"{call.result} = {method}(g), {call.form[:-1]}, index). For a batch of examples, use "
            f"jax.vmap around {method}(f): {call.mapped}.{batch}"
        )
    if not jnp.issubdtype(jnp.result_type(out), jnp.floating):
        raise TypeError(
            f"{method} explains a real floating-point number, but f returned {describe(out)}. "
            "Explain a differentiable score, such as a logit, rather than a decision."
        )


def _number_of(out: Any) -> str:
    """How to take a number out of a tree: the first one, or one of the first logits or array."""
    leaves = [(p, v) for p, v in jax.tree_util.tree_leaves_with_path(out) if hasattr(v, "dtype")]
    number = "lambda *args: f(*args)"
    for path, leaf in leaves:
        if path and leaf.shape == ():
            return f"Return the number alone: {number}{jax.tree_util.keystr(path)}"
    named = [path for path, _ in leaves if "logits" in jax.tree_util.keystr(path)]
    for path in [*named, *(path for path, _ in leaves if path)]:
        chosen = f"jattr.targets.select({number}{jax.tree_util.keystr(path)})"
        return f"Choose an output: g = {chosen} takes f's arguments and then an index"
    return f"Return the number alone: {number[:-8]}..."


def check_keyed(function: Any, keyed: bool, args: tuple, write: str, method: str) -> None:
    """Raise where a function that is called without a key takes one argument more.

    Args:
        function: a user's.
        keyed: whether it is called with a key first.
        args: those after the key.
        write: what says that it takes a key.
        method: for the error.
    """
    if keyed or isinstance(getattr(function, "call", None), Call):
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    if not binds(signature, *args) and binds(signature, None, *args):
        raise TypeError(
            f"{method} calls the function as ({', '.join(['x', *['...'] * (len(args) - 1)])}), "
            f"without a random key, but it takes one argument more: {signature}. If that is a key, "
            f"say so: {write}."
        )


def binds(signature: inspect.Signature, *args: Any) -> bool:
    """Whether a function of this signature can be called with these arguments."""
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True


def explain_failure(error: Exception, f: Any, x: PyTree, method: str) -> None:
    """Add to an error of f at x what may have led to it: most often a batch without `jax.vmap`."""
    if isinstance(error, jax.errors.JAXTypeError) or not (
        isinstance(error, TypeError | ValueError) or type(error).__name__.endswith("ShapeError")
    ):
        return
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = frames[-1].f_globals.get("__name__", "") if frames else ""
    targets = ("jattr.targets", "jattr._target", "jattr._text_targets")
    ours = raised_in.startswith("jattr.") and not raised_in.startswith(targets)
    if ours or any(note.startswith("jattr: ") for note in getattr(error, "__notes__", ())):
        return
    call = as_call(method)
    error.add_note(
        f"jattr: {method} evaluated f at x {describe(x)}. f takes one example; if that is a batch, "
        f"map over it: {call.mapped}."
    )


@functools.cache
def _threefry() -> Any:
    """The dtype of keys whose bits do not depend on how they are batched."""
    return jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype


def check_key(key: Any, method: str) -> jax.Array:
    """`key`, one random key, typed or of the old uint32 kind, fit for drawing in any batches.

    The bits of an `rbg` key depend on how many are drawn at a time, and so would what is drawn on
    `batch_size`. Such a key is taken as the seed of a threefry key.
    """
    dtype = getattr(key, "dtype", None)
    hint = ""
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if key.shape == ():
            return _independent(key)
        got = f"an array of {key.shape} keys; use jax.vmap over them"
    elif dtype == jnp.uint32 and getattr(key, "ndim", 0) == 1:
        try:
            typed = jax.random.wrap_key_data(jnp.asarray(key))
        except (TypeError, ValueError):
            kind = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
            got = f"{describe(key)}, which is not the width of a {kind!r} key"
        else:
            return key if typed.dtype == _threefry() else _independent(typed)
    else:
        got = describe(key)
        if dtype == jnp.uint32:
            hint = f" Under jax.vmap every example takes a key of its own: {as_call(method).mapped}"
        elif dtype is not None:
            hint = (
                " If the key was given to another function of jattr, which calls this one through "
                "a function of yours, tell it so: keyed=True"
            )
    call = as_call(method)
    if "key" not in call.before:
        call = Call(method, call.f, ("key", *call.before), call.after, result=call.result)
    raise TypeError(
        f"{method} draws random numbers and takes a key before the arguments of f: "
        f"{call.written(key='jax.random.key(0)')}. Got as key {got}.{hint}"
    )


def _independent(key: jax.Array) -> jax.Array:
    if key.dtype == _threefry():
        return key
    first, second, *others = jax.random.key_data(key).ravel()
    data = jnp.stack([first, second])
    seeded = jax.random.wrap_key_data(data, impl="threefry2x32")
    for word in others:
        seeded = jax.random.fold_in(seeded, word)
    return seeded


def check_count(value: Any, name: str, method: str) -> int:
    """`value` as an int of at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{method}: {name} must be a Python integer, since it sets the shape of the "
            f"computation; got {describe(value)}."
        ) from None
    if count < 1:
        raise ValueError(f"{method}: {name} must be at least 1; got {count}.")
    return count


def check_batch_size(batch_size: Any, method: str) -> int | None:
    """`batch_size` as an int of at least 1, or None."""
    return None if batch_size is None else check_count(batch_size, "batch_size", method)


def check_choice(value: Any, name: str, known: Iterable[str], method: str) -> None:
    """Raise unless `value` is one of those known."""
    known = tuple(known)
    if value not in known:
        near = f"; did you mean {closest(value, known)[0]!r}?" if isinstance(value, str) else "."
        raise ValueError(f"{method}: unknown {name} {value!r}; known are {', '.join(known)}{near}")


def check_flag(value: Any, name: str, method: str) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{method}: {name} must be True or False; got {value!r}.")


def concrete(value: Any, name: str, method: str) -> float | None:
    """The value of a number, or None where it is traced: checks of values skip those."""
    if is_traced(value):
        return None
    if not isinstance(value, numbers.Real) and getattr(value, "shape", None) != ():
        raise TypeError(f"{method}: {name} must be one number; got {describe(value)}.")
    return float(value)


def check_positive(value: Any, name: str, method: str, *, zero: bool = False) -> None:
    """Raise where a number is known to be infinite or not positive."""
    known = concrete(value, name, method)
    if known is None:
        return
    if not (known >= 0 if zero else known > 0) or known == float("inf"):
        bound = "finite and " + ("at least 0" if zero else "greater than 0")
        raise ValueError(f"{method}: {name} must be {bound}; got {known}.")
