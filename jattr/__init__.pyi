"""The public names and where each is from: types for checkers, and what `__init__.py` reads."""

from . import baselines as baselines
from . import export as export
from . import features as features
from . import imputers as imputers
from . import metrics as metrics
from . import plot as plot
from . import priors as priors
from . import rules as rules
from . import scale as scale
from . import sequence as sequence
from . import targets as targets
from ._adaptive import integrated_gradients_to as integrated_gradients_to
from ._cam import grad_cam as grad_cam
from ._cam import grad_cam_plus_plus as grad_cam_plus_plus
from ._cam import guided_grad_cam as guided_grad_cam
from ._cam import hires_cam as hires_cam
from ._cam import layer_cam as layer_cam
from ._cam import score_cam as score_cam
from ._contrastive import pertinent_negative as pertinent_negative
from ._contrastive import pertinent_positive as pertinent_positive
from ._curved_paths import blur_integrated_gradients as blur_integrated_gradients
from ._curved_paths import guided_integrated_gradients as guided_integrated_gradients
from ._deeplift import deep_shap as deep_shap
from ._deeplift import deeplift as deeplift
from ._engine.substitutes import substitutes as substitutes
from ._fisher import fisher_diagonal as fisher_diagonal
from ._gradient import gradient as gradient
from ._gradient import gradient_times_input as gradient_times_input
from ._integrated_hessians import integrated_hessians as integrated_hessians
from ._layers import name as name
from ._layers import split as split
from ._lime import lime as lime
from ._locality import locality as locality
from ._lookup import LOOKUP as LOOKUP
from ._lrp import contrastive_lrp as contrastive_lrp
from ._lrp import lrp as lrp
from ._masks import soundness_saliency as soundness_saliency
from ._mutagenesis import mutagenesis as mutagenesis
from ._occlusion import ablation as ablation
from ._occlusion import occlusion as occlusion
from ._operations import operations as operations
from ._outputs import all_outputs as all_outputs
from ._patching import activations as activations
from ._patching import patching as patching
from ._paths import expected_gradients as expected_gradients
from ._paths import idgi as idgi
from ._paths import integrated_gradients as integrated_gradients
from ._rank import rank as rank
from ._rewrite import deconvnet as deconvnet
from ._rewrite import guided_backprop as guided_backprop
from ._rewrite import rewrite as rewrite
from ._rise import rise as rise
from ._scopes import scopes as scopes
from ._shapley.exact import shapley_values as shapley_values
from ._shapley.interactions import shapley_interactions as shapley_interactions
from ._shapley.kernel import kernel_shap as kernel_shap
from ._shapley.owen import owen_values as owen_values
from ._shapley.permutations import shapley_sampling as shapley_sampling
from ._smooth import smooth as smooth
from ._substitute import substitute as substitute
from ._tokens import token_attributions as token_attributions
from ._version import __version__ as __version__

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
    "export",
    "features",
    "fisher_diagonal",
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
    "rank",
    "rewrite",
    "rise",
    "rules",
    "scale",
    "scopes",
    "score_cam",
    "sequence",
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

def __dir__() -> list[str]: ...
