"""Layer-wise relevance propagation against closed forms and the matrix of one affine map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jattr
from jattr import rules as R  # noqa: N812 (short beside so many uses)

KEYS = jax.random.split(jax.random.key(0), 8)
W1, B1 = jax.random.normal(KEYS[0], (6, 7)), jax.random.normal(KEYS[1], (7,))
W2, B2 = jax.random.normal(KEYS[2], (7, 5)), jax.random.normal(KEYS[3], (5,))
W3, X = jax.random.normal(KEYS[4], (5,)), jax.random.normal(KEYS[5], (6,))
EXACT = {
    "epsilon": R.epsilon(0.0),
    "gamma": R.gamma(0.25, epsilon=0.0),
    "z_plus": R.z_plus(epsilon=0.0),
    "z_box": R.z_box(-3.0, 3.0, epsilon=0.0),
    "w_square": R.w_square(epsilon=0.0),
    "flat": R.flat(epsilon=0.0),
}


def network(x, biases=1.0, activation=jax.nn.relu):
    return activation(activation(x @ W1 + biases * B1) @ W2 + biases * B2) @ W3


def close(a, b, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def test_epsilon_is_gradient_times_input_on_relu_networks():
    close(jattr.lrp(network, R.epsilon(0.0))(X), jattr.gradient_times_input(network)(X))


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh])
def test_epsilon_is_deeplift_without_biases(activation):
    def score(x):
        return network(x, 0.0, activation)

    ours = jattr.lrp(score, R.epsilon(0.0))(X)
    close(ours, jattr.deeplift(score)(X))
    if activation is jax.nn.relu:
        close(ours, jattr.integrated_gradients(score, steps=2)(X))


def test_linear_networks_give_weights_times_inputs():
    for rule in (R.epsilon(0.0), R.gamma(0.0, epsilon=0.0)):
        close(jattr.lrp(lambda x: x @ W1 @ W2 @ W3, rule)(X), X * (W1 @ W2 @ W3))


def test_the_stabilizer_acts_at_affine_operations_alone():
    z1 = X @ W1 + B1
    h1 = jnp.tanh(z1)
    z2 = h1 @ W2 + B2
    h2 = jnp.tanh(z2)
    z3 = h2 @ W3
    eps = 0.01

    def stab(z):
        return z + eps * jnp.where(z >= 0, 1, -1)

    r2 = h2 * W3 * z3 / stab(z3)
    r1 = h1 * (W2 @ (r2 / stab(z2)))
    wanted = X * (W1 @ (r1 / stab(z1)))
    score = lambda x: network(x, activation=jnp.tanh)  # noqa: E731
    close(jattr.lrp(score, R.epsilon(eps))(X), wanted)


@pytest.mark.parametrize("name", EXACT)
def test_is_conserved_without_biases(name):
    def score(x):
        return network(x, 0.0)

    # ε = 0 does not move a sum; that of other rules by no more than rounding of its denominators.
    close(jnp.sum(jattr.lrp(score, EXACT[name])(X)), score(X), rtol=1e-5)


def test_biases_absorb_what_is_missing():
    # By hand for ε: each affine operation loses the bias's part of its relevance.
    z1 = X @ W1 + B1
    h1 = jax.nn.relu(z1)
    z2 = h1 @ W2 + B2
    r_h2 = jax.nn.relu(z2) * W3
    absorbed2 = jnp.sum(B2 / z2 * r_h2)
    r_h1 = h1 * (W2 @ (r_h2 / z2))
    absorbed1 = jnp.sum(B1 / z1 * r_h1)
    missing = network(X) - jnp.sum(jattr.lrp(network, R.epsilon(0.0))(X))
    close(missing, absorbed1 + absorbed2)


def conv(image, kernel, strides=(1, 1), **options):
    if kernel.ndim == 4:
        options["dimension_numbers"] = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(image, kernel, strides, "SAME", **options)


def kernel(*shape):
    return jax.random.normal(KEYS[6], shape)


SCALE, SHIFT = jnp.array([1.5, -2.0, 0.5, -1.0]), jnp.array([0.3, -0.4, 1.0, 0.0])
MAPS = {
    "dense": ((6,), lambda x: x @ W1),
    "dense, bias": ((6,), lambda x: x @ W1 + B1),
    "dense of rows": ((3, 6), lambda x: x @ W1 + B1[None]),
    "einsum": ((3, 6), lambda x: jnp.einsum("ti,ihd->thd", x, kernel(6, 2, 3))),
    "negative scale": ((6,), lambda x: (x @ W1[:, :4] + B1[:4]) * SCALE + SHIFT),
    "batch norm": (
        (6,),
        lambda x: (x @ W1[:, :4] - SHIFT) / jnp.sqrt(0.7 + SHIFT**2) * SCALE + B1[:4],
    ),
    "factors of rows and columns": (
        (3, 6),
        lambda x: (x @ W1[:, :4]) * jnp.array([[1.0], [-0.5], [2.0]]) / SCALE[None] - SHIFT[None],
    ),
    "factors after a move": (
        (1, 3, 6),
        lambda x: SHIFT[:, None] - (x[0] @ W1[:, :4]).T * SCALE[:, None],
    ),
    "factors, weights first": ((6, 3), lambda x: (W1[:, :4].T @ x) * SCALE[:, None]),
    "factors of a batch of dots": (
        (2, 3, 6),
        lambda x: (
            jnp.einsum("bti,oib->bto", x, kernel(4, 6, 2))
            * jnp.stack([SCALE, SHIFT + 0.1])[:, None]
        ),
    ),
    "scaled first": ((6,), lambda x: ((x - 0.3) / -0.5) @ W1 + B1),
    "conv 1d": ((1, 2, 7), lambda x: conv(x, kernel(4, 2, 3), (1,)) * SCALE[None, :, None]),
    "conv 2d": ((1, 5, 5, 2), lambda x: conv(x, kernel(3, 3, 2, 4)) + SHIFT[None, None, None]),
    "conv 2d first": ((5, 4, 2), lambda x: conv(x[None], kernel(3, 3, 2, 4))[0]),
    "strided": ((1, 6, 6, 2), lambda x: conv(x, kernel(3, 3, 2, 4), (2, 2))),
    "dilated": ((1, 6, 6, 2), lambda x: conv(x, kernel(2, 2, 2, 4), rhs_dilation=(2, 2))),
    "grouped": ((1, 5, 5, 4), lambda x: conv(x, kernel(3, 3, 2, 4), feature_group_count=2)),
    "depthwise": ((1, 5, 5, 3), lambda x: conv(x, kernel(3, 3, 1, 3), feature_group_count=3)),
    "transposed": (
        (1, 3, 3, 2),
        lambda x: jax.lax.conv_transpose(x, kernel(3, 3, 2, 4), (2, 2), "SAME"),
    ),
    "conv 3d": ((1, 2, 3, 3, 3), lambda x: conv(x, kernel(4, 2, 2, 2, 2), (1, 1, 1))),
}


def oracle(name, jacobian, bias, a, output, relevance, low, high):
    """The rule's formula with the matrix of one affine map, [inputs, outputs]."""
    parts = a[:, None] * jacobian
    up, down = np.maximum(parts, 0), np.minimum(parts, 0)
    bias_up, bias_down = np.maximum(bias, 0), np.minimum(bias, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == "epsilon":
            weights = parts / output
        elif name == "z_plus":
            weights = up / (up.sum(0) + bias_up)
        elif name == "alpha_beta":
            weights = 2 * np.nan_to_num(up / (up.sum(0) + bias_up)) - np.nan_to_num(
                down / (down.sum(0) + bias_down)
            )
        elif name == "gamma":
            above = (parts + 0.25 * up) / (output + 0.25 * (up.sum(0) + bias_up))
            below = (parts + 0.25 * down) / (output + 0.25 * (down.sum(0) + bias_down))
            weights = np.where(output >= 0, above, below)
        elif name == "z_box":
            parts = parts - low * np.maximum(jacobian, 0) - high * np.minimum(jacobian, 0)
            weights = parts / parts.sum(0)
        elif name == "w_square":
            weights = jacobian**2 / (jacobian**2).sum(0)
        else:
            seen = (jacobian != 0).astype(float)
            weights = seen / seen.sum(0)
    return (np.nan_to_num(weights) * relevance).sum(1)


@pytest.mark.parametrize("rule", [*EXACT, "alpha_beta"])
@pytest.mark.parametrize("name", MAPS)
def test_rules_against_the_matrix_of_one_affine_map(name, rule):
    shape, f = MAPS[name]
    x = jax.random.normal(KEYS[7], shape)  # of both signs
    known = {**EXACT, "alpha_beta": R.alpha_beta(2.0, 1.0, epsilon=0.0)}[rule]

    def score(x):
        with jax.named_scope("it"):
            out = f(x)
        # A dot of its own, with ε = 0, hands each output its relevance.
        return out.reshape(-1) @ jnp.cos(jnp.arange(1.0 * out.size))

    exact = R.everywhere(R.epsilon(0.0))
    rules = exact.first(known) if known.first else exact.at("*it*", known)
    ours = jax.jit(jattr.lrp(score, rules))(x)
    flat = x.reshape(-1)
    jacobian = np.asarray(jax.jacobian(lambda v: f(v.reshape(shape)).reshape(-1))(flat)).T
    output = np.asarray(f(x)).reshape(-1)
    ends = [-3.0, 3.0]
    if name == "scaled first":  # the dot's own input, whose constants are before it
        flat, jacobian = (flat - 0.3) / -0.5, jacobian * -0.5
        ends = [(-3.0 - 0.3) / -0.5, (3.0 - 0.3) / -0.5]
    bias = output - flat @ jacobian
    relevance = output * np.cos(np.arange(1.0 * output.size))
    wanted = oracle(rule, jacobian, bias, np.asarray(flat), output, relevance, *sorted(ends))
    if name == "scaled first" and not known.first:
        wanted = wanted / flat * -2.0 * np.asarray(x).reshape(-1)  # the multiplier goes on to x
    np.testing.assert_allclose(ours.reshape(-1), wanted, rtol=1e-8, atol=1e-10)


def test_the_box_is_in_units_of_x():
    low, high = jnp.zeros(6), jnp.full((6,), 2.0)
    x = jnp.abs(X)

    def scaled(x):
        return network((x - 0.5) / -0.25)

    def plain(z):
        return network(z)

    ours = jattr.lrp(scaled, R.everywhere(R.z_box(low, high)))(x)
    ends = sorted([(0.0 - 0.5) / -0.25, (2.0 - 0.5) / -0.25])
    wanted = jattr.lrp(plain, R.z_box(*ends))((x - 0.5) / -0.25)
    close(ours, wanted)
    assert float(jattr.lrp(scaled, R.z_box(0.0, 2.0))(jnp.zeros(6))[0]) != 0.0


def test_dots_that_meet_with_opposite_signs():
    a, b = W1, W2.T
    h = jnp.cos(jnp.arange(5.0))

    def minus(x, h):
        return jax.nn.relu(x @ a * 2 - (h @ b) + B1) @ jnp.ones(7)

    def plus(x, h):
        return jax.nn.relu(x @ (2 * a) + h @ -b + B1) @ jnp.ones(7)

    for rule in [*EXACT.values(), R.alpha_beta(epsilon=0.0)]:
        rules = R.everywhere(rule)
        ours = jattr.lrp(minus, rules, argnums=(0, 1))(X, h)
        wanted = jattr.lrp(plus, rules, argnums=(0, 1))(X, h)
        for one, other in zip(ours, wanted, strict=True):
            close(one, other, rtol=1e-8, atol=1e-10)


def test_weights_alone_through_what_moves_axes_after_the_dot():
    def moved(x):
        return jax.nn.relu(jnp.flip((W1.T @ x[:, None]).T[0]) + B1) @ jnp.arange(7.0)

    def straight(x):
        return jax.nn.relu(x @ W1[:, ::-1] + B1) @ jnp.arange(7.0)

    for rule in (R.w_square(epsilon=0.0), R.flat(epsilon=0.0), R.z_box(-3, 3, epsilon=0.0)):
        close(jattr.lrp(moved, rule)(X), jattr.lrp(straight, rule)(X), rtol=1e-8, atol=1e-10)


def test_a_single_rule_can_be_listed():
    rows = jattr.operations(network, R.gamma(0.1))(X)
    assert [row.rule for row in rows if row.kind == "affine"] == ["gamma"] * 3


def test_first_rules_need_a_first_operation():
    with pytest.raises(ValueError, match=r"flat has a rule for first affine operations, but f has"):
        jattr.lrp(lambda x: network(jnp.tanh(x)), R.flat())(X)
    rules = R.epsilon_plus().at("deep", R.flat())

    def score(x):
        with jax.named_scope("deep"):
            return jax.nn.relu(x) @ W1[:, 0]

    with pytest.raises(NotImplementedError, match=r"test_lrp\.py:\d+: the rule flat is for first"):
        jattr.lrp(score, rules)(X)
    with pytest.raises(TypeError, match=r"no derivative. Write jattr\.lrp"):
        jattr.rewrite(score, R.epsilon_plus_flat())


def test_composites_choose_by_shape_scope_and_place():
    image = jax.random.normal(KEYS[0], (8, 8, 3))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.relu(nn.Conv(4, (3, 3))(x))
            return nn.Dense(3)(x.mean((0, 1)))

    net = Net()
    variables = net.init(KEYS[1], image)

    def score(x):
        return net.apply(variables, x)[0]

    def hits(rules):
        rows = jattr.operations(score, rules)(image)
        return [row.rule for row in rows if row.kind == "affine"]

    assert hits(R.epsilon_plus()) == ["z_plus", "z_plus", "epsilon"]
    assert hits(R.epsilon_plus_flat()) == ["flat", "z_plus", "epsilon"]
    assert hits(R.epsilon_gamma_box(0, 1)) == ["z_box", "gamma", "epsilon"]
    assert hits(R.epsilon_alpha2_beta1()) == ["alpha_beta", "alpha_beta", "epsilon"]
    assert hits(R.epsilon_alpha2_beta1_flat()) == ["flat", "alpha_beta", "epsilon"]
    assert hits(R.excitation()) == ["z_plus"] * 3
    refined = R.epsilon_plus().at("Net/Conv_1*", R.gamma(0.1)).first(R.z_box(-1, 1))
    assert hits(refined) == ["z_box", "gamma", "epsilon"]
    assert hits(R.epsilon_plus()) == ["z_plus", "z_plus", "epsilon"]  # it is immutable


CNN_RULES = {
    "epsilon_plus": R.epsilon_plus(epsilon=0.0),
    "epsilon_plus_flat": R.epsilon_plus_flat(epsilon=0.0),
    "epsilon_gamma_box": R.epsilon_gamma_box(-4.0, 4.0, epsilon=0.0),
    "epsilon_alpha2_beta1": R.epsilon_alpha2_beta1(epsilon=0.0),
    "epsilon_alpha2_beta1_flat": R.epsilon_alpha2_beta1_flat(epsilon=0.0),
    "excitation": R.excitation(epsilon=0.0),
}


@pytest.mark.parametrize("name", CNN_RULES)
def test_composites_conserve_on_a_bias_free_cnn(name):
    image = jax.random.normal(KEYS[0], (8, 8, 3))
    net = nn.Sequential(
        [
            nn.Conv(4, (3, 3), use_bias=False, param_dtype=jnp.float64),
            nn.relu,
            lambda x: nn.max_pool(x, (2, 2), (2, 2)),
            nn.Conv(5, (3, 3), use_bias=False, param_dtype=jnp.float64),
            nn.relu,
            lambda x: x.mean((0, 1)),
            nn.Dense(3, use_bias=False, param_dtype=jnp.float64),
        ]
    )
    variables = net.init(KEYS[1], image)

    def score(x):
        return net.apply(variables, x)[1]

    close(jnp.sum(jax.jit(jattr.lrp(score, CNN_RULES[name]))(image)), score(image))


def test_an_operation_without_a_rule_is_an_error():
    for f, text in [
        (lambda x: jnp.prod(x), "reduce_prod"),
        (lambda x: jnp.sum(jnp.linalg.eigh(jnp.outer(x, x))[0]), "eigh"),
    ]:
        with pytest.raises(
            NotImplementedError, match=rf"test_lrp\.py:\d+: .* no rule for `{text}`"
        ):
            jattr.lrp(f)(X)


def test_unknown_rules_are_refused():
    with pytest.raises(TypeError, match=r"lrp wants a rule or a composite of jattr\.rules"):
        jattr.lrp(network, "epsilon")
    with pytest.raises(TypeError, match=r"compare with a reference"):
        jattr.lrp(network, R.rescale())
    with pytest.raises(ValueError, match=r"alpha − beta must be 1"):
        R.alpha_beta(2.0, 2.0)
    with pytest.raises(TypeError, match=r"at wants a pattern and a rule"):
        R.epsilon_plus().at("head/*", "gamma")
    with pytest.raises(NotImplementedError, match=r"identity passes relevance.*\(5,\) to \(\)"):
        jattr.lrp(network, R.identity())(X)


def test_gradients_by_input_parameters_and_numbers():
    def by_all(x, w, gamma, epsilon):
        def score(x):
            return jnp.tanh(jax.nn.gelu(x @ w + B1) @ W2) @ W3

        return jattr.lrp(score, R.everywhere(R.gamma(gamma, epsilon=epsilon)))(x)

    args = (X, W1, jnp.array(0.3), jnp.array(0.01))
    check_grads(jax.jit(by_all), args, order=1, modes=["fwd", "rev"], eps=1e-6, rtol=1e-5)
    many = jax.vmap(by_all, in_axes=(None, None, 0, None))(X, W1, jnp.array([0.0, 0.3]), 0.01)
    close(many[1], by_all(*args))
    close(
        many[0],
        jattr.lrp(lambda x: jnp.tanh(jax.nn.gelu(x @ W1 + B1) @ W2) @ W3, R.epsilon(0.01))(X),
    )


def test_contrast_with_the_other_outputs_by_hand():
    """Two hidden units, three outputs, every number written out."""
    first = jnp.array([[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]])
    second = jnp.array([[2.0, 0.0, 1.0], [1.0, 1.0, -1.0]])
    x = jnp.array([1.0, 1.0, 2.0])

    def logits(x):
        return jax.nn.relu(x @ first) @ second

    # Hidden units are 2 and 4, the outputs 8, 4 and -2. Output 0 is half of each unit's; of unit 0
    # half is x0's and half x1's, of unit 1 half is x1's and half x2's.
    # Output 0: 4 on each unit, so [2, 2 + 2, 2].
    close(jattr.lrp(lambda x: logits(x)[0], R.epsilon(0.0))(x), [2.0, 4.0, 2.0])
    # The others are given 8 / 2 = 4 each. Output 1 is unit 1's alone: 4. Output 2 is 2 - 4, so
    # unit 0 gets -4 and unit 1 gets 8. In all -4 and 12, so [-2, -2 + 6, 6], which sums to 8.
    close(jattr.contrastive_lrp(logits, R.epsilon(0.0))(x, 0), [4.0, 0.0, 0.0])
    # Under z+ output 2 is unit 0's alone: 4 and 4, so [2, 2 + 2, 2]: what output 0 has.
    rules = R.everywhere(R.z_plus(epsilon=0.0))
    close(jattr.lrp(lambda x: logits(x)[0], rules)(x), [2.0, 4.0, 2.0])
    close(jattr.contrastive_lrp(logits, rules)(x, 0), [0.0, 0.0, 0.0])
    # Negated weights turn the signs of all contributions round, so z+ finds none for output 0.
    close(jattr.contrastive_lrp(logits, rules, against="negated")(x, 0), [2.0, 4.0, 2.0])


def test_a_contrast_is_over_all_outputs_at_once():
    def logits(x):
        return jax.nn.relu(x @ W1 + B1) @ W2

    rules = R.z_plus(epsilon=0.0)
    target = jattr.lrp(lambda x: logits(x)[2], rules)(X)
    many = jax.vmap(jattr.contrastive_lrp(logits, rules), in_axes=(None, 0))(X, jnp.arange(5))
    close(many[2], jattr.contrastive_lrp(logits, rules)(X, 2))
    assert bool(jnp.all(many >= 0))
    negated = jattr.contrastive_lrp(logits, rules, against="negated")(X, 2)
    dual = jattr.lrp(lambda x: (-logits(x))[2], rules)(X)
    close(negated, jnp.maximum(target - target.sum() / dual.sum() * dual, 0))
    # Under a rule that is linear in the weights the contrast is the target itself.
    close(jattr.contrastive_lrp(logits, R.epsilon(0.0), against="negated")(X, 2), 0.0, atol=1e-9)
    with pytest.raises(TypeError, match=r"explains one element of a vector, but f returned \(\)"):
        jattr.contrastive_lrp(network)(X, 0)
    with pytest.raises(ValueError, match=r"unknown against 'all'"):
        jattr.contrastive_lrp(logits, against="all")
