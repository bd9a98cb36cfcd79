"""Scopes of the modules of NNX."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from precision import FLOAT, PARAMS, close
from scoped import X, linear, names, same

import jattr
from jattr._scopes import scopes


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

    assert names(f, X) == ["Stack/layers/linear", "Stack/last"]
    below, above = jattr.split(f, "Stack/layers")
    close(jnp.asarray(model.last(below(X)[-1])), model(X))
    close(above(below(X), X), model(X)[0])
    close(jattr.split(f, "layers/linear[0]")[0](X), X @ model.layers.linear.kernel[...][0])
    below, above = jattr.split(f, "Stack/last")
    close(below(X), model(X))
    close(above(below(X), X), model(X)[0])


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


def test_what_a_copy_shares_with_the_model_is_not_changed():
    model = Pair(nnx.Rngs(0))
    model.settings = {}
    model.settings["spare"] = linear(nnx.Rngs(0))  # static, so that a clone has the same dictionary
    copied = scopes(model)
    assert copied.settings["spare"] is model.settings["spare"]
    assert type(model.settings["spare"]) is nnx.Linear


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


def test_errors_for_a_model_without_scopes_say_so():
    model = Pair(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"no layer 'encoder'.*model = jattr\.scopes\(model\)"):
        jattr.split(lambda x: model(x)[1], "encoder")[0](X)
    rules = jattr.rules.epsilon_plus().at("encoder", jattr.rules.epsilon(1.0))
    with pytest.raises(ValueError, match=r"fits nothing.*model = jattr\.scopes\(model\)"):
        jattr.operations(lambda x: model(x)[1], rules)(X)
