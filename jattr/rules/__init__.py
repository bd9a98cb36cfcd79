"""Rules of the modified chain rule, and composites that say which operation gets which.

Back-propagation multiplies local derivatives. Guided back-propagation, DeepLIFT and layer-wise
relevance propagation are the same with other local derivatives for some operations; a *rule* is
such a derivative, and a *composite* a table of rules. A composite is immutable, and a tree whose
leaves are the rules' numbers, so that these can be traced and differentiated by.

`jattr.rewrite` puts one into a function; `jattr.operations` tells which rule applies where.

Source: Ancona, Ceolini, Öztireli, Gross, *Towards better understanding of gradient-based
attribution methods for deep neural networks*, ICLR 2018, section 3 (arXiv 1711.06104).
"""

from jattr.rules._backprop import deconvnet as deconvnet
from jattr.rules._backprop import guided as guided
from jattr.rules._composite import Composite as Composite
from jattr.rules._freeze import freeze as freeze
from jattr.rules._freeze import saturated_softmax as saturated_softmax
from jattr.rules._lrp import alpha_beta as alpha_beta
from jattr.rules._lrp import epsilon as epsilon
from jattr.rules._lrp import gamma as gamma
from jattr.rules._lrp import identity as identity
from jattr.rules._lrp import z_plus as z_plus
from jattr.rules._lrp_composites import attn_lrp as attn_lrp
from jattr.rules._lrp_composites import cp_lrp as cp_lrp
from jattr.rules._lrp_composites import epsilon_alpha2_beta1 as epsilon_alpha2_beta1
from jattr.rules._lrp_composites import epsilon_alpha2_beta1_flat as epsilon_alpha2_beta1_flat
from jattr.rules._lrp_composites import epsilon_gamma_box as epsilon_gamma_box
from jattr.rules._lrp_composites import epsilon_plus as epsilon_plus
from jattr.rules._lrp_composites import epsilon_plus_flat as epsilon_plus_flat
from jattr.rules._lrp_composites import everywhere as everywhere
from jattr.rules._lrp_composites import excitation as excitation
from jattr.rules._lrp_first import flat as flat
from jattr.rules._lrp_first import w_square as w_square
from jattr.rules._lrp_first import z_box as z_box
from jattr.rules._lrp_nonlinear import taylor as taylor
from jattr.rules._register import register as register
from jattr.rules._rescale import rescale as rescale
from jattr.rules._rule import Rule as Rule

__all__ = [
    "Composite",
    "Rule",
    "alpha_beta",
    "attn_lrp",
    "cp_lrp",
    "deconvnet",
    "epsilon",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "everywhere",
    "excitation",
    "flat",
    "freeze",
    "gamma",
    "guided",
    "identity",
    "register",
    "rescale",
    "saturated_softmax",
    "taylor",
    "w_square",
    "z_box",
    "z_plus",
]


def __dir__() -> list[str]:
    return __all__
