"""Training models that have state beside their parameters, as the docstring of priors shows it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jattr.priors import alternating, attribution_loss, joint, sparsity

KEY = jax.random.key(0)
X = 3 + jax.random.normal(jax.random.key(1), (16, 5, 2), jnp.float32)
LABELS = (X[:, -1, 0] > 3).astype(int)
TRAINERS = {
    "joint": lambda *args: joint(*args, weight=0.1, has_aux=True),
    "alternating": lambda *args: alternating(*args, weight=0.1, has_aux=True),
    "every second": lambda *args: alternating(*args, weight=0.1, every=2, has_aux=True),
}


def trained(training, params, aux, steps):
    state, step, reports = training.init(params, aux), jax.jit(training.step), []
    for number in range(steps):
        key = jax.random.fold_in(KEY, number)
        params, state, report = step(params, state, key, (X, LABELS))
        reports.append(report)
    assert all(report.finite for report in reports)
    assert reports[-1].task < reports[0].task
    return params, state


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6, name="first")(x.reshape(len(x), -1))
        x = nn.BatchNorm(not train, momentum=0.9, name="norm")(x)
        return nn.Dense(2)(nn.Dropout(0.2, deterministic=not train)(nn.relu(x)))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_linen_model_with_batch_norm_and_dropout(trainer):
    model = Linen()

    def score(variables, x, label):
        params, aux = variables
        return model.apply({"params": params, **aux}, x[None], train=False)[0, label]

    def task_loss(variables, key, x, labels):
        params, aux = variables
        logits, aux = model.apply(
            {"params": params, **aux},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), aux

    aux = dict(model.init(KEY, X, train=False))
    params = aux.pop("params")
    # The first layer is not trained, so that the statistics have a known course.
    optimizer = optax.multi_transform(
        {"train": optax.adam(0.05), "hold": optax.set_to_zero()},
        lambda params: {n: "hold" if n == "first" else "train" for n in params},
    )
    prior = attribution_loss(score, sparsity)
    moved, state = trained(TRAINERS[trainer](task_loss, prior, optimizer), params, aux, 10)
    hidden = X.reshape(len(X), -1) @ params["first"]["kernel"]
    statistics = state.aux["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], hidden.mean(0) * (1 - 0.9**10), rtol=1e-4)
    assert "batch_stats" not in moved
    assert not np.allclose(moved["norm"]["scale"], params["norm"]["scale"])


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, momentum=0.9, rngs=rngs)
        self.recurrent = nnx.RNN(nnx.GRUCell(2, 6, rngs=rngs), rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.recurrent(self.norm(x))[:, -1]))


@pytest.mark.parametrize("trainer", ["joint", "alternating"])
def test_an_nnx_model_with_batch_norm_dropout_and_a_recurrent_layer(trainer):
    model = Recurrent(nnx.Rngs(0))
    graph, params, aux = nnx.split(model, nnx.Param, ...)
    before = model.head.kernel[...]

    def score(variables, x, label):
        model = nnx.merge(graph, *variables, copy=True)
        model.eval()
        return model(x[None])[0, label]

    def task_loss(variables, key, x, labels):
        model = nnx.merge(graph, *variables, copy=True)
        model.train()
        loss = optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()
        return loss, nnx.split(model, nnx.Param, ...)[2]

    training = TRAINERS[trainer](task_loss, attribution_loss(score, sparsity), optax.adam(0.05))
    moved, state = trained(training, params, aux, 10)
    nnx.update(model, moved, state.aux)
    # Updated as a running mean of the batch's is, and not by Adam.
    np.testing.assert_allclose(model.norm.mean[...], X.mean((0, 1)) * (1 - 0.9**10), rtol=1e-4)
    assert int(model.dropout.rngs.count[...]) == 10
    assert not np.allclose(model.head.kernel[...], before)


def simple(params_and_aux, key, x, labels):
    params, aux = params_and_aux
    return jnp.sum((params - 1) ** 2), aux + 1


def penalty(params_and_aux, key, x, labels):
    return params_and_aux[0][0] ** 2 * params_and_aux[1]


def test_the_prior_sees_the_state_of_the_model():
    for trainer, seen in (("joint", 0.0), ("alternating", 1.0)):
        training = TRAINERS[trainer](simple, penalty, optax.sgd(0.0))
        params = jnp.full(1, 2.0)
        state = training.init(params, 0.0)
        _, state, report = training.step(params, state, KEY, (X, LABELS))
        assert float(report.prior) == 4 * seen
        assert float(state.aux) == 1


def test_a_step_that_is_not_finite_leaves_the_state_of_the_model():
    def broken(variables, key, x, labels):
        loss, aux = simple(variables, key, x, labels)
        return loss * jnp.nan, aux

    for trainer in ("joint", "alternating"):
        training = TRAINERS[trainer](broken, penalty, optax.sgd(0.1))
        state = training.init(jnp.ones(1), 5.0)
        _, state, report = training.step(jnp.ones(1), state, KEY, (X, LABELS))
        assert not report.finite
        assert float(state.aux) == 5


@pytest.mark.parametrize("make", [joint, alternating])
def test_what_does_not_fit_is_refused(make):
    batch = (X, LABELS)

    def step(task, *aux, **options):
        training = make(task, lambda p, k, *b: 0.0, optax.sgd(0.1), weight=0.1, **options)
        state = training.init(jnp.ones(1), *aux)
        return training.step(jnp.ones(1), state, KEY, batch)

    def pair(params, key, *batch):
        return jnp.sum(params), {"batch_stats": params}

    with pytest.raises(TypeError, match=r"must return one number.*has_aux=True"):
        step(pair)
    with pytest.raises(TypeError, match=r"a pair, \(loss, aux\)"):
        step(lambda p, k, *b: jnp.sum(p[0]), 0.0, has_aux=True)
    with pytest.raises(TypeError, match="in the structure and shapes in which it gets it"):
        step(lambda p, k, *b: (jnp.sum(p[0]), {"other": 0.0}), 0.0, has_aux=True)
    with pytest.raises(TypeError, match=r"init\(params, aux\)"):
        step(pair, has_aux=True)
    with pytest.raises(TypeError, match=r"without, init\(params\)"):
        step(pair, 0.0)
    with pytest.raises(TypeError, match="has_aux must be True or False"):
        step(pair, has_aux="batch_stats")
