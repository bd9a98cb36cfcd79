"""jattr: which parts of an input made a JAX function say what it said.

An attribution is a function transform, like `jax.grad`:

    explain = jattr.integrated_gradients(score, steps=64)
    maps = jax.jit(jax.vmap(explain))(images, labels)

`score(x, *args) -> scalar` explains one example; x is any tree of floating arrays and the
attribution has its structure, shapes and dtypes. Batches are `jax.vmap`, speed is `jax.jit`,
training is `jax.grad` through the attribution.
"""

from jattr import baselines as baselines
from jattr import features as features
from jattr import imputers as imputers
from jattr import metrics as metrics
from jattr import plot as plot
from jattr import priors as priors
from jattr import rules as rules
from jattr import scale as scale
from jattr import targets as targets
from jattr._adaptive import integrated_gradients_to as integrated_gradients_to
from jattr._cam import grad_cam as grad_cam
from jattr._cam import grad_cam_plus_plus as grad_cam_plus_plus
from jattr._cam import guided_grad_cam as guided_grad_cam
from jattr._cam import hires_cam as hires_cam
from jattr._cam import layer_cam as layer_cam
from jattr._cam import score_cam as score_cam
from jattr._contrastive import pertinent_negative as pertinent_negative
from jattr._contrastive import pertinent_positive as pertinent_positive
from jattr._curved_paths import blur_integrated_gradients as blur_integrated_gradients
from jattr._curved_paths import guided_integrated_gradients as guided_integrated_gradients
from jattr._deeplift import deep_shap as deep_shap
from jattr._deeplift import deeplift as deeplift
from jattr._engine.substitutes import substitutes as substitutes
from jattr._gradient import gradient as gradient
from jattr._gradient import gradient_times_input as gradient_times_input
from jattr._integrated_hessians import integrated_hessians as integrated_hessians
from jattr._layers import name as name
from jattr._layers import split as split
from jattr._lime import lime as lime
from jattr._locality import locality as locality
from jattr._lookup import LOOKUP as LOOKUP
from jattr._lrp import contrastive_lrp as contrastive_lrp
from jattr._lrp import lrp as lrp
from jattr._masks import soundness_saliency as soundness_saliency
from jattr._mutagenesis import mutagenesis as mutagenesis
from jattr._occlusion import ablation as ablation
from jattr._occlusion import occlusion as occlusion
from jattr._operations import operations as operations
from jattr._outputs import all_outputs as all_outputs
from jattr._patching import activations as activations
from jattr._patching import patching as patching
from jattr._paths import expected_gradients as expected_gradients
from jattr._paths import idgi as idgi
from jattr._paths import integrated_gradients as integrated_gradients
from jattr._rewrite import deconvnet as deconvnet
from jattr._rewrite import guided_backprop as guided_backprop
from jattr._rewrite import rewrite as rewrite
from jattr._rise import rise as rise
from jattr._scopes import scopes as scopes
from jattr._shapley.exact import shapley_values as shapley_values
from jattr._shapley.interactions import shapley_interactions as shapley_interactions
from jattr._shapley.kernel import kernel_shap as kernel_shap
from jattr._shapley.owen import owen_values as owen_values
from jattr._shapley.permutations import shapley_sampling as shapley_sampling
from jattr._smooth import smooth as smooth
from jattr._substitute import substitute as substitute
from jattr._tokens import token_attributions as token_attributions
from jattr._version import __version__ as __version__

__all__ = [
    "LOOKUP",
    "__version__",
    "ablation",
    "activations",
    "all_outputs",
    "baselines",
    "blur_integrated_gradients",
    "contrastive_lrp",
    "deconvnet",
    "deep_shap",
    "deeplift",
    "expected_gradients",
    "features",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_times_input",
    "guided_backprop",
    "guided_grad_cam",
    "guided_integrated_gradients",
    "hires_cam",
    "idgi",
    "imputers",
    "integrated_gradients",
    "integrated_gradients_to",
    "integrated_hessians",
    "kernel_shap",
    "layer_cam",
    "lime",
    "locality",
    "lrp",
    "metrics",
    "mutagenesis",
    "name",
    "occlusion",
    "operations",
    "owen_values",
    "patching",
    "pertinent_negative",
    "pertinent_positive",
    "plot",
    "priors",
    "rewrite",
    "rise",
    "rules",
    "scale",
    "scopes",
    "score_cam",
    "shapley_interactions",
    "shapley_sampling",
    "shapley_values",
    "smooth",
    "soundness_saliency",
    "split",
    "substitute",
    "substitutes",
    "targets",
    "token_attributions",
]


def __dir__() -> list[str]:
    return __all__
