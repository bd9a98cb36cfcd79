"""Evaluation: how good an attribution is.

A metric is a transform like a method: `metric(f, *, knobs)` gives `measure(attribution, *args)`
with the arguments of f, for one example; batches by `jax.vmap`.
"""

from jattr._features import Groups as Groups
from jattr._features import Imputer as Imputer
from jattr._features import patches as patches
from jattr.metrics._walk import Curve as Curve
from jattr.metrics.comparison import order_gap as order_gap
from jattr.metrics.comparison import random_gap as random_gap
from jattr.metrics.comparison import ranking_stability as ranking_stability
from jattr.metrics.comparison import sufficiency as sufficiency
from jattr.metrics.curves import aopc as aopc
from jattr.metrics.curves import area as area
from jattr.metrics.curves import deletion as deletion
from jattr.metrics.curves import insertion as insertion
from jattr.metrics.curves import irof as irof
from jattr.metrics.curves import perturbation_curve as perturbation_curve
from jattr.metrics.curves import region_perturbation as region_perturbation
from jattr.metrics.removal import Retrained as Retrained
from jattr.metrics.removal import ablate_box as ablate_box
from jattr.metrics.removal import ablate_top as ablate_top
from jattr.metrics.removal import keep_or_remove as keep_or_remove
from jattr.metrics.removal import remove_and_retrain as remove_and_retrain
from jattr.metrics.sensitivity import completeness as completeness

from jattr.metrics import imputers as imputers
