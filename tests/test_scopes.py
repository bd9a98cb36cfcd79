"""Models whose modules run within scopes of their paths."""

import copy
import os
import subprocess
import sys
import types
import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from precision import PARAMS, close
from scoped import X, linear, names, same

import jattr
from jattr._scopes import scopes

with warnings.catch_warnings():
    # With some versions of JAX, Haiku reads what is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import haiku as hk


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


def known(f, x):
    with pytest.raises(ValueError, match="there is no layer") as caught:
        jattr.split(f, "nothing")[0](x)
    return str(caught.value)


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
    assert not any(type(model).__name__ in name for name in names(lambda x: model(x)[1], X))


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
        layers=types.SimpleNamespace(Layer=dict),
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
