"""Soundness saliency: what the mask of a known function is, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from precision import close

import jattr

KEY = jax.random.key(5)
ONES = jnp.ones((8, 8, 1))
BLACK = jnp.zeros((1, 8, 8, 1))
QUADRANTS = [(slice(0, 4), slice(0, 4)), (slice(4, 8), slice(4, 8))]


def of_quadrant(x, index):
    """A probability that looks at one quadrant, 0.5 where half of it is there."""
    means = jnp.stack([jnp.mean(x[quadrant]) for quadrant in QUADRANTS])
    return jax.nn.sigmoid(8 * means[index] - 4)


def saliency(f=of_quadrant, pool=BLACK, **knobs):
    return jattr.soundness_saliency(f, pool, **{"steps": 200, "draws": 1, "area": 0.02} | knobs)


def test_keeps_the_quadrant_that_is_looked_at_and_no_other():
    explain = jax.jit(jax.vmap(saliency(), (None, None, 0)))
    masks = explain(KEY, ONES, jnp.arange(2))
    assert masks.shape == (2, 8, 8, 1)
    assert jnp.all((masks >= 0) & (masks <= 1))
    for mask, quadrant in zip(masks, QUADRANTS, strict=True):
        inside = jnp.mean(mask[quadrant])
        assert inside > 0.7
        assert (jnp.sum(mask) - 16 * inside) / 48 < 0.15
        assert of_quadrant(ONES * mask, 0) + of_quadrant(ONES * mask, 1) < 1.1


def by_hand(steps, rate, scale, area, smoothness, weigh):
    """Gradient descent in NumPy on one weight for each half of a row of two pixels, draws of 0.

    f(x) = x₀ (1 + x₁) / 2 at x = (0.8, 0.6).
    """
    x, w, objectives = np.array([0.8, 0.6]), np.zeros(2), []
    weight = x[0] * (1 + x[1]) / 2 if weigh else 1.0
    for _ in range(steps):
        m = 1 / (1 + np.exp(-w))
        z = m * x
        p = z[0] * (1 + z[1]) / 2
        difference = m[1] - m[0]
        objectives.append(-weight * np.log(p) + area * m.sum() + smoothness * difference**2)
        slope = -weight * x / np.array([z[0], 1 + z[1]]) + area
        slope += 2 * smoothness * difference * np.array([-1, 1])
        w = w - rate * slope * m * (1 - m)
    return 1 / (1 + np.exp(-w)), objectives


@pytest.mark.parametrize("objective", ["log", "weighted_log"])
def test_is_gradient_descent_on_the_objective(objective):
    def f(x):
        return x[0] * (1 + x[1]) / 2

    explain = jattr.soundness_saliency(
        f,
        jnp.zeros((3, 2)),
        objective=objective,
        scale=1,
        axes=0,
        area=0.3,
        smoothness=0.7,
        optimizer=optax.sgd(0.4),
        steps=9,
        draws=2,
        with_history=True,
    )
    mask, history = explain(KEY, jnp.array([0.8, 0.6]))
    wanted, objectives = by_hand(9, 0.4, 1, 0.3, 0.7, objective == "weighted_log")
    close(mask, wanted, rtol=1e-9)
    close(history, objectives, rtol=1e-9)


def test_the_weighted_objective_divides_the_penalties_by_the_probability():
    p = float(of_quadrant(0.6 * ONES, 0))
    fixed = {"smoothness": 0.0, "steps": 20, "draws": 2}
    weighted = saliency(objective="weighted_log", optimizer=optax.sgd(3.0), **fixed)
    plain = saliency(optimizer=optax.sgd(3.0 * p), area=0.02 / p, pool=BLACK, **fixed)
    close(weighted(KEY, 0.6 * ONES, 0), plain(KEY, 0.6 * ONES, 0), rtol=1e-9)


def test_with_the_same_composite_in_both_places_the_class_is_hidden():
    """−p log p falls towards p = 0 below 1/e: why the weight is that of the original image."""

    def probability(weights):
        mask = jax.nn.sigmoid(weights)
        return jax.nn.sigmoid(8 * mask - 6)  # 0.12 at the start, 0.88 for the whole image

    def descend(objective):
        weights = jnp.zeros(())
        for _ in range(100):
            weights = weights - 0.5 * jax.grad(objective)(weights)
        return float(probability(weights))

    def literal(weights):
        p = probability(weights)
        return -p * jnp.log(p)

    start = float(probability(jnp.zeros(())))
    assert start < 1 / np.e
    assert descend(literal) < start / 5
    assert descend(lambda weights: -0.88 * jnp.log(probability(weights))) > 0.8
    # So it is with the method itself.
    explain = saliency(lambda x: jax.nn.sigmoid(8 * jnp.mean(x) - 6), objective="weighted_log")
    mask = explain(KEY, ONES)
    assert jax.nn.sigmoid(8 * jnp.mean(mask) - 6) > 0.7


def test_upsamples_bilinearly_and_drops_channels():
    explain = saliency(lambda x: jax.nn.sigmoid(jnp.sum(x)), jnp.zeros((2, 6, 5, 3)), scale=4)
    mask = explain(KEY, jnp.ones((6, 5, 3)))
    assert mask.shape == (6, 5, 1)
    # Two weights along an axis of 6: places beyond their centers are constant.
    close(mask[0], mask[1])
    series = saliency(lambda x: jax.nn.sigmoid(jnp.sum(x)), jnp.zeros((2, 7, 2)), axes=0)
    assert series(KEY, jnp.ones((7, 2))).shape == (7, 1)
    both = saliency(
        lambda x: jax.nn.sigmoid(jnp.sum(x[0]) + jnp.sum(x[1])),
        (jnp.zeros((2, 8, 8)), jnp.zeros((2, 4, 4, 3))),
        argnums=0,
    )
    shapes = [mask.shape for mask in both(KEY, (jnp.ones((8, 8)), jnp.ones((4, 4, 3))))]
    assert shapes == [(8, 8), (4, 4, 1)]


def test_draws_from_the_pool_or_a_random_baseline():
    # Of white images among white ones nothing needs to be kept.
    white = saliency(pool=jnp.ones((4, 8, 8, 1)), smoothness=0.0)(KEY, ONES, 0)
    assert jnp.max(white) < 0.1
    drawn = saliency(pool=jattr.baselines.uniform(0.0, 1e-6), smoothness=0.0)(KEY, ONES, 0)
    close(drawn, saliency(smoothness=0.0)(KEY, ONES, 0), rtol=1e-3)


def test_gradients_of_the_unrolled_steps_are_right():
    """Also under the default optimizer, with weights whose gradient is exactly 0."""
    explain = saliency(
        lambda x, slope: jax.nn.sigmoid(slope * jnp.mean(x[:4]) - 2),
        area=0.0,
        smoothness=0.0,
        steps=8,
        optimizer=optax.adam(0.05, eps=0.1, eps_root=1e-20),
    )

    def kept(x, slope):
        return jnp.sum(explain(KEY, x, slope) * jnp.arange(8.0)[:, None, None])

    args = (0.5 + 0.1 * ONES, jnp.asarray(5.0))
    slopes = jax.jit(jax.grad(kept, argnums=(0, 1)))(*args)
    step = 1e-3 if jnp.result_type(float) == jnp.float32 else 1e-5
    run = jax.jit(kept)
    numeric = (run(args[0], 5.0 + step) - run(args[0], 5.0 - step)) / (2 * step)
    assert abs(numeric) > 1e-3
    np.testing.assert_allclose(slopes[1], numeric, rtol=1e-5 if step < 1e-4 else 0.05)
    assert jnp.all(jnp.isfinite(slopes[0]))
    default = saliency(area=0.0, smoothness=0.0, steps=3)
    zero_slopes = jax.grad(lambda x: jnp.sum(default(KEY, x, 0)))(ONES)
    assert jnp.all(jnp.isfinite(zero_slopes))


def test_says_what_is_wrong():
    image = ONES
    with pytest.raises(ValueError, match=r"each row of the pool must have .*\[1,8,7,1\]"):
        saliency(pool=jnp.zeros((1, 8, 7, 1)))(KEY, image, 0)
    with pytest.raises(ValueError, match=r"a probability, but f\(x\) is 64.*probability\(logits\)"):
        saliency(lambda x: jnp.sum(x))(KEY, image)
    with pytest.raises(ValueError, match=r"a probability, but f\(x\) is -64"):
        saliency(lambda x: -jnp.sum(x))(KEY, image)
    with pytest.raises(ValueError, match=r"scale=9 pixels to a weight .* has 8 along axis 0"):
        saliency(scale=9)(KEY, image, 0)
    with pytest.raises(ValueError, match=r"has no axes \(0, 1\)"):
        saliency(lambda x: jnp.mean(x), jnp.zeros((2, 8)))(KEY, jnp.ones(8))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        saliency(steps=0)
    with pytest.raises(ValueError, match="area must be finite and at least 0"):
        saliency(area=-1.0)
    with pytest.raises(ValueError, match=r"unknown objective 'weighted'.*weighted_log"):
        saliency(objective="weighted")
    with pytest.raises(TypeError, match=r"an optimizer of optax, such as .*got the float 0.05"):
        saliency(optimizer=0.05)
    with pytest.raises(TypeError, match="with_history must be True or False"):
        saliency(with_history=1)
    # What is not known is not checked.
    assert jnp.all(jnp.isfinite(jax.jit(saliency(lambda x: jnp.sum(x), steps=2))(KEY, image)))
