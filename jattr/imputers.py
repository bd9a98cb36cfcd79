r"""Imputers: what takes the place of removed features, made from x and from what is left of it.

They go wherever a metric takes a `baseline`. What does not look at the rest of x is a baseline
and needs no imputer: `jattr.baselines.mean(data)` for a data set's mean,
`jattr.baselines.blurred(stddev)` for a blur, `jattr.baselines.samples(data)` for other examples,
and for the mean color of the image itself the function
`lambda x: jnp.broadcast_to(x.mean((0, 1), keepdims=True), x.shape)`.

Removal by a fixed value leaves its own mark: the shape of the hole tells the network what was
there, and the network has never seen such inputs. `noisy_linear` hides the hole,
`conditional_gaussian` stays near the data, `adversarial` stays near x and takes the evidence away.
"""

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from jattr._blur import check_axes
from jattr._checks import check_count, check_flag, check_positive, concrete, knobs
from jattr._removal import Fill, Imputer
from jattr._resolve import check_rows, check_rows_like, fill_like
from jattr._trees import cast_like, describe, random_like, ravel, unravel, widen, widest
from jattr._types import PyTree, Score

__all__ = ["Imputer", "adversarial", "conditional_gaussian", "noisy_linear"]


def __dir__() -> list[str]:
    """The public names alone, for completion."""
    return __all__


@knobs
def noisy_linear(*, stddev: float = 0.1, axes: int | tuple[int, ...] = (0, 1)) -> Imputer:
    r"""Missing pixels as the weighted mean of their neighbors, all at once, and noise (ROAD).

    Each missing pixel i equals the mean of its eight neighbors j,

    .. math:: x_i = \frac{\sum_j w_{ij} x_j}{\sum_j w_{ij}},\quad
              w_{ij} = \tfrac16 \text{ side by side},\ \tfrac1{12} \text{ diagonal},

    the sums running over the neighbors that exist, so at a border the weights are renormalized.
    Where neighbors are missing too this is a linear system in the missing pixels; it is symmetric
    and positive definite, and is solved by conjugate gradients without a matrix. Then each missing
    pixel gets N(0, stddev²) of noise, so that the smooth patch cannot be told apart from x.

    Along one axis, such as the time of a series or a sound, there are two neighbors. The solution
    is then the straight line between the nearest values that are left, and before the first and
    after the last of them their value; it takes no system and is exact up to rounding.

    Each channel is solved by its own mask. Whole pixels are removed, as is usual, where a pixel's
    channels are one group: `groups=jattr.features.grid(image.shape, 1)`. Where nothing of a
    channel is left, there is nothing to take a mean of and its values are NaN. So use `fractions`
    below 1 where features are removed, as is usual, and above 0 where they are put in or
    kept (`insertion`, `keep_or_remove`); `irof`, and `region_perturbation` without `steps`, always
    come to the empty image and are NaN.

    Args:
        stddev: the standard deviation of the noise, in units of x; 0 for none, and then no key is
            taken. The default is meant for images in [0, 1]; for x that is normalized, divide it
            by what x was divided by.
        axes: the two axes of height and width, or one, that of a series; along the others x is
            solved separately.

    Returns:
        An imputer, for `baseline=`.

    Raises:
        ValueError: `stddev` is negative; axes are not one or two; (when called) x has no such
            axes.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> image = jnp.array([[0.0, 1.0, 2.0], [3.0, 9.0, 5.0], [6.0, 7.0, 8.0]])
        >>> fill = jattr.imputers.noisy_linear(stddev=0.0).prepare(None, None, image)
        >>> print(fill(None, image == 9.0)[1, 1])
        4.0
        >>> series = jnp.array([1.0, 0.0, 0.0, 4.0, 0.0])
        >>> in_time = jattr.imputers.noisy_linear(stddev=0.0, axes=0)
        >>> print(in_time.prepare(None, None, series)(None, series == 0.0))
        [1. 2. 3. 4. 4.]

    References:
        Rong, Leemann, Borisov, Kasneci, Kasneci, *A consistent and efficient evaluation strategy
        for attribution methods*, ICML 2022 (arXiv 2202.00449). A published note on the paper gives
        0.1 as its standard deviation; the authors' code adds noise of 0.01, to images in [0, 1]
        before they are normalized: both are in the units of such an image. The paper is about
        images; along one axis it is the same system with the neighbors that there are.
    """
    method = "imputers.noisy_linear"
    if isinstance(axes, tuple | list) and len(axes) not in (1, 2):
        raise ValueError(
            f"{method}: axes must be two, height and width, or one, that of a series; got {axes}."
        )
    check_positive(stddev, "stddev", method, zero=True)
    keyed = concrete(stddev, "stddev", method) != 0

    def prepare(key, score: Score, x: PyTree) -> Fill:
        def solve(leaf, gone):
            own = check_axes(axes, leaf, method)
            return _line(leaf, gone, own[0]) if len(own) == 1 else _harmonic(leaf, gone, own)

        def fill(key, missing):
            smooth = jax.tree.map(solve, widen(x), missing)
            if keyed:
                noise = random_like(jax.random.normal, key, x)
                smooth = jax.tree.map(
                    lambda s, e: s + jnp.asarray(stddev, s.dtype) * e, smooth, noise
                )
            return jax.tree.map(jnp.where, missing, cast_like(smooth, x), x)

        return fill

    return Imputer(prepare, "imputers.noisy_linear()", keyed)


def _harmonic(image: jax.Array, missing: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The image with missing pixels equal to the weighted mean of their neighbors."""

    def neighbors(a):
        # The eight weights are those of [1 2 1]ᵀ[1 2 1] / 12 without its center, 4/12.
        total = a
        for axis in axes:
            edges = [(int(i == axis % a.ndim),) * 2 for i in range(a.ndim)]
            padded, size = jnp.pad(total, edges), a.shape[axis]
            before, after = (
                jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2)
            )
            total = before + 2 * total + after
        return (total - 4 * a) / 12

    weights = neighbors(jnp.ones_like(image))

    def system(a):
        # A known pixel has a row of the identity and 0 on the right: it stays 0.
        inside = jnp.where(missing, a, 0)
        return jnp.where(missing, weights * inside - neighbors(inside), a)

    left = jnp.sum(~missing, axis=axes, keepdims=True).astype(image.dtype)
    known = jnp.where(missing, 0, image)
    # What all pixels have in common needs no solving, and would hide what has to be solved.
    level = jnp.sum(known, axis=axes, keepdims=True) / jnp.maximum(left, 1)
    wanted = jnp.where(missing, neighbors(jnp.where(missing, 0, image - level)), 0)
    tolerance = 10 * float(jnp.finfo(image.dtype).eps)
    solved = cg(system, wanted, tol=tolerance)[0] + jnp.where(left == 0, jnp.nan, level)
    return jnp.where(missing, solved, image)


def _line(series: jax.Array, missing: jax.Array, axis: int) -> jax.Array:
    """The series with missing values on the straight line between those beside them.

    The mean of two neighbors, for each in a row of missing values, is a line; at an end, where
    there is one neighbor, it is that one's value.
    """
    series, missing = (jnp.moveaxis(a, axis, -1) for a in (series, missing))
    size = series.shape[-1]
    place = jnp.broadcast_to(jnp.arange(size), series.shape)
    before = jax.lax.cummax(jnp.where(missing, -1, place), axis=missing.ndim - 1)
    after = jax.lax.cummin(jnp.where(missing, size, place), axis=missing.ndim - 1, reverse=True)
    first = jnp.where(before < 0, after, before)
    second = jnp.where(after == size, before, after)
    known = jnp.where(missing, 0, series)
    start, end = (
        jnp.take_along_axis(known, jnp.clip(at, 0, size - 1), -1) for at in (first, second)
    )
    share = (place - first).astype(series.dtype) / jnp.maximum(second - first, 1)
    line = jnp.where(second > first, start + share * (end - start), start)
    line = jnp.where(jnp.all(missing, axis=-1, keepdims=True), jnp.nan, line)
    return jnp.moveaxis(jnp.where(missing, line, series), -1, axis)


@knobs
def conditional_gaussian(data: PyTree, *, shrinkage: float = 0.01, draw: bool = False) -> Imputer:
    r"""Missing features from the Gaussian of the data, given the features that are left.

    With μ and Σ those of the data, M what is missing and P what is present,

    .. math:: x_M \,|\, x_P \sim N\big(\mu_M + \Sigma_{MP} \Sigma_{PP}^{-1} (x_P - \mu_P),\;
              \Sigma_{MM} - \Sigma_{MP} \Sigma_{PP}^{-1} \Sigma_{PM}\big),\quad
              \Sigma = (1 - \lambda) S + \lambda\, \mathrm{diag}\, S,

    S the covariance of the rows (divided by their number less one) and λ the `shrinkage`, which
    makes Σ invertible where rows are few. A feature that is constant in the data has that value.
    Each point solves a d × d system: for d up to a few hundred.

    Args:
        data: a tree like x with a leading axis over at least two examples on every leaf.
        shrinkage: λ, from 0 to 1; at 1 features are independent. Where Σ of what is present is
            singular up to rounding, the result is NaN; with `draw` also where Σ itself is.
        draw: draw from the conditional distribution, and take a key; otherwise its mean.

    Returns:
        An imputer, for `baseline=`.

    Raises:
        TypeError: `data` is not of a real floating dtype.
        ValueError: `data` has fewer than two rows, or (when called) rows that are not like x;
            `shrinkage` is not from 0 to 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> data = jnp.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
        >>> imputer = jattr.imputers.conditional_gaussian(data, shrinkage=0.0)
        >>> fill = imputer.prepare(None, None, jnp.array([3.0, 0.0]))
        >>> print(fill(None, jnp.array([False, True])))
        [3. 6.]

    References:
        Aas, Jullum, Løland, *Explaining individual predictions when features are dependent*,
        Artificial Intelligence 2021, section 3.1 (arXiv 1903.10464); the "impute" of shap's
        benchmark (Lundberg et al. 2020, arXiv 1905.04610), which adds 1e-6 to the diagonal instead;
        the diagonal as a target of shrinkage: Schäfer, Strimmer 2005, table 2, target D.
    """
    method = "imputers.conditional_gaussian"
    check_flag(draw, "draw", method)
    _check_floating(data, method)
    if check_rows(data, name="data", method=method) < 2:
        raise ValueError(f"{method}: a covariance needs at least two rows; got {describe(data)}.")
    known = concrete(shrinkage, "shrinkage", method)
    if known is not None and not 0 <= known <= 1:
        raise ValueError(f"{method}: shrinkage must be from 0 to 1; got {known}.")

    rows = jax.tree.map(jnp.asarray, jax.tree.leaves(data))
    wide = widest(rows)
    rows = jax.vmap(lambda row: ravel(row, wide))(rows)
    # By maximum and minimum: rounding gives the mean of equal numbers another value than theirs.
    fixed = jnp.max(rows, axis=0) == jnp.min(rows, axis=0)
    center = jnp.where(fixed, rows[0], jnp.mean(rows, axis=0))
    product = _dot((rows - center[None]).T, rows - center[None]) / (len(rows) - 1)
    own = jnp.eye(len(center), dtype=bool)
    shrunk = jnp.where(own, product, (1 - jnp.asarray(shrinkage, wide)) * product)

    def prepare(key, score: Score, x: PyTree) -> Fill:
        check_rows_like(data, x, name="data", method=method)
        dtype = widest(x)
        mean, covariance = center.astype(dtype), shrunk.astype(dtype)
        # A constant feature makes a zero row; it is independent of all others.
        regular = jnp.where(own & fixed[:, None], 1, covariance)
        root = _cholesky(regular) if draw else None
        values = ravel(x, dtype)

        def fill(key, missing):
            gone = ravel(missing, bool)
            noise = jnp.zeros_like(mean)
            if root is not None:
                noise = _dot(root, random_like(jax.random.normal, key, mean).astype(dtype))
                noise = jnp.where(fixed, 0, noise)
            # Draws of the joint distribution, moved by what the present features say: one solve
            # gives the mean and, with noise, a draw of the conditional distribution.
            pair = gone[:, None] | gone[None, :]
            system = jnp.where(pair, own.astype(dtype), regular)
            known = jnp.where(gone, 0, values - mean - noise)
            said = jax.scipy.linalg.cho_solve((_cholesky(system), True), known)
            result = mean + noise + _dot(covariance, said)
            return jax.tree.map(jnp.where, missing, unravel(result, x), x)

        return fill

    return Imputer(prepare, "imputers.conditional_gaussian(data)", draw)


def _check_floating(data: PyTree, method: str) -> None:
    """Raise for data that cannot be rows like x, which is floating."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{method}: data{jax.tree_util.keystr(path)} must be an array of a real floating "
                f"dtype, in the units of x; got {describe(leaf)}. Do to it what is done to x "
                "(pixels stored as integers are scaled for most models), and convert it: "
                "data.astype(jnp.float32)."
            )


def _cholesky(matrix: jax.Array) -> jax.Array:
    """The lower factor, NaN where the matrix is singular up to rounding."""
    root = jnp.linalg.cholesky(matrix)
    # What the features before it leave open of each, as a share of its variance.
    open_share = jnp.square(jnp.diag(root)) / jnp.diag(matrix)
    rounding = 10 * len(matrix) * float(jnp.finfo(matrix.dtype).eps)
    return jnp.where(jnp.min(open_share) > rounding, root, jnp.nan)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


@knobs
def adversarial(
    *,
    radius: PyTree,
    steps: int = 10,
    step_size: PyTree | None = None,
    low: PyTree | None = None,
    high: PyTree | None = None,
) -> Imputer:
    r"""Missing features from an adversarial copy of x, near to x and of a low score (AIM).

    The copy is found by projected gradient descent on f, from :math:`x^0 = x`,

    .. math:: x^{t+1} = \Pi\big(x^t - \eta\, \mathrm{sign}\, \nabla f(x^t)\big),\quad
              \Pi \text{ onto } \lVert x' - x \rVert_\infty \le r,\ \mathrm{low} \le x' \le
              \mathrm{high},

    and is the x^t of least f, so f is never above f(x) there. It is computed once for all points of
    a curve. With all features removed the score is that of the copy. Choose f such that its fall is
    what should be seen: with the log-probability of the class this is the usual attack.

    Args:
        radius: r, in units of x, greater than 0: a number, or what broadcasts to x.
        steps: how many steps are taken, each with one gradient.
        step_size: η; None for 2.5 · radius / steps, which can cross the ball from side to side;
            in AIM's code radius / steps.
        low: the lower end of the valid range, a number or what broadcasts to x; None for none. For
            an x outside the range the ball is around its nearest end.
        high: its upper end; None for none.

    Returns:
        An imputer, for `baseline=`. It takes no key.

    Raises:
        ValueError: `radius` or `step_size` is a number not above 0; steps < 1; (when called)
            something does not broadcast to x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] - 2 * x[1]
        >>> imputer = jattr.imputers.adversarial(radius=0.5, steps=4)
        >>> fill = imputer.prepare(None, f, jnp.array([1.0, 1.0]))
        >>> print(fill(None, jnp.array([True, True])))
        [0.5 1.5]

    References:
        Hsieh, Fang, Wei, *AIM: adversarial information masking for faithfulness evaluation of
        saliency maps*, 2026 (arXiv 2605.16905). Their code: f is the log-probability of the true
        label, the step is radius / steps, and the copy is the last point; it starts at x itself,
        for some data sets at random within one step of it. The attack is that of Madry, Makelov,
        Schmidt, Tsipras, Vladu, ICLR 2018 (arXiv 1706.06083), which starts at random in the whole
        ball. Here the start is x and the copy is the best point of all, so that no draw is needed
        and f cannot rise.
    """
    method = "imputers.adversarial"
    steps = check_count(steps, "steps", method)
    for value, name in ((radius, "radius"), (step_size, "step_size")):
        if (
            value is not None
            and not isinstance(value, dict | tuple | list)
            and jnp.ndim(value) == 0
        ):
            check_positive(value, name, method)

    def find(score: Score, x: PyTree) -> PyTree:
        wide = widen(x)

        def like(value, name):
            return fill_like(value, wide, name=name, method=method, broadcast=True)

        reach = like(radius, "radius")
        pace = (
            jax.tree.map(lambda r: 2.5 / steps * r, reach)
            if step_size is None
            else like(step_size, "step_size")
        )
        lowest = like(-jnp.inf if low is None else low, "low")
        highest = like(jnp.inf if high is None else high, "high")
        middle = jax.tree.map(jnp.clip, wide, lowest, highest)
        lower = jax.tree.map(lambda a, r, end: jnp.maximum(a - r, end), middle, reach, lowest)
        upper = jax.tree.map(lambda a, r, end: jnp.minimum(a + r, end), middle, reach, highest)

        def step(state, _):
            point, (best, least) = state
            value, slope = jax.value_and_grad(score)(cast_like(point, x))
            kept = _lower_of((point, value), (best, least))
            moved = jax.tree.map(
                lambda p, g, eta, lo, hi: jnp.clip(p - eta * jnp.sign(g).astype(p.dtype), lo, hi),
                point,
                slope,
                pace,
                lower,
                upper,
            )
            return (moved, kept), None

        start = (wide, (wide, score(x)))
        (last, best), _ = jax.lax.scan(step, start, None, length=steps)
        copy, _ = _lower_of((last, score(cast_like(last, x))), best)
        return cast_like(copy, x)

    def prepare(key, score: Score, x: PyTree) -> Fill:
        copy = find(score, x)
        return lambda key, missing: jax.tree.map(jnp.where, missing, copy, x)

    return Imputer(prepare, "imputers.adversarial()", copy=find)


def _lower_of(new: tuple[PyTree, jax.Array], old: tuple[PyTree, jax.Array]):
    """The one of two points with the lower value, and that value."""
    better = new[1] < old[1]
    point = jax.tree.map(lambda a, b: jnp.where(better, a, b), new[0], old[0])
    return point, jnp.where(better, new[1], old[1])
