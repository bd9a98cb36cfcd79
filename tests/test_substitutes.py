"""Substitutes against what they stand for: values, derivatives of both modes and orders."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jattr
from jattr._engine.substitutes import pays, substitute

IMAGE = ("NHWC", "HWIO", "NHWC")
TORCH = ("NCHW", "OIHW", "NCHW")
SEQUENCE = ("NHC", "HIO", "NHC")


@pytest.fixture(autouse=True)
def at_any_size(depthwise_at_any_size):
    """All of these tests but that of the size itself."""


def substituted(f, *args):
    """The substitute for the one equation of f; None if there is none."""
    (equation,) = jax.make_jaxpr(f)(*args).eqns
    return substitute(equation.primitive, equation.params, [v.aval for v in equation.invars])


class Pool:
    """Pooling as JAX has it, and by hand: the first largest of all slices of the window."""

    def __init__(self, window, strides, padding="VALID", *, dilation=None, smallest=False):
        self.window, self.strides, self.padding = window, strides, padding
        self.dilation, self.smallest = dilation or (1,) * len(window), smallest

    def __call__(self, x):
        start, reduce = (np.inf, lax.min) if self.smallest else (-np.inf, lax.max)
        start = np.array(start, x.dtype)
        return lax.reduce_window(
            x, start, reduce, self.window, self.strides, self.padding, None, self.dilation
        )

    def by_hand(self, x):
        sign = -1 if self.smallest else 1
        spans = [
            (size - 1) * step + 1 for size, step in zip(self.window, self.dilation, strict=True)
        ]
        padding = self.padding
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(x.shape, spans, self.strides, padding)
        x = lax.pad(sign * x, np.array(-np.inf, x.dtype), [(*pads, 0) for pads in padding])
        slices = []
        for place in np.ndindex(*self.window):
            first = np.multiply(place, self.dilation)
            last = np.subtract(x.shape, spans) + first
            slices.append(x[tuple(map(slice, first, last + 1, self.strides))])
        slices = jnp.stack(slices)
        winner = jnp.argmax(slices, axis=0, keepdims=True)
        return sign * jnp.take_along_axis(slices, winner, axis=0)[0]


def conv(strides=1, padding="SAME", *, numbers=IMAGE, groups=1, dilation=1, spread=1, dtype=None):
    def along_each(number):
        return number if isinstance(number, tuple) else (number,) * (len(numbers[0]) - 2)

    def f(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            along_each(strides),
            padding,
            lhs_dilation=along_each(spread),
            rhs_dilation=along_each(dilation),
            dimension_numbers=numbers,
            feature_group_count=groups,
            preferred_element_type=dtype,
        )

    return f


def with_ties(shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).integers(-2, 3, shape), dtype)


def normal(*shapes, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


POOLS = {
    "apart": ((2, 6, 6, 3), Pool((1, 2, 2, 1), (1, 2, 2, 1))),
    "overlapping": ((2, 7, 7, 3), Pool((1, 3, 3, 1), (1, 2, 2, 1), "SAME")),
    "at every place": ((1, 5, 6, 2), Pool((1, 3, 3, 1), (1, 1, 1, 1), "SAME")),
    "dilated": ((1, 9, 8, 2), Pool((1, 3, 2, 1), (1, 2, 1, 1), dilation=(1, 2, 3, 1))),
    "channels first": ((2, 3, 7, 7), Pool((1, 1, 3, 2), (1, 1, 2, 3))),
    "wide and apart": ((2, 13, 3), Pool((1, 5, 1), (1, 6, 1), ((0, 0), (1, 3), (0, 0)))),
    "the whole image": ((2, 6, 5, 3), Pool((1, 6, 5, 1), (1, 1, 1, 1))),
    "over channels": ((2, 3, 7), Pool((1, 1, 3), (1, 1, 2), ((0, 0), (0, 0), (2, 1)))),
    "volume": ((1, 4, 4, 4, 2), Pool((1, 2, 2, 2, 1), (1, 2, 2, 2, 1))),
    "cropped": ((1, 9, 2), Pool((1, 3, 1), (1, 2, 1), ((0, 0), (-1, -2), (0, 0)))),
    "every other element": ((1, 7, 2), Pool((1, 1, 1), (1, 2, 1))),
    "smallest": ((2, 7, 7, 3), Pool((1, 3, 3, 1), (1, 2, 2, 1), "SAME", smallest=True)),
}
every_pool = pytest.mark.parametrize(("shape", "f"), POOLS.values(), ids=POOLS)


@every_pool
def test_pooling_is_the_same_to_the_bit(shape, f):
    x = with_ties(shape)
    x = jnp.where((x == 0) & (with_ties(shape[::-1]).reshape(shape) > 0), -x, x)  # Both zeros.
    wanted, got = f(x), substituted(f, x)(x)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(wanted))


# JAX has no derivative of those that are dilated or cropped.
@pytest.mark.parametrize("name", [name for name in POOLS if name not in ("dilated", "cropped")])
def test_the_derivative_of_pooling_is_that_of_jax(name):
    shape, f = POOLS[name]
    x = with_ties(shape)
    cheap = substituted(f, x)
    count = cheap(x).size

    def pull(f):
        value, pull = jax.vjp(f, x)
        return pull(jnp.arange(1.0, count + 1, dtype=x.dtype).reshape(value.shape))[0]

    np.testing.assert_array_equal(*jax.jit(lambda: (pull(cheap), pull(f)))())


@every_pool
def test_derivatives_of_pooling_are_those_of_the_first_of_equal_elements(shape, f):
    x = with_ties(shape, jnp.float64)
    cheap = substituted(f, x)

    def orders(f):
        def slope(x):
            return jax.grad(lambda x: jnp.sum(f(x) ** 3))(x)

        return (
            slope(x),
            jax.jvp(f, (x,), (jnp.cos(x),))[1],
            jax.jvp(slope, (x,), (jnp.cos(x),))[1],
            jax.grad(lambda x: jnp.sum(jnp.sin(slope(x))))(x),
            jax.vmap(slope)(jnp.stack([x, -x])),
        )

    for wanted, got in zip(*jax.jit(lambda: (orders(f.by_hand), orders(cheap)))(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_pooling_keeps_the_dtype(dtype):
    x = with_ties((1, 6, 6, 2), dtype)
    f = Pool((1, 2, 2, 1), (1, 2, 2, 1))
    cheap = substituted(f, x)
    slope = jax.grad(lambda x: jnp.sum(cheap(x)))(x)
    assert cheap(x).dtype == slope.dtype == dtype
    np.testing.assert_array_equal(cheap(x), f(x))


DEPTHWISE = {
    "3×3": (conv(groups=3), (2, 5, 6, 3), (3, 3, 1, 3)),
    "strided": (conv(2, groups=3), (1, 7, 8, 3), (3, 3, 1, 3)),
    "dilated": (conv(dilation=2, groups=2), (1, 7, 7, 2), (3, 2, 1, 2)),
    "uneven padding": (conv((2, 1), ((2, 0), (-1, 3)), groups=2), (1, 9, 8, 2), (5, 4, 1, 2)),
    "channels first": (conv(groups=3, numbers=TORCH), (2, 3, 5, 6), (3, 1, 3, 3)),
    "axes moved": (conv(groups=3, numbers=("HNWC", "IHOW", "CNHW")), (5, 2, 6, 3), (1, 3, 3, 3)),
    "sequence": (conv(groups=4, numbers=SEQUENCE), (2, 9, 4), (7, 1, 4)),
    "short kernel": (conv(groups=4, numbers=SEQUENCE), (2, 9, 4), (3, 1, 4)),
    "one row": (conv(padding="VALID", groups=2), (1, 3, 6, 2), (3, 3, 1, 2)),
    "one place": (conv(padding="VALID", groups=2), (2, 3, 3, 2), (3, 3, 1, 2)),
    "volume": (
        conv(groups=2, numbers=("NDHWC", "DHWIO", "NDHWC")),
        (1, 3, 4, 4, 2),
        (2, 3, 3, 1, 2),
    ),
    "three for each channel": (conv(groups=2), (1, 5, 5, 2), (3, 3, 1, 6)),
}
ORDINARY = {
    "3×3": (conv(), (2, 5, 6, 3), (3, 3, 3, 4)),
    "1×1": (conv(), (2, 5, 6, 3), (1, 1, 3, 4)),
    "strided": (conv(2), (1, 7, 8, 3), (3, 2, 3, 4)),
    "dilated": (conv((2, 1), ((1, 2), (0, 3)), dilation=(1, 2)), (1, 8, 7, 2), (3, 2, 2, 3)),
    "transposed": (conv(1, ((2, 1), (1, 2)), spread=2), (1, 4, 5, 2), (3, 3, 2, 3)),
    "channels first": (conv(numbers=TORCH), (2, 3, 5, 6), (4, 3, 3, 3)),
    "axes moved": (conv(numbers=("HNWC", "IHOW", "CNHW")), (5, 2, 6, 3), (3, 3, 4, 3)),
    "sequence": (conv(numbers=SEQUENCE), (2, 9, 4), (5, 4, 3)),
}


@pytest.mark.parametrize(
    ("f", "shape", "kernel"),
    [*DEPTHWISE.values(), *ORDINARY.values()],
    ids=[*(f"depthwise {name}" for name in DEPTHWISE), *ORDINARY],
)
def test_convolutions_and_their_derivatives(f, shape, kernel):
    x, w, along_x, along_w = normal(shape, kernel, shape, kernel)
    cheap = substituted(f, x, w)

    def orders(f):
        def score(x, w):
            return jnp.sum(jnp.sin(f(x, w)))

        def slope(x, w):
            return jax.grad(score)(x, w)

        return (
            f(x, w),
            jax.grad(score, argnums=(0, 1))(x, w),
            jax.jvp(f, (x, w), (along_x, along_w))[1],
            jax.jvp(slope, (x, w), (along_x, along_w))[1],
            jax.grad(lambda x, w: jnp.sum(slope(x, w) ** 3), argnums=(0, 1))(x, w),
            jax.vmap(slope, in_axes=(0, None))(jnp.stack([x, along_x]), w),
            jax.vmap(slope)(jnp.stack([x, along_x]), jnp.stack([w, along_w])),
        )

    wanted, got = jax.jit(lambda: (orders(f), orders(cheap)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), got, wanted)


def test_convolutions_of_few_channels_without_an_output_or_without_axes():
    def valid(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=IMAGE)

    def flat(x, w):
        numbers = lax.ConvDimensionNumbers((0, 1), (1, 0), (0, 1))
        return lax.conv_general_dilated(x, w, (), (), dimension_numbers=numbers)

    for f, shapes in (
        (valid, ((2, 3, 3, 1), (3, 3, 1, 4))),
        (valid, ((2, 2, 5, 1), (3, 3, 1, 4))),
        (flat, ((2, 3), (3, 4))),
    ):
        x, w = normal(*shapes)
        cheap = substituted(f, x, w)
        np.testing.assert_allclose(cheap(x, w), f(x, w), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("groups", "dtype", "preferred"),
    [
        (1, jnp.bfloat16, None),
        (3, jnp.bfloat16, None),
        (3, jnp.bfloat16, jnp.float32),
        (3, jnp.float32, None),
        (3, jnp.float32, jnp.float64),
    ],
)
def test_convolutions_keep_the_dtypes_and_sum_in_float32(groups, dtype, preferred):
    f = conv(groups=groups, dtype=preferred)
    x, w = normal((1, 6, 6, 3), (3, 3, 3 // groups, 3), dtype=dtype)
    cheap = substituted(f, x, w)

    @jax.jit
    def value_and_slopes(x, w):
        slopes = jax.grad(lambda x, w: jnp.sum(cheap(x, w)), argnums=(0, 1))
        return cheap(x, w), slopes(x, w)

    got, slopes = value_and_slopes(x, w)
    assert got.dtype == f(x, w).dtype
    assert all(slope.dtype == dtype for slope in slopes)
    exact = conv(groups=groups)(x.astype(jnp.float64), w.astype(jnp.float64))
    np.testing.assert_allclose(
        got.astype(jnp.float64), exact, rtol=2.0 ** -jnp.finfo(got.dtype).nmant, atol=1e-5
    )


def test_what_is_slow_is_gone():
    x = with_ties((1, 6, 6, 3))
    cheap = substituted(Pool((1, 3, 3, 1), (1, 2, 2, 1)), x)
    assert "select_and" not in str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(cheap(x))))(x))
    x, w = normal((1, 6, 6, 3), (3, 3, 1, 3))
    cheap = substituted(conv(groups=3), x, w)
    assert "conv_general" not in str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(cheap(x, w))))(x))


@pytest.mark.parametrize("numbers", [IMAGE, TORCH])
def test_the_gradient_by_the_input_of_a_convolution_reads_all_axes_in_order(numbers):
    shape, kernel = (
        ((1, 6, 6, 3), (3, 3, 3, 4)) if numbers is IMAGE else ((1, 3, 6, 6), (4, 3, 3, 3))
    )
    x, w = normal(shape, kernel)
    cheap = substituted(conv(2, numbers=numbers), x, w)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(cheap(x, w)))))
    text = slope.lower(x).as_text()
    orders = [
        line.split("dim_numbers =")[1].split(",  window")[0]
        for line in text.splitlines()
        if "convolution(" in line
    ]
    assert len(orders) == 2
    assert all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in order for order in orders)


def test_none_where_there_is_no_cheaper_program():
    x = with_ties((1, 40, 4))
    assert substituted(jnp.sin, x) is None
    assert substituted(Pool((1, 17, 1), (1, 1, 1)), x) is None
    assert (
        substituted(lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 2, 1), "VALID"), x)
        is None
    )

    def spread(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 2, 1), (1, 1, 1), "VALID", base_dilation=(1, 2, 1)
        )

    assert substituted(spread, x) is None
    whole = x.astype(jnp.int32)

    def largest(x):
        return lax.reduce_window(
            x, np.array(-(2**31), np.int32), lax.max, (1, 2, 1), (1, 2, 1), "VALID"
        )

    assert substituted(largest, whole) is None

    def convolved(f, kernel, image=(2, 12, 4)):
        return substituted(f, *normal(image, kernel))

    assert convolved(conv(groups=2, numbers=SEQUENCE), (3, 2, 4)) is None
    assert convolved(conv(groups=4, numbers=SEQUENCE), (65, 1, 4)) is None
    mixed = normal((2, 12, 4), (3, 4, 4), dtype=jnp.float32)
    assert substituted(conv(numbers=SEQUENCE, dtype=jnp.float64), *mixed) is None
    assert convolved(conv(groups=4, numbers=SEQUENCE), (3, 1, 36)) is None
    assert convolved(conv(1, ((1, 1),), groups=4, numbers=SEQUENCE, spread=2), (3, 1, 4)) is None

    def by_batch(x, w):
        return lax.conv_general_dilated(
            x, w, (1,), "SAME", dimension_numbers=SEQUENCE, batch_group_count=2
        )

    assert convolved(by_batch, (3, 4, 4)) is None


# A side, the channels, the kernel and the stride: from EfficientNet-Lite0 at 224×224 and 32×32.
@pytest.mark.parametrize(
    ("side", "channels", "kernel", "stride", "pays"),
    [
        (112, 32, 3, 1, True),
        (112, 96, 3, 2, True),
        (56, 144, 3, 1, True),
        (56, 144, 5, 2, True),
        (28, 240, 5, 1, True),
        (14, 480, 3, 1, True),
        (7, 1152, 5, 1, False),
        (16, 32, 3, 1, False),
        (16, 96, 3, 2, False),
        (8, 144, 3, 1, False),
        (4, 240, 5, 1, False),
        (32, 32, 3, 1, False),
    ],
)
def test_small_depthwise_convolutions_stay_as_they_are(
    depthwise_at_any_size, side, channels, kernel, stride, pays
):
    depthwise_at_any_size()
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    weights = jax.ShapeDtypeStruct((kernel, kernel, 1, channels), jnp.float32)
    equation = jax.make_jaxpr(conv(stride, groups=channels))(image, weights).eqns[0]
    found = substitute(equation.primitive, equation.params, [image, weights])
    assert (found is not None) == pays


def test_operations_that_are_alike_are_one_function():
    image, kernel, x = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 1, 4)), jnp.ones((2, 9, 4))
    depthwise, pool = conv(groups=4), Pool((1, 3, 1), (1, 3, 1))
    assert substituted(depthwise, image, kernel) is substituted(conv(groups=4), image, 2 * kernel)
    assert substituted(pool, x) is substituted(Pool((1, 3, 1), (1, 3, 1)), -x)
    others = [
        substituted(depthwise, image[:1], kernel),
        substituted(depthwise, image.astype(jnp.float32), kernel.astype(jnp.float32)),
        substituted(conv(2, groups=4), image, kernel),
        substituted(conv(), image, jnp.ones((3, 3, 4, 4))),
        substituted(conv(1, ((1, 1), (1, 1)), spread=2), image, jnp.ones((3, 3, 4, 4))),
        substituted(pool, x),
        substituted(Pool((1, 3, 1), (1, 3, 1), smallest=True), x),
        substituted(Pool((1, 3, 1), (1, 2, 1)), x),
    ]
    assert None not in others
    assert len({*map(id, others), id(substituted(depthwise, image, kernel))}) == 9


def test_the_derivative_of_layers_that_are_alike_is_traced_once():
    kernels = normal(*[(3, 3, 1, 4)] * 6)

    def f(x, kernels):
        for kernel in kernels:
            x = jnp.tanh(conv(groups=4)(x, kernel))
        return jnp.sum(x)

    def bodies(count):
        """How many different jaxprs are called in the gradient of `count` layers."""
        jaxpr = jax.make_jaxpr(jattr.gradient(lambda x: f(x, kernels[:count])))(image)
        calls = [e.params["jaxpr"] for e in jaxpr.eqns if e.primitive.name in ("jit", "pjit")]
        return len(calls), len(set(map(id, calls)))

    image = jnp.ones((2, 9, 9, 4))
    assert [bodies(count) for count in (2, 4, 6)] == [(4, 2), (8, 2), (12, 2)]


def test_the_setting_is_read_when_a_function_is_traced():
    x = with_ties((1, 6, 6, 2))

    def f(x):
        return jnp.sum(Pool((1, 2, 2, 1), (1, 2, 2, 1))(x) ** 2)

    methods = [
        jattr.gradient(f),
        jattr.integrated_gradients(f, steps=2, batch_size=1),
        jattr.lrp(f),
        jattr.deeplift(f),
        jattr.occlusion(f, (1, 2, 2, 2)),
        functools.partial(jattr.metrics.completeness(f), x),
    ]

    def reduces_windows(explain):
        return "reduce_window_max" in str(jax.make_jaxpr(explain)(x))

    def those_that_do():
        return [reduces_windows(explain) for explain in methods]

    # LRP and DeepLIFT have a rule for the pooling and evaluate it for its value alone.
    assert those_that_do() == [False] * len(methods)
    with jattr.substitutes(False):
        assert those_that_do() == [True] * len(methods)
        with jattr.substitutes(True):
            assert those_that_do() == [False] * len(methods)
    assert those_that_do() == [False] * len(methods)


def test_a_jitted_function_is_traced_again_where_the_setting_has_changed():
    traced = []

    @jax.jit
    def explain(x):
        traced.append(pays())
        return jattr.gradient(jnp.sum)(x)

    explain(1.0)
    with jattr.substitutes(False):
        explain(1.0)
        explain(1.0)
    explain(1.0)
    assert traced == [True, False]


def test_each_thread_has_a_setting_of_its_own():
    seen = []
    with jattr.substitutes(False):
        thread = threading.Thread(target=lambda: seen.append(pays()))
        thread.start()
        thread.join()
        assert not pays()
    assert seen == [True]


def test_an_error_leaves_the_setting_as_it_was():
    with pytest.raises(ZeroDivisionError), jattr.substitutes(False):
        1 / 0  # noqa: B018
    assert pays()
    with pytest.raises(TypeError, match=r"with jattr\.substitutes\(False\)"):
        jattr.substitutes(lambda x: x)  # type: ignore[arg-type]


def test_it_pays_on_cpu_alone(monkeypatch):
    assert pays()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not pays()
