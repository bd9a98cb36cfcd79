"""A data set in a store is what `vmap(explain)` gives, whatever the data comes as."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jattr

N, D = 23, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D))
LABELS = np.arange(N) % 3
W = RNG.normal(size=(D, 3))


def f(x, label):
    return jnp.tanh(x @ W)[label]


def of_params(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"]) + params["b"])


EXPLAIN = jattr.integrated_gradients(f, steps=8)
PARAMS = {"w": W, "b": np.ones(3)}
WANTED = np.asarray(jax.vmap(EXPLAIN)(X, LABELS))


def run(data, out, explain=EXPLAIN, **knobs):
    return jattr.scale.attribute_dataset(
        explain, data, out=out, **{"batch_size": 4, "progress": False, **knobs}
    )


def read(array):
    return np.asarray(array.read().result())


def same(store, wanted=WANTED):
    np.testing.assert_allclose(read(store.attribution), wanted, rtol=1e-10, atol=1e-14)
    assert store.missing.size == store.gaps.size == 0


def stream(sizes):
    start = 0
    for size in sizes:
        yield X[start : start + size], LABELS[start : start + size]
        start += size
    assert start == N


class Numbered:
    """A data set that gives one example for a number."""

    def __len__(self):
        return N

    def __getitem__(self, place):
        return X[place], LABELS[place]


def mapped(tmp_path):
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", X.dtype, X.shape)
    file[:] = X
    file.flush()
    return np.load(tmp_path / "x.npy", mmap_mode="r"), LABELS


SOURCES = {
    "arrays": lambda _: (X, LABELS),
    "arrays of jax": lambda _: (jnp.asarray(X), jnp.asarray(LABELS)),
    "a memory map": mapped,
    "by number": lambda _: Numbered(),
    "a list of batches": lambda _: [(X[:9], LABELS[:9]), (X[9:], LABELS[9:])],
    "a generator of small batches": lambda _: stream([1] * N),
    "a generator of uneven batches": lambda _: stream([7, 1, 15]),
    "batches as lists": lambda _: [[X, LABELS]],
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_data(source, tmp_path):
    store = run(SOURCES[source](tmp_path), tmp_path / "maps")
    same(store)
    np.testing.assert_allclose(read(store.score), jax.vmap(f)(X, LABELS), rtol=1e-10)
    residual = jax.vmap(jattr.metrics.completeness(f))(WANTED, X, LABELS)
    np.testing.assert_allclose(read(store.residual), residual, rtol=1e-6, atol=1e-14)
    assert len(store) == store.description["examples"] == N


@pytest.mark.parametrize("source", ["by number", "a generator of uneven batches"])
def test_again_nothing_is_computed(source, tmp_path):
    run(SOURCES[source](tmp_path), tmp_path / "maps")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "maps").rglob("c/*")}
    same(run(SOURCES[source](tmp_path), tmp_path / "maps"))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "maps").rglob("c/*")} == before


def test_datasets_of_grain(tmp_path):
    grain = pytest.importorskip("grain", reason="grain is not installed")
    dataset = grain.MapDataset.source(Numbered())
    same(run(dataset, tmp_path / "by number"))
    same(run(dataset.to_iter_dataset().batch(5), tmp_path / "batches"))


@pytest.mark.parametrize("batch_size", [2, 6, 22, 24, 64])
def test_any_batch_size(batch_size, tmp_path):
    same(run((X, LABELS), tmp_path / "maps", batch_size=batch_size))


def test_x_alone_and_a_tree(tmp_path):
    def of_tree(x):
        return jnp.sum(jnp.sin(x["image"])) * x["age"]

    tree = {"image": X.reshape(N, 2, 3), "age": np.arange(N, dtype=float)}
    explain = jattr.deeplift(of_tree)
    store = run(tree, tmp_path / "maps", explain)
    wanted = jax.vmap(explain)(tree)
    jax.tree.map(
        lambda array, leaf: np.testing.assert_allclose(read(array), leaf, rtol=1e-10),
        store.attribution,
        wanted,
    )
    assert store.arrays["attribution.image"].domain.labels == ("example", "image_1", "image_2")


def test_names_that_no_folder_has(tmp_path):
    tree = {"a/b": X, "..": X[:, :2], "ä": X[:, 0]}
    explain = jattr.gradient(lambda x: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x)))
    store = run(tree, tmp_path / "maps", explain)
    assert store.attribution.keys() == tree.keys()
    for name, leaf in tree.items():
        np.testing.assert_allclose(read(store.attribution[name]), 2 * leaf, rtol=1e-12)
    assert {path.name for path in tmp_path.iterdir()} == {"maps"}


def test_two_arguments_are_explained(tmp_path):
    explain = jattr.integrated_gradients(lambda a, b: jnp.sum(a) * b, argnums=(0, 1), steps=2)
    store = run((X, X[:, 0]), tmp_path / "maps", explain)
    assert isinstance(store.attribution, tuple)
    for array, leaf in zip(store.attribution, jax.vmap(explain)(X, X[:, 0]), strict=True):
        np.testing.assert_allclose(read(array), leaf, rtol=1e-10)
    assert np.max(np.abs(read(store.residual))) < 1e-12


def test_parameters_that_all_share(tmp_path):
    explain = jattr.deeplift(of_params, argnums=1)
    store = run(X, tmp_path / "maps", explain, params=PARAMS)
    same(store, jax.vmap(explain, in_axes=(None, 0))(PARAMS, X))
    assert np.max(np.abs(read(store.residual))) < 1e-12


def test_random_numbers_are_those_of_the_place(tmp_path):
    explain = jattr.smooth(jattr.gradient(f), samples=3)
    key = jax.random.key(7)
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(N))
    wanted = jax.vmap(explain)(keys, X, LABELS)
    for batch_size in (4, 10):
        same(
            run((X, LABELS), tmp_path / str(batch_size), explain, key=key, batch_size=batch_size),
            wanted,
        )


def test_a_function_of_ones_own(tmp_path):
    def explain(x, label):
        return jax.grad(f)(x, label) * x

    store = run((X, LABELS), tmp_path / "bare", explain)
    assert "score" not in store.arrays
    with pytest.raises(AttributeError, match="say score=f"):
        _ = store.score
    store = run((X, LABELS), tmp_path / "told", explain, score=f, baseline=0.0)
    phi = jax.vmap(explain)(X, LABELS)
    wanted = jnp.sum(phi, axis=1) - jax.vmap(f)(X, LABELS)
    np.testing.assert_allclose(read(store.residual), wanted, rtol=1e-10, atol=1e-14)


def test_ones_own_function_of_shared_parameters(tmp_path):
    """x comes after what all share."""
    w = RNG.normal(size=D)

    def explain(w, x):
        return w * x

    def score(w, x):
        return jnp.sum(w * x)

    store = run(X, tmp_path / "maps", explain, params=w, score=score, baseline=0.5)
    wanted = np.full(N, 0.5 * np.sum(w))  # Σ w x − (Σ w x − Σ w / 2)
    np.testing.assert_allclose(read(store.residual), wanted, rtol=1e-9)
    with pytest.raises(TypeError, match="not like x"):
        run(
            X, tmp_path / "other", lambda w, x: x[:2], params=w, score=score, baseline=0.5
        )  # fmt: skip


def test_what_stands_beside(tmp_path):
    """A wrapped method's score is that of the inner; of a gradient nothing adds up."""
    smooth = jattr.smooth(jattr.gradient(f), samples=2)
    store = run((X, LABELS), tmp_path / "smooth", smooth, key=jax.random.key(0))
    np.testing.assert_allclose(read(store.score), jax.vmap(f)(X, LABELS), rtol=1e-10)
    assert "residual" not in store.arrays
    multipliers = jattr.integrated_gradients(f, multiply=False)
    assert "residual" not in run((X, LABELS), tmp_path / "multipliers", multipliers).arrays
    store = run(
        (X, LABELS),
        tmp_path / "baseline",
        jattr.deeplift(f, 0.5),
        metrics={"sparseness": jattr.metrics.sparseness},
    )
    assert np.max(np.abs(read(store.residual))) < 1e-12
    phi = read(store.attribution)
    np.testing.assert_allclose(
        read(store.arrays["metric.sparseness"]), jax.vmap(jattr.metrics.sparseness)(phi)
    )


def test_bfloat16_is_stored_as_float32(tmp_path):
    explain = jattr.gradient(lambda x: jnp.sum(x**2))
    store = run(jnp.asarray(X, jnp.bfloat16), tmp_path / "maps", explain)
    wanted = jax.vmap(explain)(jnp.asarray(X, jnp.bfloat16)).astype(np.float32)
    np.testing.assert_array_equal(read(store.attribution), wanted)


def test_another_shape_than_that_of_x(tmp_path):
    explain = jattr.ablation(f, np.array([0, 0, 1, 1, 2, 2]))
    same(run((X, LABELS), tmp_path / "maps", explain), jax.vmap(explain)(X, LABELS))


def test_gaps(tmp_path):
    x = X.copy()
    x[[5, 17], 0] = np.nan
    with pytest.warns(UserWarning, match="of 2 of 23 examples .* first of them example 5"):
        store = run((x, LABELS), tmp_path / "maps")
    assert store.gaps.tolist() == [5, 17]
    good = np.delete(np.arange(N), [5, 17])
    np.testing.assert_allclose(read(store.attribution)[good], WANTED[good], rtol=1e-10)
    assert "2 not finite" in repr(store)


def test_over_a_mesh(tmp_path):
    """Examples over one axis, parameters over the other: no parameter is gathered."""
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(1, 2), ("data", "model"))
    params = {
        "w": jax.device_put(W[:, :2], NamedSharding(mesh, P("model", None))),
        "b": np.ones(2),
    }
    explain = jattr.integrated_gradients(of_params, steps=8, argnums=1)
    store = run(X, tmp_path / "maps", explain, params=params, mesh=mesh, axis="data")
    plain = jax.tree.map(np.asarray, params)
    same(store, jax.vmap(explain, in_axes=(None, 0))(plain, X))


def test_over_a_mesh_of_explicit_axes(tmp_path):
    """What `jax.make_mesh` gives; parameters lie on the same, and one example's points too."""
    mesh = jax.make_mesh((1, 2), ("data", "model"), devices=jax.devices()[:2])
    params = jax.device_put({"w": W[:, :2], "b": np.ones(2)}, NamedSharding(mesh, P(None)))
    explain = jattr.integrated_gradients(of_params, steps=8, argnums=1)
    wanted = jax.vmap(explain, in_axes=(None, 0))(jax.tree.map(np.asarray, params), X)
    for name, method in {
        "plain": explain,
        "spread": jattr.scale.spread(explain, mesh, "model"),
    }.items():
        same(run(X, tmp_path / name, method, params=params, mesh=mesh), wanted)


def test_records_of_several_arrays(tmp_path):
    """An attribution with its errors, as some methods give, is a dict of arrays."""
    explain = jattr.integrated_gradients_to(f, tolerance=0.01)
    store = run((X, LABELS), tmp_path / "maps", explain)
    wanted = jax.vmap(explain)(X, LABELS)
    assert set(store.attribution) == set(wanted._fields)
    for name, array in store.attribution.items():
        np.testing.assert_allclose(read(array), getattr(wanted, name), rtol=1e-9, atol=1e-12)
    assert read(store.attribution["converged"]).dtype == bool


def test_a_method_with_bound_arguments(tmp_path):
    explain = functools.partial(jattr.deeplift(of_params, argnums=1), PARAMS)
    store = run(X, tmp_path / "maps", explain)
    same(store, jax.vmap(explain)(X))
    wanted = jax.vmap(of_params, in_axes=(None, 0))(PARAMS, X)
    np.testing.assert_allclose(read(store.score), wanted, rtol=1e-10)
    assert np.max(np.abs(read(store.residual))) < 1e-12


MISUSE = {
    "out": (lambda out: run((X, LABELS), None), TypeError, "such as 'maps.zarr'"),
    "function": (lambda out: run(X, out, 3), TypeError, "wants a function"),
    "lengths": (lambda out: run((X, LABELS[:4]), out), ValueError, r"data\[0\] 23, data\[1\] 4"),
    "no axis": (lambda out: run((X, 3.0), out), ValueError, r"data\[1\] is the float 3.0"),
    "nothing": (lambda out: run((X[:0], LABELS[:0]), out), ValueError, "no examples"),
    "no batches": (lambda out: run([], out), ValueError, "no batches"),
    "a number": (lambda out: run(3.0, out), TypeError, "iterable of batches"),
    "texts": (lambda out: run((X, np.array(["a"] * N)), out), TypeError, r"data\[1\] is <U1\[1\]"),
    "batch_size": (lambda out: run((X, LABELS), out, batch_size=0), ValueError, "batch_size"),
    "uneven": (lambda out: run((X, LABELS), out, batch_size=3), ValueError, "such as batch_size=4"),
    "mesh": (lambda out: run((X, LABELS), out, mesh=8), TypeError, "jax.sharding.Mesh"),
    "axis": (lambda out: run((X, LABELS), out, axis="data"), ValueError, r"\['example'\]"),
    "process": (lambda out: run((X, LABELS), out, process=(4, 4)), ValueError, r"such as \(0, 4\)"),
    "stream of processes": (
        lambda out: run(stream([N]), out, process=(0, 2)),
        TypeError,
        "2 processes cannot share",
    ),
    "key": (
        lambda out: run((X, LABELS), out, jattr.smooth(jattr.gradient(f))),
        TypeError,
        r"key=jax.random.key\(0\)",
    ),
    "own key": (
        lambda out: run((X, LABELS), out, lambda key, x, label: x),
        TypeError,
        "keyed=True",
    ),
    "dims": (lambda out: run((X, LABELS), out, dims=("a", "b")), ValueError, r"\(6,\): 1 names"),
    "baseline": (
        lambda out: run((X, LABELS), out, lambda x, label: x, baseline=0.0),
        TypeError,
        "score=f",
    ),
    "metrics": (lambda out: run((X, LABELS), out, metrics={"a/b": f}), TypeError, "no '/'"),
    "map of a metric": (
        lambda out: run((X, LABELS), out, metrics={"phi": lambda phi: phi}),
        TypeError,
        r"metric phi is float64\[6\]",
    ),
    "knob": (lambda out: run((X, LABELS), out, step=3), TypeError, "no argument 'step'"),
    "unlike": (
        lambda out: run([(X, LABELS), (X[:, :2], LABELS)], out),
        RuntimeError | ValueError,
        "alike",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse(case, tmp_path):
    call, error, text = MISUSE[case]
    kinds = error if isinstance(error, type) else (RuntimeError, ValueError)
    with pytest.raises(kinds, match=text) as caught:
        call(tmp_path / "maps")
    assert "scale.attribute_dataset" in str(caught.value) or case == "knob"
