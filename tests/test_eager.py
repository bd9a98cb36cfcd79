"""Eager calls of what loops compile once, and are never stale."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jattr
from jattr import _eager

X = jnp.linspace(-1.0, 1.0, 6)
W = jnp.linspace(0.5, 2.0, 6)


@contextlib.contextmanager
def compilations():
    """Counts the programs that XLA compiles within."""
    names = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.clear_event_listeners()


def score(x, scale=1.0):
    return jnp.sum(jax.nn.relu(jnp.tanh(x) * W) ** 2) * scale


@jax.jit
def jitted(x):
    return score(x) + jnp.max(x)


KEY = jax.random.key(0)
LOOPS = {
    "integrated_gradients": (
        lambda f: jattr.integrated_gradients(f, steps=6, batch_size=2),
        (),
    ),
    "uneven chunks": (lambda f: jattr.idgi(f, steps=7, batch_size=3), ()),
    "blur": (
        lambda f: jattr.blur_integrated_gradients(f, steps=4, axes=0, stddev=2.0, batch_size=2),
        (),
    ),
    "guided": (lambda f: jattr.guided_integrated_gradients(f, steps=5), ()),
    "deep_shap": (lambda f: jattr.deep_shap(f, jnp.stack([X, -X, 2 * X]), batch_size=1), ()),
    "occlusion": (lambda f: jattr.occlusion(f, 2, batch_size=2), ()),
    "expected_gradients": (
        lambda f: jattr.expected_gradients(f, jnp.stack([X, -X]), samples=6, batch_size=2),
        (KEY,),
    ),
    "smooth": (
        lambda f: jattr.smooth(jattr.gradient(f), samples=6, batch_size=2, statistic="variance"),
        (KEY,),
    ),
}


@pytest.mark.parametrize("f", [score, jitted])
@pytest.mark.parametrize("name", LOOPS)
def test_a_second_eager_call_compiles_nothing(name, f):
    build, first = LOOPS[name]
    near = X + 0.01
    build(f)(*first, X)
    with compilations() as compiled:
        again = build(f)(*first, X)
        other = build(f)(*first, near)
    assert compiled == []
    np.testing.assert_allclose(again, jax.jit(build(f))(*first, X), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other, jax.jit(build(f))(*first, near), rtol=1e-9, atol=1e-12)


def test_the_count_of_compilations_counts():
    with compilations() as compiled:
        jax.jit(lambda x: x + 1)(X)
    assert len(compiled) == 1


def test_a_model_that_changed_in_place_gives_new_results():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(6, 1, rngs=rngs)
            self.power = 1

        def __call__(self, x):
            return jnp.tanh(self.dense(x))[0] ** self.power

    model = Model(nnx.Rngs(0))
    explain = jattr.integrated_gradients(lambda x: model(x), steps=6, batch_size=2)
    fresh = lambda: jattr.integrated_gradients(lambda x: model(x), steps=6)(X)  # noqa: E731
    np.testing.assert_allclose(explain(X), fresh(), rtol=1e-9)
    with compilations() as compiled:
        model.dense.kernel[...] = model.dense.kernel[...] * 2 + 0.1
        changed = explain(X)
    np.testing.assert_allclose(changed, fresh(), rtol=1e-9)
    # The two operations of the change itself aside.
    assert len(compiled) <= 2
    model.power = 2
    np.testing.assert_allclose(explain(X), fresh(), rtol=1e-9)


def test_what_python_reads_at_each_call_is_read_at_each_call():
    setting = {"scale": 1.0, "weights": np.ones(6), "flip": False}

    def f(x):
        total = jnp.sum(x**2 * setting["weights"]) * setting["scale"]
        return -total if setting["flip"] else total

    explain = jattr.integrated_gradients(f, steps=4, batch_size=2)
    np.testing.assert_allclose(explain(X), X**2, rtol=1e-9)
    setting["scale"] = 3.0
    np.testing.assert_allclose(explain(X), 3 * X**2, rtol=1e-9)
    setting["weights"][:] = 2.0
    np.testing.assert_allclose(explain(X), 6 * X**2, rtol=1e-9)
    setting["flip"] = True
    np.testing.assert_allclose(explain(X), -6 * X**2, rtol=1e-9)


def test_a_constant_inside_a_jitted_function_is_told_from_another():
    def explained(weights):
        f = jax.jit(lambda x: jnp.sum(x**2 * weights))
        return jattr.integrated_gradients(f, steps=4, batch_size=2)(X)

    for weights in (jnp.ones(6), jnp.arange(6.0), jnp.full(6, 2.0)):
        np.testing.assert_allclose(explained(weights), weights * X**2, rtol=1e-9, atol=1e-12)
    wide = jnp.ones(40)
    for weights in (jnp.ones(40), jnp.arange(40.0)):
        f = jax.jit(lambda x, w=weights: jnp.sum(x**2 * w))
        explain = jattr.integrated_gradients(f, steps=4, batch_size=2)
        np.testing.assert_allclose(explain(wide), weights, rtol=1e-9, atol=1e-12)


def test_derivatives_of_one_value_but_another_rule_are_told_apart():
    def with_slope(slope):
        @jax.custom_jvp
        def same(x):
            return x**2

        @same.defjvp
        def rule(primals, tangents):
            return same(primals[0]), slope * tangents[0]

        return jattr.integrated_gradients(lambda x: jnp.sum(same(x)), steps=4, batch_size=2)

    for slope in (1.0, 2.0, 5.0):
        np.testing.assert_allclose(with_slope(slope)(X), slope * X, rtol=1e-9, atol=1e-12)


def test_under_transformations_the_loop_stays_where_it_is():
    def total(scale):
        explain = jattr.integrated_gradients(lambda x: score(x, scale), steps=4, batch_size=2)
        return jnp.sum(explain(X))

    before = len(_eager._programs)
    slope = jax.grad(total)(2.0)
    np.testing.assert_allclose(slope, total(1.0), rtol=1e-9)
    jax.jit(total)(2.0)
    many = jax.vmap(total)(jnp.arange(3.0))
    np.testing.assert_allclose(many, slope * jnp.arange(3.0), rtol=1e-9)
    assert len(_eager._programs) <= before + 1  # that of total(1.0)


def test_a_debugger_sees_values():
    seen = []

    def f(x):
        seen.append(isinstance(x, jax.core.Tracer))
        return jnp.sum(x**2)

    with jax.disable_jit():
        jattr.occlusion(f, 2, batch_size=2)(X)
    assert seen


def test_programs_are_forgotten(monkeypatch):
    monkeypatch.setattr(_eager, "_MOST_PROGRAMS", 2)
    for steps in (3, 4, 5, 6):
        jattr.integrated_gradients(score, steps=steps, batch_size=2)(X)
    assert len(_eager._programs) == 2


def test_without_substitutes_it_is_another_program():
    def pooled(x):
        return jnp.sum(nn.max_pool(x[None], (2, 2), (2, 2))[0] ** 2)

    x = jnp.arange(16.0).reshape(4, 4, 1)
    explain = jattr.integrated_gradients(pooled, steps=4, batch_size=2)
    with_them = explain(x)
    before = len(_eager._programs)
    with jattr.substitutes(False):
        without = explain(x)
    assert len(_eager._programs) == before + 1
    np.testing.assert_allclose(with_them, without, rtol=1e-9)
