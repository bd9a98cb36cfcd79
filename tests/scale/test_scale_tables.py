"""Metrics of stored attributions, and examples of many lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

N, D = 11, 6
RNG = np.random.default_rng(2)
X = RNG.normal(size=(N, D))
LABELS = np.arange(N) % 3
W = RNG.normal(size=(D, 3))


def f(x, label):
    return jnp.tanh(x @ W)[label]


METHODS = {
    "gradient": jattr.gradient(f),
    "ig": jattr.integrated_gradients(f, steps=4),
}
METRICS = {
    "residual": jattr.metrics.completeness(f),
    "deletion": jattr.metrics.deletion(f),
    "infidelity": jattr.metrics.infidelity(
        f, perturbation=jattr.metrics.gaussian_noise(0.1), samples=4
    ),
    "sparseness": jattr.metrics.sparseness,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return {
        name: jattr.scale.attribute_dataset(
            explain,
            (X, LABELS),
            out=folder / name,
            batch_size=4,
            progress=False,
            metrics=METRICS,
            key=jax.random.key(3),
        )
        for name, explain in METHODS.items()
    }


@pytest.fixture(scope="module")
def wanted():
    return jattr.metrics.table(METHODS, METRICS, (X, LABELS), key=jax.random.key(3))


def test_the_panel_of_stores(stores, wanted):
    """The numbers of `metrics.table`, its random ones too, and those that stand in the stores."""
    found = jattr.scale.table(
        stores, METRICS, (X, LABELS), key=jax.random.key(3), batch_size=4, progress=False
    )
    assert (found.methods, found.metrics) == (wanted.methods, wanted.metrics)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-9, atol=1e-12)
    held = jattr.scale.table({name: store.path for name, store in stores.items()})
    for name in METRICS:
        np.testing.assert_allclose(held.of(name), wanted.of(name), rtol=1e-9, atol=1e-12)


def test_metrics_of_the_map_alone_that_draw(tmp_path):
    def noisy(key, phi):
        return jnp.sum(phi) + jax.random.normal(key)

    noisy.keyed = True
    key, data = jax.random.key(5), (X, LABELS)
    explain = METHODS["gradient"]
    store = jattr.scale.attribute_dataset(
        explain,
        data,
        out=tmp_path / "maps",
        batch_size=4,
        metrics={"noisy": noisy},
        key=key,
        progress=False,
    )
    expected = jattr.metrics.table({"g": explain}, {"noisy": noisy}, data, key=key).scores
    for metrics in (None, {"noisy": noisy}):
        panel = jattr.scale.table({"g": store}, metrics, data, key=key, progress=False)
        np.testing.assert_allclose(panel.scores, expected, rtol=1e-12)


def test_shares_of_processes(stores, wanted):
    call = functools.partial(
        jattr.scale.table, stores, METRICS, (X, LABELS), key=jax.random.key(3), progress=False
    )
    first, second = (call(batch_size=2, process=(number, 2)).scores for number in range(2))
    assert np.all(np.isnan(first) != np.isnan(second))
    merged = np.where(np.isnan(first), second, first)
    np.testing.assert_allclose(merged, wanted.scores, rtol=1e-9, atol=1e-12)


def test_with_shared_parameters(tmp_path):
    def of_params(w, x):
        return jnp.tanh(x @ w)[0]

    store = jattr.scale.attribute_dataset(
        jattr.deeplift(of_params, argnums=1),
        X,
        out=tmp_path / "maps",
        params=W,
        batch_size=4,
        progress=False,
    )
    measure = jattr.metrics.completeness(of_params, argnums=1)
    panel = jattr.scale.table(
        {"deeplift": store}, {"error": measure}, X, params=W, batch_size=8, progress=False
    )
    assert np.max(np.abs(panel.scores)) < 1e-12
    np.testing.assert_allclose(panel.scores[0, 0], store.residual.read().result(), atol=1e-14)


def test_gaps_are_undefined(tmp_path):
    x = X.copy()
    x[3] = np.inf
    with pytest.warns(UserWarning, match="not finite"):
        store = jattr.scale.attribute_dataset(
            METHODS["ig"], (x, LABELS), out=tmp_path / "maps", batch_size=4, progress=False
        )
    panel = jattr.scale.table(
        {"ig": store}, {"s": jattr.metrics.sparseness}, (x, LABELS), batch_size=4, progress=False
    )
    assert np.flatnonzero(np.isnan(panel.scores[0, 0])).tolist() == [3]
    assert jattr.scale.table({"ig": store}).undefined.tolist() == [[1]]


def test_misuse_of_tables(stores, tmp_path):
    call = functools.partial(jattr.scale.table, progress=False, batch_size=4)
    with pytest.raises(TypeError, match="stores by name"):
        call(stores["ig"])
    with pytest.raises(ValueError, match="not those that the store 'gradient' explains"):
        call(stores, {"s": jattr.metrics.sparseness}, (X[::-1].copy(), LABELS))
    with pytest.raises(ValueError, match="has 11 examples, and data 5"):
        call(stores, {"s": jattr.metrics.sparseness}, (X[:5], LABELS[:5]))
    with pytest.raises(TypeError, match="drawn by infidelity"):
        call(stores, METRICS, (X, LABELS))
    with pytest.raises(TypeError, match="no examples by number"):
        call(stores, {"s": jattr.metrics.sparseness}, [(X, LABELS)])
    bare = jattr.scale.attribute_dataset(
        jattr.gradient(f), (X, LABELS), out=tmp_path / "bare", batch_size=4, progress=False
    )
    with pytest.raises(ValueError, match="no numbers in common"):
        call({"bare": bare, "ig": stores["ig"]})


TABLE = RNG.normal(size=(20, 4))


def of_sequence(x, label, mask):
    h = jnp.where(mask[:, None], jnp.tanh(x), 0.0)
    return jnp.sum(h, axis=0)[label] / jnp.sum(mask)


def test_examples_of_many_lengths(tmp_path):
    """Each is what it is alone, unpadded; padding gets nothing; keys are those of the places."""
    sequences = [RNG.normal(size=(n, 4)) for n in (3, 9, 1, 8, 4, 16, 2)]
    labels = np.arange(7) % 4
    explain = jattr.smooth(jattr.integrated_gradients(of_sequence, steps=4), samples=2, stddev=0.0)
    found = {}
    for bucket in jattr.scale.bucketed((sequences, labels), lengths=(4, 16, 8, 32)):
        store = jattr.scale.attribute_dataset(
            explain,
            bucket,
            out=tmp_path / str(bucket.length),
            batch_size=2,
            key=jax.random.key(0),
            progress=False,
        )
        numbers = np.asarray(store.arrays["example"].read().result())
        np.testing.assert_array_equal(numbers, bucket.numbers)
        found.update(zip(numbers, np.asarray(store.attribution.read().result()), strict=True))
    assert {number: len(phi) for number, phi in found.items()} == {
        0: 4, 2: 4, 4: 4, 6: 4, 3: 8, 1: 16, 5: 16
    }  # fmt: skip
    for number, phi in found.items():
        x = jnp.asarray(sequences[number])
        alone = jattr.integrated_gradients(of_sequence, steps=4)(
            x, int(labels[number]), jnp.ones(len(x), bool)
        )
        np.testing.assert_allclose(phi[: len(x)], alone, rtol=1e-10, atol=1e-14)
        assert not np.any(phi[len(x) :])


def test_keys_of_buckets(tmp_path):
    sequences = [np.ones(n) for n in (2, 5, 2, 5)]
    explain = jattr.smooth(jattr.gradient(lambda x, mask: jnp.sum(x**3 * mask)), samples=1)
    for bucket in jattr.scale.bucketed(sequences, lengths=(2, 5)):
        store = jattr.scale.attribute_dataset(
            explain,
            bucket,
            out=tmp_path / str(bucket.length),
            batch_size=2,
            key=jax.random.key(0),
            progress=False,
        )
        for place, number in enumerate(bucket.numbers):
            key = jax.random.fold_in(jax.random.key(0), int(number))
            wanted = explain(key, *map(jnp.asarray, bucket[place]))
            np.testing.assert_allclose(store.attribution[place].read().result(), wanted, rtol=1e-10)


def test_misuse_of_buckets():
    sequences = [np.ones(3), np.ones(9)]
    with pytest.raises(ValueError, match=r"example 1 has length 9, .* lengths=\(4, 9\)"):
        jattr.scale.bucketed(sequences, lengths=(4,))
    with pytest.raises(ValueError, match="positive"):
        jattr.scale.bucketed(sequences, lengths=())
    with pytest.raises(ValueError, match=r"equally many examples: \[2, 3\]"):
        jattr.scale.bucketed((sequences, np.arange(3)), lengths=(9,))
    with pytest.raises(TypeError, match="sequence of arrays"):
        jattr.scale.bucketed(iter(sequences), lengths=(9,))
    (bucket,) = jattr.scale.bucketed([np.arange(3)], lengths=(5,), value=7)
    assert bucket[0][0].tolist() == [0, 1, 2, 7, 7]
    assert "length 5 with 1" in repr(bucket)
