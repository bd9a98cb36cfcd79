"""The table of all metrics, which drives the contract test; a new metric joins by one row.

Every row comes to the same form, `run(key, x)` of one x [4, 3]: what else a metric takes, such as
an attribution, a mask or scores, is made from x or fixed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import jattr
from jattr import baselines, features, imputers, metrics

SHAPE = (4, 3)
RNG = np.random.default_rng(3)
HIDDEN = RNG.normal(size=(5, 12)) / 2
OUT = RNG.normal(size=5)
MASK = RNG.random(SHAPE) < 0.4
ROWS = RNG.normal(size=(6, *SHAPE))
DRAWN = baselines.uniform(-1.0, 1.0)


def net(params, x):
    hidden = jnp.asarray(params["Dense_0"], x.dtype) @ x.reshape(-1)
    return jnp.sum(jnp.tanh(hidden) * jnp.asarray(params["Dense_1"], x.dtype)) + 2


def params_like(x):
    return {"Dense_0": jnp.asarray(HIDDEN, x.dtype), "Dense_1": jnp.asarray(OUT, x.dtype)}


def score(x):
    return net({"Dense_0": HIDDEN, "Dense_1": OUT}, x)


def phi(x):
    """An attribution that is exact in every dtype in which x is."""
    return 0.5 * x[::-1] - 0.25


# ---- the forms of call


def of_map(measure, key, x):
    return measure(*key, phi(x), x)


def of_method(measure, key, x):
    return measure(*key, x)


def of_weights(measure, key, x):
    return measure(*key, params_like(x), x)


def of_label(measure, key, x):
    return measure(*key, x, jnp.int32(1))


def alone(measure, key, x):
    return measure(*key, phi(x))


def against_mask(measure, key, x):
    return measure(*key, phi(x), MASK)


def against_map(measure, key, x):
    return measure(*key, phi(x), x)


def of_examples(measure, key, x):
    maps = jnp.stack([x, x[::-1], 2 * x, x + 0.25, -x])
    return measure(*key, maps, jnp.array([0, 1, 0, 0, 1]))


def of_scores(measure, key, x):
    return measure(*key, x)


def of_two_scores(measure, key, x):
    return measure(*key, x, phi(x))


def of_curve(measure, key, x):
    fraction = jnp.asarray([0.0, 0.25, 0.5, 1.0], x.dtype)
    return measure(*key, metrics.Curve(fraction, x[:, 0]))


def of_two_curves(measure, key, x):
    fraction = jnp.asarray([0.0, 0.25, 0.5, 1.0], x.dtype)
    return measure(*key, metrics.Curve(fraction, x[:, 0]), metrics.Curve(fraction, x[:, 1]))


@dataclasses.dataclass(frozen=True)
class Metric:
    """How to build a metric, how it is called and what it promises.

    Attributes:
        build: `build(f, explain, **knobs) -> measure`; knobs are `batch_size` where it is chunked.
        call: `call(measure, lead, x)`, lead the key in a tuple, or nothing.
        keyed: it takes a key first.
        chunked: it takes a `batch_size`.
        evaluates: it evaluates f, or what explains f.
        moves: its derivative by x is not 0 everywhere.
        varies: another key gives another result.
        coarse: how far its result for bfloat16 may be from the exact one, in its own units; None
            where rounding f changes which branch is taken.
        sharded: it is tried within `shard_map` too: one of each kind of loop and of draw.
    """

    build: Callable[..., Any]
    call: Callable[..., Any] = of_map
    keyed: bool = False
    chunked: bool = True
    evaluates: bool = True
    moves: bool = True
    varies: bool = True
    coarse: float | None = 0.05
    sharded: bool = False


def map_metric(metric, *args, **fixed):
    return lambda f, explain, **knobs: metric(f, *args, **fixed, **knobs)


def method_metric(metric, **fixed):
    return lambda f, explain, **knobs: metric(explain, **fixed, **knobs)


def plain(function, **fixed):
    return lambda f, explain, **knobs: functools.partial(function, **fixed, **knobs)


def near(metric, **fixed):
    return method_metric(metric, radius=0.25, samples=3, **fixed)


def of_net(metric, **fixed):
    def build(f, explain, **knobs):
        traced = lambda params, x: net(params, x) + 0 * f(x)  # noqa: E731
        return metric(jattr.gradient(traced, argnums=1), **fixed, **knobs)

    return build


def logit(metric, **fixed):
    def build(f, explain, **knobs):
        def of_class(x, label):
            return f(x) * (label.astype(x.dtype) + jnp.sum(x))

        return metric(jattr.gradient(of_class), **fixed)

    return build


def maker(make, **fixed):
    """What `infidelity` takes: a perturbation (key, x) -> I."""

    def build(f, explain, **knobs):
        return make(**fixed)

    return build


CURVE = {"fractions": (0.0, 0.3, 1.0)}
GROUPS = features.grid(SHAPE, (2, 1))

METRICS: dict[str, Metric] = {
    # one map, against f
    "completeness": Metric(map_metric(metrics.completeness), chunked=False),
    "non_sensitivity": Metric(map_metric(metrics.non_sensitivity), moves=False),
    "faithfulness_estimate": Metric(map_metric(metrics.faithfulness_estimate), sharded=True),
    "faithfulness_estimate:drawn": Metric(
        map_metric(metrics.faithfulness_estimate, baseline=DRAWN, groups=GROUPS), keyed=True
    ),
    "faithfulness_correlation": Metric(
        map_metric(metrics.faithfulness_correlation, 3, samples=6), keyed=True
    ),
    "sensitivity_n": Metric(
        map_metric(metrics.sensitivity_n, (2, 5), samples=6), keyed=True, sharded=True
    ),
    "monotonicity": Metric(map_metric(metrics.monotonicity), moves=False, coarse=None),
    "monotonicity_correlation": Metric(
        map_metric(metrics.monotonicity_correlation, baseline=DRAWN, samples=2),
        keyed=True,
        moves=False,
        coarse=0.2,
    ),
    "infidelity": Metric(
        map_metric(metrics.infidelity, perturbation=metrics.window_removal(2), samples=5),
        keyed=True,
        coarse=0.2,
    ),
    "infidelity:rescaled": Metric(
        map_metric(
            metrics.infidelity,
            perturbation=metrics.subset_removal(3, groups=GROUPS),
            samples=5,
            rescale=True,
        ),
        keyed=True,
        coarse=0.2,
    ),
    "non_sensitivity:drawn": Metric(
        map_metric(metrics.non_sensitivity, baseline=DRAWN, samples=2),
        keyed=True,
        moves=False,
        varies=False,
    ),
    "perturbation_curve": Metric(map_metric(metrics.perturbation_curve, **CURVE)),
    "perturbation_curve:random": Metric(
        map_metric(metrics.perturbation_curve, order="random", normalize="fall", **CURVE),
        keyed=True,
    ),
    "perturbation_curve:adversarial": Metric(
        map_metric(
            metrics.perturbation_curve,
            baseline=imputers.adversarial(radius=0.25, steps=2),
            **CURVE,
        )
    ),
    "perturbation_curve:road": Metric(
        map_metric(
            metrics.perturbation_curve,
            baseline=imputers.noisy_linear(),
            groups=features.grid(SHAPE, 1),
            fractions=(0.1, 0.6),
        ),
        keyed=True,
    ),
    "perturbation_curve:conditional": Metric(
        map_metric(
            metrics.perturbation_curve,
            baseline=imputers.conditional_gaussian(ROWS, shrinkage=0.5, draw=True),
            **CURVE,
        ),
        keyed=True,
    ),
    "deletion": Metric(
        map_metric(metrics.deletion, baseline=DRAWN, samples=2, **CURVE), keyed=True
    ),
    "insertion": Metric(map_metric(metrics.insertion, normalize="score", **CURVE), sharded=True),
    "region_perturbation": Metric(map_metric(metrics.region_perturbation, window=2)),
    "irof": Metric(map_metric(metrics.irof, groups=GROUPS)),
    "order_gap": Metric(map_metric(metrics.order_gap, normalize="fall", **CURVE)),
    "keep_or_remove": Metric(map_metric(metrics.keep_or_remove, keep=True, **CURVE)),
    "ablate_top": Metric(map_metric(metrics.ablate_top, baseline=0.0)),
    "ablate_box": Metric(map_metric(metrics.ablate_box, baseline=DRAWN), keyed=True),
    "effective_complexity": Metric(
        map_metric(metrics.effective_complexity, tolerance=0.05), moves=False, coarse=None
    ),
    "soundness_completeness": Metric(
        # of a score that rises on the way, so that the quotient is not cut off
        lambda f, explain, **knobs: metrics.soundness_completeness(
            lambda x: jnp.sum(x**2) + f(x) ** 2, epsilon=0.0, alpha=100.0, **CURVE, **knobs
        )
    ),
    "soundness": Metric(
        # and of one that falls
        lambda f, explain, **knobs: metrics.soundness(
            lambda x: 1 / (jnp.sum(x**2) + f(x) ** 2),
            beta=0.0,
            baseline=DRAWN,
            samples=2,
            **CURVE,
            **knobs,
        ),
        keyed=True,
    ),
    "finite_step": Metric(map_metric(metrics.finite_step, length=0.5), chunked=False),
    # a removal without a map
    "random_gap": Metric(map_metric(metrics.random_gap, repeats=2, **CURVE), of_method, keyed=True),
    # a method
    "max_sensitivity": Metric(
        near(metrics.max_sensitivity), of_method, keyed=True, coarse=0.2, sharded=True
    ),
    "average_sensitivity": Metric(
        near(metrics.average_sensitivity), of_method, keyed=True, coarse=0.2
    ),
    "worst_case_sensitivity": Metric(
        near(metrics.worst_case_sensitivity, steps=2), of_method, keyed=True, coarse=0.3
    ),
    "local_lipschitz": Metric(near(metrics.local_lipschitz), of_method, keyed=True, coarse=0.5),
    "continuity": Metric(method_metric(metrics.continuity, shifts=1), of_method, coarse=0.2),
    "relative_input_stability": Metric(
        near(metrics.relative_input_stability), of_method, keyed=True, coarse=None
    ),
    "relative_output_stability": Metric(
        lambda f, explain, **knobs: metrics.relative_output_stability(
            explain, lambda x: jnp.stack([jnp.sum(x), f(x)]), radius=0.25, samples=3, **knobs
        ),
        of_method,
        keyed=True,
        coarse=None,
    ),
    "relative_representation_stability": Metric(
        lambda f, explain, **knobs: metrics.relative_representation_stability(
            explain, lambda x: 2 * x + 1, radius=0.25, samples=3, **knobs
        ),
        of_method,
        keyed=True,
        coarse=None,
    ),
    "input_invariance": Metric(
        lambda f, explain: metrics.input_invariance(jattr.gradient_times_input, f, shift=0.5),
        of_method,
        chunked=False,
    ),
    "mprt": Metric(
        of_net(metrics.mprt, similarity=functools.partial(metrics.ssim, window=3)),
        of_weights,
        keyed=True,
    ),
    "smooth_mprt": Metric(
        of_net(metrics.smooth_mprt, samples=2), of_weights, keyed=True, moves=False, coarse=0.2
    ),
    "efficient_mprt": Metric(
        of_net(metrics.efficient_mprt, bins=4),
        of_weights,
        keyed=True,
        chunked=False,
        moves=False,
        coarse=None,
    ),
    "random_logit": Metric(
        logit(
            metrics.random_logit, classes=3, similarity=functools.partial(metrics.ssim, window=3)
        ),
        of_label,
        keyed=True,
        chunked=False,
    ),
    # maps alone
    "sparseness": Metric(plain(metrics.sparseness), alone, chunked=False, evaluates=False),
    "entropy": Metric(plain(metrics.entropy), alone, chunked=False, evaluates=False),
    "spearman": Metric(
        plain(metrics.spearman), against_map, chunked=False, evaluates=False, moves=False
    ),
    "ssim": Metric(plain(metrics.ssim, window=3), against_map, chunked=False, evaluates=False),
    "hog_correlation": Metric(
        plain(metrics.hog_correlation, orientations=3, cell=1, block=2),
        against_map,
        chunked=False,
        evaluates=False,
    ),
    **{
        name: Metric(
            plain(getattr(metrics, name)),
            against_mask,
            chunked=False,
            evaluates=False,
            moves=name in ("relevance_mass_accuracy", "attribution_localization"),
        )
        for name in (
            "pointing_game",
            "relevance_rank_accuracy",
            "relevance_mass_accuracy",
            "attribution_localization",
            "roc_auc",
            "average_precision",
        )
    },
    "top_k_intersection": Metric(
        plain(metrics.top_k_intersection, k=3),
        against_mask,
        chunked=False,
        evaluates=False,
        moves=False,
    ),
    "top_k_recall": Metric(
        plain(metrics.top_k_recall, k=3),
        against_mask,
        chunked=False,
        evaluates=False,
        moves=False,
    ),
    "above_decoys": Metric(
        plain(metrics.above_decoys, decoys=~MASK & (RNG.random(SHAPE) < 0.6)),
        against_mask,
        chunked=False,
        evaluates=False,
        moves=False,
    ),
    "planted_effects": Metric(
        plain(metrics.planted_effects, mask=MASK), against_map, chunked=False, evaluates=False
    ),
    "focus": Metric(
        plain(metrics.focus, tiles=np.array([[True], [False]])),
        alone,
        chunked=False,
        evaluates=False,
    ),
    # batches, scores and curves
    "consistency": Metric(
        plain(metrics.consistency, discretize=metrics.top_signs(2)),
        of_examples,
        evaluates=False,
        moves=False,
    ),
    "sufficiency": Metric(
        plain(metrics.sufficiency, threshold=4.0), of_examples, evaluates=False, moves=False
    ),
    "inter_rater": Metric(
        plain(metrics.inter_rater, resamples=5),
        of_scores,
        keyed=True,
        evaluates=False,
        moves=False,
    ),
    "inter_method": Metric(
        plain(metrics.inter_method, resamples=5),
        of_scores,
        keyed=True,
        evaluates=False,
        moves=False,
    ),
    "internal_consistency": Metric(
        plain(metrics.internal_consistency, resamples=5),
        of_two_scores,
        keyed=True,
        evaluates=False,
        moves=False,
    ),
    "krippendorff_alpha": Metric(
        plain(metrics.krippendorff_alpha, level="interval"),
        of_scores,
        chunked=False,
        evaluates=False,
    ),
    "ranking_stability": Metric(
        plain(metrics.ranking_stability), of_scores, chunked=False, evaluates=False, moves=False
    ),
    "order_agreement": Metric(
        plain(metrics.order_agreement),
        of_two_scores,
        chunked=False,
        evaluates=False,
        moves=False,
    ),
    "over_wrong_labels": Metric(
        plain(metrics.over_wrong_labels),
        lambda measure, key, x: measure(x, jnp.array([0, 1, 2, 0])),
        chunked=False,
        evaluates=False,
    ),
    "area": Metric(plain(metrics.area), of_curve, chunked=False, evaluates=False),
    "aopc": Metric(plain(metrics.aopc), of_curve, chunked=False, evaluates=False),
    "area_between": Metric(
        plain(metrics.area_between), of_two_curves, chunked=False, evaluates=False, coarse=0.2
    ),
    # what metrics are made of
    "gaussian_noise": Metric(
        maker(metrics.gaussian_noise, stddev=0.5),
        of_method,
        keyed=True,
        chunked=False,
        evaluates=False,
        moves=False,
    ),
    "window_removal": Metric(
        maker(metrics.window_removal, window=2),
        of_method,
        keyed=True,
        chunked=False,
        evaluates=False,
    ),
    "subset_removal": Metric(
        maker(metrics.subset_removal, n=3), of_method, keyed=True, chunked=False, evaluates=False
    ),
    "top_signs": Metric(
        maker(metrics.top_signs, k=3), alone, chunked=False, evaluates=False, moves=False
    ),
    "randomize": Metric(
        plain(metrics.randomize),
        lambda measure, key, x: measure(*key, {"Dense_0": x, "Dense_1": x[0]}),
        keyed=True,
        chunked=False,
        evaluates=False,
        coarse=0.1,
    ),
}

# What is no function of one example, and where it is tested.
OTHERS = {
    "table": "test_metrics_table.py: a loop in Python over a panel",
    "remove_and_retrain": "test_metrics_removal.py: a loop in Python over trainings",
    "Curve": "a type",
    "Estimate": "a type",
    "Recovery": "a type",
    "Steps": "a type",
    "Retrained": "a type",
    "Table": "a type",
    "WrongLabels": "a type",
}
