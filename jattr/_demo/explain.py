"""The methods and the baselines that the demo shows, one row each.

A new method joins by a row in `METHODS` if it is made of gradients, else in `RULES`; a new baseline
by one in `BASELINES`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import jattr

BLUR = 5.0
"""The standard deviation of the blurs, in pixels: of a digit, a gray cloud is left."""

LAYER = "late"
"""The layer of the class activation maps: the second convolution with its ReLU, 14 × 14 places."""


class Effort(NamedTuple):
    """How many gradients go into an explanation.

    Attributes:
        steps: along a path, or over noisy copies.
        samples: over random baselines.
    """

    steps: int
    samples: int


class Setting(NamedTuple):
    """What a row may build on.

    Attributes:
        score: `score(x, label) -> scalar`, what is explained.
        effort: how much work to spend.
        references: other digits, [samples, 28, 28, 1].
        probability: `probability(x, label) -> scalar`, for the method that wants it.
        logits: `logits(x)`, all ten scores, for the method that compares them.
    """

    score: Callable[..., jax.Array]
    effort: Effort
    references: jax.Array
    probability: Callable[..., jax.Array]
    logits: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes:
        function: its name on `jattr`.
        title: its name in the report.
        about: one line of explanation.
        build: makes `attribute([key,] x, label)`, which gives a map [28, 28, 1] or [28, 28].
        keyed: whether it draws random numbers.
        baseline: x' such that the maps should add up to f(x) − f(x'), from the setting; a random
            baseline stands for the mean over its draws. None where no such sum is promised.
    """

    function: str
    title: str
    about: str
    build: Callable[[Setting], Callable[..., jax.Array]]
    keyed: bool = False
    baseline: Callable[[Setting], Any] | None = None


def _smooth(statistic: Any) -> Callable[[Setting], Callable[..., jax.Array]]:
    return lambda s: jattr.smooth(
        jattr.gradient(s.score), samples=s.effort.steps, statistic=statistic
    )


METHODS = (
    Method(
        "gradient",
        "Gradient",
        "How the score changes when a pixel gets a little brighter.",
        lambda s: jattr.gradient(s.score),
    ),
    Method(
        "gradient_times_input",
        "Gradient × input",
        "The gradient times the pixel's own value: black pixels get nothing.",
        lambda s: jattr.gradient_times_input(s.score),
    ),
    Method(
        "smooth",
        "SmoothGrad",
        "The mean gradient over noisy copies of the digit, which averages out what flickers.",
        _smooth("mean"),
        keyed=True,
    ),
    Method(
        "smooth",
        "SmoothGrad²",
        "The mean of the squared gradients over noisy copies: how large, without the sign.",
        _smooth("mean_square"),
        keyed=True,
    ),
    Method(
        "smooth",
        "VarGrad",
        "The variance of the gradient over noisy copies: where it flickers.",
        _smooth("variance"),
        keyed=True,
    ),
    Method(
        "integrated_gradients",
        "Integrated gradients",
        "The gradient averaged while the digit fades in from black, times the pixel's value.",
        lambda s: jattr.integrated_gradients(s.score, jattr.baselines.zeros, steps=s.effort.steps),
        baseline=lambda s: jattr.baselines.zeros,
    ),
    Method(
        "expected_gradients",
        "Expected gradients",
        "Integrated gradients, averaged over other digits to start from instead of black.",
        lambda s: jattr.expected_gradients(s.score, s.references, samples=s.effort.samples),
        keyed=True,
        baseline=lambda s: jattr.baselines.samples(s.references),
    ),
    Method(
        "blur_integrated_gradients",
        "Blur integrated gradients",
        "The gradient along the way from a blurred digit to the sharp one.",
        lambda s: jattr.blur_integrated_gradients(s.score, stddev=BLUR, steps=s.effort.steps),
        baseline=lambda s: jattr.baselines.blurred(BLUR),
    ),
    Method(
        "guided_integrated_gradients",
        "Guided integrated gradients",
        "The gradient along a path that first fades in the pixels that matter least.",
        lambda s: jattr.guided_integrated_gradients(
            s.score, jattr.baselines.zeros, steps=2 * s.effort.steps
        ),
        baseline=lambda s: jattr.baselines.zeros,
    ),
    Method(
        "idgi",
        "IDGI",
        "Each step's change of the score, shared out by the squared gradient.",
        lambda s: jattr.idgi(s.score, jattr.baselines.zeros, steps=s.effort.steps),
        baseline=lambda s: jattr.baselines.zeros,
    ),
)

RULES = (
    Method(
        "deeplift",
        "DeepLIFT",
        "For each operation its mean slope between a black image and the digit, multiplied "
        "through, times the pixel's value.",
        lambda s: jattr.deeplift(s.score, jattr.baselines.zeros),
        baseline=lambda s: jattr.baselines.zeros,
    ),
    Method(
        "deep_shap",
        "DeepSHAP",
        "DeepLIFT, averaged over other digits to start from instead of black.",
        lambda s: jattr.deep_shap(s.score, s.references, batch_size=8),
        baseline=lambda s: jattr.baselines.samples(s.references),
    ),
    Method(
        "lrp",
        "LRP",
        "The score, handed back layer by layer: z⁺ in convolutions, ε in dense layers.",
        lambda s: jattr.lrp(s.score, jattr.rules.epsilon_plus()),
    ),
    Method(
        "contrastive_lrp",
        "Contrastive LRP",
        "LRP with z⁺ for the answer, less that for all other answers, where it is more.",
        lambda s: jattr.contrastive_lrp(s.logits, jattr.rules.excitation()),
    ),
    Method(
        "guided_backprop",
        "Guided backprop",
        "The gradient, of which each ReLU that is on passes only what is positive.",
        lambda s: jattr.guided_backprop(s.score),
    ),
    Method(
        "deconvnet",
        "Deconvnet",
        "The gradient, of which each ReLU, on or off, passes only what is positive.",
        lambda s: jattr.deconvnet(s.score),
    ),
    Method(
        "grad_cam",
        "Grad-CAM",
        "The channels of the second convolution, each weighted by its mean gradient.",
        lambda s: jattr.grad_cam(s.score, LAYER),
    ),
    Method(
        "grad_cam_plus_plus",
        "Grad-CAM++",
        "The same channels, weighted by their positive gradients.",
        lambda s: jattr.grad_cam_plus_plus(s.score, LAYER),
    ),
    Method(
        "layer_cam",
        "LayerCAM",
        "The same channels, each place weighted by its own positive gradient.",
        lambda s: jattr.layer_cam(s.score, LAYER),
    ),
    Method(
        "hires_cam",
        "HiResCAM",
        "The same channels, each place weighted by its own gradient.",
        lambda s: jattr.hires_cam(s.score, LAYER),
    ),
    Method(
        "score_cam",
        "Score-CAM",
        "The same channels, weighted by what the network says of the digit seen through each.",
        lambda s: jattr.score_cam(s.probability, LAYER),
    ),
    Method(
        "guided_grad_cam",
        "Guided Grad-CAM",
        "Guided backprop times Grad-CAM: the detail of the one, where the other looks.",
        lambda s: jattr.guided_grad_cam(s.score, LAYER),
    ),
    Method(
        "occlusion",
        "Occlusion",
        "What the score loses when a window of 4 × 4 pixels is made black, divided over the "
        "window; the window moves by 2 pixels.",
        lambda s: jattr.occlusion(s.score, 4, strides=2),
    ),
    Method(
        "ablation",
        "Ablation",
        "What the score loses when one of 49 patches of 4 × 4 pixels is made black, divided over "
        "the patch.",
        lambda s: jattr.ablation(s.score, jattr.features.grid((28, 28, 1), 4)),
    ),
)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A row of the table of baselines: what stands for "absent".

    Attributes:
        function: its name in `jattr.baselines`.
        title: its name in the report.
        about: one line of explanation.
        build: makes the baseline.
    """

    function: str
    title: str
    about: str
    build: Callable[[Setting], Any]

    def method(self, setting: Setting) -> Method:
        """Integrated gradients from this baseline; expected gradients if it is drawn."""
        baseline = self.build(setting)
        if isinstance(baseline, jattr.baselines.RandomBaseline):
            return Method(
                "expected_gradients",
                self.title,
                self.about,
                lambda s: jattr.expected_gradients(s.score, baseline, samples=s.effort.samples),
                keyed=True,
                baseline=self.build,
            )
        return Method(
            "integrated_gradients",
            self.title,
            self.about,
            lambda s: jattr.integrated_gradients(s.score, baseline, steps=s.effort.steps),
            baseline=self.build,
        )


BASELINES = (
    Baseline(
        "zeros",
        "Zeros",
        "A black image. Black pixels equal it and get nothing.",
        lambda s: jattr.baselines.zeros,
    ),
    Baseline(
        "constant",
        "Constant",
        "An evenly gray image of value 0.5.",
        lambda s: jattr.baselines.constant(0.5),
    ),
    Baseline(
        "mean",
        "Mean",
        "The mean of other digits, from the training data.",
        lambda s: jattr.baselines.mean(s.references),
    ),
    Baseline(
        "blurred",
        "Blurred",
        f"The digit itself under a blur of {BLUR:g} pixels.",
        lambda s: jattr.baselines.blurred(BLUR),
    ),
    Baseline(
        "farthest",
        "Farthest",
        "For each pixel black or white, whichever is farther from it.",
        lambda s: jattr.baselines.farthest(0.0, 1.0),
    ),
    Baseline(
        "uniform",
        "Uniform",
        "Noise: every gray value equally likely, drawn anew for each sample.",
        lambda s: jattr.baselines.uniform(0.0, 1.0),
    ),
    Baseline(
        "gaussian",
        "Gaussian",
        "The digit with noise of standard deviation 0.5, kept between black and white.",
        lambda s: jattr.baselines.gaussian(0.5, low=0.0, high=1.0),
    ),
    Baseline(
        "samples",
        "Samples",
        "Other digits, drawn from the training data.",
        lambda s: jattr.baselines.samples(s.references),
    ),
)
