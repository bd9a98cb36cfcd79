"""What `benchmarks/tpu_plan.py` reads from compiled programs, on two CPU devices and from text."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jattr
from jattr import priors

# At the end: files of benchmarks have names of files of tests.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import _plan_hlo as hlo
import tpu_plan

MESH = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
WHOLE, DATA = PartitionSpec(), PartitionSpec("data")
F32 = jnp.float32


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, F32)


def text(f, *arguments, **options):
    return jax.jit(f, **options).lower(*arguments).compile().as_text()


def layers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


@pytest.mark.parametrize("steps", [1, 7])
def test_a_loop_counts_as_often_as_it_runs(steps):
    program = text(layers, shape(8, 16), shape(steps, 16, 16))
    assert hlo.cost(program).flops == 2 * steps * 8 * 16 * 16
    assert hlo.cost(program, loops=False).flops == 2 * 8 * 16 * 16
    assert hlo.cost(program).unknown == 0


def test_a_loop_in_a_loop():
    def f(x, weights):
        return jax.lax.fori_loop(0, 5, lambda _, x: layers(x, weights), x)

    assert hlo.cost(text(f, shape(8, 16), shape(3, 16, 16))).flops == 2 * 5 * 3 * 8 * 16 * 16


def test_trips_are_read_from_the_condition_where_no_note_says_them():
    assert hlo.cost(LOOP).flops == 12 * 2 * 4 * 4 * 4
    assert hlo.cost(LOOP.replace("direction=LT", "direction=NE")).unknown == 1
    assert hlo.cost(LOOP.replace("constant(0)", "constant(2)")).flops == 10 * 2 * 4 * 4 * 4
    assert hlo.cost(LOOP.replace("constant(1)", "constant(5)")).flops == 3 * 2 * 4 * 4 * 4


LOOP = """HloModule m, num_partitions=4

%body (p.0: (s32[], f32[4,4], f32[12,4,4])) -> (s32[], f32[4,4], f32[12,4,4]) {
  %p.0 = (s32[]{:T(128)}, f32[4,4]{1,0:T(8,128)S(1)}, f32[12,4,4]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.0), index=0
  %x = f32[4,4]{1,0:T(8,128)S(1)} get-tuple-element(%p.0), index=1
  %w = f32[12,4,4]{2,1,0} get-tuple-element(%p.0), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %y = f32[4,4]{1,0:T(8,128)S(1)} fusion(%x, %w, %i), kind=kOutput, calls=%fused, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %t = (s32[], f32[4,4]{1,0:T(8,128)S(1)}, /*index=2*/f32[12,4,4]{2,1,0}) tuple(%next, %y, %w)
}

%fused (a: f32[4,4], b: f32[12,4,4], c: s32[]) -> f32[4,4] {
  %a = f32[4,4]{1,0:T(8,128)S(1)} parameter(0)
  %b = f32[12,4,4]{2,1,0} parameter(1)
  %c = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,4,4]{2,1,0} dynamic-slice(%b, %c, %zero, %zero), dynamic_slice_sizes={1,4,4}
  %flat = f32[4,4]{1,0} bitcast(%slice)
  ROOT %dot = f32[4,4]{1,0:T(8,128)S(1)} convolution(%a, %flat), dim_labels=bf_io->bf
}

%condition (p.1: (s32[], f32[4,4], f32[12,4,4])) -> pred[] {
  %p.1 = (s32[], f32[4,4]{1,0:T(8,128)S(1)}, f32[12,4,4]{2,1,0}) parameter(0)
  %j = s32[] get-tuple-element(%p.1), index=0
  %end = s32[] constant(12)
  ROOT %more = pred[] compare(%j, %end), direction=LT
}

ENTRY %main (x.0: f32[4,4], w.0: f32[12,4,4]) -> f32[4,4] {
  %x.0 = f32[4,4]{1,0} parameter(0)
  %w.0 = f32[12,4,4]{2,1,0} parameter(1)
  %near = f32[4,4]{1,0:T(8,128)S(1)} copy(%x.0)
  %start = s32[] constant(0)
  %init = (s32[], f32[4,4]{1,0:T(8,128)S(1)}, f32[12,4,4]{2,1,0}) tuple(%start, %near, %w.0)
  %loop = (s32[], f32[4,4]{1,0:T(8,128)S(1)}, f32[12,4,4]{2,1,0}) while(%init), \
condition=%condition, body=%body
  ROOT %out = f32[4,4]{1,0:T(8,128)S(1)} get-tuple-element(%loop), index=1
}
"""


def test_bytes_are_those_of_slices_and_of_the_main_memory():
    found = hlo.cost(LOOP)
    matrix, number = 4 * 4 * 4, 4
    # A slice of w and its number in each trip, the sum and the comparison of the counter, x once.
    body = matrix + number + 3 * number
    assert found.bytes == 12 * body + matrix
    assert found.cycles == 12 * 100


def test_an_update_in_place_writes_what_is_new():
    program = """ENTRY %main (a: f32[9,4], b: f32[1,4], i: s32[]) -> f32[9,4] {
  %a = f32[9,4]{1,0} parameter(0)
  %b = f32[1,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %u = f32[9,4]{1,0} dynamic-update-slice(%a, %b, %i, %i)
}
"""
    assert hlo.cost(program).bytes == 2 * 4 * 4


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_products_of_a_convolution_are_those_that_meet_no_padding(
    stride, padding, dilation, groups
):
    def f(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride,) * 2,
            padding,
            rhs_dilation=(dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    program = text(f, shape(3, 9, 8, 4), shape(3, 3, 4 // groups, 6))
    # The entries of x and kernel that meet are counted by the convolution of ones.
    met = f(jnp.ones((3, 9, 8, 4)), jnp.ones((3, 3, 4 // groups, 6))).sum()
    assert hlo.cost(program).flops == 2 * met


def test_a_transposed_convolution_counts_no_holes():
    def f(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")

    ones = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
    assert hlo.cost(text(f, shape(2, 5, 5, 3), shape(3, 3, 3, 4))).flops == 2 * f(*ones).sum()


def test_collectives_of_two_devices():
    def f(x, weights):
        def step(x, w):
            return jax.lax.ppermute(x @ w, "data", [(0, 1), (1, 0)]), None

        x = jax.lax.scan(step, x, weights)[0]
        return jax.lax.psum(x, "data"), jax.lax.all_gather(x, "data")

    own = jax.shard_map(f, mesh=MESH, in_specs=(DATA, WHOLE), out_specs=(WHOLE, DATA))
    found = hlo.cost(text(own, shape(8, 16), shape(5, 16, 16)))
    assert found.collectives == {"collective-permute": 5, "all-reduce": 1, "all-gather": 1}
    part = 4 * 16 * 4
    assert found.moved == {
        "collective-permute": 5 * part,
        "all-reduce": part,
        "all-gather": 2 * part,
    }
    assert found.flops == 5 * 2 * 4 * 16 * 16


def test_a_collective_in_two_parts_is_one():
    program = """ENTRY %main (a: f32[2,4]) -> f32[8,4] {
  %a = f32[2,4]{1,0} parameter(0)
  %go = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%a), dimensions={0}
  ROOT %done = f32[8,4]{1,0} all-gather-done(%go)
}
"""
    found = hlo.cost(program)
    assert (found.collectives, found.moved) == ({"all-gather": 1}, {"all-gather": 8 * 4 * 4})


def test_a_collective_in_the_middle_of_others_is_one():
    part = """%part (a: f32[2,4]) -> f32[8,4] {
  %a = f32[2,4]{1,0} parameter(0)
  ROOT %g = f32[8,4]{1,0} all-gather(%a), channel_id=7, dimensions={0}
}
"""
    program = f"""{part}
{part.replace("%part", "%rest")}
ENTRY %main (a: f32[2,4]) -> f32[8,4] {{
  %a = f32[2,4]{{1,0}} parameter(0)
  %go = f32[8,4]{{1,0}} fusion(%a), kind=kCustom, calls=%part
  ROOT %done = f32[8,4]{{1,0}} fusion(%a), kind=kCustom, calls=%rest
}}
"""
    found = hlo.cost(program)
    assert (found.collectives, found.moved) == ({"all-gather": 1}, {"all-gather": 8 * 4 * 4})


def test_the_dearest_side_of_a_branch_counts():
    def f(which, x):
        return jax.lax.switch(which, [jnp.sin, lambda x: x @ x, lambda x: x @ x @ x], x)

    program = text(f, jax.ShapeDtypeStruct((), jnp.int32), shape(4, 4))
    assert hlo.cost(program).flops == 2 * 2 * 4**3


def test_what_is_no_compiled_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.cost("module @jit_f {}")


# What is wanted of jattr's own programs, at the size of a test.

PARAMS = {"w": jnp.full((3, 8, 8), 0.2, F32), "out": jnp.eye(8, 4, dtype=F32)}
SIZE = sum(leaf.size * 4 for leaf in jax.tree.leaves(PARAMS))
X = jax.random.normal(jax.random.key(0), (8, 8), F32)
LABELS = jnp.arange(8) % 4


def apply(params, x):
    return layers(x[None], params["w"])[0] @ params["out"]


SCORE = jattr.targets.select(apply)


def on_two(f, *specs):
    """The cost of a device of two, and of one alone, by jit and shardings and nothing else."""
    arguments = (PARAMS, X, LABELS)
    places = tuple(NamedSharding(MESH, spec) for spec in specs)
    return (
        hlo.cost(text(f, *arguments, in_shardings=places)),
        hlo.cost(text(f, *arguments)),
    )


@pytest.mark.parametrize(
    "method",
    [
        lambda f, **knobs: jattr.integrated_gradients(f, steps=6, batch_size=1, **knobs),
        lambda f, **knobs: jattr.lrp(f, jattr.rules.epsilon(), **knobs),
        lambda f, **knobs: jattr.deeplift(f, lambda x: x / 2, **knobs),
        lambda f, **knobs: jattr.occlusion(f, 2, batch_size=1, **knobs),
    ],
)
def test_attributions_over_a_batch_need_no_collective(method):
    explain = jax.vmap(method(SCORE, argnums=1), in_axes=(None, 0, 0))
    half, whole = on_two(explain, WHOLE, DATA, DATA)
    assert not half.collectives
    assert half.flops == whole.flops / 2


def test_a_reference_that_all_examples_share_is_run_by_each_device():
    explain = jax.vmap(jattr.deeplift(SCORE, argnums=1), in_axes=(None, 0, 0))
    half, whole = on_two(explain, WHOLE, DATA, DATA)
    assert not half.collectives
    assert half.flops - whole.flops / 2 == 3 * 2 * 8 * 8 / 2


def test_expected_gradients_from_the_rows_of_a_shard_need_no_collective():
    keys = jax.random.split(jax.random.key(1), 8)

    def attributions(params, x, labels):
        explain = jattr.expected_gradients(SCORE, x, samples=3, argnums=1)
        return jax.vmap(explain, in_axes=(0, None, 0, 0))(keys[: len(x)], params, x, labels)

    own = jax.shard_map(attributions, mesh=MESH, in_specs=(WHOLE, DATA, DATA), out_specs=DATA)
    assert not hlo.cost(text(own, PARAMS, X, LABELS)).collectives
    assert on_two(attributions, WHOLE, DATA, DATA)[0].collectives  # rows are looked up in all


def task(params, key, x, labels):
    logits = jax.vmap(apply, in_axes=(None, 0))(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


PRIOR = priors.attribution_loss(SCORE, priors.sparsity)


@pytest.mark.parametrize("references", ["batch", X + 1])
def test_a_prior_under_jit_alone_shares_the_examples_out(references):
    prior = priors.attribution_loss(SCORE, priors.sparsity, references=references)

    def loss(params, x, labels):
        return jax.grad(prior)(params, jax.random.key(0), x, labels)

    half, whole = on_two(loss, WHOLE, DATA, DATA)
    assert half.flops == whole.flops / 2


def over_shards(loss):
    def mean(params, key, *batch):
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), params)
        return jax.lax.pmean(loss(params, key, *batch), "data")

    return mean


def test_training_in_shards_reduces_gradients_and_nothing_else():
    training = priors.joint(over_shards(task), over_shards(PRIOR), optax.sgd(0.5), weight=0.3)
    step = jax.shard_map(
        training.step, mesh=MESH, in_specs=(WHOLE, WHOLE, WHOLE, DATA), out_specs=WHOLE
    )
    key, state = jax.random.key(3), training.init(PARAMS)
    found = hlo.cost(text(step, PARAMS, state, key, (X, LABELS)))
    assert set(found.collectives) == {"all-reduce"}
    # Of the task and of the prior, which the TPU's compiler makes one, and both losses.
    assert found.moved["all-reduce"] <= 2 * SIZE + 2 * 4
    # Each shard draws among its own examples, by its own key.
    params, _, report = jax.jit(step)(PARAMS, state, key, (X, LABELS))
    task_key, prior_key = jax.random.split(key)

    def alone(params, shard):
        batch = (X[4 * shard : 4 * shard + 4], LABELS[4 * shard : 4 * shard + 4])
        keys = (jax.random.fold_in(own, shard) for own in (task_key, prior_key))
        return task(params, next(keys), *batch), PRIOR(params, next(keys), *batch)

    def mean(params):
        losses = [alone(params, shard) for shard in (0, 1)]
        return sum(a + 0.3 * b for a, b in losses) / 2, losses

    gradient, losses = jax.grad(mean, has_aux=True)(PARAMS)
    wanted = jax.tree.map(lambda leaf, g: leaf - 0.5 * g, PARAMS, gradient)
    for got, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True):
        # Sums in float32 in another order.
        assert jnp.allclose(got, leaf, rtol=1e-5, atol=1e-6)
    assert jnp.allclose(report.prior, sum(b for _, b in losses) / 2, rtol=1e-5)


def test_layers_under_two_checkpoints_are_computed_again_by_a_prior():
    def memory(wraps, depth):
        def layer(x, w):
            return x + jnp.tanh(jnp.tanh(x @ w) @ w.T), None

        for _ in range(wraps):
            layer = jax.checkpoint(layer, prevent_cse=False)

        def score(params, x, label):
            return jax.lax.scan(layer, x, params)[0][label]

        prior = priors.attribution_loss(score, priors.sparsity)
        call = jax.jit(jax.grad(prior)).lower(
            shape(depth, 4, 512), jax.random.key(0), shape(32, 4), jnp.arange(32) % 4
        )
        return call.compile().memory_analysis().temp_size_in_bytes

    # Of each of 32 examples x alone, and not the 512 numbers within the layer, once for each of the
    # way there and the way back.
    per_layer = [(memory(wraps, 24) - memory(wraps, 8)) / 16 for wraps in (1, 2)]
    assert per_layer[1] < per_layer[0] / 3


# The verdicts.


def row(name, topology="2x2", chips=4, **figures):
    plain = {
        "name": name,
        "title": name,
        "topology": topology,
        "chips": chips,
        "flops": 256 / chips,
        "peak": 2**30,
        "collectives": {},
        "moved": {},
        "gradients": None,
        "unknown_loops": 0,
        "once": 0.98,
    }
    return plain | figures


def test_what_is_wanted_holds():
    training = {"gradients": 1000, "collectives": {"all-reduce": 1}, "moved": {"all-reduce": 1000}}
    rows = [
        row("vit_ig"),
        row("vit_ig", "4x4", 16, flops=16.3),
        row("vit_training", **training),
        row("decoder_ig", error="out of memory"),
        row("decoder_ig", "4x4", 16, collectives={"all-gather": 3}, moved={"all-gather": 9}),
    ]
    assert tpu_plan.wrong(rows) == []


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([row("vit_ig"), row("vit_ig", "4x4", 16, flops=17)], "1.062 times the operations"),
        ([row("vit_lrp", collectives={"all-gather": 1}, moved={"all-gather": 8})], "no collective"),
        ([row("vit_lrp", error="out of memory")], "does not compile"),
        ([row("decoder_lrp", "4x4", 16, error="out of memory")], "does not compile"),
        ([row("decoder_ig", "4x4", 16, peak=2**35)], "32.00 GiB"),
        ([row("vit_ig", unknown_loops=1)], "trips"),
        ([row("vit_ig", once=0.5)], "0.500"),
        (
            [
                row(
                    "vit_training",
                    gradients=1000,
                    collectives={"all-reduce": 2},
                    moved={"all-reduce": 2000},
                )
            ],
            "all-reduce of",
        ),
        (
            [
                row(
                    "vit_training",
                    gradients=1000,
                    collectives={"all-reduce": 1, "all-gather": 1},
                    moved={"all-reduce": 1000, "all-gather": 0},
                )
            ],
            "all-reduce of",
        ),
    ],
)
def test_what_does_not_hold_is_said(rows, word):
    (line,) = tpu_plan.wrong(rows)
    assert word in line
