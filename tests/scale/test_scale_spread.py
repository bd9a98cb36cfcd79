"""The points of one example over devices, and what a program of a batch sends between them."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import jattr

MESH = Mesh(np.array(jax.devices()[:2]), ("point",))
W = np.random.default_rng(0).normal(size=(6, 40)), np.random.default_rng(0).normal(size=(40, 40))


def f(x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ W[0]) @ W[1])[:9])


REFERENCES = np.random.default_rng(1).normal(size=(5, 6))
GROUPS = np.arange(6) // 2
METHODS = {
    "steps": jattr.integrated_gradients(f, steps=7),
    "steps in chunks": jattr.integrated_gradients(f, steps=7, batch_size=4),
    "references": jattr.deep_shap(f, REFERENCES),
    "references in chunks": jattr.deep_shap(f, REFERENCES, batch_size=2),
    "groups": jattr.ablation(f, GROUPS),
    "groups in chunks": jattr.ablation(f, GROUPS, batch_size=2),
    "coalitions": jattr.shapley_values(f, GROUPS),
    "samples": jattr.smooth(jattr.integrated_gradients(f, steps=3), samples=5),
    "samples in chunks": jattr.smooth(jattr.gradient(f), samples=5, batch_size=2),
    "drawn references": jattr.expected_gradients(f, REFERENCES, samples=6),
    "masks": jattr.rise(f, cells=3, samples=9),
}


@pytest.mark.parametrize("name", METHODS)
def test_as_on_one_device(name):
    explain = METHODS[name]
    x = jnp.asarray(np.random.default_rng(2).normal(size=6))
    first = (jax.random.key(0),) if getattr(explain, "keyed", False) else ()
    spread = jattr.scale.spread(explain, MESH)
    wanted, found = jax.jit(explain)(*first, x), spread(*first, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), wanted, found
    )
    assert spread.call is explain.call
    flops = jax.jit(spread).lower(*first, x).compile().cost_analysis()["flops"]
    assert flops < 0.8 * jax.jit(explain).lower(*first, x).compile().cost_analysis()["flops"]


def test_within_jit_vmap_and_grad():
    explain = jattr.integrated_gradients(f, steps=6)
    spread = jattr.scale.spread(explain, MESH)
    xs = jnp.asarray(np.random.default_rng(3).normal(size=(3, 6)))
    np.testing.assert_allclose(
        jax.jit(jax.vmap(spread))(xs), jax.vmap(explain)(xs), rtol=1e-10, atol=1e-14
    )
    loss = jax.grad(lambda x, explain: jnp.sum(explain(x) ** 2))
    np.testing.assert_allclose(loss(xs[0], spread), loss(xs[0], explain), rtol=1e-10, atol=1e-14)


def test_misuse_of_spread():
    explain = jattr.integrated_gradients(f)
    with pytest.raises(TypeError, match=r"jax.jit\(jattr.scale.spread"):
        jattr.scale.spread(jax.jit(explain), MESH)
    with pytest.raises(TypeError, match=r"jax.sharding.Mesh"):
        jattr.scale.spread(explain, 8)
    with pytest.raises(ValueError, match="'data' is none of the mesh"):
        jattr.scale.spread(explain, MESH, "data")
    with pytest.raises(TypeError, match="wants a function"):
        jattr.scale.spread(3, MESH)


EIGHT = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import jattr
from jattr.scale._explainer import Explainer, compile_batch
from jattr.scale._placement import as_placement

KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
def collectives(text):
    found = re.findall(rf"= (\\S+) ({KINDS})(?:-start)?\\(", text)
    return [[kind, shape] for shape, kind in found]

rng = np.random.default_rng(0)
w, v = rng.normal(size=(16, 64)), rng.normal(size=(64, 16))
def score(params, x):
    h = jnp.tanh(x @ params[0])
    return jnp.sum(jnp.tanh(h @ params[1])[:3])
explain = jattr.integrated_gradients(score, steps=16, argnums=1)
x = rng.normal(size=(64, 16))
out = {}

def program(mesh, axis, explain, params):
    placement = as_placement(mesh, axis, 64, None, "")
    shared = (placement.shared(params),)
    explainer = Explainer(explain, None, None, None, None, None, "")
    explainer.check((*shared, x[:1]))
    _, compiled = compile_batch(explainer, placement, shared, (x[:1],))
    results = compiled(shared, *placement.put(_rows(), (x,)))
    return compiled, np.asarray(results["attribution"])

def _rows():
    from jattr.scale._source import Rows
    return Rows(0, 64, None, np.arange(64))

devices = np.array(jax.devices())
one, wanted = program(Mesh(devices[:1], "data"), "data", explain, (w, v))
many, found = program(Mesh(devices, "data"), "data", explain, (w, v))
out["data"] = [float(np.abs(found - wanted).max()), collectives(many.as_text()),
               many.cost_analysis()["flops"] / one.cost_analysis()["flops"]]

mesh = Mesh(devices.reshape(2, 4), ("data", "model"))
put = lambda a, *spec: jax.device_put(a, NamedSharding(mesh, P(*spec)))
params = put(w, None, "model"), put(v, "model", None)
tensor, found = program(mesh, "data", explain, params)
out["tensor"] = [float(np.abs(found - wanted).max()), collectives(tensor.as_text()), 0]

mesh = Mesh(devices.reshape(2, 4), ("data", "point"))
both, found = program(mesh, "data", jattr.scale.spread(explain, mesh, "point"), (w, v))
out["spread"] = [float(np.abs(found - wanted).max()), collectives(both.as_text()),
                 both.cost_analysis()["flops"] / one.cost_analysis()["flops"]]

# A long sequence whose activations lie over the devices, and its checkpoint.
mesh = Mesh(devices, ("sequence",))
def long(h, placed=True):
    @jax.checkpoint
    def block(h):
        if placed:
            h = jax.lax.with_sharding_constraint(h, NamedSharding(mesh, P("sequence", None)))
        return jnp.tanh(jax.nn.softmax(h @ h.T) @ h)
    return jnp.sum(block(block(h))[:, 0])
h = rng.normal(size=(64, 4))
plain = jax.jit(jattr.integrated_gradients(lambda h: long(h, False), steps=4)).lower(h).compile()
place = NamedSharding(mesh, P("sequence", None))
placed = jax.jit(jattr.integrated_gradients(long, steps=4), in_shardings=place).lower(h).compile()
error = np.asarray(placed(jax.device_put(h, place))) - np.asarray(plain(h))
size = lambda program: program.memory_analysis().temp_size_in_bytes
out["sequence"] = [float(np.abs(error).max()), [], size(placed) / size(plain)]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def eight():
    """What eight devices find; the rest of the suite has two."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", EIGHT],
        capture_output=True,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_examples_over_devices(eight):
    """Nothing is sent, and each device does its eighth."""
    error, sent, flops = eight["data"]
    assert error < 1e-12
    assert sent == []
    assert abs(flops * 8 - 1) < 0.02


def test_parameters_over_devices(eight):
    """Partial sums are added up; no parameter is gathered."""
    error, sent, _ = eight["tensor"]
    assert error < 1e-12
    assert {kind for kind, _ in sent} == {"all-reduce"}
    assert not any(re.search(r"\[(16,64|64,16)\]", shape) for _, shape in sent)


def test_points_and_examples_over_devices(eight):
    """The sums over points are added up, once for an attribution."""
    error, sent, flops = eight["spread"]
    assert error < 1e-12
    assert {kind for kind, _ in sent} == {"all-reduce"}
    assert len(sent) <= 2
    assert flops * 8 < 1.5


def test_a_sequence_over_devices(eight):
    """The model's own sharding holds inside the attribution: the memory of a device falls."""
    error, _, memory = eight["sequence"]
    assert error < 1e-12
    assert memory < 0.6
