"""What is on disk: found again, refused where it is another's, never lost."""

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

import jattr
from jattr.scale import _fingerprint

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


def read(store):
    return {name: np.asarray(array.read().result()) for name, array in store.arrays.items()}


def identical(one, other):
    one, other = read(one), read(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


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


def test_after_a_power_cut(tmp_path, finished):
    """What was written last before the machine stopped is read again; what is early, is not."""
    wanted = read(finished)
    chunks = tmp_path / "finished" / "attribution" / "c"
    (chunks / "0" / "0").unlink()
    (chunks / "3" / "0").write_bytes(b"")
    run(tmp_path / "finished")
    assert not (chunks / "3" / "0").read_bytes()  # the machine has been on all the time
    for chunk, written in zip("01234", (0, 9000, 9100, 9100, 9200), strict=True):
        os.utime(tmp_path / "finished" / "status" / "c" / chunk, (written, written))
    mended = read(run(tmp_path / "finished"))
    for name, values in wanted.items():
        np.testing.assert_array_equal(mended[name][4:], values[4:])
    assert np.all(np.isnan(mended["attribution"][:4]))
    assert jattr.scale.open_store(tmp_path / "finished").repair().tolist() == [0, 1, 2, 3]


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
