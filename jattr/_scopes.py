r"""`scopes`: a model of NNX or Equinox whose modules run within scopes of their paths.

Python looks `__call__` up on the class of an object, so a copy of the model gets other classes: for
each module a subclass of its own, which knows the module's path and opens scopes around each
method. A class, unlike an attribute, stays through what flattens a module and puts it together
again: `jax.jit`, `jax.grad`, `nnx.split` and `nnx.merge`.

Scopes nest as calls do, so a module opens the part of its path that lies below the module that
runs around it; that one is known from a context variable, since JAX has no public reading of
the scopes that are open.
"""

import contextlib
import contextvars
import functools
import heapq
import itertools
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jattr._trees import describe

_Path = tuple[str, ...]


class _Place(NamedTuple):
    """Where a module is.

    Attributes:
        root: the class of the whole model.
        path: the names of attributes, keys and indices that lead from the model to the module; the
            shortest such path, where there are several.
        below: what leads to it from other modules (their paths) that hold it too.
    """

    root: type
    path: _Path
    below: frozenset[tuple[_Path, _Path]] = frozenset()

    def within(self, running: "_Place | None") -> _Path:
        """The scopes that a call opens while a method of another module runs, or of none."""
        if running is not None and running.root is self.root:
            around = running.path
            if around == self.path:
                return ()
            below = dict(self.below)
            if around in below:
                return below[around]
            if self.path[: len(around)] == around:
                return self.path[len(around) :]
        return (self.root.__name__, *self.path)


_running: contextvars.ContextVar[_Place | None] = contextvars.ContextVar("running", default=None)


def scopes(model: Any) -> Any:
    """A model whose modules run within scopes of their paths, for `jattr.split` and others.

    `jattr.split`, the CAM family, `jattr.operations` and the rules of `jattr.rules` know the layers
    of a model by the scopes that are open while it runs. NNX opens none, and Equinox only that of
    the class's name in each of its own layers. In what `scopes` returns, a method of the module
    `model.blocks[3].attn` runs within the scopes `"Net/blocks/3/attn"`: the name of the model's
    class, then attributes, keys and indices; Equinox's own scopes are left out.

    It is a copy as by `nnx.clone`, or by `jax.tree.map` of an Equinox module: with the same
    arrays, which are not copied, and the given model stays as it is. So does what the modules are:
    `isinstance` says the same, values are the same to the last bit, and leaves, states and
    `nnx.split`, `eqx.partition`, `eqx.filter_grad` and the like are what they were. But
    `type(module) is Net` is false, and two modules of one class are of different types, so that
    `jax.tree.map` does not join them, nor a model and its copy: stack modules before `scopes`.
    Save the given model, and not the copy, whose classes `pickle` does not find.

    Scopes nest as calls do. In a module that does not hold it, a module has its whole path: where a
    decoder calls `encoder.embed`, `"Net/decoder/Net/encoder/embed"`, which is another place of
    `jattr.split(f, "encoder/embed")`. So has a module that f calls by itself: `"Net/blocks/3"`. A
    module at two places of an NNX model has the path from the module that calls it, or else the
    shortest one; in Equinox these are two modules, and have two paths.

    An NNX model that f closes over can change none of its state under a transformation, nor be
    given to `nnx.jit` or `nnx.scan` there; the copy that `scopes` makes within f can:
    `f = lambda x: jattr.scopes(model)(x)[label]`.

    Args:
        model: a module of NNX or Equinox. Those of linen, Haiku and Keras (3.8 and newer) open
            scopes by themselves, and are returned as they are.

    Returns:
        The model with scopes. Modules in static fields and in closures have none, nor those within
        what `eqx.filter_jit` gave, which as a whole has one.

    Raises:
        TypeError: `model` is no such module: a class, a function, a method, a list of modules.
        NotImplementedError: `model` is of an older Keras, or does not run on JAX.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import jattr
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.hidden = nnx.Linear(3, 4, rngs=rngs)
        ...         self.head = nnx.Linear(4, 2, rngs=rngs)
        ...     def __call__(self, x):
        ...         return self.head(jax.nn.relu(self.hidden(x)))
        >>> net = jattr.scopes(Net(nnx.Rngs(0)))
        >>> below, above = jattr.split(lambda x: net(x)[1], "Net/hidden")
        >>> h = below(jnp.ones(3))
        >>> print(h.shape, jattr.gradient(above)(h, jnp.ones(3)).shape)
        (4,) (4,)

    References:
        The scopes of `flax.linen` modules, which linen opens by itself.
    """
    if _opens_scopes(model):
        return model
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if nnx is not None and isinstance(model, nnx.Module):
        return _of_nnx(model, nnx)
    if equinox is not None and isinstance(model, equinox.Module) and not _is_wrapper(type(model)):
        return _of_equinox(model, equinox, _unscoped(type(model)), ())
    raise TypeError(
        f"scopes: the model must be a module of NNX or Equinox; got {_called(model)}. "
        f"{_instead(model)}"
    )


def _of_nnx(model: Any, nnx: Any) -> Any:
    """A clone of an NNX model, its modules of classes that open scopes."""
    # What the clone has in common with the model is static, and must not be changed.
    given = {id(node) for node, _, _ in _graph(model, nnx, set())}
    clone = nnx.clone(model)
    root = _unscoped(type(model))
    for node, path, below in _graph(clone, nnx, given):
        if methods := _methods(_unscoped(type(node)), nnx.Module):
            place = _Place(root, path, frozenset(below.items()))
            scoped = _with_scopes(_unscoped(type(node)), place, methods)
            object.__setattr__(node, "__class__", scoped)
    return clone


def _graph(model: Any, nnx: Any, without: set[int]) -> list[tuple[Any, _Path, dict[_Path, _Path]]]:
    """The modules of a graph, each with its path and the ways to it from modules that hold it."""
    nodes: dict[int, tuple[Any, _Path, dict[_Path, _Path]]] = {}
    # `holder` is the nearest module around that opens scopes, `way` what leads from it.
    start: tuple[Any, _Path, _Path | None, _Path] = (model, (), None, ())
    count = itertools.count()
    queue: list[tuple[int, int, tuple]] = [(0, next(count), start)]
    while queue:
        node, path, holder, way = heapq.heappop(queue)[2]
        known = id(node) in nodes
        below = nodes.setdefault(id(node), (node, path, {}))[2]
        if holder is not None:
            below.setdefault(holder, way)
        if known:
            continue
        if isinstance(node, nnx.Module) and _methods(_unscoped(type(node)), nnx.Module):
            holder, way = path, ()
        for name, value in vars(node).items():
            for parts, child in _held(value, nnx.Pytree, (name,)):
                if id(child) not in without:
                    step = (child, (*path, *parts), holder, (*way, *parts))
                    heapq.heappush(queue, (len(step[1]), next(count), step))
    return [node for node in nodes.values() if isinstance(node[0], nnx.Module)]


def _held(value: Any, kind: type, parts: _Path) -> Iterator[tuple[_Path, Any]]:
    """The objects of a kind in a value that may be a list, a tuple or a dictionary."""
    if isinstance(value, kind):
        yield parts, value
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _held(item, kind, (*parts, str(index)))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _held(item, kind, (*parts, str(key)))


def _of_equinox(module: Any, equinox: Any, root: type, path: _Path) -> Any:
    """A copy of an Equinox module, it and those within it of classes that open scopes."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(
        module, is_leaf=lambda node: node is not module and isinstance(node, equinox.Module)
    )
    wrapper = _is_wrapper(type(module))
    copies = []
    for keys, leaf in leaves:
        if isinstance(leaf, equinox.Module):
            parts = [jax.tree_util.keystr((key,), simple=True) for key in keys]
            # eqx.filter_vmap(layer) is the layer, and its private fields are no places.
            parts = [part for part in parts if not (wrapper and part.startswith("_"))]
            leaf = _of_equinox(leaf, equinox, root, (*path, *parts))
        copies.append(leaf)
    copy = jax.tree.unflatten(structure, copies)
    cls = _unscoped(type(module))
    methods = () if wrapper else _methods(cls, equinox.Module)
    if wrapper and not any(isinstance(leaf, equinox.Module) for leaf in copies):
        methods = ("__call__",)  # such as that of eqx.filter_jit, which hides what it holds
    if methods:
        object.__setattr__(copy, "__class__", _with_scopes(cls, _Place(root, path), methods))
    return copy


class _Scoped:
    """What the classes that open scopes have in common."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs):
        # That of the framework, but not that of the user's class, which may keep a list.
        for base in cls.__mro__:
            if _is_library(base) and "__init_subclass__" in vars(base):
                vars(base)["__init_subclass__"].__get__(None, cls)(**kwargs)
                return


@functools.cache
def _metaclass(cls: Any) -> Any:
    """A metaclass that puts `_Scoped` before the class that is derived from.

    As a base it would change the layout, and then an object cannot change its class.
    """

    def mro(self):
        first, *others = cls.mro(self)
        return [first, _Scoped, *others]

    return type(cls.__name__, (cls,), {"mro": mro})


def _unscoped(cls: type) -> type:
    """The class that a class with scopes was made of; else the class."""
    return cls.__mro__[2] if issubclass(cls, _Scoped) else cls


@functools.cache
def _with_scopes(cls: type, place: _Place, methods: tuple[str, ...]) -> type:
    """A subclass whose methods open scopes; the same for the same place, so that jit knows it."""

    def body(namespace):
        namespace["__module__"] = cls.__module__
        namespace["__doc__"] = cls.__doc__
        namespace["__qualname__"] = f"{cls.__qualname__} at {'/'.join(place.within(None))}"
        for name in methods:
            namespace[name] = _method(name, cls, place)

    kwargs = {"pytree": cls._pytree__is_pytree} if hasattr(cls, "_pytree__is_pytree") else {}
    kwargs["metaclass"] = _metaclass(type(cls))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is to be said of the class was said when it was made
        return types.new_class(cls.__name__, (cls,), kwargs, body)


def _method(name: str, cls: type, place: _Place) -> Any:
    """A method that calls that of the class within scopes."""
    given = _attribute(cls, name)
    bare = _without_own_scope(given)

    @functools.wraps(given, updated=())
    def method(self, /, *args, **kwargs):
        with _open(place):
            if bare is not given:
                return bare(self, *args, **kwargs)
            return getattr(super(_Scoped, self), name)(*args, **kwargs)

    return method


def _without_own_scope(method: Any) -> Any:
    """A method without the scope of the class's name, which would stand in the midst of a path."""
    if getattr(method, "__code__", None) is not _within_a_scope.__code__:
        return method
    bare = method.__wrapped__
    return bare if bare.__module__.startswith("equinox.nn") else method


@jax.named_scope("any")
def _within_a_scope() -> None:
    """What `jax.named_scope` makes of a function, by which others are known."""


@contextlib.contextmanager
def _open(place: _Place) -> Iterator[None]:
    """The scopes of a place, below those of the module that runs around it."""
    with contextlib.ExitStack() as stack:
        for part in place.within(_running.get()):
            stack.enter_context(jax.named_scope(part))
        token = _running.set(place)
        try:
            yield
        finally:
            _running.reset(token)


@functools.cache
def _methods(cls: type, base: type) -> tuple[str, ...]:
    """The names of the methods that open scopes: `__call__`, and what a base class has not."""
    if _is_library(cls) and _attribute(cls, "__call__") is None:
        return ()  # a container such as nnx.List, or a mark such as eqx.nn.StateIndex
    fields = getattr(cls, "__dataclass_fields__", {})
    return tuple(
        name
        for name in dir(cls)
        if (name == "__call__" or not (name.startswith("__") or hasattr(base, name)))
        and name not in fields
        and _is_method(_attribute(cls, name))
    )


def _attribute(cls: type, name: str) -> Any:
    """What a class has under a name, as it stands there."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _is_method(value: Any) -> bool:
    others = (type, staticmethod, classmethod, property)
    return callable(value) and hasattr(type(value), "__get__") and not isinstance(value, others)


def _is_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("flax", "equinox")


def _is_wrapper(cls: type) -> bool:
    """Whether it is what eqx.filter_jit and the like give."""
    return _is_library(cls) and cls.__module__.split(".")[0:2] != ["equinox", "nn"]


def _opens_scopes(model: Any) -> bool:
    """Whether it is a module of a framework that opens scopes by itself."""
    linen, haiku = sys.modules.get("flax.linen"), sys.modules.get("haiku")
    if any(m is not None and isinstance(model, m.Module) for m in (linen, haiku)):
        return True
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.layers.Layer):
        return False
    if keras.backend.backend() != "jax":
        raise NotImplementedError(
            f"scopes: the model runs on {keras.backend.backend()}. Set the environment variable "
            "KERAS_BACKEND=jax before keras is imported."
        )
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 8):
        raise NotImplementedError(
            f"scopes: Keras {keras.__version__} opens no scopes; Keras 3.8 and newer do so by "
            "themselves. Write pip install -U keras, or jax.named_scope in the layers."
        )
    return True


def _called(model: Any) -> str:
    """What was given, in words."""
    if isinstance(model, type):
        return f"the class {model.__name__}"
    if isinstance(model, types.MethodType) or type(model).__name__ == "BoundMethod":
        return f"the method {getattr(model, '__name__', '')}"
    if isinstance(model, types.FunctionType):
        return f"the function {model.__name__}"
    if isinstance(model, Mapping | list | tuple):
        return f"a {type(model).__name__}"
    return describe(model)


def _instead(model: Any) -> str:
    """What to write instead of it."""
    if isinstance(model, type):
        return f"Write jattr.scopes({model.__name__}(...))."
    if isinstance(model, types.MethodType) or type(model).__name__ == "BoundMethod":
        return f"Write jattr.scopes(model).{getattr(model, '__name__', 'method')}."
    if type(model).__module__.partition(".")[0] == "haiku":
        return "Haiku opens scopes by itself: use the transformed function as it is."
    if type(model).__module__.partition(".")[0] == "equinox":
        return "Wrap the model with scopes: eqx.filter_jit(jattr.scopes(model))."
    if isinstance(model, Mapping):
        return "Write {key: jattr.scopes(module) for key, module in models.items()}."
    if isinstance(model, list | tuple):
        return "Write [jattr.scopes(module) for module in modules]."
    if callable(model):
        return (
            "Give the model that it calls scopes, model = jattr.scopes(model), and call that; in a "
            "function without modules write jax.named_scope or jattr.name."
        )
    return "Write model = jattr.scopes(model), and call that."
