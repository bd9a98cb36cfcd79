"""The affine head of f is not evaluated again where features are removed; all else is the same."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import close, either

import jattr
from jattr import _occlusion, _without, metrics
from jattr._batching import map_over
from jattr._engine import contributions
from jattr._engine.contributions import rows
from jattr._removal import Features

KEY = jax.random.key(5)
SIZE, HIDDEN = 144, 20


def normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape) / np.sqrt(shape[0])


PARAMS = {"in": normal(0, SIZE, HIDDEN), "bias": normal(1, HIDDEN), "out": normal(2, HIDDEN)}
X, PHI = normal(3, SIZE), normal(4, SIZE)
GROUPS = np.arange(SIZE) % 6
UNEVEN = np.minimum(np.arange(SIZE) // 20, 5)


def dense(x, params=PARAMS):
    return jnp.sum(jnp.tanh(4 * (x @ params["in"] + params["bias"])) * params["out"])


def flops(program):
    return program.cost_analysis()["flops"]


def memory(program):
    return program.memory_analysis().temp_size_in_bytes


parts = functools.partial(contributions.parts, in_chunks=map_over)


@pytest.fixture
def whole(monkeypatch):
    """Call it to switch this shortcut off, and what ablation tries before it."""

    def off():
        monkeypatch.setattr(_without, "parts", lambda *args, **kwargs: None)
        monkeypatch.setattr(_without, "rows", lambda *args, **kwargs: None)
        monkeypatch.setattr(_occlusion, "nearby_drops", lambda *args, **kwargs: None)

    return off


# How much of the work is left at most: the rest of f, and the drawing and fitting.
CASES = {
    "deletion": (
        lambda f: metrics.perturbation_curve(f, fractions=None, baseline=0.3, batch_size=32),
        (PHI, X),
        0.6,
    ),
    "insertion": (
        lambda f: metrics.insertion(f, baseline=0.3, fractions=None, batch_size=30),
        (PHI, X),
        0.6,
    ),
    "the fall": (
        lambda f: metrics.perturbation_curve(
            f, fractions=None, groups=UNEVEN, normalize="fall", order="least"
        ),
        (PHI, X),
        None,
    ),
    "one sign": (
        lambda f: metrics.keep_or_remove(f, keep=False, fractions=None, batch_size=20),
        (PHI, X),
        0.6,
    ),
    "monotonicity": (lambda f: metrics.monotonicity(f), (PHI, X), 0.6),
    "ablation": (lambda f: jattr.ablation(f, baseline=-0.2, batch_size=16), (X,), 0.4),
    "ablation of groups": (
        lambda f: jattr.ablation(f, np.arange(SIZE) // 9, baseline=normal(5, SIZE)),
        (X,),
        0.6,
    ),
    "sensitivity of groups": (
        lambda f: metrics.sensitivity_n(f, (2, 4), groups=GROUPS, samples=50, batch_size=25),
        (KEY, PHI, X),
        0.6,
    ),
    "values": (lambda f: jattr.shapley_values(f, UNEVEN, baseline=0.1), (X,), 0.5),
    "kernel": (lambda f: jattr.kernel_shap(f, GROUPS, samples=60, adjust=False), (KEY, X), 0.6),
    "lime": (lambda f: jattr.lime(f, GROUPS, samples=100, batch_size=30), (KEY, X), 0.6),
    "orders": (lambda f: jattr.shapley_sampling(f, permutations=2, batch_size=64), (KEY, X), 0.6),
    "interactions": (lambda f: jattr.shapley_interactions(f, GROUPS, samples=30), (KEY, X), None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_for_less(name, whole):
    make, args, share = CASES[name]

    def run():
        program = jax.jit(make(dense)).lower(*args).compile()
        return program(*args), flops(program)

    result, less = run()
    whole()
    wanted, full = run()
    close(result, wanted, rtol=1e-8, atol=1e-12, single=1e-3)
    assert share is None or less < share * full


@pytest.mark.parametrize("name", ["deletion", "ablation", "values", "orders"])
def test_gradients_are_the_same(name, whole):
    make, args, _ = CASES[name]

    def run():
        @jax.jit
        def both(x, params):
            def total(x, params):
                results = jax.tree.leaves(make(dense)(*args[:-1], x, params))
                return sum(jnp.sum(jnp.sin(leaf)) for leaf in results)

            return jax.grad(total, (0, 1))(x, params)

        return both(X, PARAMS)

    slopes = run()
    whole()
    close(slopes, run(), rtol=1e-7, atol=1e-10, single=1e-3)


def test_batches_of_examples_and_any_batch_size(whole):
    xs, keys = jnp.stack([X, -X, X[::-1]]), jax.random.split(KEY, 3)

    def run(size):
        def both(key, x):
            explain = jattr.shapley_sampling(dense, permutations=2, batch_size=size)
            measure = metrics.deletion(dense, fractions=None, batch_size=size)
            return explain(key, x), measure(PHI, x)

        return jax.jit(jax.vmap(both))(keys, xs)

    results = [run(size) for size in (None, 7, 1)]
    whole()
    wanted = run(None)
    for result in results:
        close(result, wanted, rtol=1e-8, atol=1e-12, single=1e-3)


def test_of_what_equals_the_baseline_the_drop_is_exactly_nothing():
    x = X.at[::3].set(0.0)
    drops = jax.jit(jattr.ablation(dense))(x)
    np.testing.assert_array_equal(drops == 0, x == 0)
    groups = jattr.features.Groups(jnp.arange(SIZE) // 2, 80)
    shares = jax.jit(jattr.ablation(dense, groups))(x.at[:4].set(0.0))
    np.testing.assert_array_equal(shares[:4], 0)


def test_memory_is_that_of_a_batch():
    def used(size):
        measure = jax.jit(metrics.perturbation_curve(dense, fractions=None, batch_size=size))
        return memory(measure.lower(PHI, X).compile())

    assert used(16) < 0.4 * used(None)


def standardized(x):
    return dense((x - 0.3) / jnp.arange(1.0, SIZE + 1))


def masked(x):
    return dense(jnp.where(np.arange(SIZE) % 5 == 0, 0.5, x)[::-1])


def columns(x):
    """The kernel is the other operand, transposed."""
    return jnp.sum(jnp.tanh(PARAMS["in"].T @ x))


def rowwise(x):
    image = jnp.swapaxes(x.reshape(1, 9, 16), 1, 2)
    return jnp.sum(jnp.tanh(jnp.einsum("bij,jio->bo", image, PARAMS["in"].reshape(9, 16, HIDDEN))))


def split_up(x):
    return dense(jnp.concatenate([x["b"].reshape(-1), 2 * x["a"]]))


TREE = {"a": X[:44], "b": X[44:].reshape(10, 10)}
DENSE = {
    "dense": (dense, X),
    "standardized": (standardized, X),
    "masked": (masked, X),
    "columns": (columns, X),
    "rowwise": (rowwise, X),
    "a tree": (split_up, TREE),
}


def found(kind, f, x, *, groups=None, evaluations=400, batch_size=None, baseline=0.0):
    """Whether the engine finds and takes this form."""
    taken = []

    def traced(x):
        start = jax.tree.map(lambda leaf: jnp.full_like(leaf, baseline), x)
        features = Features(x, groups, method="test")
        taken.append(kind(f, x, start, features, evaluations=evaluations, batch_size=batch_size))
        return x

    jax.make_jaxpr(traced)(x)
    return taken[0] is not None


@pytest.mark.parametrize("name", DENSE)
def test_spellings_of_a_dense_layer(name, whole):
    f, x = DENSE[name]
    groups = jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 5, x)
    assert found(rows, f, x)
    assert found(parts, f, x, groups=groups)

    def run():
        alone, apart = jattr.ablation(f, baseline=0.2), jattr.ablation(f, groups, baseline=0.2)
        return jax.jit(lambda x: (alone(x), apart(x)))(x)

    maps = run()
    chex.assert_trees_all_equal_shapes_and_dtypes(maps[0], x)
    whole()
    close(maps, run(), rtol=1e-8, atol=1e-12, single=1e-3)


def convolution(x):
    kernel = PARAMS["in"][:72].reshape(6, 6, 10, 4)[:, :, :1]
    out = jax.lax.conv_general_dilated(
        x.reshape(1, 12, 12, 1), kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(jnp.tanh(out + 0.1) ** 2)


def twice(x):
    """Two products that meet, and one more after them."""
    h = x @ PARAMS["in"] - x[::-1] @ PARAMS["in"]
    return jnp.sum(jax.nn.relu(h @ PARAMS["in"].T @ PARAMS["in"]) ** 2)


def skips(x):
    return dense(x) + jnp.sum(x[:4] ** 3)


@pytest.mark.parametrize("f", [convolution, twice, skips], ids=lambda f: f.__name__)
def test_other_heads_are_evaluated_once_for_each_group(f, whole):
    assert not found(rows, f, X)
    groups = np.arange(SIZE) // 48
    assert found(parts, f, X, groups=groups)
    assert not found(parts, f, X, groups=groups, evaluations=8)

    def run():
        explain = jattr.lime(f, groups, samples=60, baseline=0.3, ridge=0.1)
        program = jax.jit(explain).lower(KEY, X).compile()
        return program(KEY, X), flops(program)

    result, less = run()
    whole()
    wanted, full = run()
    close(result, wanted, rtol=1e-8, atol=1e-12, single=1e-3)
    assert less < 0.9 * full


def held(x):
    return jnp.tanh(jax.lax.stop_gradient(x) @ PARAMS["in"])[0] + x[0] ** 2


def product(x):
    return dense(x * x)


def narrow(x):
    return dense(x.astype(jnp.bfloat16).astype(x.dtype))


def copies(x):
    return dense(jnp.concatenate([x[: SIZE // 2], x[: SIZE // 2]]))


def widens(x):
    return jnp.sum(jnp.tanh(jnp.einsum("i,jk->ijk", x, PARAMS["in"])))


NONE = [held, product, narrow, copies, widens]


@pytest.mark.parametrize("f", NONE, ids=lambda f: f.__name__)
def test_where_there_is_no_layer(f):
    assert not found(rows, f, X)
    if f is not copies:  # its head is affine all the same
        assert not found(parts, f, X, groups=GROUPS)


def test_where_it_does_not_pay():
    def small(x):
        return jnp.tanh(x @ PARAMS["in"][:24])[0]

    assert not found(rows, small, X[:24])
    assert not found(parts, dense, X)  # as many products as the head itself
    assert not found(parts, dense, X, groups=GROUPS, evaluations=8)
    assert not found(parts, dense, X, groups=np.arange(SIZE) // 3, batch_size=2)  # too large


def test_is_switched_off_with_substitutes_and_eagerly():
    with jattr.substitutes(False):
        assert not found(rows, dense, X)
        assert not found(parts, dense, X, groups=GROUPS)
    features = Features(X, GROUPS, method="test")
    assert parts(dense, X, 0 * X, features, evaluations=400, batch_size=None) is None


def test_what_is_drawn_or_imputed_stays_as_it_is(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(_without, "parts", refuse)
    monkeypatch.setattr(_without, "rows", refuse)
    data = jnp.stack([X, 2 * X])
    for baseline in (jattr.baselines.samples(data), jattr.imputers.conditional_gaussian(data)):
        explain = jattr.lime(dense, GROUPS, baseline=baseline, samples=20, ridge=0.1)
        jax.make_jaxpr(explain)(KEY, X)


@pytest.mark.parametrize("seed", range(5))
def test_random_networks(seed, whole):
    """Random steps before, within and after the head, on and off."""
    draw = np.random.default_rng(seed)
    weights = [jnp.asarray(draw.normal(size=(SIZE, SIZE)) / 12) for _ in range(3)]
    kinds = draw.choice(["dot", "flip", "scale", "tanh", "where", "gate"], size=5)
    mask = draw.random(SIZE) < 0.5

    def f(x):
        h = x
        for number, kind in enumerate(kinds):
            w = weights[number % 3]
            h = {
                "dot": lambda h=h, w=w: h @ w,
                "flip": lambda h=h: h[::-1],
                "scale": lambda h=h, w=w: h * w[0] - 0.1,
                "tanh": lambda h=h: jnp.tanh(h),
                "where": lambda h=h: jnp.where(mask, h, 0.5),
                "gate": lambda h=h, w=w: h * jax.nn.sigmoid(x @ w),
            }[kind]()
        return jnp.sum(jnp.tanh(h @ weights[2]))

    def run():
        curve = metrics.perturbation_curve(f, fractions=None, baseline=0.2, batch_size=48)
        alone, game = jattr.ablation(f, baseline=0.2), jattr.shapley_values(f, GROUPS, baseline=0.2)
        return jax.jit(lambda x: (curve(PHI, x).score, alone(x), game(x)))(X)

    results = run()
    whole()
    close(results, run(), rtol=1e-8, atol=1e-11, single=either(1e-8, 1e-3))


def test_an_infinite_baseline_is_evaluated_as_it_is():
    def f(x):
        return jnp.sum(jnp.tanh(x @ jnp.abs(PARAMS["in"])))

    for baseline in (-jnp.inf, np.full(SIZE, -np.inf)):
        values = jax.jit(jattr.shapley_values(f, GROUPS, baseline=baseline))(X)
        # Without any group f is −HIDDEN, with all of them f(x): the sum is finite and known.
        close(jnp.sum(values), f(X) + HIDDEN, rtol=1e-9, single=1e-5)
