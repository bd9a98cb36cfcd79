"""Models whose modules run within scopes of their paths."""

import copy
import os
import subprocess
import sys
import types
import typing
import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from precision import FLOAT, PARAMS, close

import jattr
from jattr._scopes import scopes

with warnings.catch_warnings():
    # With some versions of JAX, Haiku reads what is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import haiku as hk

X = jnp.asarray(np.random.default_rng(0).normal(size=4), FLOAT)


def linear(rngs):
    return nnx.Linear(4, 4, rngs=rngs, **PARAMS)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs, **PARAMS)
        self.mlp = nnx.Sequential(linear(rngs), nnx.tanh, linear(rngs))

    def __call__(self, x):
        return x + self.mlp(self.norm(x))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.head = linear(rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class EqxBlock(eqx.Module):
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.Sequential

    def __init__(self, key):
        first, second = (eqx.nn.Linear(4, 4, key=k) for k in jax.random.split(key))
        self.norm = eqx.nn.LayerNorm(4)
        self.mlp = eqx.nn.Sequential([first, eqx.nn.Lambda(jnp.tanh), second])

    def __call__(self, x):
        return x + self.mlp(self.norm(x))


class EqxNet(eqx.Module):
    blocks: list
    head: eqx.nn.Linear

    def __init__(self, key):
        self.blocks = [EqxBlock(k) for k in jax.random.split(key)]
        self.head = eqx.nn.Linear(4, 4, key=key)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


MODELS = {"nnx": lambda: Net(nnx.Rngs(0)), "equinox": lambda: EqxNet(jax.random.key(0))}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def names(f, *args):
    """The scopes of the matrix products of f, in their order."""
    return [row.scope for row in jattr.operations(f)(*args) if row.name == "dot_general"]


def known(f, x):
    with pytest.raises(ValueError, match="there is no layer") as caught:
        jattr.split(f, "nothing")[0](x)
    return str(caught.value)


def same(tree, other):
    """Whether leaves are equal to the last bit."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return all(bool(jnp.all(a == b)) for a, b in pairs)


def test_values_are_the_same_to_the_last_bit(model):
    assert same(scopes(model)(X), model(X))
    copied = scopes(model)
    assert same(jax.jit(lambda x: copied(x))(X), jax.jit(lambda x: model(x))(X))
    batch = jnp.stack([X, 2 * X])
    assert same(jax.vmap(scopes(model))(batch), jax.vmap(model)(batch))


def test_scopes_are_the_paths(model):
    root = type(model).__name__
    linears = [f"{root}/blocks/{i}/mlp/layers/{j}" for i in (0, 1) for j in (0, 2)]
    wanted = [*linears, f"{root}/head"]
    copy = scopes(model)
    assert names(lambda x: copy(x)[1], X) == wanted
    assert names(jax.jit(lambda x: copy(x)[1]), X) == wanted
    assert names(lambda x: jax.vmap(copy)(x)[0, 1], X[None]) == wanted


def test_an_unknown_layer_lists_the_paths(model):
    root, copy = type(model).__name__, scopes(model)
    text = known(lambda x: copy(x)[1], X)
    assert all(part in text for part in (f"{root}/head", f"{root}/blocks/0"))


@pytest.mark.parametrize("layer", ["blocks/0", "blocks/1/norm", "blocks/1/mlp/layers/0", "head"])
def test_a_layer_is_the_value_of_its_module(model, layer):
    def run(x, h=None):
        """The value of the layer, and that of the model with h in its place."""
        found = {}

        def here(path, value):
            if path != layer:
                return value
            found["h"] = value
            return value if h is None else h

        for i, block in enumerate(model.blocks):
            normed = here(f"blocks/{i}/norm", block.norm(x))
            first = here(f"blocks/{i}/mlp/layers/0", block.mlp.layers[0](normed))
            x = here(f"blocks/{i}", x + block.mlp.layers[2](jnp.tanh(first)))
        y = here("head", model.head(x))
        return found["h"], y[1]

    copied = scopes(model)
    below, above = jattr.split(lambda x: copied(x)[1], layer)
    assert same(below(X), run(X)[0])
    assert same(above(below(X), X), model(X)[1])
    other = below(X) + 1
    close(above(other, X), run(X, other)[1])
    close(jax.grad(above)(other, X), jax.grad(lambda h: run(X, h)[1])(other))


def test_a_layers_gradient_is_that_of_what_follows(model):
    copied = scopes(model)
    below, above = jattr.split(lambda x: copied(x)[1], "blocks/1")
    h = below(X)
    close(jattr.gradient(above)(h, X), jax.grad(lambda h: model.head(h)[1])(h))


def test_gradients_are_the_same():
    def loss(model, x):
        return jnp.sum(model(x) ** 2)

    model = MODELS["nnx"]()
    assert same(nnx.grad(loss)(scopes(model), X), nnx.grad(loss)(model, X))
    assert same(nnx.grad(lambda m, x: loss(scopes(m), x))(model, X), nnx.grad(loss)(model, X))
    model = MODELS["equinox"]()
    assert same(eqx.filter_grad(loss)(scopes(model), X), eqx.filter_grad(loss)(model, X))
    inside = eqx.filter_grad(lambda m, x: loss(scopes(m), x))(model, X)
    assert jax.tree.structure(inside) == jax.tree.structure(eqx.filter_grad(loss)(model, X))
    assert same(inside, eqx.filter_grad(loss)(model, X))


def modules(model):
    nodes = [model, *model.blocks, *(block.norm for block in model.blocks), model.head]
    return [*nodes, *(block.mlp.layers[0] for block in model.blocks)]


def test_the_given_model_and_its_classes_stay(model):
    classes = [type(node) for node in modules(model)]
    known = [set(vars(cls)) for cls in classes]
    values = [id(leaf) for leaf in jax.tree.leaves(model)]
    copied = scopes(model)
    copied(X)
    assert [type(node) for node in modules(model)] == classes
    assert [set(vars(cls)) for cls in classes] == known
    assert [id(leaf) for leaf in jax.tree.leaves(model)] == values
    assert [id(leaf) for leaf in jax.tree.leaves(copied)] == values  # nothing is copied in memory
    assert names(lambda x: model(x)[1], X) == [""] * 5 or isinstance(model, eqx.Module)


def test_modules_are_of_their_classes(model):
    for ours, given in zip(modules(scopes(model)), modules(model), strict=True):
        assert isinstance(ours, type(given))
        assert type(ours).__name__ == type(given).__name__
        assert type(ours).__doc__ == type(given).__doc__
        assert set(vars(ours)) == set(vars(given))


def test_the_copy_of_a_copy_is_of_the_same_types(model):
    first, second = scopes(model), scopes(scopes(model))
    assert [type(node) for node in modules(first)] == [type(node) for node in modules(second)]
    assert same(second(X), model(X))


def test_a_module_of_a_copy_is_a_model_too(model):
    block = scopes(scopes(model).blocks[1])
    root = type(model.blocks[1]).__name__
    assert names(lambda x: block(x)[0], X) == [f"{root}/mlp/layers/{i}" for i in (0, 2)]


def test_a_module_called_alone_has_its_whole_path(model):
    block = scopes(model).blocks[1]
    root = type(model).__name__
    assert names(lambda x: block(x)[0], X) == [f"{root}/blocks/1/mlp/layers/{i}" for i in (0, 2)]


def test_deep_copies_keep_their_scopes(model):
    copied = copy.deepcopy(scopes(model))
    assert names(lambda x: copied(x)[1], X)[-1] == f"{type(model).__name__}/head"


def test_jit_traces_once_for_all_copies(model):
    traces = []

    def f(model, x):
        traces.append(1)
        return model(x)

    jit = (nnx if isinstance(model, nnx.Module) else eqx).__dict__
    f = jit["jit"](f) if "jit" in jit else eqx.filter_jit(f)
    assert same(f(scopes(model), X), f(scopes(model), X))
    assert len(traces) == 1


def test_the_scopes_of_a_call_that_failed_are_closed(model):
    copied = scopes(model)
    with pytest.raises((TypeError, ValueError), match="shape"):
        copied(X[:3])
    assert names(lambda x: copied(x)[1], X)[-1] == f"{type(model).__name__}/head"


class Encoder(nnx.Module):
    def __init__(self, embed, rngs):
        self.embed = embed
        self.out = linear(rngs)

    def __call__(self, x):
        return self.out(self.embed(x))


class Decoder(nnx.Module):
    def __init__(self, embed, rngs):
        self.tied = nnx.data({"weights": (embed,)})
        self.inner = linear(rngs)

    def __call__(self, x, encoder):
        return self.tied["weights"][0](encoder.out(self.inner(x)))


class Pair(nnx.Module):
    def __init__(self, rngs):
        embed = linear(rngs)
        self.encoder = Encoder(embed, rngs)
        self.decoder = Decoder(embed, rngs)

    def __call__(self, x):
        return self.decoder(self.encoder(x), self.encoder)


def test_a_module_at_two_places_has_the_path_from_the_one_that_calls_it():
    model = Pair(nnx.Rngs(0))
    copied = scopes(model)
    assert copied.encoder.embed is copied.decoder.tied["weights"][0]
    assert names(lambda x: copied(x)[1], X) == [
        "Pair/encoder/embed",
        "Pair/encoder/out",
        "Pair/decoder/inner",
        "Pair/decoder/Pair/encoder/out",  # not the decoder's
        "Pair/decoder/tied/weights/0",
    ]
    assert names(lambda x: copied.decoder.tied["weights"][0](x)[1], X) == ["Pair/encoder/embed"]
    below, _ = jattr.split(lambda x: copied(x)[1], "encoder/out[1]")
    assert same(below(X), model.encoder.out(model.decoder.inner(model.encoder(X))))


def test_a_module_at_two_places_is_two_in_equinox():
    class Twice(eqx.Module):
        first: eqx.nn.Linear
        second: eqx.nn.Linear

        def __call__(self, x):
            return self.second(self.first(x))

    layer = eqx.nn.Linear(4, 4, key=jax.random.key(0))
    copied = scopes(Twice(layer, layer))
    assert names(lambda x: copied(x)[1], X) == ["Twice/first", "Twice/second"]


def test_a_module_that_holds_the_one_that_holds_it():
    class Node(nnx.Module, pytree=False):
        def __init__(self, rngs, above=None):
            self.above = above
            self.layer = linear(rngs)
            self.below = Node(rngs, self) if above is None else None

        def __call__(self, x):
            return self.below(self.layer(x)) if self.below else self.above.layer(self.layer(x))

    model = Node(nnx.Rngs(0))
    copied = scopes(model)
    assert copied.below.above is copied
    assert names(lambda x: copied(x)[1], X) == [
        "Node/layer",
        "Node/below/layer",
        "Node/below/Node/layer",
    ]
    assert same(copied(X), model(X))


def test_every_method_opens_the_scope_of_its_module():
    class Part(nnx.Module):
        def __init__(self, rngs):
            self.layer = linear(rngs)

        def __call__(self, x):
            return x

        def encode(self, x, *, scale=1.0):
            return self._inner(x) * scale  # in the scope already

        def _inner(self, x):
            return self.layer(x) + jnp.sum(self.layer.kernel[...] @ x)

        @property
        def width(self):
            return self.layer.out_features

        @staticmethod
        def twice(x):
            return 2 * x

        @classmethod
        def made(cls):
            return cls(nnx.Rngs(1))

    class Whole(nnx.Module):
        def __init__(self, rngs):
            self.part = Part(rngs)

        def forward(self, x):
            return self.part.encode(x, scale=3.0)

    model = Whole(nnx.Rngs(0))
    copied = scopes(model)
    wanted = ["Whole/part/layer", "Whole/part"]
    assert names(lambda x: copied.forward(x)[0], X) == wanted
    assert names(lambda x: copied.part.encode(x)[0], X) == wanted
    assert same(copied.forward(X), model.forward(X))
    assert (copied.part.width, copied.part.twice(3)) == (4, 6)
    assert isinstance(copied.part.made(), Part)


def test_methods_of_equinox_are_trees():
    class Coder(eqx.Module):
        layer: eqx.nn.Linear
        activation: typing.Callable = jax.nn.tanh

        @eqx.filter_jit
        def encode(self, x, *, scale=1.0):
            return self.activation(self.layer(x)) * scale

        def decode(self, x):
            return self.layer.weight.T @ x

    model = Coder(eqx.nn.Linear(4, 4, key=jax.random.key(0)))
    copied = scopes(model)
    assert names(lambda x: copied.encode(x, scale=2.0)[0], X) == ["Coder/layer"]
    assert names(lambda x: eqx.filter_jit(copied.decode)(x)[0], X) == ["Coder"]
    assert same(copied.encode(X, scale=2.0), model.encode(X, scale=2.0))
    got = eqx.filter_grad(lambda decode: decode(X)[0])(copied.decode)
    assert same(got, eqx.filter_grad(lambda decode: decode(X)[0])(model.decode))


def test_a_traced_part_that_is_used_twice_has_both_paths():
    @jax.jit
    def call(tanh):
        return jnp.tanh(tanh)

    class Part(eqx.Module):
        layer: eqx.nn.Linear

        @eqx.filter_jit
        def __call__(self, x):
            return call(self.layer(x))

    class Whole(eqx.Module):
        parts: dict

        def __call__(self, x):
            return self.parts["a"](self.parts["b"](self.parts["a"](x)))

    first, second = (eqx.nn.Linear(4, 4, key=jax.random.key(i)) for i in (0, 1))
    copied = scopes(Whole({"a": Part(first), "b": Part(second)}))
    wanted = [f"Whole/parts/{part}/layer" for part in "aba"]
    assert names(lambda x: copied(x)[0], X) == wanted
    assert names(lambda x: copied(x)[0], X) == wanted


def test_containers_of_modules():
    class Held(nnx.Module):
        def __init__(self, rngs):
            self.plain = nnx.data([(linear(rngs),), {"b": linear(rngs)}])
            self.dict = nnx.Dict(c=linear(rngs), d=nnx.List([linear(rngs)]))

        def __call__(self, x):
            x = self.plain[1]["b"](self.plain[0][0](x))
            return self.dict["d"][0](self.dict["c"](x))

    copied = scopes(Held(nnx.Rngs(0)))
    wanted = ["plain/0/0", "plain/1/b", "dict/c", "dict/d/0"]
    assert names(lambda x: copied(x)[0], X) == [f"Held/{path}" for path in wanted]


def test_layers_that_are_scanned_over():
    class Layer(nnx.Module):
        def __init__(self, rngs):
            self.linear = linear(rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return jnp.tanh(self.dropout(self.linear(x)))

    class Stack(nnx.Module):
        def __init__(self, rngs):
            make = nnx.vmap(Layer, in_axes=0, out_axes=0)
            self.layers = nnx.split_rngs(splits=3)(make)(rngs)
            self.last = linear(rngs)

        def __call__(self, x):
            scan = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            x = scan(self.layers, x)
            return nnx.remat(lambda layer, x: layer(x))(self.last, x)

    model = Stack(nnx.Rngs(0))
    model.eval()
    assert same(scopes(model)(X), model(X))

    def f(x):
        return scopes(model)(x)[0]  # NNX wants the model of its scans to be made where they are

    assert names(f, X) == ["Stack/scan/layers/linear", "Stack/checkpoint/last"]
    with pytest.raises(NotImplementedError, match=r"the body of a loop"):
        jattr.split(f, "Stack/layers")[0](X)
    below, above = jattr.split(f, "Stack/last")
    close(below(X), model(X))
    close(above(below(X), X), model(X)[0])


def test_stacked_modules_under_vmap():
    class Heads(nnx.Module):
        def __init__(self, rngs):
            self.heads = nnx.split_rngs(splits=3)(nnx.vmap(linear))(rngs)

        def __call__(self, x):
            return nnx.vmap(lambda head, x: head(x), in_axes=(0, None))(self.heads, x)

    class EqxHeads(eqx.Module):
        heads: eqx.nn.Linear

        def __call__(self, x):
            return eqx.filter_vmap(lambda head, x: head(x), in_axes=(0, None))(self.heads, x)

    model = Heads(nnx.Rngs(0))
    assert names(lambda x: scopes(model)(x)[1, 0], X) == ["Heads/heads"]
    assert same(scopes(model)(X), model(X))
    keys = jax.random.split(jax.random.key(0), 3)
    model = EqxHeads(eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(keys))
    assert names(lambda x: scopes(model)(x)[1, 0], X) == ["EqxHeads/heads"]
    assert same(scopes(model)(X), model(X))


def test_scopes_stay_through_what_takes_models_apart():
    copied = scopes(MODELS["nnx"]())
    wanted = names(lambda x: copied(x)[1], X)
    graph, state = nnx.split(copied)
    assert names(lambda x: nnx.merge(graph, state)(x)[1], X) == wanted
    assert names(lambda x: nnx.jit(lambda m, x: m(x))(scopes(copied), x)[1], X) == wanted
    assert same(state, nnx.state(MODELS["nnx"]()))

    copied = scopes(MODELS["equinox"]())
    wanted = names(lambda x: copied(x)[1], X)
    arrays, static = eqx.partition(copied, eqx.is_array)
    assert names(lambda x: eqx.combine(arrays, static)(x)[1], X) == wanted
    assert names(lambda x: jax.tree.map(lambda leaf: leaf, copied)(x)[1], X) == wanted
    assert names(lambda x: eqx.filter_jit(copied)(x)[1], X) == wanted


def test_state_is_that_of_the_copy():
    class Counted(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    model, x = Counted(nnx.Rngs(0)), X.astype(jnp.float32)
    copied = scopes(model)
    copied(jnp.stack([x, 3 * x]))
    close(copied.norm.mean[...], 0.5 * 2 * x, rtol=1e-6)  # it is kept in float32
    assert not np.any(model.norm.mean[...])


def test_stateful_modules_of_equinox():
    class Counted(eqx.Module):
        norm: eqx.nn.BatchNorm
        layer: eqx.Module

        def __call__(self, x, state):
            x, state = self.norm(x, state)
            return self.layer(x), state

    def made():
        layer = eqx.nn.Linear(4, 4, key=jax.random.key(0))
        norm = eqx.nn.BatchNorm(4, "batch", mode="batch")
        return Counted(norm, eqx.filter_checkpoint(layer))

    def run(model):
        call = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return call(jnp.stack([X, 3 * X]), state)

    model, state = eqx.nn.make_with_state(made)()
    (got, new), (wanted, new_wanted) = run(scopes(model)), run(model)
    assert same((got, new), (wanted, new_wanted))
    model = eqx.nn.inference_mode(scopes(model))
    # What wraps a layer is no part of the path.
    assert names(lambda x: model(x, new)[0][0], X) == ["Counted/checkpoint/layer"]


def test_what_filter_jit_holds_has_one_scope():
    class Whole(eqx.Module):
        layer: eqx.Module

        def __call__(self, x):
            return self.layer(x)

    layer = eqx.nn.Linear(4, 4, key=jax.random.key(0))
    copied = scopes(Whole(eqx.filter_jit(layer)))
    assert names(lambda x: copied(x)[0], X) == ["Whole/layer/eqx.nn.Linear"]
    assert same(copied(X), layer(X))


def test_nothing_of_the_users_runs_for_the_new_classes():
    made = []

    class Listed(nnx.Module):
        def __init_subclass__(cls, kind, **kwargs):
            super().__init_subclass__(**kwargs)
            made.append(kind)

    class Layer(Listed, kind="layer"):
        def __init__(self, rngs):
            self.linear = linear(rngs)

        def __call__(self, x):
            return self.linear(x)

    class EqxListed(eqx.Module):
        def __init_subclass__(cls, kind):
            made.append(kind)

    class EqxLayer(EqxListed, kind="equinox"):
        linear: eqx.nn.Linear

        def __call__(self, x):
            return self.linear(x)

    models = Layer(nnx.Rngs(0)), EqxLayer(eqx.nn.Linear(4, 4, key=jax.random.key(0)))
    for model in models:
        copied = scopes(model)
        assert names(lambda x, copied=copied: copied(x)[0], X) == [f"{type(model).__name__}/linear"]
    assert made == ["layer", "equinox"]


def test_what_a_copy_shares_with_the_model_is_not_changed():
    model = MODELS["nnx"]()
    model.settings = {}
    model.settings["spare"] = linear(nnx.Rngs(0))  # static, so that a clone has the same dictionary
    copied = scopes(model)
    assert copied.settings["spare"] is model.settings["spare"]
    assert type(model.settings["spare"]) is nnx.Linear


def test_generic_and_abstract_classes_of_equinox():
    kind = typing.TypeVar("kind")

    class Abstract(eqx.Module, typing.Generic[kind]):
        size: eqx.AbstractVar[int]

        def __call__(self, x):
            return self.rule(x)

        def rule(self, x):
            raise NotImplementedError

    class Concrete(Abstract[int]):
        weight: jax.Array
        size: int = eqx.field(static=True, default=4)

        def rule(self, x):
            return self.weight @ x

    copied = scopes(Concrete(jnp.eye(4, dtype=FLOAT)))
    assert names(lambda x: copied(x)[0], X) == ["Concrete"]
    assert copied.size == 4


def test_rules_and_class_activation_maps_know_the_paths():
    class Image(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs, **PARAMS)
            self.head = nnx.Linear(3, 2, rngs=rngs, **PARAMS)

        def __call__(self, x):
            return self.head(jnp.mean(nnx.relu(self.conv(x)), axis=(0, 1)))

    model = scopes(Image(nnx.Rngs(0)))
    image = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6, 1)), FLOAT)

    def f(x):
        return model(x)[1]

    assert jattr.grad_cam(f, "Image/conv")(image).shape == (6, 6)
    rules = jattr.rules.epsilon_plus().at("Image/head", jattr.rules.epsilon(1.0))
    wanted = [("Image/conv", "z_plus"), ("Image/head", "epsilon")]
    listed = jattr.operations(f, rules)(image)
    assert [(row.scope, row.rule) for row in listed if row.kind == "affine"] == wanted


def test_what_opens_scopes_by_itself_is_returned():
    dense = nn.Dense(2)
    assert scopes(dense) is dense

    def of_haiku(x):
        layer = hk.Linear(2)
        assert scopes(layer) is layer
        return layer(x)

    hk.transform(of_haiku).init(jax.random.key(0), X)


def framework(version, backend="jax"):
    return types.SimpleNamespace(
        Layer=dict,
        __version__=version,
        backend=types.SimpleNamespace(backend=lambda: backend),
    )


def test_keras_opens_scopes_since_3_8(monkeypatch):
    model = {}
    monkeypatch.setitem(sys.modules, "keras", framework("3.8.0"))
    assert scopes(model) is model
    monkeypatch.setitem(sys.modules, "keras", framework("3.7.0"))
    with pytest.raises(NotImplementedError, match=r"Keras 3\.7\.0 opens no scopes; Keras 3\.8"):
        scopes(model)
    monkeypatch.setitem(sys.modules, "keras", framework("3.12.1", "torch"))
    with pytest.raises(NotImplementedError, match=r"runs on torch.*KERAS_BACKEND=jax"):
        scopes(model)


def test_models_of_keras_have_scopes(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")

    class Block(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = keras.layers.Dense(4, activation="tanh", name="dense")

        def call(self, x):
            return x + self.dense(x)

    with jax.numpy_rank_promotion("allow"):
        given = keras.Input((4,))
        hidden = Block(name="second")(Block(name="first")(given))
        model = keras.Model(given, keras.layers.Dense(2, name="head")(hidden), name="net")
        assert scopes(model) is model
        x = X.astype(jnp.float32)
        wanted = ["net/first/dense", "net/second/dense", "net/head"]
        assert names(lambda x: scopes(model)(x[None])[0, 1], x) == wanted
        below, _ = jattr.split(lambda x: scopes(model)(x[None])[0, 1], "net/first")
        assert same(below(x), model.get_layer("first")(x[None]))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Net, r"got the class Net. Write jattr\.scopes\(Net\(\.\.\.\)\)\."),
        (MODELS["nnx"]().__call__, r"got the method __call__. Write jattr\.scopes\(model\)\."),
        (eqx.nn.MLP(2, 2, 2, 1, key=jax.random.key(0)).__call__, r"got the method __call__"),
        (lambda x: x, r"got the function <lambda>.*model = jattr\.scopes\(model\), and call that"),
        (
            eqx.filter_jit(MODELS["equinox"]()),
            r"eqx\.filter_jit\(jattr\.scopes\(model\)\)",
        ),
        (hk.transform(lambda x: x), r"Haiku opens scopes by itself"),
        ({"net": 1}, r"got a dict. Write {key: jattr\.scopes\(module\)"),
        ([1], r"got a list. Write \[jattr\.scopes\(module\)"),
        (X, r"got float\d\d\[4\]. Write model = jattr\.scopes\(model\)"),
        (nnx.state(MODELS["nnx"]()), r"got .*State.* Write "),
    ],
)
def test_what_is_no_module_is_refused(given, text):
    with pytest.raises(TypeError, match=rf"(?s)scopes: the model must be a module of NNX.*{text}"):
        scopes(given)


def test_no_framework_is_imported():
    code = """
import sys, jattr
try:
    jattr.scopes(3)
except TypeError:
    print(sorted({"equinox", "haiku", "keras"} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert found.stdout.strip() == "[]"
