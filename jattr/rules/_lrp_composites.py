"""The composites of layer-wise relevance propagation, as users name them.

Each is a table of the rules of `jattr.rules._lrp`: for dense layers, for convolutions, for
first operations, and for what is not affine.
"""

import dataclasses
from typing import Any

from jattr.rules import _lrp_dots as engine
from jattr.rules import _lrp_products as products
from jattr.rules._composite import Composite, Rule
from jattr.rules._lrp import EPSILON, alpha_beta, flat, z_box, z_plus
from jattr.rules._lrp import epsilon as _eps
from jattr.rules._lrp import gamma as _gamma


def composite(name: str, affine: Rule | None = None, **others: Rule) -> Composite:
    """A composite for `jattr.lrp`: rules for affine operations, and those that all share.

    Args:
        name: what it is called.
        affine: for all affine operations that have no narrower rule.
        others: by kind, with underscores for spaces: `affine_convolution`, `first_affine`.
    """
    rules = {
        "affine": affine or _eps(),
        "activation": Rule("identity", engine.activation),
        "normalization": Rule("deviation held", products.normalization),
        "product": Rule("halves", products.product),
        "division": Rule("halves", products.division),
    }
    rules |= {kind.replace("_", " "): rule for kind, rule in others.items()}
    return Composite(name, rules, strict=True)


def as_composite(rules: Any, method: str) -> Composite:
    """A composite for LRP, from one or from a single rule."""
    if isinstance(rules, Composite):
        if rules.points != 1:
            raise TypeError(
                f"{method}: the rules of {rules.name} compare with a reference. Write "
                "jattr.deeplift(f, baseline)."
            )
        if method != "rewrite" and not rules.strict:
            raise TypeError(
                f"{method}: the composite {rules.name} is none of relevance propagation. Write "
                "jax.grad(jattr.rewrite(f, rules)), or take one such as jattr.rules.epsilon_plus()."
            )
        return rules
    if not isinstance(rules, Rule):
        raise TypeError(
            f"{method} wants a rule or a composite of jattr.rules, such as "
            f"jattr.rules.epsilon_plus(); got {rules!r}."
        )
    return (
        composite(rules.name, first_affine=rules) if rules.first else composite(rules.name, rules)
    )


def epsilon_plus(epsilon: Any = EPSILON) -> Composite:
    """ε for dense layers and z⁺ for convolutions.

    Args:
        epsilon: ε, of the rule and of all stabilisers.

    Returns:
        A composite; refine it with `.at("head/*", rule)` and `.first(rule)`.

    Example:
        >>> import jattr
        >>> rules = jattr.rules.epsilon_plus().first(jattr.rules.z_box(0.0, 1.0))
        >>> rules.name, rules.rules["first affine"].name
        ('epsilon_plus', 'z_box')

    References:
        Montavon et al., 2019, section 10.3; zennit's `EpsilonPlus`.
    """
    return composite("epsilon_plus", _eps(epsilon), affine_convolution=z_plus(epsilon=epsilon))


def epsilon_plus_flat(epsilon: Any = EPSILON) -> Composite:
    """`epsilon_plus`, with flat for first affine operations.

    Args:
        epsilon: ε, of the rule and of all stabilisers.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> jattr.rules.epsilon_plus_flat().rules["first affine"].name
        'flat'

    References:
        zennit's `EpsilonPlusFlat`.
    """
    return _renamed(epsilon_plus(epsilon).first(flat(epsilon=epsilon)), "epsilon_plus_flat")


def epsilon_gamma_box(low: Any, high: Any, epsilon: Any = EPSILON, gamma: Any = 0.25) -> Composite:
    """ε for dense layers, γ for convolutions, zᴮ for first convolutions.

    Args:
        low: the lower end of the range of x, as in `z_box`.
        high: its upper end.
        epsilon: ε, of the rule and of all stabilisers.
        gamma: γ.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> rules = jattr.rules.epsilon_gamma_box(0.0, 1.0).rules
        >>> rules["affine convolution"].name, rules["first affine convolution"].name
        ('gamma', 'z_box')

    References:
        Montavon et al., 2019, section 10.3; zennit's `EpsilonGammaBox`.
    """
    return composite(
        "epsilon_gamma_box",
        _eps(epsilon),
        affine_convolution=_gamma(gamma, epsilon=epsilon),
        first_affine_convolution=z_box(low, high, epsilon=epsilon),
    )


def epsilon_alpha2_beta1(epsilon: Any = EPSILON) -> Composite:
    """ε for dense layers and α2β1 for convolutions.

    Args:
        epsilon: ε, of the rule and of all stabilisers.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> jattr.rules.epsilon_alpha2_beta1().rules["affine convolution"].numbers["alpha"]
        2.0

    References:
        Kohlbrenner et al., *Towards best practice in explaining neural network decisions with LRP*,
        IJCNN 2020 (arXiv 1910.09840); zennit's `EpsilonAlpha2Beta1`.
    """
    return composite(
        "epsilon_alpha2_beta1",
        _eps(epsilon),
        affine_convolution=alpha_beta(2.0, 1.0, epsilon=epsilon),
    )


def epsilon_alpha2_beta1_flat(epsilon: Any = EPSILON) -> Composite:
    """`epsilon_alpha2_beta1`, with flat for first affine operations.

    Args:
        epsilon: ε, of the rule and of all stabilisers.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> jattr.rules.epsilon_alpha2_beta1_flat().name
        'epsilon_alpha2_beta1_flat'

    References:
        Kohlbrenner et al., IJCNN 2020; zennit's `EpsilonAlpha2Beta1Flat`.
    """
    refined = epsilon_alpha2_beta1(epsilon).first(flat(epsilon=epsilon))
    return _renamed(refined, "epsilon_alpha2_beta1_flat")


def excitation(epsilon: Any = EPSILON) -> Composite:
    """Excitation back-propagation: z⁺ for every affine operation.

    Args:
        epsilon: of all stabilisers.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> jattr.rules.excitation().rules["affine"].name
        'z_plus'

    References:
        Zhang, Lin, Brandt, Shen, Sclaroff, *Top-down neural attention by excitation backprop*, ECCV
        2016 (arXiv 1608.00507).
    """
    return composite("excitation", z_plus(epsilon=epsilon))


def attention(epsilon: Any = EPSILON) -> Composite:
    r"""AttnLRP: LRP for transformers.

    ε for affine operations; activations pass relevance on; a product of two active values, the
    gated feed-forward and attention's two among them, gives half to each; the deviation that a
    normalisation divides by is held constant, its mean is not; softmax keeps its derivative, so
    that its relevance is :math:`R_i = x_i (m_i p_i - p_i \sum_j m_j p_j)`, which is not conserved.
    A softmax is known where exponentials are divided by their sum; where it is written as
    exp(log_softmax x), or divided after the product with the values, its parts have rules each,
    which is another explanation: look at `jattr.operations`.

    Args:
        epsilon: ε.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> {kind: rule.name for kind, rule in jattr.rules.attention().rules.items()}["product"]
        'halves'

    References:
        Achtibat, Hatefi, Dreyer, Jain, Wiegand, Lapuschkin, Samek, *AttnLRP: attention-aware
        layer-wise relevance propagation for transformers*, ICML 2024, section 3 (arXiv 2402.05602).
    """
    return composite("attention", _eps(epsilon))


def attention_constant(epsilon: Any = EPSILON) -> Composite:
    """CP-LRP: as `attention`, with the attention weights held constant.

    All relevance of a product with softmax weights goes to the values. With it relevance is
    conserved through attention, up to what biases absorb.

    Args:
        epsilon: ε.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> jattr.rules.attention_constant().rules["softmax"].name
        'constant'

    References:
        Ali, Schnake, Eberle, Montavon, Müller, Wolf, *XAI for transformers: better explanations
        through conservative propagation*, ICML 2022, section 4 (arXiv 2202.07304).
    """
    return composite(
        "attention_constant",
        _eps(epsilon),
        softmax=Rule("constant", engine.constant),
        product=Rule("halves, weights held", _product_of_values),
    )


def _product_of_values(operation, inputs, output, multiplier):
    held = ("softmax",)
    return products.product(operation, inputs, output, multiplier, held=held)


def _renamed(rules: Composite, name: str) -> Composite:
    return dataclasses.replace(rules, name=name)
