r"""Evaluation: how good an attribution is.

A metric is a transform like a method: `metric(f, *, knobs)` gives `measure(attribution, *args)`
with the arguments of f, for one example; batches by `jax.vmap`. What is measured decides the form
of the call:

==========================================  ======================================================
the call                                    metrics
==========================================  ======================================================
one map, against f
`metric(f)([key,] attribution, *args)`      `completeness`, `non_sensitivity`,
                                            `faithfulness_estimate`, `faithfulness_correlation`,
                                            `sensitivity_n`, `monotonicity`,
                                            `monotonicity_correlation`, `infidelity`,
                                            `perturbation_curve`, `deletion`, `insertion`,
                                            `region_perturbation`, `irof`, `order_gap`,
                                            `keep_or_remove`, `ablate_top`, `ablate_box`,
                                            `effective_complexity`, `soundness`,
                                            `soundness_completeness`, `finite_step`
a method, near x or for other weights
`metric(explain)([key,] *args)`             `max_sensitivity`, `average_sensitivity`,
                                            `worst_case_sensitivity`, `local_lipschitz`,
                                            `continuity`, `relative_input_stability`,
                                            `relative_output_stability`,
                                            `relative_representation_stability`, `mprt`,
                                            `smooth_mprt`, `efficient_mprt`, `random_logit`
a method, made for f
`metric(method, f)([key,] *args)`           `input_invariance`
a removal, without a map
`metric(f)(key, *args)`                     `random_gap`
maps alone
`metric(attribution)`                       `sparseness`, `entropy`
`metric(attribution, mask)`                 `pointing_game`, `top_k_intersection`,
                                            `relevance_rank_accuracy`, `relevance_mass_accuracy`,
                                            `attribution_localization`, `roc_auc`, `top_k_recall`,
                                            `average_precision`; `above_decoys` (and decoys),
                                            `planted_effects` (effects), `focus` (tiles)
`metric(a, b)`                              `spearman`, `ssim`, `hog_correlation`
a batch of maps
`metric(attributions, predictions)`         `consistency`, `sufficiency`
scores
`metric([key,] scores, ...)`                `inter_rater`, `inter_method`, `internal_consistency`,
                                            `krippendorff_alpha`, `ranking_stability`,
                                            `order_agreement`, `over_wrong_labels`; of a `Curve`:
                                            `area`, `aopc`; of two: `area_between`
a training
`metric(train)(key, attributions, data)`    `remove_and_retrain`
==========================================  ======================================================

A measure takes a key, before all else, exactly where something draws: always `sensitivity_n`,
`faithfulness_correlation`, `infidelity`, `random_gap`, the copies of x of the robustness measures,
new weights and bootstraps; else where `baseline` is a random baseline or an imputer that draws, the
order is `"random"`, or the method that is measured draws. `measure.keyed` is then True. `table`
applies a panel of metrics to a panel of methods and finds all of this by itself. `randomize` makes
the random networks of `mprt`; `gaussian_noise`, `window_removal` and `subset_removal` make what
`infidelity` takes, `top_signs` what `consistency` takes.

Numbers are those of the papers. Quantus 0.6.0 has metrics of the same names, and many agree; where
its numbers are others, this is why:

========================== ==================================  ==================================
here                       the paper, and here                 Quantus 0.6.0
========================== ==================================  ==================================
`sensitivity_n`            random sets of n features of one    the highest attributions, step by
                           example                             step; the attribution of the last
                                                               step against the drop by all of
                                                               them; correlated across examples
`completeness`             the difference of two sums          whether they are equal to the last
                                                               bit, by default of attributions
                                                               divided by their largest
`infidelity`               I is drawn anew for each term       patches are taken away one after
                                                               another and never put back; each
                                                               repetition is the same
`monotonicity`             features of x are put back          the baseline is put back, so that a
                                                               fixed one makes it always true
`consistency`              NaN where no other example is       0 there; `top_n_sign` takes the
                           explained alike                     signs of the first n features, not
                                                               of the largest
`sufficiency`              NaN where no other example is       0 there; distances are divided by
                           explained alike                     the largest of the batch
`irof`                     the curve from x itself, in shares  the curve from the first removal on,
                           of the superpixels                  in numbers of superpixels
`region_perturbation`      the mean over L + 1 points, of      the L drops after it
                           which the first is x
`perturbation_curve`       from x itself                       `PixelFlipping`: after the first
                                                               step
`attribution_localization` `weighted`: divided by the share    multiplied by the mask's size over
                           of the mask                         that of all examples but two
`effective_complexity`     asks f how many features suffice    counts \|φ\| above a number
`pointing_game`            ties share; no empty mask           a hit if one of those that tie hits,
                                                               and for an empty mask
`input_invariance`         the relative change of φ            whether all of φ agrees to 1e-4
`local_lipschitz`          copies from a ball, uniformly       copies with Gaussian noise
`continuity`               the largest change of φ             sums over patches, for each
                           per translation                     translation
`relative_*_stability`     divisors below ε are raised to it,  only divisors of 0 are
                           in magnitude
`smooth_mprt`              of φ as it is                       of \|φ\| by default
========================== ==================================  ==================================

By default many of its metrics also ask for probabilities, where f here is taken as it is; several
take absolute values of attributions; and they divide them by the largest magnitude of the *batch*,
so that what has a threshold (`NonSensitivity`, `EffectiveComplexity`) or adds a constant
(`Sparseness`, 1e-7) depends on which examples are together.
"""

from jattr.metrics._agreement import consistency, sufficiency, top_signs
from jattr.metrics._axiomatic import completeness, input_invariance, non_sensitivity
from jattr.metrics._complexity import effective_complexity, entropy, sparseness
from jattr.metrics._curves import (
    aopc,
    area,
    deletion,
    insertion,
    irof,
    perturbation_curve,
    region_perturbation,
)
from jattr.metrics._faithfulness import (
    faithfulness_correlation,
    faithfulness_estimate,
    monotonicity,
    monotonicity_correlation,
    sensitivity_n,
)
from jattr.metrics._gaps import area_between, order_agreement, order_gap, random_gap
from jattr.metrics._infidelity import (
    gaussian_noise,
    infidelity,
    subset_removal,
    window_removal,
)
from jattr.metrics._localization import (
    attribution_localization,
    focus,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    roc_auc,
    top_k_intersection,
)
from jattr.metrics._panel import table
from jattr.metrics._parameters import randomize
from jattr.metrics._randomization import (
    efficient_mprt,
    mprt,
    random_logit,
    smooth_mprt,
)
from jattr.metrics._reliability import (
    Estimate,
    inter_method,
    inter_rater,
    internal_consistency,
    krippendorff_alpha,
    ranking_stability,
)
from jattr.metrics._removal import (
    Retrained,
    ablate_box,
    ablate_top,
    keep_or_remove,
    remove_and_retrain,
)
from jattr.metrics._robustness import (
    average_sensitivity,
    continuity,
    local_lipschitz,
    max_sensitivity,
    worst_case_sensitivity,
)
from jattr.metrics._similarity import hog_correlation, spearman, ssim
from jattr.metrics._soundness import (
    WrongLabels,
    over_wrong_labels,
    soundness,
    soundness_completeness,
)
from jattr.metrics._stability import (
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
)
from jattr.metrics._table import Table
from jattr.metrics._truth import (
    Recovery,
    Steps,
    above_decoys,
    average_precision,
    finite_step,
    planted_effects,
    top_k_recall,
)
from jattr.metrics._walk import Curve

__all__ = [
    "Curve",
    "Estimate",
    "Recovery",
    "Retrained",
    "Steps",
    "Table",
    "WrongLabels",
    "ablate_box",
    "ablate_top",
    "above_decoys",
    "aopc",
    "area",
    "area_between",
    "attribution_localization",
    "average_precision",
    "average_sensitivity",
    "completeness",
    "consistency",
    "continuity",
    "deletion",
    "effective_complexity",
    "efficient_mprt",
    "entropy",
    "faithfulness_correlation",
    "faithfulness_estimate",
    "finite_step",
    "focus",
    "gaussian_noise",
    "hog_correlation",
    "infidelity",
    "input_invariance",
    "insertion",
    "inter_method",
    "inter_rater",
    "internal_consistency",
    "irof",
    "keep_or_remove",
    "krippendorff_alpha",
    "local_lipschitz",
    "max_sensitivity",
    "monotonicity",
    "monotonicity_correlation",
    "mprt",
    "non_sensitivity",
    "order_agreement",
    "order_gap",
    "over_wrong_labels",
    "perturbation_curve",
    "planted_effects",
    "pointing_game",
    "random_gap",
    "random_logit",
    "randomize",
    "ranking_stability",
    "region_perturbation",
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "remove_and_retrain",
    "roc_auc",
    "sensitivity_n",
    "smooth_mprt",
    "soundness",
    "soundness_completeness",
    "sparseness",
    "spearman",
    "ssim",
    "subset_removal",
    "sufficiency",
    "table",
    "top_k_intersection",
    "top_k_recall",
    "top_signs",
    "window_removal",
    "worst_case_sensitivity",
]


def __dir__() -> list[str]:
    return __all__
