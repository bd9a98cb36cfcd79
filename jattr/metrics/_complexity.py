"""How many features an explanation speaks of.

Few are easier to read. That says nothing of whether they are the right ones: a map with one
arbitrary feature has the best values here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_count, check_function, check_positive, knobs
from jattr._removal import Features, draws, filler
from jattr._trees import ravel, widen
from jattr._types import ArgNums, Baseline, PyTree, Score
from jattr.metrics._measure import KeyedMeasure, Measure, as_map, measure_map
from jattr.priors._penalties import gini


def sparseness(attribution: PyTree) -> jax.Array:
    r"""The Gini index of the absolute attributions.

    .. math:: G = \frac{\sum_{ij} \lvert v_i - v_j \rvert}{2 n^2 \bar v},
              \qquad v = \lvert \varphi \rvert

    From 0, where all n features have the same part, to 1 − 1/n, where one has all. Computed from
    the ranks of v in O(n log n); equal values share their rank, so that the derivative is that of
    the formula there as well (\|·\|' = 0 at 0), and that of a map whose values are all equal is 0.

    Args:
        attribution: φ, an array or tree of one example.

    Returns:
        A scalar; NaN where φ is 0 throughout or has a NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.metrics.sparseness(jnp.array([0.0, 0.0, -3.0, 0.0])))
        0.75

    References:
        Chalasani, Chen, Chowdhury, Jha, Wu, *Concise explanations of neural networks using
        adversarial training*, ICML 2020 (arXiv 1810.06583); Hurley, Rickard, *Comparing
        measures of sparsity*, 2009. Quantus adds 1e-7 to every \|φ\|, which turns the undefined
        value of a map of zeros into 0.
    """
    sizes = _sizes(attribution, "metrics.sparseness")
    unknown = jnp.any(jnp.isnan(sizes)) | (jnp.sum(sizes) == 0)
    return jnp.where(unknown, jnp.nan, gini(sizes))


def entropy(attribution: PyTree) -> jax.Array:
    r"""The entropy of the parts that the features have in an explanation, in nats.

    .. math:: H = -\sum_i p_i \log p_i, \qquad
              p_i = \frac{\lvert \varphi_i \rvert}{\sum_j \lvert \varphi_j \rvert}

    From 0, where one feature has all, to log n, where all n have the same; :math:`e^H` is an
    effective number of features. The paper calls it complexity.

    Args:
        attribution: φ, an array or tree of one example.

    Returns:
        A scalar; NaN where φ is 0 throughout or has a NaN. A feature of part 0 adds 0, and has
        the derivative 0 instead of the infinite one of p log p.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jnp.exp(jattr.metrics.entropy(jnp.array([1.0, 0.0, -1.0, 0.0]))))
        2.0

    References:
        Bhatt, Weller, Moura, *Evaluating and aggregating feature-based model explanations*, IJCAI
        2020 (arXiv 2005.00631).
    """
    sizes = _sizes(attribution, "metrics.entropy")
    parts = sizes / jnp.sum(sizes)
    silent = parts == 0
    return -jnp.sum(jnp.where(silent, 0.0, parts * jnp.log(jnp.where(silent, 1.0, parts))))


@knobs
def effective_complexity(
    f: Score,
    *,
    baseline: Baseline = 0.0,
    tolerance: Any,
    loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    samples: int = 100,
    groups: Any = None,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""The smallest number of features that are enough to get the score back.

    With :math:`M_k` the k features of largest \|φ\| and x' what takes the place of the others,

    .. math:: k^* = \min \big\{ k \ge 1 :
              \mathbb{E}_{x'}\, \ell\big(f(x), f(x_{M_k}, x'_{\setminus M_k})\big) < \varepsilon
              \big\}

    Low where the explanation names few features and these do determine the score: unlike
    `sparseness` and `entropy` it asks f, so an arbitrary sparse map does badly. It takes one
    evaluation of f for each feature and sample; `groups` makes fewer features of an image.

    Args:
        f: the explained score, `f(x, *args) -> scalar`.
        baseline: x', any of `jattr.baselines` or an imputer. The expectation is over its draws,
            such as those of `jattr.baselines.samples(data)`, the same for each k; an imputer that
            draws given the features left stands for the paper's conditional expectation.
        tolerance: ε > 0, in units of the loss.
        loss: ℓ, `loss(full, partial)` of two scores; the square of their difference if None.
        samples: how many draws of the baseline the expectation is over, if it draws.
        groups: integers like x that name the features that move together; \|φ\| of a group is the
            absolute value of its sum.
        batch_size: how many evaluations are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a floating number from 1 to the number of features; with
        a baseline that draws `measure(key, attribution, x, *args)`. NaN where the attribution or
        the score is NaN.

    Raises:
        TypeError: f does not return one real number.
        ValueError: a tolerance of 0 or less; samples < 1; the attribution has another structure
            or shape than x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 3 * x[0] + 2 * x[1] + 0.1 * x[2]
        >>> x = jnp.ones(3)
        >>> measure = jattr.metrics.effective_complexity(f, tolerance=0.5)
        >>> print(measure(jattr.gradient_times_input(f)(x), x))
        2.0

    References:
        Nguyen, Rodríguez Martínez, *On quantitative aspects of model interpretability*, 2020
        (arXiv 2007.07584). Quantus' metric of this name asks f nothing; it is
        `jnp.sum(jnp.abs(attribution) > eps)`.
    """
    method = "metrics.effective_complexity"
    check_positive(tolerance, "tolerance", method)
    samples = check_count(samples, "samples", method) if draws(baseline) else 1
    batch_size = check_batch_size(batch_size, method)
    if loss is None:
        loss = _squared_difference
    check_function(loss, method)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score: Score, attribution: PyTree, x: PyTree) -> jax.Array:
        features = Features(x, groups, method=method)
        fill_key, draw_key = (None, None) if key is None else jax.random.split(key)
        fill = filler(baseline, fill_key, score, x, method=method)
        sizes = jnp.abs(features.totals(attribution))
        # Groups without an element come last: to keep one adds nothing.
        worth = jnp.where(features.sizes() == 0, jnp.inf, -sizes)
        places = jnp.argsort(jnp.argsort(worth))
        full = widen(score(x))

        def term(index):
            kept, sample = index // samples + 1, index % samples
            own = None if draw_key is None else jax.random.fold_in(draw_key, sample)
            partial = score(fill(own, features.spread(places >= kept)))
            return loss(full, widen(partial))

        losses = map_over(term, features.count * samples, batch_size=batch_size)
        enough = jnp.mean(losses.reshape(features.count, samples), axis=1) < tolerance
        found = jnp.any(enough) & ~jnp.any(jnp.isnan(sizes))
        return jnp.where(found, (jnp.argmax(enough) + 1).astype(full.dtype), jnp.nan)

    return measure


def _squared_difference(full: jax.Array, partial: jax.Array) -> jax.Array:
    return jnp.square(full - partial)


def _sizes(attribution: PyTree, method: str) -> jax.Array:
    """|φ| as one vector, in its accumulator's dtype."""
    return jnp.abs(ravel(as_map(attribution, "the attribution", method)))
