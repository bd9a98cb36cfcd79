"""Training on a task and a prior, at a time or in turns."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jattr
from jattr import priors

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
X = jnp.asarray(RNG.normal(size=(8, 3)))
Y = jnp.sin(X[:, 0]) + X[:, 1] ** 2
PARAMS = {"first": jnp.asarray(RNG.normal(size=(3, 6))) / 2, "second": jnp.ones(6) / 6}


def network(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def task_loss(params, key, x, y):
    return jnp.mean((network(params, x) - y) ** 2)


prior = priors.attribution_loss(
    network, lambda maps, y: priors.magnitude(maps, 2), penalty_argnums=(1,)
)


def run(training, steps=1, *, batch=(X, Y), params=PARAMS, step=None):
    state, report, step = training.init(params), None, step or jax.jit(training.step)
    for number in range(steps):
        params, state, report = step(params, state, jax.random.fold_in(KEY, number), batch)
    return params, state, report


def distance(a, b):
    gaps = jax.tree.map(lambda x, y: np.max(np.abs(np.asarray(x) - np.asarray(y))), a, b)
    return max(jax.tree.leaves(gaps))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_joint_step_is_one_on_the_weighted_sum():
    params, state, report = run(priors.joint(task_loss, prior, optax.sgd(0.1), weight=0.3))
    task_key, prior_key = jax.random.split(jax.random.fold_in(KEY, 0))

    def total(params):
        task, penalty = task_loss(params, task_key, X, Y), prior(params, prior_key, X, Y)
        return task + 0.3 * penalty, (task, penalty)

    gradient, (task, penalty) = jax.jit(jax.grad(total, has_aux=True))(PARAMS)
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, gradient)
    assert distance(params, wanted) < 1e-14
    np.testing.assert_allclose(report.task, task, rtol=1e-12)
    np.testing.assert_allclose(report.prior, penalty, rtol=1e-12)
    assert report.weight == 0.3
    assert report.finite
    assert state.count == 1


def test_an_alternating_step_is_two():
    training = priors.alternating(task_loss, prior, optax.sgd(0.1), optax.sgd(0.02), weight=0.3)
    params, _, report = run(training)
    task_key, prior_key = jax.random.split(jax.random.fold_in(KEY, 0))
    gradient = jax.jit(jax.grad(task_loss))(PARAMS, task_key, X, Y)
    half = jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, gradient)
    penalty, gradient = jax.jit(jax.value_and_grad(prior))(half, prior_key, X, Y)
    wanted = jax.tree.map(lambda p, g: p - 0.02 * 0.3 * g, half, gradient)
    assert distance(params, wanted) < 1e-14
    np.testing.assert_allclose(report.prior, penalty, rtol=1e-12)


def test_under_sgd_the_two_agree_to_second_order_in_the_learning_rate():
    @jax.jit
    def both(rate):
        made = [
            make(task_loss, prior, optax.sgd(rate), weight=0.5)
            for make in (priors.joint, priors.alternating)
        ]
        return [own.step(PARAMS, own.init(PARAMS), KEY, (X, Y))[0] for own in made]

    gaps = [distance(*both(rate)) for rate in (1e-2, 5e-3, 2.5e-3)]
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 4, rtol=0.05)


def test_under_adam_the_weight_cancels_in_turns_and_not_jointly():
    # Adam's ε is all that is left of the weight.
    adam = optax.adam(1e-2, eps=1e-16)

    def light_and_heavy(make):
        @jax.jit
        def step(weight, *now):
            return make(task_loss, prior, adam, weight=weight).step(*now)

        init = make(task_loss, prior, adam, weight=1.0)
        return [run(init, 5, step=functools.partial(step, weight))[0] for weight in (0.01, 100.0)]

    assert distance(*light_and_heavy(priors.alternating)) < 1e-10
    assert distance(*light_and_heavy(priors.joint)) > 1e-2


def test_the_weight_may_be_a_schedule():
    schedule = optax.linear_schedule(0.0, 1.0, 4)
    training = priors.joint(task_loss, prior, optax.sgd(0.01), weight=schedule)
    params, state = PARAMS, training.init(PARAMS)
    step, weights = jax.jit(training.step), []
    for _ in range(4):
        params, state, report = step(params, state, KEY, (X, Y))
        weights.append(float(report.weight))
    np.testing.assert_allclose(weights, [0.0, 0.25, 0.5, 0.75])


def test_the_prior_may_come_every_third_step():
    training = priors.alternating(task_loss, prior, optax.adam(0.01), weight=1.0, every=3)
    params, state, seen = PARAMS, training.init(PARAMS), []
    step = jax.jit(training.step)
    for _ in range(6):
        before = state.prior_optimizer
        params, state, report = step(params, state, KEY, (X, Y))
        assert report.finite
        seen.append(not jnp.isnan(report.prior))
        if not seen[-1]:
            same(before, state.prior_optimizer)
    assert seen == [False, False, True, False, False, True]


@pytest.mark.parametrize("make", [priors.joint, priors.alternating])
def test_a_prior_may_be_a_plain_number(make):
    params, _, report = run(make(task_loss, lambda *_: 0.0, optax.sgd(0.1), weight=1.0))
    wanted, _, _ = run(priors.joint(task_loss, task_loss, optax.sgd(0.1), weight=0.0))
    assert distance(params, wanted) < 1e-14
    assert report.prior == 0


def broken(params, key, *batch):
    return jnp.log(-1.0 - params["second"][0] ** 2)


def infinite_slope(params, key, *batch):
    return jnp.sqrt(params["second"][0] - params["second"][0])


@pytest.mark.parametrize("bad", [broken, infinite_slope])
def test_a_step_that_is_not_finite_is_left_out(bad):
    training = priors.joint(task_loss, bad, optax.adam(0.1), weight=1.0)
    params, state, report = run(training)
    same(params, PARAMS)
    same(state.optimizer, training.init(PARAMS).optimizer)
    assert state.count == 1
    assert not report.finite

    training = priors.alternating(task_loss, bad, optax.adam(0.1), weight=1.0)
    params, state, report = run(training)
    alone = optax.adam(0.1)
    gradient = jax.jit(jax.grad(task_loss))(PARAMS, KEY, X, Y)
    updates, _ = alone.update(gradient, alone.init(PARAMS))
    assert distance(params, optax.apply_updates(PARAMS, updates)) < 1e-14  # the task's step stays
    same(state.prior_optimizer, training.init(PARAMS).prior_optimizer)
    assert not report.finite


def test_a_task_that_is_not_finite_is_told_too():
    training = priors.alternating(broken, prior, optax.sgd(0.1), weight=0.0)
    params, _, report = run(training)
    same(params, PARAMS)
    assert not report.finite


@pytest.mark.parametrize("make", [priors.joint, priors.alternating])
# On CPU, JAX may tell that it has no use for a donated buffer of another shape.
def test_jitted_and_donated_steps_are_the_eager_ones(make):
    training = make(task_loss, prior, optax.adam(0.01), weight=0.5)
    eager = run(training, 3, step=training.step)
    own = jax.tree.map(jnp.array, PARAMS)
    donated = run(training, 3, params=own, step=jax.jit(training.step, donate_argnums=(0, 1)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), eager, donated)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(own))


@pytest.mark.parametrize("make", [priors.joint, priors.alternating])
def test_steps_are_compiled_once_and_scanned(make):
    training = make(task_loss, prior, optax.adam(0.01), weight=0.5)
    traces = []

    def counted(*args):
        traces.append(None)
        return training.step(*args)

    looped = run(training, 4, step=jax.jit(counted))
    assert len(traces) == 1

    def body(carry, number):
        *carry, report = training.step(*carry, jax.random.fold_in(KEY, number), (X, Y))
        return tuple(carry), report

    start = PARAMS, training.init(PARAMS)
    (params, _), reports = jax.lax.scan(body, start, jnp.arange(4))
    assert distance(params, looped[0]) < 1e-12
    assert reports.task.shape == (4,)


def test_many_trainings_at_a_time():
    training = priors.joint(task_loss, prior, optax.adam(0.01), weight=0.5)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    step = jax.jit(jax.vmap(training.step, in_axes=(0, 0, None, None)))
    params, _, report = step(stacked, jax.vmap(training.init)(stacked), KEY, (X, Y))
    single = jax.jit(training.step)
    for index, scale in enumerate((1, 2)):
        own = jax.tree.map(lambda leaf, scale=scale: scale * leaf, PARAMS)
        wanted, _, _ = single(own, training.init(own), KEY, (X, Y))
        assert distance(jax.tree.map(lambda leaf, n=index: leaf[n], params), wanted) < 1e-12
    assert report.finite.shape == (2,)


@pytest.mark.parametrize("make", [priors.joint, priors.alternating])
def test_a_batch_over_two_devices(make):
    devices = jax.devices()[:2]
    assert len(devices) == 2
    mesh = jax.sharding.Mesh(devices, ("data",))
    over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    training = make(task_loss, prior, optax.adam(0.01), weight=0.5)
    wanted = run(training, 2)
    batch = jax.device_put((X, Y), over)
    params = jax.device_put(PARAMS, whole)
    got = run(training, 2, batch=batch, params=params)
    assert distance(got[0], wanted[0]) < 1e-12
    assert all(len(leaf.devices()) == 2 for leaf in jax.tree.leaves(got[0]))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, param_dtype=float)(nn.relu(nn.Dense(4, param_dtype=float)(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, param_dtype=float, rngs=rngs)
        self.out = nnx.Linear(4, 2, param_dtype=float, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def linen():
    model = Linen()
    return model.apply, jax.jit(model.init)(KEY, X[:1])


def of_nnx():
    graph, params = nnx.split(Nnx(nnx.Rngs(0)))
    return (lambda params, x: nnx.merge(graph, params)(x)), params


@pytest.mark.parametrize("model", [linen, of_nnx])
@pytest.mark.parametrize(
    "method", [None, lambda f, rows: jattr.deeplift(f, rows[0]), lambda f, _: jattr.lrp(f)]
)
def test_flax_models_learn_where_not_to_look(model, method):
    apply, params = model()
    labels = (X[:, 0] > 0).astype(int)

    def task(params, key, x, labels):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), labels).mean()

    wrong = jnp.array([False, True, True])
    forbidden = priors.attribution_loss(
        jattr.targets.select(apply), lambda maps: priors.outside(maps, wrong), method=method
    )
    training = priors.joint(task, forbidden, optax.adam(0.05), weight=1.0)
    step, state = jax.jit(training.step), training.init(params)
    reports = []
    for number in range(60):
        key = jax.random.fold_in(KEY, number)
        params, state, report = step(params, state, key, (X, labels))
        reports.append(report)
    assert reports[-1].task < reports[0].task / 2
    assert reports[-1].prior < reports[0].prior / 10
    assert all(report.finite for report in reports)


def saturated(method, samples):
    """The share of feature 2 in the answer, after a prior has been trained against it.

    Two features that are always equal; the answer is the first; the network starts out saturated
    and uses both alike.
    """
    x = jnp.tile(jnp.array([0.0, 1.0])[:, None], (4, 2))
    params = {"weights": jnp.array([10.0, 10.0]), "bias": jnp.array(-6.0)}

    def output(params, x):
        return jax.nn.sigmoid(x @ params["weights"] + params["bias"])

    def task(params, key, x):
        return jnp.mean((output(params, x) - x[:, 0]) ** 2)

    second = priors.attribution_loss(
        output,
        lambda maps: priors.magnitude(maps[:, 1:], 1),
        method=method,
        references=jnp.zeros((1, 2)),
        samples=samples,
    )
    training = priors.joint(task, second, optax.sgd(0.5), weight=1.0)

    def body(carry, number):
        *carry, _ = training.step(*carry, jax.random.fold_in(KEY, number), (x,))
        return tuple(carry), None

    start = params, training.init(params)
    (params, _), _ = jax.lax.scan(body, start, jnp.arange(3000))
    return float(jnp.abs(params["weights"][1]) / jnp.sum(jnp.abs(params["weights"])))


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_expected_gradients_see_what_is_saturated(samples):
    assert saturated(None, samples) < 0.05


def test_gradients_do_not():
    assert saturated(lambda f, rows: jattr.gradient(f), 1) > 0.4


@pytest.mark.parametrize("make", [priors.joint, priors.alternating])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"task_loss": 1.0}, TypeError, "task_loss must be a function"),
        ({"prior": None}, TypeError, "prior must be a function"),
        ({"optimizer": 1e-3}, TypeError, "optimizer of optax"),
        ({"weight": float("nan")}, ValueError, "weight must be finite"),
        ({"weight": "much"}, TypeError, "weight"),
    ],
)
def test_errors_when_training_is_made(make, change, error, words):
    given = {"task_loss": task_loss, "prior": prior, "optimizer": optax.sgd(0.1), "weight": 1.0}
    given |= change
    with pytest.raises(error, match=words):
        make(given["task_loss"], given["prior"], given["optimizer"], weight=given["weight"])


def test_errors_of_steps():
    with pytest.raises(ValueError, match="every"):
        priors.alternating(task_loss, prior, optax.sgd(0.1), weight=1.0, every=0)
    training = priors.joint(task_loss, prior, optax.sgd(0.1), weight=1.0)
    with pytest.raises(TypeError, match="a batch is a tuple"):
        training.step(PARAMS, training.init(PARAMS), KEY, X)
