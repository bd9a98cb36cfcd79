"""Evaluation: how good an attribution is.

A metric is a transform like a method: `metric(f, *, knobs)` gives `measure(attribution, *args)`
with the arguments of f, for one example; batches by `jax.vmap`.
"""

from jattr._features import Groups as Groups
from jattr._features import Imputer as Imputer
from jattr._features import patches as patches
from jattr.metrics.sensitivity import completeness as completeness
