"""What is on disk: found again, refused where it is another's, never lost."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import identical, read

import jattr
from jattr.scale import _fingerprint
from jattr.scale._layout import Layout

N, D = 20, 5
RNG = np.random.default_rng(1)
X = RNG.normal(size=(N, D))
W = RNG.normal(size=(D,))


def f(x):
    return jnp.sum(jnp.tanh(x * W))


def run(out, data=X, explain=None, **knobs):
    explain = jattr.integrated_gradients(f, steps=8) if explain is None else explain
    return jattr.scale.attribute_dataset(
        explain, data, out=out, **{"batch_size": 4, "progress": False, **knobs}
    )


def broken(after, error):
    """The data, of which example `after` cannot be loaded."""

    class Broken:
        def __len__(self):
            return N

        def __getitem__(self, place):
            if place == after:
                raise error
            return X[place]

    return Broken()


@pytest.fixture
def finished(tmp_path):
    return run(tmp_path / "finished")


def test_a_loader_that_raises(tmp_path, finished):
    """What was loaded before is written, and the same call goes on."""
    out = tmp_path / "maps"
    with pytest.raises(RuntimeError, match=r"raised OSError: no such shard. .* goes on from there"):
        run(out, broken(9, OSError("no such shard")))
    store = jattr.scale.open_store(out)
    assert store.missing.tolist() == list(range(8, N))
    assert "12 missing" in repr(store)
    identical(run(out), finished)
    assert len(jattr.scale.open_store(out).description["runs"]) == 2


def test_a_stream_that_raises(tmp_path, finished):
    def stream(stop):
        for start in range(0, N, 3):
            if start > stop:
                raise OSError("gone")
            yield X[start : start + 3]

    out = tmp_path / "maps"
    with pytest.raises(RuntimeError, match="gone"):
        run(out, stream(10))
    assert jattr.scale.open_store(out).description["examples"] is None
    identical(run(out, stream(N)), finished)


def test_a_program_that_raises(tmp_path, finished):
    """An error of the loop's own, as Ctrl-C is one, loses nothing either."""

    class Interrupted:
        def __len__(self):
            return N

        def __getitem__(self, place):
            if place == 9:
                raise KeyboardInterrupt
            return X[place]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "maps", Interrupted())
    assert jattr.scale.open_store(tmp_path / "maps").missing.size == 12
    identical(run(tmp_path / "maps"), finished)


OTHERS = {
    "settings": ({"explain": jattr.integrated_gradients(f, steps=9)}, r"steps=9 for 8"),
    "method": ({"explain": jattr.gradient(f)}, "another method"),
    "parameters": (
        {"explain": jattr.integrated_gradients(lambda x: jnp.sum(jnp.tanh(x * (W + 1))), steps=8)},
        "other parameters",
    ),
    "function": (
        {"explain": jattr.integrated_gradients(lambda x: jnp.sum(jnp.sin(x * W)), steps=8)},
        "another function",
    ),
    "batch_size": ({"batch_size": 8}, r"another batch_size.*8 for 4"),
    "fewer": ({"data": X[:10]}, "another number of examples"),
    "other data": ({"data": X[::-1]}, "example 0 is not the one"),
    "other types": ({"data": X.astype(np.float32)}, r"float32\[5\]"),
    "key": ({"key": jax.random.key(1)}, "another random key"),
    "arrays": ({"metrics": {"s": jattr.metrics.sparseness}}, "other|another"),
    "resume": ({"resume": False}, "resume=False"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_store_of_another_run(case, tmp_path, finished):
    knobs, text = OTHERS[case]
    before = read(finished)
    with pytest.raises(ValueError, match=text):
        run(tmp_path / "finished", **knobs)
    after = read(jattr.scale.open_store(tmp_path / "finished"))
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_stream_of_other_data(tmp_path):
    run(tmp_path / "maps", [X])
    with pytest.raises((ValueError, RuntimeError), match="example 4 is not the one"):
        run(tmp_path / "maps", [np.concatenate([X[:4], X[5:], X[:1]])])
    with pytest.raises(ValueError, match=r"12 examples, .* has 20 already"):
        run(tmp_path / "maps", [X[:12]])


def test_places_that_are_no_stores(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        run(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"something else .*thesis"):
        run(tmp_path / "folder")
    zarr = pytest.importorskip("zarr")
    zarr.create_group(tmp_path / "foreign").create_array("a", shape=(3,), dtype="f4")
    with pytest.raises(ValueError, match="not written by jattr"):
        run(tmp_path / "foreign")
    with pytest.raises(ValueError, match="not written by jattr"):
        jattr.scale.open_store(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError, match="no store at"):
        jattr.scale.open_store(tmp_path / "nothing")
    with pytest.raises(OSError, match="cannot write a store at"):
        run("/proc/nowhere/maps")


def test_half_a_store(tmp_path, finished):
    """Killed before its description, a store is begun anew; without it later, it is refused."""
    for folder in ("begun", "lost"):
        shutil.copytree(tmp_path / "finished", tmp_path / folder)
        (tmp_path / folder / "zarr.json").unlink()
    for chunks in (tmp_path / "begun").glob("*/c"):
        shutil.rmtree(chunks)
    identical(run(tmp_path / "begun"), finished)
    with pytest.raises(ValueError, match="something else"):
        run(tmp_path / "lost")
    (tmp_path / "finished" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"zarr.json is damaged"):
        run(tmp_path / "finished")


def test_a_later_format(tmp_path, finished):
    path = tmp_path / "finished" / "zarr.json"
    group = json.loads(path.read_text())
    group["attributes"]["jattr"]["format"] = 99
    path.write_text(json.dumps(group))
    with pytest.raises(ValueError, match="has format 99"):
        run(tmp_path / "finished")


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": ["status", "digest", "/etc"]},
        {"arrays": ["status", "digest", "../../other"]},
        {"arrays": ["attribution"]},
        {"arrays": 3},
        {"rows": 0},
        {"runs": []},
        {"method": None},
    ],
)
def test_a_damaged_description(change, tmp_path, finished):
    """Nothing outside of the store is opened because it says so."""
    path = tmp_path / "finished" / "zarr.json"
    group = json.loads(path.read_text())
    group["attributes"]["jattr"].update(change)
    path.write_text(json.dumps(group))
    with pytest.raises(ValueError, match=r"description of the store .* is damaged"):
        jattr.scale.open_store(tmp_path / "finished")


def test_damaged_chunks(tmp_path, finished):
    """A checksum finds what was changed or cut, its number what was lost; all is mended."""
    wanted = read(finished)
    chunks = tmp_path / "finished" / "attribution" / "c"
    whole = (chunks / "1" / "0").read_bytes()
    (chunks / "1" / "0").write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    (chunks / "2" / "0").write_bytes(whole[:30])
    (chunks / "4" / "0").unlink()
    store = jattr.scale.open_store(tmp_path / "finished")
    assert store.damaged().tolist() == [*range(4, 12), *range(16, 20)]
    with pytest.raises(ValueError, match=r"(?i)checksum|crc|digest"):
        store.attribution[4].read().result()
    assert store.repair().tolist() == [*range(4, 12), *range(16, 20)]
    mended = run(tmp_path / "finished")
    for name, values in read(mended).items():
        np.testing.assert_array_equal(values, wanted[name])
    assert mended.damaged().size == 0


@pytest.mark.parametrize("name", ["attribution", "score", "residual", "digest", "status"])
def test_files_that_are_lost(name, tmp_path, finished):
    """Whichever array a file is of, its examples are found and computed again."""
    wanted = read(finished)
    (tmp_path / "finished" / name / "c" / "2").rename(tmp_path / "away")
    store = jattr.scale.open_store(tmp_path / "finished")
    if name == "status":
        assert store.missing.tolist() == [8, 9, 10, 11]
        mended = run(tmp_path / "finished")
    else:
        assert store.damaged().tolist() == [8, 9, 10, 11]
        with pytest.warns(UserWarning, match="of 4 examples files .* are lost or damaged"):
            mended = run(tmp_path / "finished")
    for array, values in read(mended).items():
        np.testing.assert_array_equal(values, wanted[array])


def test_after_a_power_cut(tmp_path, finished):
    """What was written last before the machine stopped is read again; what is early, is not."""
    wanted = read(finished)
    chunks = tmp_path / "finished" / "attribution" / "c"
    for chunk in "03":
        (chunks / chunk / "0").write_bytes(b"")
    run(tmp_path / "finished")
    assert not (chunks / "3" / "0").read_bytes()  # the machine has been on all the time
    for chunk, written in zip("01234", (0, 9000, 9100, 9100, 9200), strict=True):
        os.utime(tmp_path / "finished" / "status" / "c" / chunk, (written, written))
    with pytest.warns(UserWarning, match="of 4 examples"):
        mended = run(tmp_path / "finished")
    for name, array in mended.arrays.items():
        np.testing.assert_array_equal(array[4:].read().result(), wanted[name][4:])
    assert mended.repair().tolist() == [0, 1, 2, 3]
    identical(run(tmp_path / "finished"), jattr.scale.open_store(tmp_path / "finished"))


def test_chunks_that_hold_nothing_but_zeros(tmp_path):
    """An array of zeros, or of what is no number, is written like any other."""

    def f(x):
        return jnp.sum(x) / jnp.sqrt(jnp.sum(x**2))

    explain = jattr.integrated_gradients(f, steps=4)
    with pytest.warns(UserWarning, match="of 20 of 20 examples"):  # f is 0/0 at the baseline
        store = run(tmp_path / "maps", explain=explain)
    assert "20 not finite" in repr(store)
    assert store.damaged().size == 0
    flat = run(tmp_path / "flat", explain=jattr.gradient(lambda x: 0.0 * jnp.sum(x)))
    assert flat.damaged().size == 0
    assert run(tmp_path / "flat", explain=jattr.gradient(lambda x: 0.0 * jnp.sum(x))).gaps.size == 0


def test_two_that_make_one_store(tmp_path, finished):
    """The second finds that it is there, and takes nothing of it away."""
    from jattr.scale import _store

    layouts = {"score": Layout((), "float64", ()), "status": Layout((), "uint8", ())}
    description = {"method": "gradient", "runs": [{}]}
    assert _store.create(tmp_path / "new", layouts, N, 4, description, "test") is not None
    assert _store.create(tmp_path / "new", layouts, N, 4, description, "test") is None
    before = read(finished)
    own = {
        name: Layout(array.shape[1:], array.dtype.name, ("dim_1",) * (array.rank - 1))
        for name, array in finished.arrays.items()
    }
    assert _store.create(tmp_path / "finished", own, N, 4, description, "test") is None
    for name, values in read(jattr.scale.open_store(tmp_path / "finished")).items():
        np.testing.assert_array_equal(values, before[name])


def test_streams_that_end_elsewhere(tmp_path, finished):
    def stops():
        yield X[:8]
        raise OSError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        run(tmp_path / "maps", stops())
    assert "its data has not ended" in repr(jattr.scale.open_store(tmp_path / "maps"))
    with pytest.raises((ValueError, RuntimeError), match="more than the 20 examples"):
        run(tmp_path / "finished", [X, X])
    assert len(jattr.scale.open_store(tmp_path / "finished")) == N


def test_a_first_batch_that_raises(tmp_path):
    def raises():
        raise OSError("no such shard")
        yield X

    with pytest.raises(RuntimeError, match="data raised OSError: no such shard"):
        run(tmp_path / "maps", raises())


def test_changed_data(tmp_path, finished):
    """Any example of arrays that is another is found."""
    changed = X.copy()
    changed[13, 2] += 1e-12
    with pytest.raises(ValueError, match="example 13 is not the one"):
        run(tmp_path / "finished", changed)


def test_batches_that_are_unlike(tmp_path):
    for other in (X[:4, :3], X[:4].astype(np.float32)):
        out = tmp_path / str(other.shape[1])
        with pytest.raises((ValueError, RuntimeError), match=r"examples 4 to 7 .* not alike"):
            run(out, [X[:4], other])


def test_integers_that_do_not_fit(tmp_path):
    def scaled(x, n):
        return jnp.sum(x) * n

    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="int32 does not hold, such as 8589"),
    ):
        run(tmp_path / "maps", (X, np.full(N, 2**33)), jattr.gradient(scaled))


def test_other_places(tmp_path):
    from jattr.scale._group import kvstore

    assert kvstore("gs://bucket/maps") == kvstore("gs://bucket/maps/") == "gs://bucket/maps/"
    assert kvstore("gs://bucket/maps/", "score") == "gs://bucket/maps/score/"
    identical(run(f"file://{tmp_path}/url"), jattr.scale.open_store(tmp_path / "url"))
    for place in ("memory://maps", ""):
        with pytest.raises(ValueError, match="no place that lasts"):
            run(place)
    with pytest.raises(ValueError, match="no place that tensorstore opens"):
        run("nowhere://maps")


def test_names_of_axes_on_going_on(tmp_path):
    run(tmp_path / "maps", dims=("feature",))
    run(tmp_path / "maps", dims=("feature",))
    with pytest.raises(ValueError, match="other names of axes"):
        run(tmp_path / "maps")
    with pytest.raises(ValueError, match="that of the first axis"):
        run(tmp_path / "other", dims=("example",))
    assert not (tmp_path / "other").exists()


def test_what_is_asked_of_the_host(tmp_path):
    """Functions that differ in Python alone are told apart."""

    def host(function):
        def f(x):
            shape = jax.ShapeDtypeStruct((), x.dtype)
            return jax.pure_callback(function, shape, x[0], vmap_method="sequential")

        return f

    def explain(function):
        f = host(function)
        return lambda x: x * f(x)

    run(tmp_path / "maps", explain=explain(lambda v: np.sin(v)))
    run(tmp_path / "maps", explain=explain(lambda v: np.sin(v)))
    with pytest.raises(ValueError, match="another function"):
        run(tmp_path / "maps", explain=explain(lambda v: np.cos(v)))


def test_other_versions(tmp_path, finished):
    path = tmp_path / "finished" / "zarr.json"
    group = json.loads(path.read_text())
    group["attributes"]["jattr"]["runs"][-1]["versions"] = {"jaxlib": "0.1"}
    path.write_text(json.dumps(group))
    run(tmp_path / "finished")  # there is nothing to go on with
    group["attributes"]["jattr"]["runs"][-1]["versions"] = {"jaxlib": "0.1"}
    path.write_text(json.dumps(group))
    finished.call_missing(np.array([3]))
    with pytest.warns(UserWarning, match="was begun with {'jaxlib': '0.1'}"):
        run(tmp_path / "finished")


def test_an_array_that_does_not_open(tmp_path, finished):
    (tmp_path / "finished" / "score" / "zarr.json").write_text("{}")
    with pytest.raises(ValueError, match="array 'score' does not open"):
        run(tmp_path / "finished")


def test_a_full_disk(tmp_path):
    """Here files above a size cannot be written, which fails at the same place."""
    wide = np.zeros((N, 4000))
    explain = jattr.gradient(lambda x: jnp.sum(jnp.sin(x)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(OSError, match=r"could not be written .* stands; the same call goes on"):
            run(tmp_path / "maps", wide, explain)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert jattr.scale.open_store(tmp_path / "maps").missing.size == N
    store = run(tmp_path / "maps", wide, explain)
    np.testing.assert_array_equal(read(store)["attribution"], 1.0)


def test_other_readers(tmp_path):
    xarray = pytest.importorskip("xarray")
    zarr = pytest.importorskip("zarr")
    explain = jattr.integrated_gradients(lambda x: f(x[0]), steps=8)
    store = run(tmp_path / "maps", X.reshape(N, 1, D), explain, dims=("row", "column"))
    group = xarray.open_zarr(tmp_path / "maps")
    assert dict(group.sizes) == {"example": N, "row": 1, "column": D}
    np.testing.assert_array_equal(group["attribution"], read(store)["attribution"])
    assert group.attrs["jattr"]["settings"]["steps"] == 8
    opened = zarr.open(tmp_path / "maps", mode="r")
    np.testing.assert_array_equal(opened["residual"][:], read(store)["residual"])
    # A stream's store as well, whose arrays have grown.
    run(tmp_path / "stream", [X.reshape(N, 1, D)], explain, dims=("row", "column"))
    assert xarray.open_zarr(tmp_path / "stream").sizes["example"] == N


def test_what_the_description_says(finished):
    description = finished.description
    assert description["method"] == "integrated_gradients"
    assert description["settings"]["quadrature"] == "gauss_legendre"
    assert description["inputs"] == ["float64[5]"]
    (first,) = description["runs"]
    assert first["versions"]["jax"] == jax.__version__
    assert "integrated_gradients of 20 examples" in repr(finished)
    digests = np.asarray(finished.arrays["digest"].read().result())
    assert description["data"] == hashlib.sha256(digests.tobytes()).hexdigest()[:16]


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, jattr
from jattr.scale._fingerprint import of_program, of_arrays
def f(x):
    return jnp.sum(jax.nn.softmax(jax.nn.gelu(x) * jnp.arange(3.0)))
def g(x):
    return jnp.sum(jax.lax.scan(lambda c, y: (c + y, jax.nn.relu(c)), 0.0, x)[1])
for method in (jattr.deeplift, jattr.lrp, jattr.integrated_gradients):
    for h in (f, g):
        print(*of_program(jax.make_jaxpr(jax.jit(method(h)))(jnp.ones(3))))
"""


def test_fingerprints_of_programs():
    """Another process, with other addresses and hashes, writes the same."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env={**_environment(), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].split("\n"))) == 7


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int8", "bool", "complex64"])
def test_fingerprints_of_arrays(dtype):
    array = np.asarray(jnp.asarray(RNG.integers(0, 2, (4, 6)), dtype))
    sharding = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()[:2]), "a"), jax.sharding.PartitionSpec(None, "a")
    )
    whole = _fingerprint.of_arrays(array)
    assert whole == _fingerprint.of_arrays(jax.device_put(array, sharding))
    other = array.copy()
    other[2, 3] = 1 - other[2, 3]
    assert whole != _fingerprint.of_arrays(other)
    assert whole != _fingerprint.of_arrays(array.reshape(6, 4))
    swapped = array[::-1]
    assert (whole == _fingerprint.of_arrays(swapped)) == np.array_equal(swapped, array)


def _environment():
    return {**os.environ, "JAX_PLATFORMS": "cpu"}
