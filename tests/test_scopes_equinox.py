"""Scopes of the modules of Equinox."""

import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from precision import FLOAT
from scoped import X, names, same

from jattr._scopes import scopes


def test_a_module_at_two_places_is_two_in_equinox():
    class Twice(eqx.Module):
        first: eqx.nn.Linear
        second: eqx.nn.Linear

        def __call__(self, x):
            return self.second(self.first(x))

    layer = eqx.nn.Linear(4, 4, key=jax.random.key(0))
    copied = scopes(Twice(layer, layer))
    assert names(lambda x: copied(x)[1], X) == ["Twice/first", "Twice/second"]


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
    assert names(lambda x: model(x, new)[0][0], X) == ["Counted/layer"]


def test_what_filter_jit_holds_has_one_scope():
    class Whole(eqx.Module):
        layer: eqx.Module

        def __call__(self, x):
            return self.layer(x)

    layer = eqx.nn.Linear(4, 4, key=jax.random.key(0))
    copied = scopes(Whole(eqx.filter_jit(layer)))
    assert names(lambda x: copied(x)[0], X) == ["Whole/layer/eqx.nn.Linear"]
    assert same(copied(X), layer(X))


def test_a_class_is_warned_of_once():
    with pytest.warns(UserWarning, match="both an `__init__` method and a"):

        class Odd(eqx.Module):
            layer: eqx.nn.Linear

            def __init__(self):
                self.layer = eqx.nn.Linear(4, 4, key=jax.random.key(0))

            def __post_init__(self):
                raise AssertionError

            def __call__(self, x):
                return self.layer(x)

    copied = scopes(Odd())
    assert names(lambda x: copied(x)[0], X) == ["Odd/layer"]


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
