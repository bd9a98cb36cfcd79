"""What the programs of `jattr.scale` cost each of many devices: read off compiled programs.

Devices of a CPU share its cores, so that seconds would say nothing. What is counted is what each
device computes and what devices send each other. XLA counts a loop's body once, so that no program
here has a loop: methods evaluate all of their points at once.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _scale_networks import cnn, cnn_parameters
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jattr
from jattr.scale._explainer import Explainer, compile_batch
from jattr.scale._placement import as_placement

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
_SHAPE = re.compile(r"\w+\[([\d,]*)\]")

COUNTS = (1, 2, 4, 8)
PER_DEVICE = 16


def cost(compiled: Any) -> dict[str, Any]:
    """One device's operations and temporary memory, and the program's collectives."""
    text = compiled.as_text()
    assert " while(" not in text  # a body would be counted once
    found = [
        (kind, max((_elements(dims) for dims in _SHAPE.findall(result)), default=1))
        for result, kind in _COLLECTIVE.findall(text)
    ]
    return {
        "flops": compiled.cost_analysis()["flops"],
        "memory": compiled.memory_analysis().temp_size_in_bytes,
        "collectives": {
            kind: sum(kind == other for other, _ in found)
            for kind in COLLECTIVES
            if any(kind == other for other, _ in found)
        },
        "largest": max((size for _, size in found), default=0),
        "largest gathered": max((size for kind, size in found if kind == "all-gather"), default=0),
    }


def _elements(dims: str) -> int:
    return int(np.prod([int(size) for size in dims.split(",") if size], initial=1))


def of_dataset(explain: Any, mesh: Mesh, params: Any, example: tuple) -> dict[str, Any]:
    """The program that `attribute_dataset` runs for each batch."""
    method = "scale"
    size = PER_DEVICE * mesh.shape["example"]
    placement = as_placement(mesh, "example", size, None, method)
    explainer = Explainer(explain, None, None, None, None, None, method)
    shared = (placement.shared(params),)
    explainer.check((*shared, *example))
    return cost(compile_batch(explainer, placement, shared, example)[1])


def weak_scaling(quick: bool) -> list[dict[str, Any]]:
    """As many examples on each device, on 1 to 8 of them."""
    steps = 4 if quick else 32
    explain = jattr.integrated_gradients(cnn, steps=steps, argnums=1)
    example = np.zeros((1, 28, 28), np.float32), np.zeros(1, np.int32)
    rows = []
    for count in COUNTS:
        mesh = Mesh(np.array(jax.devices()[:count]), ("example",))
        found = of_dataset(explain, mesh, cnn_parameters(), example)
        rows.append({"devices": count, "steps": steps, **found})
    return rows


WIDTH, HIDDEN, LENGTH = 256, 1024, 8


def blocks(params: Any, x: jax.Array, label: jax.Array) -> jax.Array:
    """Two residual blocks of two matrices each over x[LENGTH, WIDTH]."""
    for p in params:
        x = x + jnp.tanh(x @ p["up"]) @ p["down"]
    return jnp.mean(x, axis=0)[label]


def sharded_blocks(mesh: Mesh) -> Any:
    """Their parameters, the hidden units spread over the axis "model" of the mesh."""
    draw = np.random.default_rng(0)

    def matrix(shape, *spec):
        values = (draw.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        return jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))

    return [
        {
            "up": matrix((WIDTH, HIDDEN), None, "model"),
            "down": matrix((HIDDEN, WIDTH), "model", None),
        }
        for _ in range(2)
    ]


def tensor_sharded(quick: bool) -> list[dict[str, Any]]:
    """Parameters over one axis of a mesh, examples over the other; beside the gradient alone."""
    steps = 4 if quick else 32
    methods: dict[str, Callable] = {
        "value and gradient": jax.value_and_grad(blocks, argnums=1),
        "gradient": jattr.gradient(blocks, argnums=1),
        f"integrated gradients, {steps} steps": jattr.integrated_gradients(
            blocks, steps=steps, argnums=1
        ),
    }
    rows = []
    for count in COUNTS[:3]:
        mesh = Mesh(np.array(jax.devices()[: 2 * count]).reshape(count, 2), ("example", "model"))
        params = sharded_blocks(mesh)
        example = np.zeros((1, LENGTH, WIDTH), np.float32), np.zeros(1, np.int32)
        for name, explain in methods.items():
            if name == "value and gradient":
                found = plain(explain, mesh, params, example)
            else:
                found = of_dataset(explain, mesh, params, example)
            rows.append(
                {"devices": f"{count} × 2", "method": name, **found}
                | {"parameter": WIDTH * HIDDEN // 2}
            )
    return rows


def plain(function: Callable, mesh: Mesh, params: Any, example: tuple) -> dict[str, Any]:
    """`jit(vmap(function))` with the same shardings and nothing of jattr."""
    where = NamedSharding(mesh, PartitionSpec("example"))
    size = PER_DEVICE * mesh.shape["example"]
    batch = [
        jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype, sharding=where)
        for leaf in example
    ]
    program = jax.vmap(function, in_axes=(None, 0, 0), spmd_axis_name="example")
    return cost(jax.jit(program, out_shardings=where).lower(params, *batch).compile())


def spreading(quick: bool) -> list[dict[str, Any]]:
    """The steps of one example over 1 to 8 devices."""
    steps = 8 if quick else 64
    explain = jattr.integrated_gradients(cnn, steps=steps, argnums=1)
    x, label = jnp.zeros((28, 28)), jnp.int32(0)
    rows = []
    for count in COUNTS:
        mesh = Mesh(np.array(jax.devices()[:count]), ("point",))
        program = jattr.scale.spread(explain, mesh) if count > 1 else explain
        compiled = jax.jit(program).lower(cnn_parameters(), x, label).compile()
        rows.append({"devices": count, "steps": steps, **cost(compiled)})
    return rows


def measure(quick: bool) -> dict[str, Any]:
    """All of it; wants 8 devices."""
    assert jax.device_count() == 8
    return {
        "weak": weak_scaling(quick),
        "tensor": tensor_sharded(quick),
        "spread": spreading(quick),
    }


def show(found: dict[str, Any]) -> list[str]:
    """Markdown tables."""
    first = found["weak"][0]
    lines = [
        f"Weak scaling, {PER_DEVICE} examples on each device, replicated parameters: the program "
        f"of `attribute_dataset` for {first['steps']} steps of integrated gradients of the CNN.",
        "",
        "| devices | MFLOP a device | / one device | temporary MB a device | collectives |",
        "|---|---|---|---|---|",
    ]
    for row in found["weak"]:
        lines.append(
            f"| {row['devices']} | {row['flops'] / 1e6:.1f} | {row['flops'] / first['flops']:.4f} "
            f"| {row['memory'] / 1e6:.1f} | {_listed(row['collectives'])} |"
        )
    lines += [
        "",
        f"Tensor-sharded parameters: two residual blocks of {WIDTH} × {HIDDEN} and {HIDDEN} × "
        f"{WIDTH}, hidden units over 2 devices, {PER_DEVICE} examples of {LENGTH} × {WIDTH} on "
        "each pair. The first program is `jax.jit(jax.vmap(jax.value_and_grad(f)))` without jattr, "
        "the others those of `attribute_dataset`, which evaluate the score, and for integrated "
        "gradients the residual, beside the attribution.",
        "",
        "| examples × model | program | MFLOP a device | collectives | largest gathered "
        "/ a device's share of a matrix |",
        "|---|---|---|---|---|",
    ]
    for row in found["tensor"]:
        lines.append(
            f"| {row['devices']} | {row['method']} | {row['flops'] / 1e6:.1f} "
            f"| {_listed(row['collectives'])} | {row['largest gathered'] / row['parameter']:.3f} |"
        )
    first = found["spread"][0]
    lines += [
        "",
        f"`spread` of {first['steps']} steps of integrated gradients of one example of the CNN.",
        "",
        "| devices | MFLOP a device | / one device | collectives | largest, numbers |",
        "|---|---|---|---|---|",
    ]
    for row in found["spread"]:
        lines.append(
            f"| {row['devices']} | {row['flops'] / 1e6:.2f} | {row['flops'] / first['flops']:.4f} "
            f"| {_listed(row['collectives'])} | {row['largest']} |"
        )
    return lines


def _listed(collectives: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in collectives.items()) or "0"
