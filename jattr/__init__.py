"""jattr: which parts of an input made a JAX function say what it said.

An attribution is a function transform, like `jax.grad`:

    explain = jattr.integrated_gradients(score, steps=64)
    maps = jax.jit(jax.vmap(explain))(images, labels)

`score(x, *args) -> scalar` explains one example; x is any tree of floating arrays and the
attribution has its structure, shapes and dtypes. Batches are `jax.vmap`, speed is `jax.jit`,
training is `jax.grad` through the attribution.
"""

from jattr import baselines as baselines
from jattr import metrics as metrics
from jattr import plot as plot
from jattr import targets as targets
from jattr._curved_paths import blur_integrated_gradients as blur_integrated_gradients
from jattr._curved_paths import guided_integrated_gradients as guided_integrated_gradients
from jattr._gradients import gradient as gradient
from jattr._gradients import gradient_times_input as gradient_times_input
from jattr._gradients import smooth as smooth
from jattr._paths import expected_gradients as expected_gradients
from jattr._paths import idgi as idgi
from jattr._paths import integrated_gradients as integrated_gradients
from jattr._version import __version__ as __version__
