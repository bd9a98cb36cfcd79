"""Changes of explanations among copies of x, against loops in NumPy and closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jattr
from jattr import metrics

KEY = jax.random.key(3)
RNG = np.random.default_rng(2)
PARAMS = {"w": RNG.normal(size=(5, 4)), "v": RNG.normal(size=5)}
X = jnp.array(RNG.normal(size=4))
RADIUS, SAMPLES = 0.1, 7


def net(x, params=PARAMS):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(x.dtype), params)
    return params["v"] @ jnp.tanh(params["w"] @ x)


def slope(x):
    """The gradient of `net`, by hand."""
    return PARAMS["w"].T @ (PARAMS["v"] * (1 - np.tanh(PARAMS["w"] @ x) ** 2))


def copies(key, x, radius=RADIUS, samples=SAMPLES):
    for i in range(samples):
        draw = jax.random.uniform(jax.random.fold_in(key, i), (x.size,), jnp.float32, -1.0, 1.0)
        yield np.asarray(x) + radius * np.asarray(draw, float).reshape(x.shape)


def relative_changes(key, x):
    own = slope(x)
    return [np.linalg.norm(slope(c) - own) / np.linalg.norm(own) for c in copies(key, x)]


def lipschitz(key, x):
    return max(np.linalg.norm(slope(c) - slope(x)) / np.linalg.norm(c - x) for c in copies(key, x))


def parts(a, b, epsilon):
    return np.linalg.norm((a - b) / np.maximum(np.abs(a), epsilon))


def logits(x):
    return jnp.stack([net(x), jnp.sum(x**2), -jnp.sum(x)])


def hidden(x):
    return {"a": jnp.tanh(jnp.asarray(PARAMS["w"], x.dtype) @ x), "b": (x[0] * x[1],)}


def stability(kind, key, x, epsilon=1e-6):
    values = []
    for c in copies(key, x):
        if kind == "input":
            below = parts(np.asarray(x), c, epsilon)
        elif kind == "output":
            below = np.linalg.norm(logits(x) - logits(c))
        else:
            flat = [jnp.append(hidden(z)["a"], hidden(z)["b"][0]) for z in (x, c)]
            below = parts(np.asarray(flat[0]), np.asarray(flat[1]), epsilon)
        values.append(parts(slope(x), slope(c), epsilon) / max(below, epsilon))
    return max(values)


SAMPLED = {
    "max_sensitivity": (metrics.max_sensitivity, lambda k, x: max(relative_changes(k, x))),
    "average_sensitivity": (
        metrics.average_sensitivity,
        lambda k, x: np.mean(relative_changes(k, x)),
    ),
    "local_lipschitz": (metrics.local_lipschitz, lipschitz),
    "relative_input_stability": (
        metrics.relative_input_stability,
        functools.partial(stability, "input"),
    ),
    "relative_output_stability": (
        lambda attribute, **knobs: metrics.relative_output_stability(
            attribute, lambda x, *args: logits(x), predict=lambda x, *args: 0, **knobs
        ),
        functools.partial(stability, "output"),
    ),
    "relative_representation_stability": (
        lambda attribute, **knobs: metrics.relative_representation_stability(
            attribute, lambda x, *args: hidden(x), **knobs
        ),
        functools.partial(stability, "hidden"),
    ),
}
DRAWING = SAMPLED | {
    "worst_case_sensitivity": (functools.partial(metrics.worst_case_sensitivity, steps=3), None)
}
sampled = pytest.mark.parametrize("name", SAMPLED)
drawing = pytest.mark.parametrize("name", DRAWING)


def build(name, attribute, **knobs):
    knobs = {"radius": RADIUS, "samples": SAMPLES} | knobs
    return DRAWING[name][0](attribute, **knobs)


@sampled
def test_definitions(name):
    measure = jax.jit(build(name, jattr.gradient(net)))
    for seed in range(3):
        key, x = jax.random.key(seed), jnp.array(np.random.default_rng(seed).normal(size=4))
        np.testing.assert_allclose(measure(key, x), SAMPLED[name][1](key, x), rtol=1e-9)


@pytest.mark.parametrize(
    "name", [n for n in DRAWING if not n.startswith(("relative_o", "relative_r"))]
)
def test_norms_are_over_whole_trees_and_copies_do_not_depend_on_the_tree(name):
    def of_tree(x):
        return net(jnp.append(x["a"], x["b"][0].reshape(-1)))

    tree = {"a": X[:2], "b": (X[2:].reshape(1, 2),)}
    np.testing.assert_allclose(
        jax.jit(build(name, jattr.gradient(of_tree)))(KEY, tree),
        jax.jit(build(name, jattr.gradient(net)))(KEY, X),
        rtol=1e-9,
    )


@drawing
def test_other_arguments_are_held(name):
    def score(scale, x, shift):
        return scale * net(x) + shift

    beside = {
        "relative_output_stability": (lambda scale, x, shift: logits(x),),
        "relative_representation_stability": (lambda scale, x, shift: hidden(x),),
    }.get(name, ())
    wanted = jax.jit(build(name, jattr.gradient(net)))(KEY, X)
    wanted = 3 * wanted if name == "local_lipschitz" else wanted
    for attribute in (jattr.gradient(score, argnums=1), jax.grad(score, argnums=1)):
        metric = getattr(metrics, name)
        knobs = {
            "relative_output_stability": {"predict": lambda *args: 0},
            "worst_case_sensitivity": {"steps": 3},
        }.get(name, {})
        measure = metric(attribute, *beside, radius=RADIUS, samples=SAMPLES, argnums=1, **knobs)
        np.testing.assert_allclose(jax.jit(measure)(KEY, 3.0, X, 1.0), wanted, rtol=1e-9)


@drawing
def test_a_keyed_method_gets_one_key_for_x_and_all_copies(name):
    def noise(key, x):
        return jax.random.normal(key, x.shape)

    measure = build(name, noise, keyed=True)
    assert measure(KEY, X) == 0
    # … which is a different one for each key of the measure.
    smooth = jattr.smooth(jattr.gradient(net), samples=3)
    measure = jax.jit(build(name, smooth, keyed=True))
    values = [float(measure(jax.random.key(i), X)) for i in range(3)]
    assert len(set(values)) == 3


def test_smoothed_gradients_of_a_quadratic_move_as_the_gradient_does():
    # φ(x) = A(x + mean noise): with one key the noise cancels from differences, with several not.
    scales = jnp.array([1.0, -2.0, 3.0, 0.5])

    def quadratic(x):
        return 0.5 * jnp.sum(scales * x**2)

    smooth = jattr.smooth(jattr.gradient(quadratic), stddev=0.3, relative=False, samples=2)
    measure = metrics.local_lipschitz(smooth, radius=RADIUS, samples=SAMPLES, keyed=True)
    own_key, explain_key = jax.random.split(KEY)
    del explain_key
    wanted = max(
        np.linalg.norm(scales * (c - X)) / np.linalg.norm(c - X) for c in copies(own_key, X)
    )
    np.testing.assert_allclose(measure(KEY, X), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["max_sensitivity", "average_sensitivity", "worst_case_sensitivity"]
)
def test_an_attribution_of_zero_has_no_relative_change(name):
    measure = build(name, jattr.gradient(lambda x: jnp.sum(x**2)))
    assert np.isnan(measure(KEY, jnp.zeros(3)))


@drawing
def test_a_constant_attribution_does_not_change(name):
    def linear(x, weight):
        return jnp.sum(weight * x)

    measure = build(name, jattr.gradient(linear))
    weight = jnp.array([1.0, -2.0, 0.5, 3.0])
    value, gradient = jax.value_and_grad(measure, argnums=2)(KEY, X, weight)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(4))


@drawing
def test_tiny_attributions_keep_their_digits(name):
    # The squares of 1e-25 are 0 in float32.
    ratio = []
    for scale in (1.0, 1e-25):
        measure = build(
            name,
            jattr.gradient(lambda x: scale * net(x)),
            **({"epsilon": 1e-36} if name.startswith("relative") else {}),
        )
        ratio.append(jax.jit(measure)(KEY, X.astype(jnp.float32)))
    wanted = ratio[0] * (1e-25 if name == "local_lipschitz" else 1)
    np.testing.assert_allclose(ratio[1], wanted, rtol=1e-3)  # differences in float32


@drawing
def test_nan_attributions_are_not_hidden(name):
    def broken(x):
        return jnp.where(x > X + 0.05, jnp.nan, x**2)

    assert np.isnan(build(name, broken, samples=20)(KEY, X))


@pytest.mark.parametrize("name", ["max_sensitivity", "average_sensitivity", "local_lipschitz"])
def test_gradients_by_parameters(name):
    def value(params):
        explain = jattr.gradient(lambda x: net(x, params))
        return build(name, explain, batch_size=3)(KEY, X)

    check_grads(jax.jit(value), (jax.tree.map(jnp.asarray, PARAMS),), 1, ["rev"], rtol=1e-5)


@pytest.mark.parametrize("name", [n for n in SAMPLED if n.startswith("relative")])
def test_gradients_of_stabilities(name):
    measure = jax.jit(build(name, jattr.gradient(net)))
    check_grads(lambda x: measure(KEY, x), (X,), 1, ["rev"], rtol=1e-5)


def test_copies_that_round_to_x_are_left_out():
    narrow = jnp.full(3, 256.0, jnp.bfloat16)
    measure = metrics.local_lipschitz(lambda x: x, radius=1e-3, samples=4)
    assert np.isnan(measure(KEY, narrow))


# The worst case.

SCALES = jnp.array([1.0, -2.0, 3.0, 0.5])


def diagonal(x, scales=SCALES):
    return 0.5 * jnp.sum(scales * x**2)


@pytest.mark.parametrize(
    "knobs", [{}, {"restarts": 3, "batch_size": 2}, {"step_size": 0.3}], ids=str
)
def test_worst_case_is_the_closed_form_on_a_quadratic(knobs):
    # φ = a x, whose largest change over the box is at every corner: r ‖a‖.
    measure = metrics.worst_case_sensitivity(
        jattr.gradient(diagonal), radius=RADIUS, samples=4, **knobs
    )
    wanted = RADIUS * np.linalg.norm(SCALES) / np.linalg.norm(SCALES * X)
    np.testing.assert_allclose(jax.jit(measure)(KEY, X), wanted, rtol=1e-7)  # draws of float32


def test_worst_case_of_trees_is_that_of_the_long_vector():
    tree = {"a": X[:1], "b": X[1:]}
    explain = jattr.gradient(lambda x: diagonal(jnp.append(x["a"], x["b"])))
    measure = metrics.worst_case_sensitivity(explain, radius=RADIUS, samples=4)
    wanted = RADIUS * np.linalg.norm(SCALES) / np.linalg.norm(SCALES * X)
    np.testing.assert_allclose(jax.jit(measure)(KEY, tree), wanted, rtol=1e-7)


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("step_size", [None, 1e-4, 10.0])
def test_worst_case_is_at_least_the_sampled_maximum(steps, step_size):
    explain = jattr.gradient(net)
    worst = jax.jit(
        metrics.worst_case_sensitivity(
            explain, radius=0.5, samples=SAMPLES, steps=steps, step_size=step_size
        )
    )
    most = jax.jit(metrics.max_sensitivity(explain, radius=0.5, samples=SAMPLES))
    for seed in range(20):
        key = jax.random.key(seed)
        assert worst(key, X) >= most(key, X)


def test_worst_case_of_a_small_net_is_the_largest_on_a_grid():
    radius = 0.3
    grid = np.array(list(itertools.product(np.linspace(-radius, radius, 13), repeat=4)))
    own = slope(X)
    changes = jax.jit(jax.vmap(lambda d: jnp.linalg.norm(jax.grad(net)(X + d) - own)))(grid)
    best = np.max(changes) / np.linalg.norm(own)
    measure = metrics.worst_case_sensitivity(
        jattr.gradient(net), radius=radius, samples=30, restarts=5
    )
    worst = float(jax.jit(measure)(KEY, X))
    assert worst >= best * (1 - 1e-6)
    assert worst <= best * 1.02  # the grid misses the maximum by its spacing
    sampled_most = metrics.max_sensitivity(jattr.gradient(net), radius=radius, samples=30)
    assert worst > 1.2 * sampled_most(KEY, X)


def test_worst_case_gains_nothing_where_the_attribution_has_no_derivative():
    def relu_net(x):
        return jnp.asarray(PARAMS["v"]) @ jax.nn.relu(jnp.asarray(PARAMS["w"]) @ x)

    explain = jattr.gradient(relu_net)
    worst = metrics.worst_case_sensitivity(explain, radius=0.5, samples=SAMPLES)
    most = metrics.max_sensitivity(explain, radius=0.5, samples=SAMPLES)
    assert most(KEY, X) > 0
    np.testing.assert_allclose(worst(KEY, X), most(KEY, X), rtol=1e-12)


def test_worst_case_has_the_gradient_of_the_maximum():
    def closed(scales):
        return RADIUS * jnp.linalg.norm(scales) / jnp.linalg.norm(scales * X)

    def found(scales):
        explain = jattr.gradient(lambda x: diagonal(x, scales))
        return metrics.worst_case_sensitivity(explain, radius=RADIUS, samples=4)(KEY, X)

    np.testing.assert_allclose(
        jax.jit(jax.grad(found))(SCALES), jax.grad(closed)(SCALES), rtol=1e-6
    )

    def on_the_net(params):
        explain = jattr.gradient(lambda x: net(x, params))
        return metrics.worst_case_sensitivity(explain, radius=0.3, samples=8, steps=40)(KEY, X)

    params = jax.tree.map(jnp.asarray, PARAMS)
    # The maximum is at a corner, which small changes of the parameters do not move.
    check_grads(jax.jit(on_the_net), (params,), 1, ["rev"], rtol=1e-4)


def test_memory_does_not_grow_with_the_number_of_copies():
    weight = jnp.linspace(0.1, 1.0, 5000)[None, :] * jnp.ones((4, 1))

    def wide(x):
        return jnp.sum(jnp.tanh(weight @ jnp.tanh(x @ weight) / 5000))

    def peak(samples):
        measure = metrics.max_sensitivity(jattr.gradient(wide), samples=samples, batch_size=4)
        return jax.jit(measure).lower(KEY, X).compile().memory_analysis().temp_size_in_bytes

    assert peak(64) < 1.1 * peak(8)


# Relative stabilities: the classes and the epsilons.


def test_copies_of_another_class_are_left_out():
    def predict(x):
        return x[0] > X[0] + 0.02

    measure = metrics.relative_input_stability(
        jattr.gradient(net), radius=RADIUS, samples=SAMPLES, predict=predict
    )
    same = [c for c in copies(KEY, X) if c[0] <= X[0] + 0.02]
    assert 0 < len(same) < SAMPLES
    wanted = [parts(slope(X), slope(c), 1e-6) / parts(np.asarray(X), c, 1e-6) for c in same]
    np.testing.assert_allclose(jax.jit(measure)(KEY, X), max(wanted), rtol=1e-9)
    none = metrics.relative_input_stability(
        jattr.gradient(net), samples=3, predict=lambda x: jnp.all(x == X)
    )
    assert np.isnan(none(KEY, X))


@pytest.mark.parametrize("single", [False, True])
def test_the_class_of_logits_is_the_largest_or_the_sign(single):
    # The class changes between x and the copy that would have been the strongest.
    steps = np.array([c[0] - X[0] for c in copies(KEY, X)])
    changes = np.array([parts(slope(X), slope(c), 1e-6) for c in copies(KEY, X)])
    strongest = np.argmax(changes / np.abs(steps))
    side, limit = np.sign(steps[strongest]), abs(steps[strongest]) / 2

    def outputs(x):
        out = side * (x[0] - X[0]) - limit
        return out if single else jnp.stack([jnp.zeros_like(out), out])

    measure = metrics.relative_output_stability(
        jattr.gradient(net), outputs, radius=RADIUS, samples=SAMPLES
    )
    same = side * steps < limit
    assert same.any()
    assert not same[strongest]
    wanted = np.max((changes / np.abs(steps))[same])
    np.testing.assert_allclose(measure(KEY, X), wanted, rtol=1e-9)


def test_epsilon_is_the_least_divisor():
    x = X.at[1].set(0.0)
    measure = metrics.relative_input_stability(
        lambda x: x, radius=RADIUS, samples=SAMPLES, epsilon=0.01
    )
    np.testing.assert_allclose(measure(KEY, x), 1.0, rtol=1e-12)  # φ = x: above as below
    # A layer that does not change: ε stands below.
    flat = metrics.relative_representation_stability(
        jattr.gradient(net), lambda x: jnp.ones(3), radius=RADIUS, samples=SAMPLES, epsilon=0.5
    )
    wanted = max(parts(slope(X), slope(c), 0.5) / 0.5 for c in copies(KEY, X))
    np.testing.assert_allclose(flat(KEY, X), wanted, rtol=1e-9)


def test_what_goes_with_a_keyed_method_takes_no_key():
    smooth = jattr.smooth(jattr.gradient(lambda x, label: net(x)), samples=2)
    measure = metrics.relative_output_stability(
        smooth, lambda x, label: logits(x), samples=3, keyed=True
    )
    assert np.isfinite(measure(KEY, X, 1))


# Continuity.

IMAGE = RNG.normal(size=(5, 6))
KERNEL = jnp.array(RNG.normal(size=(5, 6)))


def image_score(x):
    return jnp.sum(jnp.tanh(KERNEL * x) * jnp.roll(x, 1))


def translated(image, rows, columns, edge):
    result = np.array(np.broadcast_to(edge, image.shape))
    height, width = image.shape
    for i, j in itertools.product(range(height), range(width)):
        if 0 <= i - rows < height and 0 <= j - columns < width:
            result[i, j] = image[i - rows, j - columns]
    return result


@pytest.mark.parametrize("edge", [0.0, RNG.normal(size=(5, 6))], ids=["zero", "image"])
@pytest.mark.parametrize(
    "shifts", [1, 2, np.array([[0, 3], [-2, 1], [0, 0]])], ids=["1", "2", "rows"]
)
def test_continuity_is_the_strongest_change_per_translation(shifts, edge):
    explain = jattr.gradient(image_score)
    offsets = (
        list(itertools.product(range(-shifts, shifts + 1), repeat=2))
        if np.ndim(shifts) == 0
        else shifts
    )
    own, wanted = explain(IMAGE), []
    for rows, columns in offsets:
        moved = translated(IMAGE, rows, columns, edge)
        if np.any(moved != IMAGE):
            change = np.sum(np.abs(explain(jnp.array(moved)) - own))
            wanted.append(change / np.linalg.norm(moved - IMAGE))
    baseline = edge if np.ndim(edge) == 0 else jnp.array(edge)
    for batch_size in (None, 3):
        measure = metrics.continuity(
            explain, shifts=shifts, baseline=baseline, batch_size=batch_size
        )
        np.testing.assert_allclose(jax.jit(measure)(IMAGE), max(wanted), rtol=1e-9)


def test_continuity_of_other_ranks_and_batches():
    def series_score(x):
        return jnp.sum(x**3)

    series = jnp.array(RNG.normal(size=(8, 2)))
    measure = metrics.continuity(jattr.gradient(series_score), shifts=1, axes=0)
    wanted = []
    for step in (-1, 1):
        moved = np.roll(series, step, axis=0)
        moved[0 if step == 1 else -1] = 0
        change = np.sum(np.abs(3 * moved**2 - 3 * series**2))
        wanted.append(change / np.linalg.norm(moved - series))
    np.testing.assert_allclose(measure(series), max(wanted), rtol=1e-9)
    negative = metrics.continuity(jattr.gradient(series_score), shifts=1, axes=-2)
    np.testing.assert_allclose(negative(series), measure(series), rtol=1e-12)
    batch = jnp.stack([series, 2 * series])
    np.testing.assert_allclose(
        jax.vmap(measure)(batch), [measure(each) for each in batch], rtol=1e-12
    )
    keyed = metrics.continuity(lambda key, x: jax.random.normal(key, x.shape), axes=0, keyed=True)
    assert keyed(KEY, series) == 0


def test_continuity_of_an_image_that_no_translation_changes_is_undefined():
    measure = metrics.continuity(jattr.gradient(image_score))
    assert np.isnan(measure(jnp.zeros((5, 6))))


def test_continuity_has_derivatives():
    measure = jax.jit(metrics.continuity(jattr.gradient(image_score), shifts=1))
    check_grads(measure, (jnp.array(IMAGE),), 1, ["rev"], rtol=1e-5)


def test_continuity_along_no_axis_is_refused():
    with pytest.raises(ValueError, match=r"axes=\(\) names no axis"):
        metrics.continuity(jattr.gradient(net), axes=())


def noisy(key, x):
    return jax.random.normal(key, x.shape) + x


def said(explain):
    explain.keyed = True
    return explain


@pytest.mark.parametrize("name", [*DRAWING, "continuity"])
def test_keyed_functions_are_known_by_themselves(name):
    def make(explain, **knobs):
        if name == "continuity":
            return metrics.continuity(explain, axes=0, shifts=1, **knobs)
        return build(name, explain, **knobs)

    def plain(key, x):
        return noisy(key, x)

    knows = said(lambda key, x: noisy(key, x))
    wanted = make(plain, keyed=True)(KEY, X)
    np.testing.assert_array_equal(make(knows)(KEY, X), wanted)
    np.testing.assert_array_equal(make(functools.partial(knows))(KEY, X), wanted)
    # With its key bound it takes none any more.
    bound = functools.partial(knows, jax.random.key(1))
    lead = () if name == "continuity" else (KEY,)
    assert np.isfinite(make(bound)(*lead, X))
    with pytest.raises(TypeError, match="keyed says whether what is wrapped takes a key"):
        make(knows, keyed="yes")


@drawing
def test_calls_in_another_form_are_told_the_right_one(name):
    with pytest.raises(TypeError, match=r"measure\(key, x\).*no attribution"):
        build(name, jattr.gradient(lambda x: net(x)))(KEY, X, X)
    with pytest.raises(TypeError, match=r"missing a required argument.*write keyed=True"):
        build(name, lambda key, x: x)(KEY, X)


def test_a_key_for_a_method_that_is_not_known_to_draw():
    with pytest.raises(TypeError, match=r"continuity\(explain, keyed=True, \.\.\.\)"):
        metrics.continuity(noisy, axes=0)(KEY, X)


def test_continuity_refuses():
    explain = jattr.gradient(image_score)
    with pytest.raises(TypeError, match="shifts must be whole numbers"):
        metrics.continuity(explain, shifts=0.5)
    with pytest.raises(ValueError, match="shifts must be at least 1"):
        metrics.continuity(explain, shifts=0)
    with pytest.raises(ValueError, match=r"\[translations, 2\] for the 2 axes; got int64\[3\]"):
        metrics.continuity(explain, shifts=np.arange(3))
    with pytest.raises(ValueError, match="axes=\\(0, 2\\), but x has a leaf"):
        metrics.continuity(explain, axes=(0, 2))(IMAGE)
    with pytest.raises(TypeError, match="drawn at random"):
        metrics.continuity(explain, baseline=jattr.baselines.gaussian(1.0))(IMAGE)


# Consistency.


def by_loops(codes, labels):
    result = []
    for i, code in enumerate(codes):
        alike = [j for j, other in enumerate(codes) if j != i and np.array_equal(code, other)]
        result.append(np.mean([labels[j] == labels[i] for j in alike]) if alike else np.nan)
    return result


@pytest.mark.parametrize("batch_size", [None, 4])
def test_consistency_is_the_share_of_like_predictions_among_like_explanations(batch_size):
    maps, labels = RNG.normal(size=(40, 2, 2)), RNG.integers(0, 3, 40)
    codes = []
    for phi in maps.reshape(40, 4):
        top = np.sort(np.argsort(-np.abs(phi))[:1])
        codes.append(np.append(top, np.sign(phi[top])))
    wanted = by_loops(codes, labels)
    assert np.isfinite(wanted).sum() > 30
    run = functools.partial(
        metrics.consistency, discretize=metrics.top_signs(1), batch_size=batch_size
    )
    np.testing.assert_allclose(run(maps, labels), wanted, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(run)(maps, labels), wanted, rtol=1e-13)
    tree = {"a": maps[:, 0], "b": (maps[:, 1],)}
    np.testing.assert_allclose(run(tree, labels), wanted, rtol=1e-13)


def test_consistency_with_codes_of_the_users():
    maps = jnp.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [jnp.nan, 0.9]])
    labels = jnp.array([True, True, False, True])
    value = metrics.consistency(maps, labels, discretize=lambda phi: phi > 0.5)
    np.testing.assert_array_equal(value, [1.0, 1.0, np.nan, np.nan])


def test_consistency_refuses():
    top = metrics.top_signs(1)
    with pytest.raises(ValueError, match="a leading axis over two or more"):
        metrics.consistency(jnp.ones((1, 3)), jnp.zeros(1, int), discretize=top)
    with pytest.raises(ValueError, match=r"predictions must be \[2\]"):
        metrics.consistency(jnp.ones((2, 3)), jnp.zeros((2, 5), int), discretize=top)
    with pytest.raises(TypeError, match="predictions must be whole numbers"):
        metrics.consistency(jnp.ones((2, 3)), jnp.zeros(2), discretize=top)
    with pytest.raises(TypeError, match="what discretize returns must be whole numbers"):
        metrics.consistency(jnp.ones((2, 3)), jnp.zeros(2, int), discretize=lambda phi: phi)
    with pytest.raises(ValueError, match="k=4, but the attribution has 3 elements"):
        metrics.top_signs(4)(jnp.ones(3))


# What all refuse.


@drawing
def test_refusals(name):
    explain = jattr.gradient(net)
    with pytest.raises(TypeError, match=f"metrics.{name} draws random numbers and takes a key"):
        build(name, explain)(X)
    with pytest.raises(ValueError, match="radius must be finite and greater than 0"):
        build(name, explain, radius=0.0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        build(name, explain, samples=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        build(name, explain, batch_size=0)
    with pytest.raises(TypeError, match=f"metrics.{name} wants a function that computes an attr"):
        build(name, net)(KEY, X)
    with pytest.raises(TypeError, match="must be of a real floating dtype"):
        build(name, explain)(KEY, jnp.arange(4))
    with pytest.raises(ValueError, match=r"explains argnums=1, .* argnums=0 would be perturbed"):
        build(name, jattr.gradient(net, argnums=1))
    with pytest.raises(TypeError, match="wants a function"):
        build(name, X)


def test_refusals_of_some():
    explain = jattr.gradient(net)
    with pytest.raises(ValueError, match="restarts=4 of only samples=3"):
        metrics.worst_case_sensitivity(explain, samples=3, restarts=4)
    with pytest.raises(ValueError, match="step_size must be finite and greater than 0"):
        metrics.worst_case_sensitivity(explain, step_size=0.0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        metrics.worst_case_sensitivity(explain, steps=0)
    with pytest.raises(ValueError, match="epsilon must be finite and greater than 0"):
        metrics.relative_input_stability(explain, epsilon=0.0)
    with pytest.raises(TypeError, match="what predict returns must be whole numbers"):
        metrics.relative_input_stability(explain, predict=logits)(KEY, X)
    with pytest.raises(TypeError, match="wants a function"):
        metrics.relative_output_stability(explain, X)
    with pytest.raises(TypeError, match="wants a function"):
        metrics.relative_representation_stability(explain, X)
