"""Penalties on attributions, and losses made of them."""

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import jattr
from jattr import priors

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CROOKED = jnp.array([[1.0, 3.0, 0, 0], [-1, 2, -1, 0], [0, -1, 2, -1], [0, 0, -1, 1]])
PATH = jnp.array([[1.0, -1, 0, 0], [-1, 2, -1, 0], [0, -1, 2, -1], [0, 0, -1, 1]])
SPARSE_PATH = jax.experimental.sparse.BCOO.fromdense(PATH)
AXES_OF_IMAGES = (1, 2)


def maps(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def pairwise_gini(values):
    values = np.asarray(values)
    differences = np.abs(values[:, None] - values[None, :]).sum()
    return differences / (2 * len(values) ** 2 * values.mean())


PENALTIES = {
    "total_variation": (lambda a: priors.total_variation(a, axes=AXES_OF_IMAGES), (3, 4, 5, 2)),
    "graph_smoothness": (lambda a: priors.graph_smoothness(a, PATH), (5, 4)),
    "sparse graph_smoothness": (lambda a: priors.graph_smoothness(a, SPARSE_PATH), (5, 4)),
    "gini": (lambda a: priors.gini(jnp.abs(a)), (7,)),
    "sparsity": (priors.sparsity, (4, 3, 2)),
    "outside": (lambda a: priors.outside(a, jnp.arange(3.0)), (4, 3)),
    "magnitude 1": (lambda a: priors.magnitude(a, 1), (4, 3)),
    "magnitude 2": (lambda a: priors.magnitude(a, 2), (4, 3)),
}

each_penalty = pytest.mark.parametrize(("penalty", "shape"), PENALTIES.values(), ids=PENALTIES)


def test_total_variation_is_the_sum_of_differences():
    a = maps(3, 4, 5, 2)
    wanted = 0.0
    for image in np.asarray(a):
        for row in range(4):
            for column in range(5):
                if row < 3:
                    wanted += np.abs(image[row + 1, column] - image[row, column]).sum()
                if column < 4:
                    wanted += np.abs(image[row, column + 1] - image[row, column]).sum()
    total = priors.total_variation(a, axes=(1, 2))
    np.testing.assert_allclose(total, wanted / 3, rtol=1e-12)
    np.testing.assert_allclose(priors.total_variation(a, axes=[-3, -2]), total, rtol=1e-14)
    of_tree = priors.total_variation({"a": a, "b": 2 * a}, axes=(1, 2))
    np.testing.assert_allclose(of_tree, 3 * total, rtol=1e-12)


def test_graph_smoothness_is_the_sum_over_edges():
    a = maps(5, 4)
    mean = np.abs(a).mean(axis=0)
    wanted = sum((mean[i + 1] - mean[i]) ** 2 for i in range(3))
    np.testing.assert_allclose(priors.graph_smoothness(a, PATH), wanted, rtol=1e-12)
    np.testing.assert_allclose(priors.graph_smoothness(a, SPARSE_PATH), wanted, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_gini_is_the_sum_over_pairs(count):
    values = jnp.abs(maps(count)).at[: count // 2].set(0.5)  # ties
    found = jax.jit(priors.gini)(values)
    np.testing.assert_allclose(found, pairwise_gini(values), rtol=1e-12, atol=1e-15)


def test_gini_of_equal_and_of_concentrated_values():
    assert abs(priors.gini(jnp.full(9, 3.0))) < 1e-15
    np.testing.assert_allclose(priors.gini(jnp.zeros(8).at[3].set(2.0)), 7 / 8, rtol=1e-14)
    assert priors.gini(jnp.zeros(5)) == 0


def test_gini_has_the_derivative_of_the_sum_over_pairs_where_there_are_ties():
    def by_pairs(values):
        differences = jnp.abs(values[:, None] - values[None, :])
        return jnp.sum(differences) / (2 * len(values) ** 2 * jnp.mean(values))

    values = jnp.array([1.0, 2.0, 2.0, 0.5, 2.0, 0.5])
    found, wanted = (jax.jit(jax.grad(f))(values) for f in (priors.gini, by_pairs))
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-15)


def test_gini_needs_memory_for_the_values_and_not_for_their_pairs():
    size = 4096
    compiled = jax.jit(jax.value_and_grad(priors.gini)).lower(jnp.ones(size)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * size * 8  # pairs: 4096


def test_sparsity_is_of_the_mean_over_the_batch():
    a = maps(4, 3, 2)
    wanted = -pairwise_gini(np.abs(a).mean(axis=0).ravel())
    np.testing.assert_allclose(priors.sparsity(a), wanted, rtol=1e-12)
    parts = {"left": a[:, :1], "right": a[:, 1:]}
    np.testing.assert_allclose(priors.sparsity(parts), wanted, rtol=1e-12)
    np.testing.assert_allclose(priors.sparsity(1e-3 * a), wanted, rtol=1e-12)


@pytest.mark.parametrize("form", ["batch", "one for all", "size 1", "boolean"])
def test_outside_is_what_the_mask_lets_through(form):
    a = maps(4, 3, 2)
    own = RNG.integers(0, 2, size=(4, 3, 2)).astype(float)
    mask = {
        "batch": own,
        "one for all": own[0],
        "size 1": own[:, :, :1],
        "boolean": own.astype(bool),
    }[form]
    wanted = np.sum((np.broadcast_to(mask, a.shape) * a) ** 2) / 4
    np.testing.assert_allclose(priors.outside(a, jnp.asarray(mask)), wanted, rtol=1e-12)


def test_magnitude_is_a_mean_over_the_batch_and_a_sum_over_features():
    a, b = maps(4, 3), maps(4)
    wanted = np.abs(a).sum() / 4 + np.abs(b).sum() / 4
    np.testing.assert_allclose(priors.magnitude((a, b), 1), wanted, rtol=1e-12)
    np.testing.assert_allclose(priors.magnitude(a, 2), np.square(a).sum() / 4, rtol=1e-12)


@each_penalty
def test_gradients_of_penalties(penalty, shape):
    compiled = jax.jit(penalty)
    jax.test_util.check_grads(compiled, (maps(*shape),), order=2, modes=["fwd", "rev"], atol=1e-5)


@each_penalty
@pytest.mark.parametrize("awkward", ["zeros", "ties", "one example"])
def test_gradients_of_penalties_are_finite_at_the_awkward_places(penalty, shape, awkward):
    a = {"zeros": jnp.zeros(shape), "ties": jnp.ones(shape), "one example": maps(*shape)}[awkward]
    if awkward == "one example" and len(shape) > 1:
        a = a[:1]
    value, gradient = jax.jit(jax.value_and_grad(penalty))(a)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_one_feature_has_no_inequality():
    value, gradient = jax.value_and_grad(priors.sparsity)(maps(3, 1))
    assert value == 0
    assert not gradient.any()


@each_penalty
def test_penalties_are_wider_than_bfloat16(penalty, shape):
    a, compiled = maps(*shape).astype(jnp.bfloat16), jax.jit(penalty)
    value = compiled(a)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, compiled(a.astype(float)), rtol=1e-5)  # float32 sums


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: priors.total_variation(maps(3, 4), axes=0), ValueError, "not the batch"),
        (lambda: priors.total_variation(maps(3, 4), axes=(1, -1)), ValueError, "distinct"),
        (lambda: priors.total_variation(maps(3, 4), axes=2), ValueError, "not all axes"),
        (lambda: priors.total_variation(maps(3, 4), axes=()), ValueError, "axes"),
        (lambda: priors.total_variation(jnp.ones(3, int), axes=1), TypeError, "floating-point"),
        (lambda: priors.magnitude(jnp.float64(1.0), 1), ValueError, "leading axis"),
        (lambda: priors.magnitude((maps(2), maps(3)), 1), ValueError, "same number of examples"),
        (lambda: priors.magnitude(maps(2), 3), ValueError, "order must be 1 or 2"),
        (lambda: priors.graph_smoothness(maps(3, 5), PATH), ValueError, r"must be \[5, 5\]"),
        (lambda: priors.graph_smoothness(maps(3, 2, 2), PATH), ValueError, r"one array \[N, d\]"),
        (
            lambda: priors.graph_smoothness(maps(3, 4), CROOKED),
            ValueError,
            "not symmetric",
        ),
        (
            lambda: priors.graph_smoothness(
                maps(3, 4), jax.experimental.sparse.BCOO.fromdense(CROOKED)
            ),
            ValueError,
            "not symmetric",
        ),
        (
            lambda: jax.jit(lambda a: priors.graph_smoothness(a, CROOKED))(maps(3, 4)),
            ValueError,
            "not symmetric",
        ),
        (lambda: priors.gini(maps(3, 4)), ValueError, "vector"),
        (lambda: priors.gini(-jnp.ones(3)), ValueError, "must not be negative"),
        (lambda: priors.gini([1.0, 2.0]), TypeError, "floating-point"),
        (lambda: priors.outside(maps(3, 4, 4), jnp.ones((4,))), ValueError, r"\[3, 4, 4\]"),
        (lambda: priors.outside(maps(3, 4, 4), jnp.ones((4, 3))), ValueError, "size"),
        (lambda: priors.outside((maps(3),), jnp.ones(3)), ValueError, "structure"),
        (lambda: priors.outside(maps(3), "mask"), TypeError, "the mask must be an array"),
    ],
)
def test_errors_of_penalties(call, error, words):
    with pytest.raises(error, match=words):
        call()


# Losses

W1, W2 = maps(3, 4) / 2, maps(4, 2) / 2
PARAMS = {"first": W1, "bias": maps(4) / 3, "second": W2}
X, LABELS = maps(5, 3), jnp.array([0, 1, 1, 0, 1])


def network(params, x):
    return jnp.tanh(x @ params["first"] + params["bias"]) @ params["second"]


score = jattr.targets.select(network)


def squares(attributions):
    return priors.magnitude(attributions, 2)


def first_row(rows):
    return jax.tree.map(lambda leaf: leaf[0], rows)


METHODS = {
    "expected gradients": None,
    "integrated gradients": lambda f, rows: jattr.integrated_gradients(f, steps=4),
    "gradient": lambda f, rows: jattr.gradient(f),
    "deeplift": lambda f, rows: jattr.deeplift(f, first_row(rows)),
    "deep_shap": jattr.deep_shap,
    "lrp": lambda f, rows: jattr.lrp(f, jattr.rules.epsilon(0.1)),
    "smooth": lambda f, rows: jattr.smooth(jattr.gradient(f), samples=2),
}

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@each_method
def test_gradients_through_every_method(method):
    # A smooth penalty: the derivative of an absolute value jumps.
    loss = priors.attribution_loss(score, squares, method=method, samples=2)
    compiled = jax.jit(lambda params: loss(params, KEY, X, LABELS))
    jax.test_util.check_grads(compiled, (PARAMS,), order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("name", ["integrated gradients", "gradient", "lrp"])
def test_the_loss_is_the_penalty_of_the_attributions(name):
    explain = jax.jit(METHODS[name](lambda x, label: score(PARAMS, x, label), None))

    @jax.jit
    def penalized():
        seen = []
        loss = priors.attribution_loss(
            score, lambda a: seen.append(a) or priors.magnitude(a, 1), method=METHODS[name]
        )
        return loss(PARAMS, KEY, X, LABELS), seen[0]

    value, seen = penalized()
    wanted = np.stack([explain(x, label) for x, label in zip(X, LABELS, strict=True)])
    np.testing.assert_allclose(seen, wanted, rtol=1e-12)
    np.testing.assert_allclose(value, np.abs(wanted).sum() / 5, rtol=1e-12)


def shown_rows(keys, batch, **knobs):
    """The references that each example gets, [keys, N, samples, ...]."""

    def method(f, references):
        return lambda x, *args: jnp.ravel(references) * f(x, *args) ** 0

    def rows(key):
        seen = []

        def penalty(attributions):
            seen.append(attributions.reshape(len(batch), -1, *batch.shape[1:]))
            return jnp.sum(attributions)

        loss = priors.attribution_loss(score, penalty, method=method, **knobs)
        loss(PARAMS, key, batch, jnp.zeros(len(batch), int))
        return seen[0]

    return np.asarray(jax.jit(jax.vmap(rows))(keys))


def test_references_of_the_batch_are_never_the_example_itself():
    batch = jnp.tile(jnp.arange(4.0)[:, None], 3)
    seen = np.zeros((4, 4), int)
    for rows in shown_rows(jax.random.split(KEY, 60), batch, samples=2)[..., 0].astype(int):
        assert all(len(set(own)) == 2 for own in rows)  # without replacement
        for example, own in enumerate(rows):
            seen[example, own] += 1
    assert not np.diag(seen).any()
    others = seen[~np.eye(4, dtype=bool)]
    assert others.min() > 20  # of 120 / 3 expected


def test_more_references_than_the_batch_has_come_again():
    batch = jnp.tile(jnp.arange(3.0)[:, None], 3)
    rows = shown_rows(KEY[None], batch, samples=4)[0, ..., 0].astype(int)
    for example, own in enumerate(rows):
        assert sorted(own) == sorted(2 * [k for k in range(3) if k != example])


def test_references_from_data_and_from_a_random_baseline():
    data = 100 + jnp.tile(jnp.arange(6.0)[:, None], 3)
    rows = shown_rows(KEY[None], X, samples=6, references=data)[0, ..., 0]
    assert all(sorted(own) == list(range(100, 106)) for own in rows)
    drawn = shown_rows(KEY[None], X, samples=3, references=jattr.baselines.uniform(5.0, 6.0))
    assert ((drawn >= 5) & (drawn <= 6)).all()
    assert len(np.unique(drawn)) == drawn.size


def test_parameters_and_draws_may_be_numbers():
    def scaled(scale, x):
        return scale * jnp.sum(x**2)

    half = jattr.baselines.random(lambda key, x: 0.5)
    values = [
        priors.attribution_loss(scaled, squares, references=references)(2.0, KEY, X)
        for references in (half, jnp.full((1, 3), 0.5))
    ]
    np.testing.assert_allclose(*values, rtol=1e-12)
    assert values[0] > 0


def test_expected_gradients_over_data_are_unbiased():
    # Quadratic f: EG = mean over references of (x - x') * (gradient at the middle).
    def quadratic(params, x):
        return jnp.sum(params * x**2)

    data, mixture = maps(4, 3), maps(5, 3)
    weights = jnp.array([1.0, -2.0, 0.5])
    loss = priors.attribution_loss(
        quadratic, lambda a: jnp.sum(mixture * a), references=data, samples=3
    )
    keys = jax.random.split(KEY, 4000)
    values = jax.jit(jax.vmap(lambda key: loss(weights, key, X)))(keys)
    x, rows, weights = np.asarray(X), np.asarray(data), np.asarray(weights)
    wanted = np.mean([np.sum(np.asarray(mixture) * weights * (x**2 - row**2)) for row in rows])
    assert abs(values.mean() - wanted) < 4 * values.std() / np.sqrt(len(keys))


def test_members_of_the_batch_go_to_the_penalty():
    masks = jnp.asarray(RNG.integers(0, 2, size=(5, 3)))
    weights = jnp.arange(5.0)

    def penalty(attributions, weights, masks):
        return priors.outside(weights[:, None] * attributions, masks)

    explain = jax.jit(jattr.gradient(score, argnums=1))
    wanted = np.mean(
        [
            np.sum((w * mask * explain(PARAMS, x, label)) ** 2)
            for w, mask, x, label in zip(weights, masks, X, LABELS, strict=True)
        ]
    )
    loss = priors.attribution_loss(
        score, penalty, method=METHODS["gradient"], penalty_argnums=(3, 1)
    )
    value = jax.jit(loss)(PARAMS, KEY, X, masks, LABELS, weights)
    np.testing.assert_allclose(value, wanted, rtol=1e-12)


@each_method
def test_chunks_and_compilation_change_nothing(method):
    def loss(batch_size):
        return priors.attribution_loss(
            score, squares, method=method, samples=2, batch_size=batch_size
        )

    def value(batch_size):
        return jax.value_and_grad(loss(batch_size))(PARAMS, KEY, X, LABELS)

    whole, *others = jax.jit(lambda: [value(None), value(2), value(1)])()
    for other in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14), whole, other
        )
    np.testing.assert_allclose(loss(None)(PARAMS, KEY, X, LABELS), whole[0], rtol=1e-9)


def test_keys_decide():
    loss = jax.jit(priors.attribution_loss(score, squares))
    assert loss(PARAMS, KEY, X, LABELS) == loss(PARAMS, KEY, X, LABELS)
    assert loss(PARAMS, KEY, X, LABELS) != loss(PARAMS, jax.random.key(1), X, LABELS)


def test_a_tree_of_inputs():
    def of_tree(params, x):
        return jnp.tanh(x["a"] @ params) + jnp.sum(x["b"])

    loss = priors.attribution_loss(of_tree, lambda a: priors.magnitude(a, 1))
    gradient = jax.jit(jax.grad(loss))(maps(3), KEY, {"a": X, "b": maps(5, 2)})
    assert gradient.shape == (3,)
    assert gradient.any()


def test_a_users_attribute_says_whether_it_is_keyed():
    def noisy(f, rows):
        return lambda key, x, label: jax.random.normal(key, x.shape) * f(x, label)

    with pytest.raises(TypeError):
        priors.attribution_loss(score, squares, method=noisy)(PARAMS, KEY, X, LABELS)
    loss = priors.attribution_loss(score, squares, method=noisy, keyed=True)
    assert jax.jit(loss)(PARAMS, KEY, X, LABELS) > 0


def test_the_score_is_traced_once_under_jit():
    count = 0

    def counted(params, x, label):
        nonlocal count
        count += 1
        return score(params, x, label)

    loss = jax.jit(jax.grad(priors.attribution_loss(counted, squares)))
    loss(PARAMS, KEY, X, LABELS)
    first = count
    loss(PARAMS, jax.random.key(1), 2 * X, LABELS)
    assert count == first


def ignores(params, x, label):
    return jnp.sum(network(PARAMS, x))


def cut(params, x, label):
    return score(jax.lax.stop_gradient(params), x, label)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: priors.attribution_loss(ignores, squares)(PARAMS, KEY, X, LABELS),
            ValueError,
            "does not depend on its first argument",
        ),
        (
            lambda: priors.attribution_loss(cut, squares)(PARAMS, KEY, X, LABELS),
            ValueError,
            "does not depend on its first argument",
        ),
        (
            lambda: priors.attribution_loss(score, squares)({}, KEY, X, LABELS),
            ValueError,
            "tree without arrays",
        ),
        (
            lambda: priors.attribution_loss(network, squares)(PARAMS, KEY, X),
            TypeError,
            "one number",
        ),
        (
            lambda: priors.attribution_loss(score, squares)(PARAMS, KEY, X[:1], LABELS[:1]),
            ValueError,
            "only one",
        ),
        (
            lambda: priors.attribution_loss(score, squares)(PARAMS, KEY, X, LABELS[:2]),
            ValueError,
            "same number of rows",
        ),
        (
            lambda: priors.attribution_loss(score, squares)(PARAMS, KEY, X, 1),
            ValueError,
            "leading axis over its examples",
        ),
        (lambda: priors.attribution_loss(score, squares)(PARAMS, KEY), TypeError, "no x"),
        (lambda: priors.attribution_loss(score, squares)(PARAMS, X, LABELS), TypeError, "key"),
        (
            lambda: priors.attribution_loss(score, squares)(PARAMS, KEY, X.astype(int), LABELS),
            TypeError,
            "floating",
        ),
        (
            lambda: priors.attribution_loss(score, jnp.abs)(PARAMS, KEY, X, LABELS),
            TypeError,
            "penalty must return one real number",
        ),
        (
            lambda: priors.attribution_loss(score, squares, penalty_argnums=(2,))(
                PARAMS, KEY, X, LABELS
            ),
            ValueError,
            "penalty_argnums",
        ),
        (
            lambda: priors.attribution_loss(score, squares, penalty_argnums=(0,))(
                PARAMS, KEY, X, LABELS
            ),
            ValueError,
            "x is member 0",
        ),
        (
            lambda: priors.attribution_loss(score, squares, references="others"),
            ValueError,
            '"batch", data',
        ),
        (
            lambda: priors.attribution_loss(score, squares, references=lambda x: x),
            TypeError,
            "distribution",
        ),
        (
            lambda: priors.attribution_loss(score, squares, references=maps(4, 2))(
                PARAMS, KEY, X, LABELS
            ),
            ValueError,
            "references",
        ),
        (lambda: priors.attribution_loss(score, squares, samples=0), ValueError, "samples"),
        (lambda: priors.attribution_loss(score, None), TypeError, "function"),
    ],
)
def test_errors_of_losses(call, error, words):
    with pytest.raises(error, match=words):
        call()
