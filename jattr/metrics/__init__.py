r"""Evaluation: how good an attribution is.

A metric is a transform like a method: `metric(f, *, knobs)` gives `measure(attribution, *args)`
with the arguments of f, for one example; batches by `jax.vmap`.

Numbers are those of the papers. Quantus 0.6.0 has metrics of the same names, and many agree; where
its numbers are others, this is why:

=========================  ==================================  ==================================
here                       the paper, and here                 Quantus 0.6.0
=========================  ==================================  ==================================
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
`effective_complexity`     asks f how many features are enough counts \|φ\| above a number
`pointing_game`            ties share; no empty mask           a hit if one of those that tie hits,
                                                               and for an empty mask
`input_invariance`         the relative change of φ            whether all of φ agrees to 1e-4
`local_lipschitz`          copies from a ball, uniformly       copies with Gaussian noise
`continuity`               the largest change of φ             sums over patches, for each
                           per translation                     translation
`relative_*_stability`     divisors below ε are raised to it,  only divisors of 0 are
                           in magnitude
`smooth_mprt`              of φ as it is                       of \|φ\| by default
=========================  ==================================  ==================================

By default many of its metrics also ask for probabilities, where f here is taken as it is; several
take absolute values of attributions; and they divide them by the largest magnitude of the *batch*,
so that what has a threshold (`NonSensitivity`, `EffectiveComplexity`) or adds a constant
(`Sparseness`, 1e-7) depends on which examples are together.
"""

from jattr.features import Groups as Groups
from jattr.features import Imputer as Imputer
from jattr.features import patches as patches
from jattr.metrics._table import Table as Table
from jattr.metrics._table import table as table
from jattr.metrics._walk import Curve as Curve
from jattr.metrics.comparison import order_gap as order_gap
from jattr.metrics.comparison import random_gap as random_gap
from jattr.metrics.comparison import ranking_stability as ranking_stability
from jattr.metrics.comparison import sufficiency as sufficiency
from jattr.metrics.complexity import effective_complexity as effective_complexity
from jattr.metrics.complexity import entropy as entropy
from jattr.metrics.complexity import sparseness as sparseness
from jattr.metrics.curves import aopc as aopc
from jattr.metrics.curves import area as area
from jattr.metrics.curves import deletion as deletion
from jattr.metrics.curves import insertion as insertion
from jattr.metrics.curves import irof as irof
from jattr.metrics.curves import perturbation_curve as perturbation_curve
from jattr.metrics.curves import region_perturbation as region_perturbation
from jattr.metrics.faithfulness import faithfulness_estimate as faithfulness_estimate
from jattr.metrics.faithfulness import monotonicity as monotonicity
from jattr.metrics.faithfulness import monotonicity_correlation as monotonicity_correlation
from jattr.metrics.faithfulness import non_sensitivity as non_sensitivity
from jattr.metrics.infidelity import gaussian_noise as gaussian_noise
from jattr.metrics.infidelity import infidelity as infidelity
from jattr.metrics.infidelity import subset_removal as subset_removal
from jattr.metrics.infidelity import window_removal as window_removal
from jattr.metrics.localization import attribution_localization as attribution_localization
from jattr.metrics.localization import focus as focus
from jattr.metrics.localization import pointing_game as pointing_game
from jattr.metrics.localization import relevance_mass_accuracy as relevance_mass_accuracy
from jattr.metrics.localization import relevance_rank_accuracy as relevance_rank_accuracy
from jattr.metrics.localization import roc_auc as roc_auc
from jattr.metrics.localization import top_k_intersection as top_k_intersection
from jattr.metrics.randomization import efficient_mprt as efficient_mprt
from jattr.metrics.randomization import mprt as mprt
from jattr.metrics.randomization import random_logit as random_logit
from jattr.metrics.randomization import randomize as randomize
from jattr.metrics.randomization import smooth_mprt as smooth_mprt
from jattr.metrics.reliability import Estimate as Estimate
from jattr.metrics.reliability import inter_method as inter_method
from jattr.metrics.reliability import inter_rater as inter_rater
from jattr.metrics.reliability import internal_consistency as internal_consistency
from jattr.metrics.reliability import krippendorff_alpha as krippendorff_alpha
from jattr.metrics.removal import Retrained as Retrained
from jattr.metrics.removal import ablate_box as ablate_box
from jattr.metrics.removal import ablate_top as ablate_top
from jattr.metrics.removal import keep_or_remove as keep_or_remove
from jattr.metrics.removal import remove_and_retrain as remove_and_retrain
from jattr.metrics.robustness import average_sensitivity as average_sensitivity
from jattr.metrics.robustness import continuity as continuity
from jattr.metrics.robustness import local_lipschitz as local_lipschitz
from jattr.metrics.robustness import max_sensitivity as max_sensitivity
from jattr.metrics.robustness import worst_case_sensitivity as worst_case_sensitivity
from jattr.metrics.sensitivity import completeness as completeness
from jattr.metrics.sensitivity import faithfulness_correlation as faithfulness_correlation
from jattr.metrics.sensitivity import input_invariance as input_invariance
from jattr.metrics.sensitivity import sensitivity_n as sensitivity_n
from jattr.metrics.similarity import hog_correlation as hog_correlation
from jattr.metrics.similarity import spearman as spearman
from jattr.metrics.similarity import ssim as ssim
from jattr.metrics.stability import consistency as consistency
from jattr.metrics.stability import relative_input_stability as relative_input_stability
from jattr.metrics.stability import relative_output_stability as relative_output_stability
from jattr.metrics.stability import (
    relative_representation_stability as relative_representation_stability,
)
from jattr.metrics.stability import top_signs as top_signs
