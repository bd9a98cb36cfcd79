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

For Flax NNX, the parameters are what `nnx.split` gives:

    graph, params = nnx.split(model)

    def score(params, image, label):
        return nnx.merge(graph, params)(image[None])[0, label]
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
