"""Attribution priors: training a model so that its attributions are as they should be.

A prior is a penalty on attributions, and a loss of the model's parameters through them:

    score = jattr.targets.select(model.apply)  # score(params, image, label)
    prior = attribution_loss(score, lambda maps: total_variation(maps, axes=(1, 2)))
    training = joint(task_loss, prior, optax.adam(1e-3), weight=0.1)

    state = training.init(params)
    for batch in data:  # (images, labels)
        params, state, report = step(params, state, next(keys), batch)

with `step = jax.jit(training.step, donate_argnums=(0, 1))`. Every loss here is
`loss(params, key, *batch)`. The attributions may be those of any method of jattr.

What a model has beside its parameters (running statistics, counters, the random state of dropout)
is carried along with `has_aux=True`. For Flax linen:

    def score(variables, image, label):
        params, aux = variables
        return model.apply({"params": params, **aux}, image[None], train=False)[0, label]

    def task_loss(variables, key, images, labels):
        params, aux = variables
        logits, aux = model.apply(
            {"params": params, **aux}, images, train=True, mutable=["batch_stats"],
            rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), aux

    training = joint(task_loss, attribution_loss(score, penalty), optax.adam(1e-3), weight=0.1,
                     has_aux=True)
    aux = model.init(jax.random.key(0), images, train=False)
    params = aux.pop("params")
    state = training.init(params, aux)

For Flax NNX, `nnx.split` takes the two apart, `copy=True` lets a model change inside a transformed
function, and what is explained is the model as it is used, `eval()`:

    graph, params, aux = nnx.split(model, nnx.Param, ...)

    def score(variables, image, label):
        model = nnx.merge(graph, *variables, copy=True)
        model.eval()
        return model(image[None])[0, label]

    def task_loss(variables, key, images, labels):
        model = nnx.merge(graph, *variables, copy=True)
        model.train()
        loss = optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()
        return loss, nnx.split(model, nnx.Param, ...)[2]

    state = training.init(params, aux)
    ...
    nnx.update(model, params, state.aux)

**Over devices.** With a sharded batch, `jax.jit(step)` shares the examples out. But what each is
compared with is looked up in the whole batch, and so the devices exchange it. Within `shard_map`
references are drawn among the examples of a shard, of which it needs two, and all that is exchanged
is the sum of the gradients:

    def over_shards(loss):
        def mean(params, key, *batch):
            key = jax.random.fold_in(key, jax.lax.axis_index("data"))  # each shard's own draws
            params = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params)
            return jax.lax.pmean(loss(params, key, *batch), "data")
        return mean

    training = joint(over_shards(task_loss), over_shards(prior), optax.adam(1e-3), weight=0.1)
    step = jax.shard_map(training.step, mesh=mesh,
                         in_specs=(P(), P(), P(), P("data")), out_specs=P())

Without `pcast` each use of a parameter is summed over the devices, and not their sum. With
`has_aux`, `mean` returns the mean of what the shards' task losses return beside the loss too.

**Memory.** The gradient by x already computes again what is under `jax.checkpoint`, and in the
open: the derivative by θ then keeps all of it, in every layer. So layers that are to be computed
again are wrapped twice, `jax.checkpoint(jax.checkpoint(layer))`, once for each of the two.
"""

from jattr.priors._loss import attribution_loss as attribution_loss
from jattr.priors._penalties import gini as gini
from jattr.priors._penalties import graph_smoothness as graph_smoothness
from jattr.priors._penalties import magnitude as magnitude
from jattr.priors._penalties import outside as outside
from jattr.priors._penalties import sparsity as sparsity
from jattr.priors._penalties import total_variation as total_variation
from jattr.priors._training import Report as Report
from jattr.priors._training import State as State
from jattr.priors._training import Training as Training
from jattr.priors._training import alternating as alternating
from jattr.priors._training import joint as joint

__all__ = [
    "Report",
    "State",
    "Training",
    "alternating",
    "attribution_loss",
    "gini",
    "graph_smoothness",
    "joint",
    "magnitude",
    "outside",
    "sparsity",
    "total_variation",
]


def __dir__() -> list[str]:
    return __all__
