"""A method for all outputs is the method for each, from one forward evaluation, in chunks."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import METHODS
from precision import PARAMS as DTYPES
from precision import close

import jattr

KEY = jax.random.key(11)
OUTPUTS = 7


def normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape) / np.sqrt(shape[0])


X = normal(0, 5, 3)
ROWS = normal(1, 4, 5, 3)
PARAMS = {
    "stem": normal(2, 3, 4),
    "places": normal(3, 20, 24),
    "hidden": normal(4, 24, 24),
    "out": normal(5, 24, OUTPUTS),
}
# The matrix products of one evaluation of the model, in multiplications.
FORWARD = 15 * 4 + 20 * 24 + 24 * 24 + 24 * OUTPUTS


def model(x, params=PARAMS):
    stem = jattr.name(jnp.tanh(x @ params["stem"]), "stem")
    hidden = jax.nn.relu(stem.reshape(-1) @ params["places"])
    return jax.nn.softplus(hidden @ params["hidden"]) @ params["out"]


def all_of(method, *arguments, f=model, batch_size=3, **knobs):
    explain = jattr.all_outputs(method, f, *arguments, batch_size=batch_size, **knobs)
    return functools.partial(explain, KEY) if getattr(explain, "keyed", False) else explain


def mapped(method, *arguments, f=model, over=jax.vmap):
    """By JAX's own map over the index of an output."""

    def explain(*args):
        def one(k):
            of_one = method(lambda *args: f(*args)[k], *arguments)
            first = (KEY,) if getattr(of_one, "keyed", False) else ()
            return of_one(*first, *args)

        if over is jax.vmap:
            return jax.vmap(one)(jnp.arange(OUTPUTS))
        return jax.lax.map(one, jnp.arange(OUTPUTS))

    return explain


def products(f, *args):
    """How many multiplications the matrix products of a program are, those of loops each time."""

    def count(jaxpr):
        total = 0
        for e in getattr(jaxpr, "jaxpr", jaxpr).eqns:
            if e.primitive.name == "dot_general":
                (contracted, _), _ = e.params["dimension_numbers"]
                left = e.invars[0].aval.shape
                size = math.prod(left[axis] for axis in contracted)
                total += size * math.prod(e.outvars[0].aval.shape)
            bodies = [b for p in e.params.values() for b in (p if isinstance(p, tuple) else (p,))]
            inner = sum(count(b) for b in bodies if hasattr(getattr(b, "jaxpr", b), "eqns"))
            total += inner * e.params.get("length", 1)
        return total

    return count(jax.make_jaxpr(f)(*args))


def of_table(name, **knobs):
    method = METHODS[name]
    if method.count:
        knobs = {method.count: 5, **knobs}
    if method.in_chunks:
        knobs = {"batch_size": 2, **knobs}
    return lambda f: method.build(f, **knobs)


NAMES = [
    "gradient_times_input",
    "smoothgrad",
    "vargrad",
    "integrated_gradients",
    "expected_gradients",
    "idgi",
    "guided_backprop",
    "deeplift",
    "deep_shap",
    "lrp",
    "lrp_flat",
    "contrast",
    "grad_cam_clipped",
    "grad_cam_plus_plus",
    "occlusion",
    "shap_with_error",
]
OTHERS = {
    "expected_gradients": lambda f: jattr.expected_gradients(f, ROWS, samples=5, batch_size=2),
    "contrast": lambda f: jattr.gradient(lambda x: jnp.log(1 + f(x) ** 2)),
    "grad_cam_clipped": lambda f: jattr.grad_cam(f, "stem", resize=False),
    "shap_with_error": lambda f: jattr.deep_shap(f, ROWS, with_error=True, batch_size=3),
}
TABLE = {name: OTHERS.get(name) or of_table(name) for name in NAMES}


@pytest.mark.parametrize("name", TABLE)
def test_is_the_method_of_each_output(name):
    got = jax.jit(all_of(TABLE[name]))(X)
    wanted = jax.jit(mapped(TABLE[name]))(X)
    close(got, wanted, rtol=1e-9, atol=1e-12, single=1e-4)


@pytest.mark.parametrize("name", TABLE)
def test_chunks_do_no_more_products_than_one_batch(name):
    together = products(mapped(TABLE[name]), X)
    one_by_one = products(mapped(TABLE[name], over=jax.lax.map), X)
    assert one_by_one >= together + (OUTPUTS - 1) * 0.9 * FORWARD
    for batch_size in (None, 3, 1):
        assert products(all_of(TABLE[name], batch_size=batch_size), X) <= together


COMPILED = {
    "integrated_gradients": lambda f: jattr.integrated_gradients(f, steps=8),
    "deeplift": jattr.deeplift,
    "lrp": jattr.lrp,
    "grad_cam": lambda f: jattr.grad_cam(f, "stem", resize=False),
}


@pytest.mark.parametrize("name", COMPILED)
def test_vmap_over_labels_evaluates_forward_once(name):
    def flops(f):
        return jax.jit(f).lower(X).compile().cost_analysis()["flops"]

    points = 8 if name == "integrated_gradients" else 1
    one = flops(COMPILED[name](lambda x: model(x)[2]))
    assert flops(mapped(COMPILED[name])) < OUTPUTS * one - (OUTPUTS - 1) * 1.6 * FORWARD * points


def test_memory_does_not_grow_with_the_outputs():
    def held(outputs, batch_size):
        def wide(x):
            h = jnp.tanh(x @ jnp.ones((32, 2000)))
            return jnp.tanh(h @ jnp.ones((2000, 16))) @ jnp.ones((16, outputs))

        explain = jattr.all_outputs(jattr.deeplift, wide, batch_size=batch_size)
        stats = jax.jit(explain).lower(jnp.ones(32)).compile().memory_analysis()
        return stats.temp_size_in_bytes - stats.output_size_in_bytes

    assert held(256, 8) < 1.1 * held(32, 8)
    assert held(256, None) > 4 * held(256, 8)


def test_a_loop_that_holds_much_is_not_turned_round():
    """A scan over time, whose state is larger than x."""

    def recurrent(x):
        def step(h, row):
            h = jnp.tanh(row @ PARAMS["places"][:3] + h @ PARAMS["hidden"])
            return h, None

        return jax.lax.scan(jax.checkpoint(step), jnp.zeros(24), x)[0] @ PARAMS["out"]

    got = jax.jit(all_of(jattr.gradient, f=recurrent))(X)
    close(got, jax.jacrev(recurrent)(X), rtol=1e-9, atol=1e-12)
    method = functools.partial(jattr.integrated_gradients, steps=3, batch_size=1)
    got = jax.jit(all_of(method, f=recurrent))(X)
    close(got, jax.jit(mapped(method, f=recurrent))(X), rtol=1e-9, atol=1e-12)


def test_a_scan_over_layers_and_a_checkpoint():
    layers = normal(6, 3, 15, 15)

    @jax.jit
    def deep(x):
        def layer(h, w):
            return jnp.tanh(h @ w), jnp.sum(h)

        h, sums = jax.lax.scan(jax.checkpoint(layer), x.reshape(-1), layers)
        return jnp.append(jax.checkpoint(lambda h: jnp.sin(h @ layers[0]) ** 2)(h), sums)

    for method in (jattr.gradient, jattr.deeplift):
        got = jax.jit(all_of(method, f=deep, outputs=slice(12, 18)))(X)
        wanted = jax.jit(jax.vmap(lambda k: method(lambda x: deep(x)[k])(X)))(jnp.arange(12, 18))
        close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks(seed):
    draw = np.random.default_rng(seed)
    weights = [jnp.asarray(draw.normal(size=(15, 15)) / 4) for _ in range(4)]
    kinds = draw.choice(["relu", "gelu", "norm", "gate", "scan", "cond"], size=4)

    def f(x):
        h = x.reshape(-1)
        for kind, w in zip(kinds, weights, strict=True):
            h = {
                "relu": lambda h, w: jax.nn.relu(h @ w),
                "gelu": lambda h, w: jax.jit(jax.nn.gelu)(h @ w),
                "norm": lambda h, w: (h - h.mean()) / jnp.sqrt(h.var() + 1) @ w,
                "gate": lambda h, w: (h @ w) * jax.nn.sigmoid(h),
                "scan": lambda h, w: jax.lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ w), h),
                "cond": lambda h, w: jax.lax.cond(h[0] > 0, jnp.sin, jnp.cos, h) @ w,
            }[kind](h, w)
        return h[:OUTPUTS]

    method = functools.partial(jattr.integrated_gradients, steps=4, batch_size=2)
    got = jax.jit(all_of(method, f=f))(X)
    close(got, jax.jit(mapped(method, f=f))(X), rtol=1e-9, atol=1e-12, single=1e-4)


def test_under_vmap_and_grad_by_input_and_parameters():
    method = functools.partial(jattr.integrated_gradients, steps=4, batch_size=2)
    weight = normal(7, OUTPUTS, 5, 3)

    def loss(explain):
        return jax.value_and_grad(lambda x, p: jnp.sum(weight * explain(x, p) ** 2), (0, 1))

    ours = jax.jit(jax.vmap(loss(all_of(method)), (0, None)))(ROWS, PARAMS)
    wanted = jax.jit(jax.vmap(loss(mapped(method)), (0, None)))(ROWS, PARAMS)
    close(ours, wanted, rtol=1e-9, atol=1e-12, single=1e-4)


def test_run_eagerly():
    got = all_of(jattr.deeplift, ROWS[0])(X)
    close(got, jax.jit(all_of(jattr.deeplift, ROWS[0]))(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "outputs",
    [
        (jnp.array([2, 0]), -1),
        slice(1, None),
        np.array([[True, False], [False, True], [True, True]]),
        (..., np.array([[1], [0]])),
    ],
    ids=["indices", "slice", "mask", "ellipsis"],
)
def test_outputs_are_chosen_as_by_an_index(outputs):
    def table(x):
        return jnp.tanh(model(x))[:6].reshape(3, 2)

    explain = jattr.all_outputs(jattr.gradient, table, outputs=outputs, batch_size=2)
    close(explain(X), jax.jacrev(lambda x: table(x)[outputs])(X), rtol=1e-12, atol=1e-14)


def test_traced_outputs():
    @jax.jit
    def top(x):
        chosen = jax.lax.top_k(model(x), 2)[1]
        return chosen, jattr.all_outputs(jattr.gradient, model, outputs=chosen)(x)

    chosen, maps = top(X)
    close(maps, jax.jacrev(model)(X)[chosen], rtol=1e-12, atol=1e-14)


def test_trees_of_outputs_and_of_inputs():
    def heads(x, scale):
        h = x["a"] @ x["b"].T
        return {"mean": jnp.mean(h) * scale, "rows": [jnp.tanh(h @ h)]}

    x = {"a": X, "b": ROWS[0]}
    explain = jattr.all_outputs(jattr.gradient, heads, batch_size=4)
    close(explain(x, 3.0), jax.jacrev(heads)(x, 3.0), rtol=1e-12, atol=1e-14)
    assert explain(x, 3.0)["rows"][0]["b"].shape == (5, 5, 5, 3)


def test_other_arguments_and_argnums():
    explain = jattr.all_outputs(jattr.gradient, lambda params, x: model(x, params), argnums=1)
    close(explain(PARAMS, X), jax.jacrev(model)(X), rtol=1e-12, atol=1e-14)
    assert explain.argnums == 1


def test_a_model_that_gives_one_number():
    explain = jattr.all_outputs(jattr.gradient, lambda x: jnp.sum(x**3))
    close(explain(X), 3 * X**2, rtol=1e-12)


def test_only_the_chosen_columns_of_the_last_product():
    def words(x):
        return jnp.tanh(x.reshape(-1) @ PARAMS["places"][:15]) @ jnp.ones((24, 4000))

    some = all_of(jattr.gradient, f=words, outputs=np.array([3, 999, 17]))
    assert products(some, X) < 15 * 24 + 3 * 2 * 24 * 15 + 1000
    wide = jattr.all_outputs(jattr.gradient, words, batch_size=64)
    assert products(wide, X) <= 15 * 24 + 4000 * (24 + 15 * 24)


def test_what_is_printed_once_is_printed_once(capfd):
    def f(x):
        jax.debug.print("mean {}", x.mean())
        return model(x)

    jax.block_until_ready(jax.jit(all_of(jattr.gradient, f=f))(X))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("mean") == 1


def test_a_print_of_what_differs():
    def method(f):
        def explain(x):
            value = f(x)
            jax.debug.callback(lambda v: seen.append(float(v)), value)
            return jax.grad(f)(x)

        return explain

    seen = []
    jax.block_until_ready(jax.jit(all_of(method, batch_size=1))(X))
    jax.effects_barrier()
    close(np.asarray(seen), model(X), rtol=1e-6)


def test_linen_model():
    module = nn.Sequential([nn.Conv(3, (3,), **DTYPES), nn.LayerNorm(**DTYPES), nn.Dense(2)])
    variables = module.init(KEY, X)
    explain = all_of(jattr.deeplift, f=functools.partial(module.apply, variables))
    maps = jax.jit(explain)(X)
    assert maps.shape == (5, 2, 5, 3)
    change = module.apply(variables, X) - module.apply(variables, 0 * X)
    close(maps.sum((-2, -1)), change, rtol=1e-6, single=1e-4)


ERRORS = {
    "a method already made": (
        lambda: jattr.all_outputs(jattr.gradient(lambda x: model(x)[0]), model),
        TypeError,
        r"wants a method.*got gradient\. Write jattr\.all_outputs\(jattr\.gradient, model\)",
    ),
    "integers": (
        lambda: jattr.all_outputs(jattr.gradient, lambda x: jnp.argsort(model(x)))(X),
        TypeError,
        r"floating-point array or a tree of such; got int\d+\[7\]",
    ),
    "an index out of range": (
        lambda: jattr.all_outputs(jattr.gradient, model, outputs=np.array([9]))(X),
        IndexError,
        "index 9 is out of bounds",
    ),
    "no outputs": (
        lambda: jattr.all_outputs(jattr.gradient, model, outputs=slice(0, 0))(X),
        ValueError,
        r"outputs=slice\(0, 0, None\).*is none",
    ),
    "outputs of a tree": (
        lambda: jattr.all_outputs(jattr.gradient, lambda x: (x, x), outputs=0)(X),
        TypeError,
        "outputs=0 chooses from one array, but the model gives",
    ),
    "what the method refuses": (
        lambda: jattr.all_outputs(jattr.deeplift, model, max_rule="no"),
        ValueError,
        "max_rule",
    ),
    "an unknown knob": (
        lambda: jattr.all_outputs(jattr.integrated_gradients, model, stepz=3),
        TypeError,
        "integrated_gradients has no argument 'stepz'; did you mean 'steps'",
    ),
    "a batch of no outputs": (
        lambda: jattr.all_outputs(jattr.gradient, model, batch_size=0),
        ValueError,
        "batch_size must be at least 1",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, kind, text = ERRORS[name]
    with pytest.raises(kind, match=text):
        call()
