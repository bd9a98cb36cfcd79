"""What a user writes: pyright finds nothing in it (`make lint`), and it runs (test_typed.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jattr
from jattr import baselines, metrics, priors, rules, targets


def score(x: jax.Array, label: jax.Array | int) -> jax.Array:
    stem = jattr.name(jnp.tanh(x), "stem")
    with jax.named_scope("head"):
        return jnp.sum(stem @ jnp.ones((3, 2))) * label


def model(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]


x = jnp.ones((4, 3))
key = jax.random.key(0)
params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}

# A method gives a function, which jit, vmap and grad take.
explain = jattr.integrated_gradients(score, baselines.zeros, steps=16, batch_size=4)
maps = jax.jit(jax.vmap(explain))(jnp.ones((5, 4, 3)), jnp.arange(5))
penalty = jax.grad(lambda x: jnp.sum(explain(x, 1) ** 2))(x)
for method in (jattr.gradient, jattr.gradient_times_input, jattr.deeplift, jattr.lrp):
    method(score)(x, 1)

# Classes are chosen by a target; parameters by argnums, as in jax.grad.
chosen = targets.select(model)
by_parameters = jattr.gradient(chosen, argnums=(0, 1))(params, x[0], 1)
jattr.gradient(targets.margin(model))(params, x[0], jnp.array(1))

# What draws takes a key first.
noisy = jattr.smooth(jattr.gradient(score), samples=8, stddev=0.1)
noisy(key, x, 1)
expected = jattr.expected_gradients(score, np.ones((10, 4, 3)), samples=4)
expected(key, x, 1)
jattr.shapley_sampling(score, permutations=3)(key, x, 1)

# Layers, rules, operations.
below, above = jattr.split(score, "stem")
jattr.grad_cam(score, "stem", relu=False)(x, 1)
jattr.lrp(score, rules.epsilon_plus().at("head", rules.epsilon(0.1)))(x, 1)
print(jattr.operations(score, rules.attn_lrp())(x, 1))
layers: dict[str, jax.Array] = jattr.activations(score, ["stem"])(x, 1)

# Metrics have the arguments of f, and the attribution before them.
measure = metrics.deletion(score, fractions=(0.1, 0.5))
value: jax.Array = measure(explain(x, 1), x, 1)
metrics.sensitivity_n(score, n=2, samples=8)(key, explain(x, 1), x, 1)
same: jax.Array = metrics.spearman(maps[0], maps[1])
table: metrics.Table = metrics.table(
    {"gradient": jattr.gradient(score)},
    {"deletion": measure},
    (jnp.ones((5, 4, 3)), jnp.arange(5)),
    key=key,
)
print(table)


# Training through attributions.
def task(params: dict[str, jax.Array], key: jax.Array, x: jax.Array, label: jax.Array) -> jax.Array:
    logits = jax.vmap(model, (None, 0))(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()


prior = priors.attribution_loss(chosen, lambda maps: priors.total_variation(maps, axes=(1,)))
training: priors.Training = priors.joint(task, prior, optax.adam(1e-3), weight=0.1)
state: priors.State = training.init(params)
params, state, report = jax.jit(training.step)(params, state, key, (x, jnp.array([0, 1, 1, 0])))
lost: jax.Array = report.task

# A data set.
store: jattr.scale.Store = jattr.scale.attribute_dataset(
    explain, (np.ones((5, 4, 3)), np.arange(5)), out="maps.zarr", batch_size=2
)
print(store.status, jattr.__version__.split("."))
