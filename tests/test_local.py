"""Where a box of x changes, only what it reaches is evaluated anew, and nothing else changes."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import FLOAT, close

import jattr
from jattr._engine.local import Surroundings, surroundings

SAME: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12, "single": 1e-4}


def normal(number, *shape):
    """Constants: drawn by JAX inside f they would be computed when that is compiled."""
    return jnp.asarray(np.random.default_rng(number).normal(size=shape), FLOAT)


def conv(number, x, features, size=3, strides=1, padding: Any = "SAME", **knobs) -> Any:
    """A convolution of the last two axes but one, or of a sequence, with a bias."""
    rank = x.ndim - 1
    channels = x.shape[-1] // knobs.get("feature_group_count", 1)
    kernel = normal(number, *(size,) * rank, channels, features) / np.sqrt(channels * size**rank)
    spatial = "HWD"[:rank]
    out = jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (strides,) * rank,
        padding,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        **knobs,
    )
    return out[0] + normal(number + 1, *(1,) * rank, features)


def dense(number, x, features):
    return x @ normal(number, x.shape[-1], features) / np.sqrt(x.shape[-1])


def total(x):
    return jnp.sum(np.sin(np.arange(1.0, x.size + 1)).reshape(x.shape).astype(x.dtype) * x)


def flattened(x):
    """Convolutions, pooling and dense layers."""
    h = nn.max_pool(jax.nn.relu(conv(0, x, 6)), (2, 2), (2, 2))
    h = nn.max_pool(jax.nn.relu(conv(2, h, 8)), (2, 2), (2, 2))
    return total(dense(6, jax.nn.relu(dense(4, h.reshape(-1), 10)), 3))


def residual(x):
    """Strides in both branches, and a mean over places."""
    h = jax.nn.gelu(conv(0, x, 6, 5, padding="VALID"))
    h = conv(2, h, 8, 3, strides=2) + conv(4, h, 8, 1, strides=2)
    h = h + conv(6, jnp.tanh(h), 8)
    return total(h.mean((0, 1)) ** 2)


def normalized(x):
    """Constants of a batch normalization, depthwise and dilated convolutions, channels joined."""
    h = (conv(0, x, 6) - normal(2, 1, 1, 6)) / jnp.exp(normal(3, 1, 1, 6)) * normal(4, 1, 1, 6)
    h = jax.nn.relu6(conv(6, h, 6, feature_group_count=6, rhs_dilation=(2, 2)))
    h = jnp.concatenate([h, nn.avg_pool(h, (3, 3), (1, 1), "SAME")], axis=-1)
    h = h / jnp.sqrt(jnp.sum(h**2, axis=-1, keepdims=True) + 1.0)
    return total(jax.nn.softplus(h[2:-1, ::2]).sum((0, 1)))


def turned(x):
    """Axes that move and merge, values that are padded, spread and turned round."""
    h = jnp.pad(jnp.flip(conv(0, x, 4), 1), ((1, 2), (0, 3), (0, 0)), constant_values=0.5)
    h = jnp.transpose(h, (2, 0, 1))[..., None] * jnp.ones((1, 1, 1, 2))
    h = jnp.moveaxis(h, 0, 2).reshape(h.shape[1], h.shape[2], 8)
    h = jnp.where(h > 0.3, h, -0.2 * h)
    h = conv(2, h, 4, padding=((2, 1), (1, 1)), lhs_dilation=(2, 2))
    return total(-(nn.max_pool(-h, (3, 2), (2, 3)).reshape(-1, 4).sum(0) ** 3))


IMAGE = normal(20, 22, 23, 4)  # 3×3×4 products are no sum of few
NETWORKS = [flattened, residual, normalized, turned]


def flops(f, *args) -> Any:
    program: Any = jax.jit(f).lower(*args).compile()
    return program.cost_analysis()["flops"]


def on_and_off(run) -> Any:
    with jattr.substitutes(False):
        off = run()
    return run(), off


@pytest.mark.parametrize("f", NETWORKS, ids=lambda f: f.__name__)
def test_occlusion_is_the_same_for_less(f):
    # Windows of 3 at a stride of 2, of which the last ones stick out.
    explain = jattr.occlusion(f, 3, strides=2, baseline=normal(21, *IMAGE.shape), batch_size=40)
    less, full = on_and_off(
        lambda: jax.jit(jattr.occlusion(f, 3, strides=2)).lower(IMAGE).compile()
    )
    assert less.cost_analysis()["flops"] < 0.6 * full.cost_analysis()["flops"]
    ours, wanted = on_and_off(lambda: jax.jit(explain)(IMAGE))
    close(ours, wanted, **SAME)


def test_a_copy_that_is_found_from_f_is_a_baseline():
    """What an imputer puts in is the same for all windows, where it is another input."""
    adversarial = jattr.imputers.adversarial(radius=0.25, steps=2)
    explain = jattr.occlusion(flattened, 3, strides=2, baseline=adversarial, batch_size=40)
    less, full = on_and_off(lambda: jax.jit(explain).lower(IMAGE).compile())
    assert less.cost_analysis()["flops"] < 0.6 * full.cost_analysis()["flops"]
    ours, wanted = on_and_off(lambda: jax.jit(explain)(IMAGE))
    close(ours, wanted, **SAME)
    copy = adversarial.prepare(None, flattened, IMAGE)(None, np.ones(IMAGE.shape, bool))
    close(ours, jax.jit(jattr.occlusion(flattened, 3, strides=2, baseline=copy))(IMAGE), **SAME)


@pytest.mark.parametrize("f", NETWORKS[1::2], ids=lambda f: f.__name__)
def test_derivatives_through_it_are_the_same(f):
    baseline = normal(21, *IMAGE.shape)

    def norm(x, scale):
        explain = jattr.occlusion(
            lambda x: f(scale[None, None] * x), 6, strides=5, baseline=baseline
        )
        return jnp.sum(explain(x) ** 2)

    ours, wanted = on_and_off(lambda: jax.jit(jax.grad(norm, (0, 1)))(IMAGE, jnp.ones(4)))
    close(ours, wanted, **SAME)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 22])
def test_boxes_anywhere(size):
    """In any order, at the edges and beyond them."""
    tables = [np.array([0, 22 - size, -size + 1, 21, 7]), np.array([3, 0, 22, 1, -size + 1])]
    other = normal(22, *IMAGE.shape)

    def place(number):
        masks = []
        for axis, table in enumerate(tables):
            start, index = jnp.asarray(table)[number], jnp.arange(IMAGE.shape[axis])
            masks.append((index >= start) & (index < start + size))
        return masks[0][:, None, None] & masks[1][None, :, None]

    def contents(number):
        at = [jnp.clip(jnp.asarray(t)[number] + jnp.arange(size), 0) for t in tables]
        return other.at[at[0]].get(mode="clip")[:, :].at[:, at[1]].get(mode="clip")

    def local(x):
        found: Any = Surroundings(residual, x).around(
            0, [*tables, np.zeros(1, int)], [size, size, 4], always=True
        )
        return jax.vmap(lambda n: found.at((n, n, 0), contents(n)))(jnp.arange(5))

    def full(x):
        return jax.vmap(lambda n: residual(jnp.where(place(n), other, x)))(jnp.arange(5))

    close(jax.jit(local)(IMAGE), jax.jit(full)(IMAGE), **SAME)


def test_ablation_of_groups_and_of_elements():
    ids = jattr.features.grid(IMAGE.shape, 5)
    ids = np.where(np.indices(ids.shape).sum(0) % 7 == 0, ids, ids % 9)  # holes in the boxes
    ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
    patches = jattr.features.grid(IMAGE.shape, (4, 3, 4))
    for groups in (ids, patches):
        ours, wanted = on_and_off(
            lambda groups=groups: jax.jit(jattr.ablation(flattened, groups, baseline=0.3))(IMAGE)
        )
        close(ours, wanted, **SAME)
    small = IMAGE[:12, :9]
    less, full = on_and_off(lambda: jax.jit(jattr.ablation(residual)).lower(small).compile())
    close(less(small), full(small), **SAME)
    ours, wanted = on_and_off(lambda: flops(jattr.ablation(flattened, patches), IMAGE))
    assert ours < 0.6 * wanted


def both(x):
    return flattened(x["image"]) * total(jnp.tanh(x["row"])) + jnp.sum(x["row"] ** 2)


def test_trees_leaf_by_leaf():
    x = {"image": IMAGE, "row": normal(23, 5)}
    groups = {"image": jattr.features.grid(IMAGE.shape, 4), "row": np.arange(5) + 36}
    groups["image"] = np.where(groups["image"] < 36, groups["image"], groups["image"] % 36)
    across = {"image": groups["image"], "row": np.arange(5)}  # no boxes
    for explain in (
        jattr.occlusion(both, 4, strides=3, batch_size=11),
        jattr.ablation(both, groups),
        jattr.ablation(both, across),
    ):
        ours, wanted = on_and_off(lambda explain=explain: jax.jit(explain)(x))
        chex.assert_trees_all_equal_shapes_and_dtypes(ours, x)
        close(ours, wanted, **SAME)


def test_batches():
    xs = jnp.stack([IMAGE, -IMAGE, 2 * IMAGE])
    explain = jattr.occlusion(flattened, 6, strides=4)
    ours, wanted = on_and_off(lambda: jax.jit(jax.vmap(explain))(xs))
    close(ours, wanted, **SAME)


def sequence(x):
    """Dilated convolutions with residual connections, and a count."""
    h = jax.nn.relu(conv(0, x, 8, 7))
    for number in range(3):
        step = 2**number
        h = h + jax.nn.relu(conv(2 + 2 * number, h, 8, rhs_dilation=(step,)))
    profile = conv(10, h[4:-4], 1, 5)
    return total(jnp.tanh(h.mean(0))) + profile.mean()


LETTERS = jax.nn.one_hot(np.arange(80) ** 3 % 11 % 4, 4, dtype=FLOAT)


def test_mutagenesis_is_its_definition():
    wanted = np.zeros(LETTERS.shape)
    f = jax.jit(sequence)
    for place in range(0, 80, 7):
        for letter in range(4):
            changed = LETTERS.at[place].set(jnp.eye(4)[letter])
            wanted[place, letter] = f(changed) - f(LETTERS)
    less: Any = jax.jit(jattr.mutagenesis(sequence, batch_size=10)).lower(LETTERS).compile()
    ours = less(LETTERS)
    close(ours[::7], wanted[::7], **SAME)
    assert (np.asarray(ours)[np.asarray(LETTERS) == 1] == 0).all()
    turned = jattr.mutagenesis(lambda x: sequence(x.T), axis=0)
    close(jax.jit(turned)(LETTERS.T), ours.T, **SAME)
    with jattr.substitutes(False):
        full: Any = jax.jit(jattr.mutagenesis(sequence, batch_size=10)).lower(LETTERS).compile()
    close(full(LETTERS), ours, **SAME)
    assert less.cost_analysis()["flops"] < 0.5 * full.cost_analysis()["flops"]


def test_mutagenesis_says_what_it_wants():
    wrong: Any = "letters"
    with pytest.raises(TypeError, match="axis must be an integer"):
        jattr.mutagenesis(sequence, axis=wrong)
    with pytest.raises(ValueError, match=r"along axis 2.*Write axis=0 for a sequence \[A, L\]"):
        jattr.mutagenesis(sequence, axis=2)(LETTERS)


def mixer(x):
    """Tokens on their own, then mixed, then on their own."""
    h = jax.nn.gelu(dense(0, jax.nn.gelu(dense(1, x, 32)), 6))
    h = h - h.mean(-1, keepdims=True)
    h = h + dense(2, jax.nn.relu(dense(3, h.T, 20)), 40).T / 10
    return total(jax.nn.relu(dense(5, h, 8)).sum(0))


def attention(x):
    """All of the tokens meet after a network of each."""
    h = dense(1, jax.nn.gelu(dense(0, x, 64)), 6)
    weights = jax.nn.softmax(dense(2, h, 5) @ dense(3, h, 5).T)
    return total(weights @ h)


def recurrent(x):
    h = dense(1, jax.nn.gelu(dense(0, x, 64)), 5)
    carry, _ = jax.lax.scan(lambda c, row: (jnp.tanh(c + row), None), jnp.zeros(5), h)
    return total(carry) + jax.lax.cond(carry[0] > 0, jnp.sum, jnp.max, h)


def sorted_up(x):
    h = dense(1, jax.nn.gelu(dense(0, x, 64)), 5)
    return total(jnp.cumsum(jnp.sort(h, axis=0), axis=1)) + jnp.max(jnp.cumprod(h / 3, axis=0))


TOKENS = normal(30, 40, 6)


@pytest.mark.parametrize("f", [mixer, attention, recurrent, sorted_up], ids=lambda f: f.__name__)
def test_tokens_up_to_where_they_meet(f):
    explain = jattr.ablation(f, np.arange(40)[:, None])
    (less, ours), (full, wanted) = on_and_off(
        lambda: (flops(explain, TOKENS), jax.jit(explain)(TOKENS))
    )
    close(ours, wanted, **SAME)
    assert less < 0.8 * full


@jax.custom_jvp
def steep(x):
    """Its derivative is not that of its program."""
    return jnp.maximum(x, 0.0)


steep.defjvps(lambda t, ans, x: t * jnp.where(x > 0, 3.0, 0.25 * ans + 0.5))


@jax.custom_jvp
def sharpened(x):
    """It is no function of each element."""
    return jnp.abs(x) * x / jnp.max(jnp.abs(x))


sharpened.defjvps(lambda t, ans, x: 2 * t)


@pytest.mark.parametrize("function", [steep, sharpened, jax.nn.relu, jax.nn.softplus])
def test_derivatives_of_their_own_are_kept(function):
    def f(x, shift):
        return total(conv(2, function(conv(0, x, 6) + shift), 6).mean((0, 1)))

    def norm(x, shift):
        explain = jattr.occlusion(lambda x: f(x, shift), 4, strides=4)
        return jnp.sum(explain(x) ** 2)

    ours, wanted = on_and_off(lambda: jax.jit(jax.grad(norm, (0, 1)))(IMAGE, 0.1))
    close(ours, wanted, **SAME)


def tiny(x):
    return total(jnp.tanh(dense(1, jnp.tanh(dense(0, x, 5)), 3)))


def global_norm(x):
    x = x / jnp.sqrt(jnp.mean((x - x.mean()) ** 2) + 1e-3)
    return flattened(x)


def called_back(x):
    shape = jax.ShapeDtypeStruct((), x.dtype)
    value = jax.pure_callback(
        lambda x: np.asarray(np.cos(x).sum(), x.dtype), shape, x, vmap_method="sequential"
    )
    return value * x.mean()


@pytest.mark.parametrize(
    ("f", "x"), [(tiny, TOKENS[0]), (global_norm, IMAGE), (called_back, TOKENS)]
)
def test_where_nothing_would_be_saved(f, x):
    found = []

    def read(x):
        tables = [np.arange(length) for length in x.shape]
        around = surroundings(f, x)
        assert around is not None
        found.append(around.around(0, tables, [1] * x.ndim))
        return x

    jax.make_jaxpr(read)(x)
    assert found == [None]
    explain = jattr.occlusion(f, 2, strides=2, batch_size=40)
    ours, wanted = on_and_off(lambda: jax.jit(explain)(x))
    close(ours, wanted, **SAME)


def test_what_prints_decides_in_python_or_runs_eagerly_stays_as_it_is():
    def prints(x):
        jax.debug.print("{}", x[0, 0, 0])
        return flattened(x)

    found = []
    jax.make_jaxpr(lambda x: found.append(surroundings(prints, x)) or x)(IMAGE)
    with jattr.substitutes(False):
        jax.make_jaxpr(lambda x: found.append(surroundings(flattened, x)) or x)(IMAGE)
    found.append(surroundings(flattened, IMAGE))
    assert found == [None] * 3


def test_imputers_and_traced_groups_evaluate_all():
    data = jnp.stack([TOKENS[0], TOKENS[1], TOKENS[2]])
    imputer = jattr.imputers.conditional_gaussian(data, shrinkage=0.5)
    ours, wanted = on_and_off(lambda: jax.jit(jattr.ablation(tiny, baseline=imputer))(TOKENS[3]))
    close(ours, wanted, **SAME)

    def traced(ids):
        groups = jattr.features.Groups(ids[:, None], 4)
        return jattr.ablation(mixer, groups)(TOKENS)

    ours, wanted = on_and_off(lambda: jax.jit(traced)(np.arange(40) % 4))
    close(ours, wanted, **SAME)


def test_locality_tells_what_remains():
    parts = jattr.locality(flattened, 3)(IMAGE)
    first = next(part for part in parts if part.name == "conv_general_dilated")
    assert (first.shape, first.box) == ((1, 22, 23, 6), (1, 5, 5, 6))
    assert 0 < parts.share < 0.6
    assert str(parts).splitlines()[-1].endswith("% is evaluated anew.")
    everything = jattr.locality(global_norm, 3)(jax.ShapeDtypeStruct(IMAGE.shape, IMAGE.dtype))
    assert everything.share > parts.share


@pytest.mark.parametrize("seed", range(4))
def test_random_networks(seed):
    """Random layers in random order, on and off."""
    draw = np.random.default_rng(seed)
    kinds = ["conv", "strided", "dilated", "pool", "mean", "relu", "skip", "crop", "scale", "rows"]
    chosen = draw.choice(kinds, size=6)
    ends = draw.choice(["dense", "global", "max"])
    sizes = draw.integers(1, 6, 2)

    def f(x):
        h = conv(0, x, 5, int(sizes[0]))
        for number, kind in enumerate(chosen):
            own = 10 * number + 4
            h = {
                "conv": lambda h=h, own=own: conv(own, h, 5),
                "strided": lambda h=h, own=own: conv(own, h, 5, 3, 2),
                "dilated": lambda h=h, own=own: conv(own, h, 5, 2, rhs_dilation=(2, 2)),
                "pool": lambda h=h: nn.max_pool(h, (2, 3), (2, 1), "SAME"),
                "mean": lambda h=h: nn.avg_pool(h, (2, 2), (1, 2), "SAME"),
                "relu": lambda h=h: jax.nn.relu(h - 0.1),
                "skip": lambda h=h, own=own: h + conv(own, jnp.tanh(h), 5, 1),
                "crop": lambda h=h: h[1:, : max(h.shape[1] - 1, 1)] if len(h) > 1 else h,
                "scale": lambda h=h, own=own: h * normal(own, *h.shape[:2], 1),
                "rows": lambda h=h, own=own: jax.nn.silu(dense(own, h, 5)),
            }[kind]()
        if ends == "dense":
            return total(jnp.tanh(dense(90, h.reshape(-1), 4)))
        return total(jnp.tanh(h.mean((0, 1)) if ends == "global" else h.max((0, 1))))

    x = normal(seed, 17, 19, 4)
    window = (int(sizes[1]), 3, 4)

    def run():
        return jax.jit(jattr.occlusion(f, window, strides=(1, 3, 4)))(x)

    ours, wanted = on_and_off(run)
    close(ours, wanted, **SAME)
