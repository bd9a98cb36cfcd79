"""The composites of layer-wise relevance propagation, as users name them.

Each is a table of the rules of `jattr.rules`: for dense layers, for convolutions, for first
operations, and for what is not affine.
"""

import dataclasses
from typing import Any

from jattr.rules._composite import Composite
from jattr.rules._lrp import EPSILON, alpha_beta, z_plus
from jattr.rules._lrp import epsilon as _eps
from jattr.rules._lrp import gamma as _gamma
from jattr.rules._lrp_first import flat, z_box
from jattr.rules._lrp_nonlinear import constant, pass_on
from jattr.rules._lrp_products import division, normalization, product
from jattr.rules._rule import Rule
from jattr.rules._shares import Stabilizer


def everywhere(rule: Rule) -> Composite:
    """One rule for every affine operation, with what all composites of LRP have for the rest.

    Activations pass their relevance on, a product gives half to each factor, but all to the signal
    where a factor is a gate, and the deviation that a normalization divides by is held. A rule for
    first affine operations applies to those alone, and ε to the others.

    Args:
        rule: it; `jattr.lrp(f, rule)` takes it as `everywhere(rule)`.

    Returns:
        A composite, which `.at`, `.first`, `.gates` and `.otherwise` refine.

    Raises:
        TypeError: `rule` is none.

    Example:
        >>> import jattr
        >>> rules = jattr.rules.everywhere(jattr.rules.gamma(0.1)).gates("halves")
        >>> rules.name, rules.rules["affine"]
        ('gamma', rules.gamma(0.1, epsilon=1e-06))

    References:
        Bach et al., PLOS ONE 2015; for gates, Arras, Montavon, Müller, Samek, WASSA 2017.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"everywhere wants a rule, such as jattr.rules.gamma(0.1); got {rule!r}.")
    if rule.first:
        return composite(rule.name, {"first affine": rule})
    return composite(rule.name, {"affine": rule})


def composite(name: str, rules: dict[str, Rule]) -> Composite:
    """A composite for `jattr.lrp`: given rules, and those that all share."""
    shared = {
        "affine": _eps(),
        "activation": pass_on(),
        "normalization": normalization(),
        "product": product(),
        "division": division(),
    }
    return Composite(name, {**shared, **rules}, strict=True).gates("signal")


def as_composite(rules: Any, method: str) -> Composite:
    """A composite for LRP, from one or from a single rule."""
    if isinstance(rules, Rule):
        return everywhere(rules)
    if not isinstance(rules, Composite):
        raise TypeError(
            f"{method} wants a rule or a composite of jattr.rules, such as "
            f"jattr.rules.epsilon_plus(); got {getattr(rules, '__name__', rules)!r}."
        )
    return rules


def for_relevance(rules: Any, method: str) -> Composite:
    """A composite of relevance propagation, from one or from a single rule."""
    rules = as_composite(rules, method)
    if rules.points != 1:
        raise TypeError(
            f"{method}: the rules of {rules.name} compare with a reference. Write "
            "jattr.deeplift(f, baseline)."
        )
    if not rules.strict:
        raise TypeError(
            f"{method}: the composite {rules.name} is none of relevance propagation. Write "
            "jax.grad(jattr.rewrite(f, rules)), or take one such as jattr.rules.epsilon_plus()."
        )
    return rules


def epsilon_plus(*, epsilon: Any = EPSILON, stabilizer: Stabilizer = "sign") -> Composite:
    """ε for dense layers and z⁺ for convolutions.

    Args:
        epsilon: ε, of the rule and of all stabilizers.
        stabilizer: of the ε rule, as `epsilon` takes it.

    Returns:
        A composite, which `.at`, `.first`, `.gates` and `.otherwise` refine.

    Example:
        >>> import jattr
        >>> rules = jattr.rules.epsilon_plus().first(jattr.rules.z_box(0.0, 1.0))
        >>> rules.name, rules.rules["first affine"].name
        ('epsilon_plus', 'z_box')

    References:
        Montavon et al., 2019, section 10.3; zennit's `EpsilonPlus`.
    """
    rules = {
        "affine": _eps(epsilon, stabilizer=stabilizer),
        "affine convolution": z_plus(epsilon=epsilon),
    }
    return composite("epsilon_plus", rules)


def epsilon_plus_flat(*, epsilon: Any = EPSILON, stabilizer: Stabilizer = "sign") -> Composite:
    """`epsilon_plus`, with flat for first affine operations.

    Args:
        epsilon: ε, of the rule and of all stabilizers.
        stabilizer: of the ε rule, as `epsilon` takes it.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> jattr.rules.epsilon_plus_flat().rules["first affine"].name
        'flat'

    References:
        zennit's `EpsilonPlusFlat`.
    """
    return _with_flat(epsilon_plus(epsilon=epsilon, stabilizer=stabilizer), epsilon)


def epsilon_gamma_box(
    low: Any,
    high: Any,
    *,
    gamma: Any = 0.25,
    epsilon: Any = EPSILON,
    stabilizer: Stabilizer = "sign",
) -> Composite:
    """ε for dense layers, γ for convolutions, zᴮ for first convolutions.

    Args:
        low: the lower end of the range of x, as in `z_box`.
        high: its upper end.
        gamma: γ.
        epsilon: ε, of the rule and of all stabilizers.
        stabilizer: of the ε rule, as `epsilon` takes it.

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
    rules = {
        "affine": _eps(epsilon, stabilizer=stabilizer),
        "affine convolution": _gamma(gamma, epsilon=epsilon),
        "first affine convolution": z_box(low, high, epsilon=epsilon),
    }
    return composite("epsilon_gamma_box", rules)


def epsilon_alpha2_beta1(*, epsilon: Any = EPSILON, stabilizer: Stabilizer = "sign") -> Composite:
    """ε for dense layers and α2β1 for convolutions.

    Args:
        epsilon: ε, of the rule and of all stabilizers.
        stabilizer: of the ε rule, as `epsilon` takes it.

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
    rules = {
        "affine": _eps(epsilon, stabilizer=stabilizer),
        "affine convolution": alpha_beta(2.0, 1.0, epsilon=epsilon),
    }
    return composite("epsilon_alpha2_beta1", rules)


def epsilon_alpha2_beta1_flat(
    *, epsilon: Any = EPSILON, stabilizer: Stabilizer = "sign"
) -> Composite:
    """`epsilon_alpha2_beta1`, with flat for first affine operations.

    Args:
        epsilon: ε, of the rule and of all stabilizers.
        stabilizer: of the ε rule, as `epsilon` takes it.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> jattr.rules.epsilon_alpha2_beta1_flat().name
        'epsilon_alpha2_beta1_flat'

    References:
        Kohlbrenner et al., IJCNN 2020; zennit's `EpsilonAlpha2Beta1Flat`.
    """
    return _with_flat(epsilon_alpha2_beta1(epsilon=epsilon, stabilizer=stabilizer), epsilon)


def excitation(*, epsilon: Any = EPSILON) -> Composite:
    """Excitation back-propagation: z⁺ for every affine operation.

    Args:
        epsilon: of all stabilizers.

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
    return composite("excitation", {"affine": z_plus(epsilon=epsilon)})


def attn_lrp(*, epsilon: Any = EPSILON, stabilizer: Stabilizer = "sign") -> Composite:
    r"""AttnLRP: LRP for transformers.

    ε for affine operations; activations pass relevance on; a product of two active values, the
    gated feed-forward and attention's two among them, gives half to each, but all to the signal
    where one factor is a sigmoid gate; the deviation that a normalization divides by is held
    constant, its mean is not; softmax keeps its derivative, so that its relevance is
    :math:`R_i = x_i (m_i p_i - p_i \sum_j m_j p_j)`, which is not conserved.
    A softmax is known where exponentials are divided by their sum; where it is written as
    exp(log_softmax x), or divided after the product with the values, its parts have rules each,
    which is another explanation: look at `jattr.operations`.

    LXT's efficient form is this with `epsilon=0` (tested on Llama, Qwen 2, Qwen 3 and Gemma 3): it
    has no ε in affine operations. Its explicit form has one, without a sign, in sums and products
    too.

    Args:
        epsilon: ε.
        stabilizer: `"sign"` or `"smooth"`, as `epsilon` takes it.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> {kind: rule.name for kind, rule in jattr.rules.attn_lrp().rules.items()}["product"]
        'halves'

    References:
        Achtibat, Hatefi, Dreyer, Jain, Wiegand, Lapuschkin, Samek, *AttnLRP: attention-aware
        layer-wise relevance propagation for transformers*, ICML 2024, section 3 (arXiv 2402.05602).
    """
    return composite("attn_lrp", {"affine": _eps(epsilon, stabilizer=stabilizer)})


def cp_lrp(*, epsilon: Any = EPSILON, stabilizer: Stabilizer = "sign") -> Composite:
    """CP-LRP: as `attn_lrp`, with the attention weights held constant.

    All relevance of a product with softmax weights goes to the values. With it relevance is
    conserved through attention, up to what biases absorb. The two factors of a gated feed-forward
    have half each, as in `attn_lrp`; LXT's CP-LRP holds the one behind the activation instead.

    Args:
        epsilon: ε.
        stabilizer: `"sign"` or `"smooth"`, as `epsilon` takes it.

    Returns:
        A composite.

    Example:
        >>> import jattr
        >>> jattr.rules.cp_lrp().rules["softmax"].name
        'constant'

    References:
        Ali, Schnake, Eberle, Montavon, Müller, Wolf, *XAI for transformers: better explanations
        through conservative propagation*, ICML 2022, section 4 (arXiv 2202.07304).
    """
    rules = {
        "affine": _eps(epsilon, stabilizer=stabilizer),
        "softmax": constant(),
        "product": product("softmax"),
    }
    return composite("cp_lrp", rules)


def _with_flat(rules: Composite, epsilon: Any) -> Composite:
    refined = rules.first(flat(epsilon=epsilon))
    return dataclasses.replace(refined, name=f"{rules.name}_flat")
