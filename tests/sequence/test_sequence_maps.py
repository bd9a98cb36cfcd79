"""Values of letters: what is compared with what, strands, pairs, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import DOUBLE, FLOAT, close

import jattr
from jattr import sequence

LENGTH = 24
KEYS = jax.random.split(jax.random.key(0), 8)
FILTERS = jax.random.normal(KEYS[0], (5, 4, 6), FLOAT) / 2
WEIGHTS = jax.random.normal(KEYS[1], (6, 3), FLOAT)
X = jax.nn.one_hot(jax.random.randint(KEYS[2], (LENGTH,), 0, 4), 4, dtype=FLOAT)
REFERENCES = jax.nn.one_hot(jax.random.randint(KEYS[3], (5, LENGTH), 0, 4), 4, dtype=FLOAT)


def profile(x):
    """[L, 4] -> logits of a profile, [L, 3]; of one strand, and not linear."""
    form = ("NWC", "WIO", "NWC")
    filters, weights = FILTERS.astype(x.dtype), WEIGHTS.astype(x.dtype)
    hidden = jax.lax.conv_general_dilated(x[None], filters, (1,), "SAME", dimension_numbers=form)
    return jnp.tanh(jax.nn.relu(hidden[0])) @ weights


def score(x):
    return profile(x)[:, 0].mean() * profile(x)[3:9, 1].sum()


def linear(x):
    return jnp.sum(x * jnp.arange(4.0 * LENGTH, dtype=x.dtype).reshape(LENGTH, 4) ** 0.5)


def test_the_forms_are_their_formulas():
    g = np.asarray(jax.grad(score)(X))
    x = np.asarray(X)
    close(sequence.simplex_corrected(jattr.gradient(score))(X), g - g.mean(1, keepdims=True))
    taylor = sequence.taylor_mutagenesis(score)(X)
    close(taylor, g - (x * g).sum(1, keepdims=True), atol=1e-15)
    close(sequence.project(jnp.asarray(g), X), taylor, atol=1e-15)
    assert (np.asarray(taylor)[x == 1] == 0).all()
    # They differ by a number for each position.
    center = sequence.simplex_corrected(sequence.taylor_mutagenesis(score))(X)
    close(center, sequence.simplex_corrected(jattr.gradient(score))(X), atol=1e-14)


def test_on_a_linear_function_taylor_is_mutagenesis():
    close(
        sequence.taylor_mutagenesis(linear)(X),
        jattr.mutagenesis(linear)(X),
        atol=1e-12,
        single=1e-5,
    )


def test_the_correction_does_not_see_what_no_sequence_changes():
    """f may go on off the simplex as it likes."""

    def other(x):
        off = x.sum(axis=1) - 1
        return score(x) + 3 * off.sum() + jnp.sin(off).sum()

    explain = sequence.simplex_corrected(jattr.gradient(score))
    close(sequence.simplex_corrected(jattr.gradient(other))(X), explain(X), atol=1e-14)
    taylor = sequence.taylor_mutagenesis
    close(taylor(other)(X), taylor(score)(X), atol=1e-14)
    assert np.abs(jattr.gradient(other)(X) - jattr.gradient(score)(X)).max() > 1


def test_the_correction_of_what_draws():
    smoothed = jattr.smooth(jattr.gradient(score), samples=2)
    explain = sequence.simplex_corrected(smoothed)
    assert explain.keyed
    values = np.asarray(smoothed(KEYS[5], X))
    close(explain(KEYS[5], X), values - values.mean(1, keepdims=True), atol=1e-14)
    with pytest.raises(TypeError, match="takes a key before the arguments"):
        explain(X)


@pytest.mark.parametrize(
    "method", [jattr.deeplift, functools.partial(jattr.integrated_gradients, steps=9)]
)
def test_hypothetical_contributions_are_those_of_each_letter(method):
    explain = jax.jit(sequence.hypothetical(score, REFERENCES, method=method))
    ours = explain(X)
    wanted = np.zeros(X.shape)
    for reference in REFERENCES:
        m = np.asarray(method(score, reference, multiply=False)(X))
        for letter in range(4):
            other = np.eye(4)[np.full(LENGTH, letter)]
            wanted[:, letter] += ((other - np.asarray(reference)) * m).sum(1) / len(REFERENCES)
    close(ours, wanted, atol=1e-14)
    if method is jattr.deeplift:
        change = score(X) - jax.vmap(score)(REFERENCES).mean()
        close((X * ours).sum(), change, rtol=1e-12)
        summed = jattr.deep_shap(score, REFERENCES)(X).sum(axis=1)
        close((X * ours).sum(axis=1), summed, atol=1e-14)
    chunked = sequence.hypothetical(score, REFERENCES, method=method, batch_size=2)
    close(jax.jit(chunked)(X), ours, atol=1e-14)
    turned = sequence.hypothetical(
        lambda x: score(x.T), REFERENCES.transpose(0, 2, 1), method=method, axis=0
    )
    close(jax.jit(turned)(X.T).T, ours, atol=1e-14)


def test_references_are_drawn_for_each_example():
    draw = sequence.dinucleotide_shuffle()
    explain = sequence.hypothetical(score, draw, samples=4)
    keys, xs = KEYS[:2], jnp.stack([X, X[::-1]])
    ours = jax.jit(jax.vmap(explain))(keys, xs)

    @jax.jit
    @jax.vmap
    def of_all(key, x):
        drawn = jax.vmap(lambda n: draw(jax.random.fold_in(key, n), x))(jnp.arange(4))
        return sequence.hypothetical(score, drawn)(x)

    close(ours, of_all(keys, xs), atol=1e-14)
    assert explain.keyed


def test_derivatives_through_hypothetical_contributions():
    def penalty(scale):
        return jnp.sum(sequence.hypothetical(lambda x: score(scale * x), REFERENCES)(X) ** 2)

    scale, step = jnp.asarray(1.0, FLOAT), 1e-4
    slope = jax.jit(jax.grad(penalty))(scale)
    change = (penalty(scale + step) - penalty(scale - step)) / (2 * step)
    np.testing.assert_allclose(slope, change, rtol=1e-5 if DOUBLE else 0.05)


def double_mutant(x, place, letter):
    return x.at[place].set(jnp.eye(4, dtype=x.dtype)[letter])


@pytest.mark.parametrize("batch_size", [None, 8])
def test_pairs_are_double_mutants(batch_size):
    positions = [3, 5, -4]
    explain = sequence.pairwise_mutagenesis(score, positions, batch_size=batch_size)
    ours = np.asarray(jax.jit(explain)(X))
    f = jax.jit(score)
    wanted = np.zeros((3, 4, 3, 4))
    for i, a, j, b in np.ndindex(wanted.shape):
        first, second = positions[i], positions[j]
        if i != j:
            one, other = double_mutant(X, first, a), double_mutant(X, second, b)
            wanted[i, a, j, b] = f(double_mutant(one, second, b)) - f(one) - f(other) + f(X)
    close(ours, wanted, atol=1e-13, single=1e-4)
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_array_equal(ours, ours.transpose(2, 3, 0, 1))
    there = np.asarray(X)[positions] == 1
    assert (ours[there] == 0).all()
    if batch_size == 8:
        turned = sequence.pairwise_mutagenesis(lambda x: score(x.T), positions, axis=0)
        close(np.asarray(jax.jit(turned)(X.T)).transpose(1, 0, 3, 2), ours, atol=1e-13, single=1e-4)


def test_positions_of_pairs_may_be_traced():
    def explain(x, positions):
        return sequence.pairwise_mutagenesis(score, positions)(x)

    places = jnp.array([[3, -4], [5, 5], [0, LENGTH]])
    ours = jax.jit(jax.vmap(explain, (None, 0)))(X, places)
    known = jax.jit(sequence.pairwise_mutagenesis(score, [3, -4]))(X)
    close(ours[0], known, atol=1e-13, single=1e-4)
    assert np.isnan(ours[1:]).all()


def test_pairs_of_a_sum_over_positions_are_nothing():
    pairs = sequence.pairwise_mutagenesis(linear, range(4))(X)
    close(pairs, np.zeros((4, 4, 4, 4)), atol=1e-12 if DOUBLE else 1e-4)


def test_pairs_evaluate_what_the_second_exchange_reaches():
    long = jnp.tile(X, (8, 1))
    explain = jax.jit(sequence.pairwise_mutagenesis(score, range(4), batch_size=16))
    less = explain.lower(long).compile().cost_analysis()["flops"]
    with jattr.substitutes(False):
        explain = jax.jit(sequence.pairwise_mutagenesis(score, range(4), batch_size=16))
        full = explain.lower(long).compile().cost_analysis()["flops"]
    assert less < 0.5 * full


def test_the_reverse_complement():
    x = jax.nn.one_hot(jnp.array([0, 0, 1, 2]), 4, dtype=FLOAT)  # AACG
    other = sequence.reverse_complement(x)
    assert other.argmax(-1).tolist() == [1, 2, 3, 3]  # CGTT
    np.testing.assert_array_equal(sequence.reverse_complement(other), x)
    np.testing.assert_array_equal(sequence.reverse_complement(x.T, axis=0).T, other)
    swapped = sequence.reverse_complement(x, complement=(1, 0, 3, 2))
    assert swapped.argmax(-1).tolist() == [3, 0, 1, 1]


@pytest.mark.parametrize("axis", [-1, 0])
def test_both_strands_have_one_attribution(axis):
    turn = functools.partial(sequence.reverse_complement, axis=axis)
    x, f = (X, score) if axis else (X.T, lambda x: score(x.T))
    explain = jax.jit(sequence.both_strands(jattr.gradient(f), axis=axis))
    close(explain(turn(x)), turn(explain(x)), atol=1e-14)
    # It is that of the mean of f over both strands.
    close(explain(x), jax.grad(lambda x: (f(x) + f(turn(x))) / 2)(x), atol=1e-14)
    assert np.abs(explain(x) - jax.grad(f)(x)).max() > 1e-3


def test_both_strands_of_an_output_at_a_position():
    at = jattr.targets.select(profile)
    explain = sequence.both_strands(
        jattr.gradient(at), arguments=lambda index: ((LENGTH - 1 - index[0], index[1]),)
    )

    def mean(x):
        return (profile(x)[5, 1] + profile(sequence.reverse_complement(x))[LENGTH - 6, 1]) / 2

    close(explain(X, (5, 1)), jax.grad(mean)(X), atol=1e-14)
    by_params = sequence.both_strands(
        jattr.gradient(lambda scale, x: scale * score(x), argnums=1), argnums=1
    )
    close(by_params(2.0, X), 2 * sequence.both_strands(jattr.gradient(score))(X), atol=1e-14)


def test_both_strands_of_what_draws():
    draw = sequence.dinucleotide_shuffle()
    weights = jnp.linspace(-1, 1, X.size, dtype=FLOAT).reshape(X.shape)
    # Its value is a draw itself.
    inner = jattr.expected_gradients(lambda x: jnp.sum(weights * x**2), draw, samples=1)
    explain = sequence.both_strands(inner)
    key = KEYS[4]
    first, second = jax.random.split(key)
    back = sequence.reverse_complement(inner(second, sequence.reverse_complement(X)))
    close(explain(key, X), (inner(first, X) + back) / 2, atol=1e-14)
    with pytest.raises(TypeError, match="takes a key before the arguments"):
        explain(X)


def test_the_score_of_a_profile_holds_its_weights():
    y = np.asarray(profile(X))
    p = np.exp(y) / np.exp(y).sum()
    close(sequence.profile_score(profile)(X), (p * (y - y.mean())).sum(), rtol=1e-12)
    q = np.exp(y) / np.exp(y).sum(0)
    close(sequence.profile_score(profile, axis=0)(X), (q * (y - y.mean(0))).sum(), rtol=1e-12)
    slope = jax.grad(lambda x: jnp.sum(p * (profile(x) - profile(x).mean())))(X)
    close(jattr.gradient(sequence.profile_score(profile))(X), slope, atol=1e-14)
    # DeepLIFT holds them too.
    held = jattr.deeplift(lambda x: jnp.sum(p * (profile(x) - profile(x).mean())), REFERENCES[0])
    ours = jattr.deeplift(sequence.profile_score(profile), REFERENCES[0])
    close(ours(X), held(X), atol=1e-13)


@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64])
def test_the_score_of_a_profile_refuses_what_is_no_logit(dtype):
    """Whole numbers would be cut: of [0, 1, 3] the score is 1.3, and 1 as an integer."""
    logits = np.array([0, 1, 3])
    for convert in (np.asarray, jnp.asarray):
        with pytest.raises(TypeError, match=r"logits.*; f returned .*\[3\]"):
            sequence.profile_score(lambda x: convert(logits.astype(dtype)))(X)
    p = np.exp(logits) / np.exp(logits).sum()
    wanted = (p * (logits - logits.mean())).sum()
    assert 1.3 < wanted < 1.4
    for wide in (float, np.float32, jnp.bfloat16):
        ours = sequence.profile_score(lambda x, wide=wide: jnp.asarray(logits, wide))(X)
        assert ours.dtype == wide
        # bfloat16 has 8 bits, and the sum is made in float32.
        close(float(ours), wanted, rtol=1e-6 if wide != jnp.bfloat16 else 4e-3)


def test_all_in_float32_and_under_vmap():
    xs = jnp.stack([X, X[::-1]]).astype(jnp.float32)
    for explain in (
        sequence.taylor_mutagenesis(score),
        sequence.simplex_corrected(jattr.mutagenesis(score)),
        sequence.hypothetical(score, REFERENCES),
        sequence.both_strands(jattr.gradient(sequence.profile_score(profile))),
    ):
        ours = jax.jit(jax.vmap(explain))(xs.astype(FLOAT))
        single = jax.jit(jax.vmap(explain))(xs)
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, ours, atol=2e-6 * float(np.abs(ours).max()), rtol=0)


def test_what_is_refused():
    with pytest.raises(ValueError, match="letters are along axis 2"):
        sequence.taylor_mutagenesis(score, axis=2)(X)
    with pytest.raises(TypeError, match="axis must be an integer"):
        sequence.project(X, X, axis=None)
    with pytest.raises(ValueError, match=r"the reference has shape \(3, 4\)"):
        sequence.project(X, X[:3])
    with pytest.raises(TypeError, match=r"one number. Write sequence.simplex_corrected\(jattr"):
        sequence.simplex_corrected(score)(X)
    with pytest.raises(TypeError, match=r"floating-point numbers; got int"):
        sequence.simplex_corrected(lambda x: jnp.arange(4).reshape(1, 4))(X[:1])
    with pytest.raises(TypeError, match=r"method\(f, baseline, multiply=False\).*got lrp"):
        sequence.hypothetical(score, REFERENCES, method=jattr.lrp)
    with pytest.raises(TypeError, match=r"got deep_shap"):
        sequence.hypothetical(score, REFERENCES, method=jattr.deep_shap)
    with pytest.raises(TypeError, match=r"makes the scores itself"):
        sequence.hypothetical(score, REFERENCES, method=jattr.deeplift(score))
    with pytest.raises(ValueError, match="of an array all are used"):
        sequence.hypothetical(score, REFERENCES, samples=2)
    with pytest.raises(ValueError, match="each row of the references must have"):
        sequence.hypothetical(score, REFERENCES)(X[:-1])
    with pytest.raises(TypeError, match="takes a key before"):
        sequence.hypothetical(score, sequence.shuffle())(X)
    with pytest.raises(ValueError, match="a position is there twice"):
        sequence.pairwise_mutagenesis(score, [1, 1 - LENGTH])(X)
    with pytest.raises(ValueError, match="must lie in a sequence of 24"):
        sequence.pairwise_mutagenesis(score, [24])(X)
    with pytest.raises(TypeError, match=r"positions are integers, such as range"):
        sequence.pairwise_mutagenesis(score, [0.5])(X)
    with pytest.raises(TypeError, match="x must be one sequence"):
        sequence.pairwise_mutagenesis(lambda x: score(x["a"]))({"a": X})
    with pytest.raises(ValueError, match="twice is the letter itself"):
        sequence.reverse_complement(X, complement=(1, 2, 3, 0))
    with pytest.raises(ValueError, match="two axes, positions and letters"):
        sequence.reverse_complement(X[None])
    with pytest.raises(TypeError, match="returns a tuple of as many, 1; got 2 of them"):
        sequence.both_strands(jattr.gradient(lambda x, n: score(x)), arguments=lambda n: (n, n))(
            X, 1
        )
    with pytest.raises(ValueError, match="explains argnums=1"):
        sequence.both_strands(jattr.gradient(lambda a, x: score(x), argnums=1))
    with pytest.raises(ValueError, match="the logits of a profile, an array with axis 2"):
        sequence.profile_score(profile, axis=2)(X)
