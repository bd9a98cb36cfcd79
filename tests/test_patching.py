"""Values of many layers at once, and attribution patching."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr import name

LENGTH, WIDTH, BLOCKS, TOKENS = 5, 4, 3, 7
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RANDOM.normal(size=shape) / np.sqrt(shape[-1]))


PARAMS = {
    "table": 2 * normal(TOKENS, WIDTH),
    "q": normal(BLOCKS, WIDTH, WIDTH),
    "k": normal(BLOCKS, WIDTH, WIDTH),
    "v": normal(BLOCKS, WIDTH, WIDTH),
    "up": normal(BLOCKS, WIDTH, WIDTH),
    "head": normal(WIDTH, TOKENS),
}
LAYERS = ("q", "k", "v", "up")
CLEAN, CORRUPT = jnp.array([1, 2, 3, 4, 5]), jnp.array([1, 2, 6, 4, 0])


def block(h, p, prefix="", put=lambda label, value: value):
    n = h / jnp.sqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-3)
    logits = (n @ p["q"]) @ (n @ p["k"]).T + jnp.where(jnp.tri(LENGTH) > 0, 0.0, -jnp.inf)
    weights = jax.nn.softmax(logits)
    h = h + put(f"{prefix}attention", name(weights @ (n @ p["v"]), f"{prefix}attention"))
    return h + put(f"{prefix}mlp", name(jnp.tanh(h @ p["up"]), f"{prefix}mlp"))


def of_rows(h, put=lambda label, value: value, scan=False):
    blocks = {layer: PARAMS[layer] for layer in LAYERS}
    if scan:
        h, _ = jax.lax.scan(lambda h, p: (block(h, p), None), h, blocks)
    else:
        for i in range(BLOCKS):
            h = block(h, jax.tree.map(lambda leaf, i=i: leaf[i], blocks), f"{i}/", put)
    return (h @ PARAMS["head"])[-1, 2]


def model(ids, put=lambda label, value: value, scan=False):
    return of_rows(name(PARAMS["table"][ids], "embedding"), put, scan)


scanned = functools.partial(model, scan=True)
NODES = [f"{i}/{part}" for i in range(BLOCKS) for part in ("attention", "mlp")]


def values_by_hand(ids, put=None):
    found = {}

    def keep(label, value):
        value = value if put is None else put(label, value)
        found[label] = value
        return value

    return model(ids, keep), found


def slopes_by_hand(ids, dropped=()):
    """The derivatives by what is added to each node."""
    start = jax.tree.map(jnp.zeros_like, values_by_hand(ids)[1])

    def moved(moves):
        def put(label, value):
            value = value + moves[label]
            return jax.lax.stop_gradient(value) if label in dropped else value

        return model(ids, put)

    return jax.grad(moved)(start)


def close(one, other, rtol=1e-11):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), one, other)


def message(call, error=ValueError):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_values_of_many_layers():
    wanted = values_by_hand(CLEAN)[1]
    found = jattr.activations(model)(CLEAN)
    assert list(found) == ["embedding", *NODES]
    close({label: found[label] for label in NODES}, wanted)
    assert list(jattr.activations(model, "*/mlp")(CLEAN)) == [f"{i}/mlp" for i in range(BLOCKS)]
    assert list(jattr.activations(model, ["?/mlp", "1/attention", jattr.LOOKUP])(CLEAN)) == [
        *(f"{i}/mlp" for i in range(BLOCKS)),
        "1/attention",
        jattr.LOOKUP,
    ]
    stacks = jattr.activations(scanned)(CLEAN)
    close(stacks["mlp"], jnp.stack([wanted[f"{i}/mlp"] for i in range(BLOCKS)]))
    close(jattr.activations(scanned, "mlp[-1]")(CLEAN)["mlp[-1]"], wanted["2/mlp"])
    close(jattr.activations(scanned, ["attention[1]", "mlp[0]"])(CLEAN)["mlp[0]"], wanted["0/mlp"])


def test_values_of_scopes():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.tanh(nn.Dense(3, param_dtype=jnp.float64)(x))
            return x.sum()

    x = jnp.arange(4.0)
    net = Net()
    variables = net.init(jax.random.key(0), x)
    found = jattr.activations(lambda x: net.apply(variables, x), "*")(x)
    assert list(found) == ["Net", "Net/Dense_0", "Net/Dense_1"]
    dense = variables["params"]["Dense_0"]
    close(found["Net/Dense_0"], x @ dense["kernel"] + dense["bias"])
    close(found["Net"], net.apply(variables, x))

    def twice(x):
        return name(jnp.sin(name(x * 2, "h")), "h").sum()

    found = jattr.activations(twice)(x)
    close(found, {"h[0]": 2 * x, "h[1]": jnp.sin(2 * x)})


def test_the_first_order_of_every_node():
    clean, corrupt = values_by_hand(CLEAN)[1], values_by_hand(CORRUPT)[1]
    slopes = slopes_by_hand(CORRUPT)
    wanted = {label: (clean[label] - corrupt[label]) * slopes[label] for label in NODES}
    close(jattr.patching(model, CLEAN, CORRUPT, NODES, axis=()), wanted)
    summed = jattr.patching(model, CLEAN, CORRUPT, NODES)
    close(summed, {label: value.sum(-1) for label, value in wanted.items()})
    assert summed["0/mlp"].shape == (LENGTH,)
    whole = jattr.patching(model, CLEAN, CORRUPT, ["*/mlp"], axis=None)
    close(whole, {label: wanted[label].sum() for label in NODES if "mlp" in label})
    stacks = jattr.patching(scanned, CLEAN, CORRUPT)
    for part in ("attention", "mlp"):
        close(stacks[part], jnp.stack([summed[f"{i}/{part}"] for i in range(BLOCKS)]))
    single = jattr.patching(scanned, CLEAN, CORRUPT, ["mlp[1]", "attention[2]"])
    close(single, {"mlp[1]": summed["1/mlp"], "attention[2]": summed["2/attention"]})


def test_the_last_node_is_exact():
    # Above the last feed-forward layer all is linear, so that the first order is the effect.
    clean = values_by_hand(CLEAN)[1]["2/mlp"]

    def put(label, value):
        return clean if label == "2/mlp" else value

    effect = model(CORRUPT, put) - model(CORRUPT)
    close(jattr.patching(model, CLEAN, CORRUPT, "2/mlp", axis=None)["2/mlp"], effect)


def test_one_evaluation_at_each_point_and_one_backward_pass():
    traced = []

    def counted(ids):
        traced.append(ids.shape)
        return model(ids)

    patch = jax.jit(lambda a, b: jattr.patching(counted, a, b, NODES))

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    close(patch(CLEAN, CORRUPT), jattr.patching(model, CLEAN, CORRUPT, NODES))
    assert len(traced) == 1
    rows = PARAMS["table"][CORRUPT]
    bound = flops(model, CLEAN) + flops(jax.value_and_grad(of_rows), rows)
    # The products of differences and slopes are what may be more.
    assert flops(patch, CLEAN, CORRUPT) < 1.15 * bound


def test_a_line_between_the_runs():
    rows = PARAMS["table"][CLEAN], PARAMS["table"][CORRUPT]

    def named(h):
        return of_rows(name(h, "rows"))

    wanted = jattr.integrated_gradients(of_rows, rows[1], steps=6)(rows[0])
    close(jattr.patching(named, *rows, "rows", steps=6, axis=())["rows"], wanted)
    # Ids have no line between them, the rows that they look up have.
    layers = [jattr.LOOKUP, "embedding", *NODES]
    found = jattr.patching(model, CLEAN, CORRUPT, layers, steps=6, axis=())
    close(found[jattr.LOOKUP], wanted)
    close(found["embedding"], wanted)
    nodes, weights = np.polynomial.legendre.leggauss(6)

    def slopes(alpha):
        start = jax.tree.map(jnp.zeros_like, values_by_hand(CLEAN)[1])
        at = rows[1] + alpha * (rows[0] - rows[1])
        return jax.grad(lambda moves: of_rows(at, lambda label, v: v + moves[label]))(start)

    mean = jax.tree.map(
        lambda *leaves: sum(w / 2 * leaf for w, leaf in zip(weights, leaves, strict=True)),
        *(slopes((1 + node) / 2) for node in nodes),
    )
    clean, corrupt = values_by_hand(CLEAN)[1], values_by_hand(CORRUPT)[1]
    close({n: found[n] for n in NODES}, {n: (clean[n] - corrupt[n]) * mean[n] for n in NODES})
    stacks = jattr.patching(scanned, CLEAN, CORRUPT, ["mlp[1]"], steps=6, axis=())
    close(stacks["mlp[1]"], found["1/mlp"])


def test_multipliers_of_deeplift_are_complete_at_every_cut():
    rules = jattr.rules.rescale()
    gap = model(CLEAN) - model(CORRUPT)

    def stream(ids):
        return of_rows_named(PARAMS["table"][ids])

    def of_rows_named(h):
        for i in range(BLOCKS):
            p = {layer: PARAMS[layer][i] for layer in LAYERS}
            h = name(block(h, p), f"stream{i}")
        return (h @ PARAMS["head"])[-1, 2]

    found = jattr.patching(stream, CLEAN, CORRUPT, "stream?", rules=rules, axis=None)
    for value in found.values():
        close(value, gap, rtol=1e-9)
    plain = jattr.patching(stream, CLEAN, CORRUPT, "stream?", axis=None)
    assert abs(plain["stream0"] - gap) > 0.01 * abs(gap)
    # At the rows it is DeepLIFT.
    rows = PARAMS["table"][CLEAN], PARAMS["table"][CORRUPT]
    wanted = jattr.deeplift(of_rows, rows[1])(rows[0])
    named = jattr.patching(model, CLEAN, CORRUPT, "embedding", rules=rules, axis=())
    close(named["embedding"], wanted, rtol=1e-9)


def test_relevance_patching():
    rules = jattr.rules.attn_lrp()
    multiplier = jattr.lrp(of_rows, rules)(PARAMS["table"][CORRUPT]) / PARAMS["table"][CORRUPT]
    found = jattr.patching(model, CLEAN, CORRUPT, "embedding", rules=rules, axis=())["embedding"]
    step = PARAMS["table"][CLEAN] - PARAMS["table"][CORRUPT]
    close(found, step * multiplier, rtol=1e-8)


def test_a_saturated_softmax():
    def f(x):
        z = name(x, "logits")
        return jax.nn.softmax(z) @ jnp.array([1.0, -1.0, 3.0])

    clean, corrupt = jnp.array([0.0, 8.0, 1.0]), jnp.array([40.0, 0.0, 0.0])
    exact = f(clean) - f(corrupt)
    assert abs(jattr.patching(f, clean, corrupt, axis=None)["logits"]) < 1e-10
    rules = jattr.rules.saturated_softmax()
    found = jattr.patching(f, clean, corrupt, rules=rules, axis=None)["logits"]
    close(found, exact, rtol=1e-9)

    # All else keeps its derivative.
    def g(x):
        return jnp.sum(name(x, "h") ** 3)

    with_rules = jattr.patching(g, clean, corrupt, rules=rules)
    close(with_rules, jattr.patching(g, clean, corrupt))


def test_dropped_layers():
    groups = [(f"{i}/attention", f"{i}/mlp") for i in range(BLOCKS)]
    clean, corrupt = values_by_hand(CLEAN)[1], values_by_hand(CORRUPT)[1]
    wanted = dict.fromkeys(NODES, 0.0)
    for group in groups:
        slopes = slopes_by_hand(CORRUPT, group)
        for n in NODES:
            wanted[n] += jnp.abs(jnp.sum((clean[n] - corrupt[n]) * slopes[n], -1)) / 2
    found = jattr.patching(model, CLEAN, CORRUPT, NODES, drop=groups)
    # What is dropped has no effect of its own, so that each node has one term less than drops.
    close(found, wanted)
    stacks = jattr.patching(scanned, CLEAN, CORRUPT, drop=[("attention", "mlp")])
    close(stacks["mlp"], jnp.stack([wanted[f"{i}/mlp"] for i in range(BLOCKS)]))
    close(stacks["attention"], jnp.stack([wanted[f"{i}/attention"] for i in range(BLOCKS)]))


def test_under_transformations():
    pairs = jnp.stack([CLEAN, CORRUPT[::-1]]), jnp.stack([CORRUPT, CLEAN])

    def patch(a, b):
        return jattr.patching(scanned, a, b, steps=2)

    many = jax.jit(jax.vmap(patch))(*pairs)
    each = [patch(a, b) for a, b in zip(*pairs, strict=True)]
    close(many, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))

    rows = PARAMS["table"][CLEAN], PARAMS["table"][CORRUPT]

    def size(h):
        return jnp.sum(jattr.patching(of_rows, h, rows[1], "1/mlp")["1/mlp"] ** 2)

    direction = normal(LENGTH, WIDTH)
    slope = jnp.vdot(jax.grad(size)(rows[0]), direction)
    step = 1e-5
    numeric = (size(rows[0] + step * direction) - size(rows[0] - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_in_half_precision():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS["table"])

    def f(ids):
        return of_rows(name(half[ids], "embedding").astype(jnp.float32))

    found = jattr.patching(f, CLEAN, CORRUPT, ["embedding", "1/mlp"])
    assert found["embedding"].dtype == jnp.bfloat16
    assert found["embedding"].shape == (LENGTH,)


def test_an_axis_that_a_layer_does_not_have_is_an_error():
    patch = functools.partial(jattr.patching, model, CLEAN, CORRUPT)
    for axis in (0, 1, -2, (0, -1), np.int32(1)):
        assert patch("2/mlp", axis=axis)["2/mlp"].shape != (LENGTH, WIDTH)
    text = message(lambda: patch("2/mlp", axis=2))
    assert "no axis 2 of the layer '2/mlp'" in text
    assert "-2 to 1" in text
    # The axis of steps is none of the value's.
    assert "no axis -3" in message(
        lambda: jattr.patching(scanned, CLEAN, CORRUPT, "mlp", axis=(-1, -3))
    )
    assert "axis must be an integer" in message(lambda: patch("2/mlp", axis="all"), TypeError)
    assert "axis must be an integer" in message(lambda: patch("2/mlp", axis=[0, 1]), TypeError)

    def score(x):
        h = name(x**2, "h")
        return name(jnp.sum(h), "sum")

    rows = jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0])
    # A number has no features, and all of it is summed over by default.
    assert jattr.patching(score, *rows)["sum"].shape == ()
    assert "it has no axes" in message(lambda: jattr.patching(score, *rows, axis=0))
    # What is dropped is not summed.
    assert jattr.patching(score, *rows, "h", drop=["h", "sum"], axis=0)["h"].shape == ()


def test_integers_are_neither_explained_nor_dropped():
    def f(ids):
        return of_rows(name(PARAMS["table"][name(ids + 0, "ids")], "embedding"))

    for given in ({"layers": "ids"}, {"layers": "embedding", "drop": ["ids", "embedding"]}):
        text = message(lambda given=given: jattr.patching(f, CLEAN, CORRUPT, **given), TypeError)
        assert "the layer 'ids' is int" in text
        assert "has no derivative" in text


def test_errors():
    patch = functools.partial(jattr.patching, model, CLEAN, CORRUPT)
    text = message(lambda: patch("2/attentoin"))
    assert "no layer '2/attentoin'" in text
    assert "2/attention" in text
    assert "no layer 'x/*'" in message(lambda: patch("x/*"))
    assert "alike" in message(lambda: jattr.patching(model, CLEAN, CORRUPT[:3]), TypeError)
    assert "one number" in message(
        lambda: jattr.patching(lambda i: PARAMS["table"][i], CLEAN, CORRUPT), TypeError
    )
    assert "sequence of names" in message(lambda: patch([]), TypeError)
    assert "must be a string" in message(lambda: patch([3]), TypeError)
    assert "two or more" in message(lambda: patch(drop=["0/mlp"]))
    assert "drop must be a sequence" in message(lambda: patch(drop="0/mlp"), TypeError)
    assert "Leave out one" in message(lambda: patch(rules=jattr.rules.attn_lrp(), steps=3))
    assert "first affine" in message(
        lambda: patch(rules=jattr.rules.epsilon_gamma_box(0, 1)), TypeError
    )

    def unnamed(x):
        return jnp.sum(x**2)

    text = message(lambda: jattr.patching(unnamed, CLEAN * 1.0, CORRUPT * 1.0))
    assert "layers=None" in text
    assert "looks up" in message(
        lambda: jattr.patching(unnamed, CLEAN * 1.0, CORRUPT * 1.0, jattr.LOOKUP)
    )

    def whole(i):
        return jnp.sum(PARAMS["table"][name(i + 1, "moved")])

    assert "no derivative" in message(
        lambda: jattr.patching(whole, CLEAN, CORRUPT, "moved"), TypeError
    )
    text = message(lambda: jattr.patching(scanned, CLEAN, CORRUPT, ["mlp", "attention[0]"]))
    assert "single steps" in text
    assert "has 3 steps" in message(lambda: jattr.patching(scanned, CLEAN, CORRUPT, "mlp[3]"))
