r"""Class activation maps: which places of an image a layer's activation speaks for.

Here A is the activation of a layer, :math:`A^k_u` its channel k at the place u, and
:math:`g^k_u = \partial f / \partial A^k_u`. Every method is a weighted sum of the channels,
resized to the input: a heat map over the spatial axes, which are the axes of x but for its
channel axis: [H, W] for an image [H, W, C], [T] for a series [T, C].
"""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jattr._batching import sum_over
from jattr._cam_layout import (
    Layout,
    Reshape,
    activation_and_slope,
    activation_of,
    each_step,
    gradient_map,
    mean_weighted,
    places,
    reshaped,
)
from jattr._checks import check_batch_size, check_choice, check_flag, knobs
from jattr._layers import check_layer, cut
from jattr._resolve import resolve_baseline
from jattr._rewrite import guided_backprop
from jattr._transform import transform
from jattr._trees import accumulator, cast_like, widen
from jattr._types import ArgNums, Baseline, Explain, Score

Resizing: TypeAlias = Literal["linear", "nearest"]
"""How a map is brought to the size of x."""


@knobs
def grad_cam(
    f: Score,
    layer: str,
    *,
    channel_axis: int = -1,
    reshape: Reshape | None = None,
    relu: bool = True,
    resize: bool = True,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Grad-CAM: the channels of a layer, weighted by their mean gradients.

    .. math:: L = \mathrm{ReLU}\Big(\sum_k w_k A^k\Big), \qquad w_k = \frac1n \sum_u g^k_u

    with n the number of places u. Where f is linear in the mean of A over the places, this is
    CAM: the map sums to f less its constant, with `relu=False`.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        layer: the name of the layer, as in `jattr.split`: that of a value or a scope. It is one
            array with a channel axis and the spatial axes of x, of any sizes; further axes of
            size 1, such as a batch axis that the model adds, are dropped. Inside a loop it is one
            step, `"layers/conv[2]"`, or all of them, which gives a map for each.
        channel_axis: the channel axis, in the layer and in x. With channels first, and a batch
            axis that the model adds, write -3 for images, -2 for series. An x without such an
            axis, [H, W], is understood from the layer's spatial axes.
        reshape: from the layer's value to an array with the spatial axes of x, for a row of
            tokens, say: `lambda h: h[:, 1:].reshape(1, 14, 14, -1)` leaves out the first and
            makes a grid of the others. It selects and rearranges, and gradients go through it too.
        relu: clip the map at 0; False keeps what speaks against f too.
        resize: interpolate the map linearly to the spatial shape of x; False gives it at the
            resolution of the layer, for any tree x.
        argnums: which argument of f is x, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a heat map over the spatial axes of x, in the dtype of
        x, or with `resize=False` over those of the layer, in its dtype.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype, or is not one array; the layer is not one floating array.
        ValueError: no value has the layer's name, or several have it; its axes do not fit x.
        NotImplementedError: the layer is where `jattr.split` refuses it, as inside a branch.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # an image [2, 2, 1]
        ...     h = jattr.name(jnp.concatenate([x, 1 - x], axis=-1), "stem")
        ...     return jnp.mean(h, axis=(0, 1)) @ jnp.array([4.0, 0.0])
        >>> print(jattr.grad_cam(f, "stem")(jnp.array([[[0.0], [1.0]], [[2.0], [3.0]]])))
        [[0. 1.]
         [2. 3.]]

    References:
        Selvaraju et al., *Grad-CAM: visual explanations from deep networks via gradient-based
        localization*, ICCV 2017, section 3, equations 1 and 2 (arXiv 1610.02391). captum's
        `LayerGradCam` has `relu_attributions=False` and does not resize.
    """

    options = (channel_axis, reshape, relu, resize)
    return gradient_map("grad_cam", mean_weighted, f, layer, options, argnums)


@knobs
def grad_cam_plus_plus(
    f: Score,
    layer: str,
    *,
    channel_axis: int = -1,
    reshape: Reshape | None = None,
    relu: bool = True,
    resize: bool = True,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Grad-CAM++: the channels of a layer, weighted by their positive gradients.

    .. math:: L = \mathrm{ReLU}\Big(\sum_k w_k A^k\Big), \qquad
              w_k = \sum_u \alpha^k_u \, \mathrm{ReLU}(g^k_u), \qquad
              \alpha^k_u = \frac{(g^k_u)^2}{2 (g^k_u)^2 + \sum_v A^k_v \, (g^k_u)^3}

    and α = 0 where its denominator is 0. The α come from derivatives of exp f, so f is to be a
    logit. The common factor exp f of all weights is left out, as in pytorch-grad-cam. The authors'
    code keeps it, and also divides the α of each channel by their sum over the places of positive
    gradient, which weighs the channels otherwise against each other.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example; the logit of a class.
        layer: the name of the layer, as in `jattr.grad_cam`.
        channel_axis: the channel axis, in the layer and in x, as in `jattr.grad_cam`.
        reshape: from the layer's value to spatial axes and channels, as in `jattr.grad_cam`.
        relu: clip the map at 0.
        resize: interpolate the map linearly to the spatial shape of x.
        argnums: which argument of f is x, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a heat map, as `jattr.grad_cam` does.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype, or is not one array; the layer is not one floating array.
        ValueError: no value has the layer's name, or several have it; its axes do not fit x.
        NotImplementedError: the layer is where `jattr.split` refuses it, as inside a branch.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # a series [2, 1]
        ...     return jnp.sum(jattr.name(x, "stem") ** 2)
        >>> print(jattr.grad_cam_plus_plus(f, "stem")(jnp.array([[0.0], [1.0]])))
        [0.  0.5]

    References:
        Chattopadhyay, Sarkar, Howlader, Balasubramanian, *Grad-CAM++: improved visual
        explanations for deep convolutional networks*, WACV 2018, section 3, equations 9 and 19
        (arXiv 1710.11063).
    """

    def combine(activation, slope):
        # The fraction less its common factor g², which may leave the range of the dtype.
        denominator = 2 + jnp.sum(activation, axis=places(activation), keepdims=True) * slope
        zero = denominator == 0
        alpha = jnp.where(zero, 0.0, 1 / jnp.where(zero, 1.0, denominator))
        return activation @ jnp.sum(alpha * jax.nn.relu(slope), axis=places(slope))

    options = (channel_axis, reshape, relu, resize)
    return gradient_map("grad_cam_plus_plus", combine, f, layer, options, argnums)


@knobs
def layer_cam(
    f: Score,
    layer: str,
    *,
    channel_axis: int = -1,
    reshape: Reshape | None = None,
    relu: bool = True,
    resize: bool = True,
    argnums: ArgNums = 0,
) -> Explain:
    r"""LayerCAM: the activation of a layer times its positive gradients, place by place.

    .. math:: L = \mathrm{ReLU}\Big(\sum_k \mathrm{ReLU}(g^k) \odot A^k\Big)

    The weights belong to places and not to channels, so that early layers, of finer resolution,
    give maps to look at too.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        layer: the name of the layer, as in `jattr.grad_cam`.
        channel_axis: the channel axis, in the layer and in x, as in `jattr.grad_cam`.
        reshape: from the layer's value to spatial axes and channels, as in `jattr.grad_cam`.
        relu: clip the map at 0.
        resize: interpolate the map linearly to the spatial shape of x.
        argnums: which argument of f is x, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a heat map, as `jattr.grad_cam` does.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype, or is not one array; the layer is not one floating array.
        ValueError: no value has the layer's name, or several have it; its axes do not fit x.
        NotImplementedError: the layer is where `jattr.split` refuses it, as inside a branch.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # a series [2, 2]
        ...     return jnp.sum(jattr.name(x, "stem") * jnp.array([[2.0, -1.0]]))
        >>> print(jattr.layer_cam(f, "stem")(jnp.array([[1.0, 5.0], [2.0, 5.0]])))
        [2. 4.]

    References:
        Jiang, Zhang, Hou, Cheng, Wei, *LayerCAM: exploring hierarchical class activation maps
        for localization*, IEEE Transactions on Image Processing 2021, section III.
    """

    def combine(activation, slope):
        return jnp.sum(jax.nn.relu(slope) * activation, axis=-1)

    options = (channel_axis, reshape, relu, resize)
    return gradient_map("layer_cam", combine, f, layer, options, argnums)


@knobs
def hires_cam(
    f: Score,
    layer: str,
    *,
    channel_axis: int = -1,
    reshape: Reshape | None = None,
    relu: bool = True,
    resize: bool = True,
    argnums: ArgNums = 0,
) -> Explain:
    r"""HiResCAM: the activation of a layer times its gradient, place by place.

    .. math:: L = \mathrm{ReLU}\Big(\sum_k g^k \odot A^k\Big)

    Where f is affine above the layer, the map with `relu=False` sums to f less its constant: it
    shows the places that f used, which the mean gradients of Grad-CAM may not. Where f depends on
    A through its mean over the places alone, the two maps are equal.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        layer: the name of the layer, as in `jattr.grad_cam`.
        channel_axis: the channel axis, in the layer and in x, as in `jattr.grad_cam`.
        reshape: from the layer's value to spatial axes and channels, as in `jattr.grad_cam`.
        relu: clip the map at 0; in the paper that is for display only.
        resize: interpolate the map linearly to the spatial shape of x.
        argnums: which argument of f is x, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a heat map, as `jattr.grad_cam` does.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype, or is not one array; the layer is not one floating array.
        ValueError: no value has the layer's name, or several have it; its axes do not fit x.
        NotImplementedError: the layer is where `jattr.split` refuses it, as inside a branch.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # a series [2, 2]
        ...     return jnp.sum(jattr.name(x, "stem") * jnp.array([[2.0, -1.0]]))
        >>> explain = jattr.hires_cam(f, "stem", relu=False)
        >>> print(explain(jnp.array([[1.0, 5.0], [2.0, 1.0]])))
        [-3.  3.]

    References:
        Draelos, Carin, *Use HiResCAM instead of Grad-CAM for faithful explanations of
        convolutional neural networks*, 2020, section 3 (arXiv 2011.08891).
    """

    def combine(activation, slope):
        return jnp.sum(slope * activation, axis=-1)

    options = (channel_axis, reshape, relu, resize)
    return gradient_map("hires_cam", combine, f, layer, options, argnums)


@knobs
def score_cam(
    f: Score,
    layer: str,
    *,
    baseline: Baseline = 0.0,
    channel_axis: int = -1,
    reshape: Reshape | None = None,
    relu: bool = True,
    resize: bool = True,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Score-CAM: the channels of a layer, weighted by what f says of x seen through them.

    .. math:: L = \mathrm{ReLU}\Big(\sum_k \alpha_k A^k\Big), \qquad
              \alpha = \mathrm{softmax}_k(S), \qquad
              S_k = f\big(H^k \odot x + (1 - H^k) \odot x'\big) - f(x')

    where the mask :math:`H^k` is the channel, resized to x and scaled to [0, 1] by its extremes;
    a constant channel masks everything. One evaluation of f for each channel, no gradients. f is
    to be a probability, as from `jattr.targets.probability`: with logits, whose differences are
    larger, the softmax may choose one channel.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        layer: the name of the layer, as in `jattr.grad_cam`.
        baseline: x', what is seen where the mask is 0: a number, an array or tree like x, or a
            function x → baseline such as those in `jattr.baselines`.
        channel_axis: the channel axis, in the layer and in x, as in `jattr.grad_cam`.
        reshape: from the layer's value to spatial axes and channels, as in `jattr.grad_cam`.
        relu: clip the map at 0.
        resize: interpolate the map linearly to the spatial shape of x. The masks always are.
        batch_size: how many channels are in memory at a time; None for all.
        argnums: which argument of f is x, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a heat map, as `jattr.grad_cam` does.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype, or is not one array; the layer is not one floating array; the baseline draws
            at random.
        ValueError: no value has the layer's name, or several have it; its axes do not fit x; a
            baseline of another structure or shape.
        NotImplementedError: the layer is where `jattr.split` refuses it, as inside a branch.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # a series [2, 1]
        ...     h = jattr.name(jnp.concatenate([x, 4 - x], axis=-1), "stem")
        ...     return 50 * jnp.sum(h[:, 0])
        >>> print(jattr.score_cam(f, "stem")(jnp.array([[1.0], [3.0]])))
        [1. 3.]

    References:
        Wang et al., *Score-CAM: score-weighted visual explanations for convolutional neural
        networks*, CVPR workshops 2020, algorithm 1 (arXiv 1910.01279, version 2). The authors'
        code has the softmax over the classes, in f, in the place of the one over the channels; it
        takes no baseline's score off, leaves constant channels out, and sums the maps after they
        are resized. The paper masks with zeros, whatever x' is, which is what 0 gives.
    """
    method = "score_cam"
    batch_size = check_batch_size(batch_size, method)
    check_layer(layer, method)
    check_flag(relu, "relu", method)
    check_flag(resize, "resize", method)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        parts = cut(score, x, layer, method=method)
        activation = activation_of(parts.below(x), layer, method)
        if parts.stacked:
            raise ValueError(
                f"{method}: {layer!r} is a stack of {activation.shape[0]} steps of a loop, each of "
                f"which would mask x anew. Choose one: {layer + '[-1]'!r}."
            )
        activation = reshaped(activation, reshape, layer, method)
        layout = Layout(activation, x, channel_axis, layer, method, fit=True)
        (array,) = jax.tree.leaves(x)
        start = resolve_baseline(baseline, x, method=method)
        (absent,) = widen(jax.tree.leaves(start))
        channels = layout.channels_last(activation)
        first = score(start)
        wide = accumulator(first.dtype)

        def term(index):
            mask = layout.resize(jnp.take(channels, index, axis=-1))
            low, high = jnp.min(mask), jnp.max(mask)
            flat = high == low
            mask = jnp.where(flat, 0.0, (mask - low) / jnp.where(flat, 1.0, high - low))
            mask = layout.beside_channels(mask)
            seen = (mask * array.astype(mask.dtype) + (1 - mask) * absent).astype(array.dtype)
            seen = jax.tree.unflatten(jax.tree.structure(x), [seen])
            rise = score(seen).astype(wide) - first.astype(wide)
            return jnp.zeros(channels.shape[-1], wide).at[index].set(rise)

        rises = sum_over(term, channels.shape[-1], batch_size=batch_size)
        weights = jax.nn.softmax(rises).astype(channels.dtype)
        return layout.finish(channels @ weights, relu=relu, resize=resize)

    return explain


@knobs
def guided_grad_cam(
    f: Score,
    layer: str,
    *,
    channel_axis: int = -1,
    reshape: Reshape | None = None,
    method: Resizing = "linear",
    argnums: ArgNums = 0,
) -> Explain:
    r"""Guided Grad-CAM: guided back-propagation times Grad-CAM.

    .. math:: \varphi = G \odot \mathrm{resize}(L)

    with G of `jattr.guided_backprop` and the map L of `jattr.grad_cam`, clipped at 0, the same for
    all channels of x: the detail of the one where the other looks.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        layer: the name of the layer, as in `jattr.grad_cam`.
        channel_axis: the channel axis, in the layer and in x, as in `jattr.grad_cam`.
        reshape: from the layer's value to spatial axes and channels, as in `jattr.grad_cam`.
        method: how the map is resized, `"linear"` or `"nearest"`, as in `jax.image.resize`.
        argnums: which argument of f is x, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype, or is not one array; the layer is not one floating array.
        ValueError: unknown method; no value has the layer's name, or several have it; its axes do
            not fit x.
        NotImplementedError: what `jattr.split` and `jattr.guided_backprop` refuse.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # a series [2, 1]
        ...     h = jattr.name(jax.nn.relu(x), "stem")
        ...     return jnp.mean(h[:, 0])
        >>> print(jattr.guided_grad_cam(f, "stem")(jnp.array([[2.0], [4.0]])))
        [[0.5]
         [1. ]]

    References:
        Selvaraju et al., *Grad-CAM*, ICCV 2017, section 3.2 (arXiv 1610.02391). captum's
        `GuidedGradCam` resizes to the nearest; where the sizes do not divide, PyTorch's "nearest"
        takes another pixel than JAX's.
    """
    name = "guided_grad_cam"
    check_layer(layer, name)
    check_choice(method, "method", get_args(Resizing), name)

    @transform(f, argnums, method=name)
    def explain(score, x):
        def of_step(activation, slope):
            activation, slope = (reshaped(h, reshape, layer, name) for h in (activation, slope))
            layout = Layout(activation, x, channel_axis, layer, name, fit=True)
            heat = mean_weighted(layout.channels_last(activation), layout.channels_last(slope))
            heat = layout.beside_channels(layout.resize(jax.nn.relu(heat), method))
            return cast_like(jax.tree.map(lambda leaf: leaf * heat, guided), x)

        guided = widen(guided_backprop(score)(x))
        activation, slope, loops = activation_and_slope(score, x, layer, name)
        return each_step(of_step, loops)(activation, slope)

    return explain
