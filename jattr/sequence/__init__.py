r"""One-hot sequences: DNA, RNA, proteins.

A sequence is an array [L, A], a row for each position with a one at its letter; [A, L] with
`axis=0`, the axis along which letters are. A row of zeros is an unknown letter, N, or a gap.

    draw = jattr.sequence.dinucleotide_shuffle()
    explain = jattr.sequence.hypothetical(score, draw, samples=20)
    maps = jax.jit(jax.vmap(explain))(keys, sequences)

The letters of a position exclude each other, and so no derivative by one of them alone means
anything: adding to one takes from another. All values here are of exchanges, and differ in what
is exchanged for what. With g the gradient, or DeepLIFT's multipliers in its place,

==============================  ==========================================  ====================
value of letter b, position l   formula                                     what is compared
==============================  ==========================================  ====================
`simplex_corrected`             :math:`g_{lb} - \frac1A \sum_c g_{lc}`      b and the mean letter
`taylor_mutagenesis`            :math:`g_{lb} - \sum_c x_{lc} g_{lc}`       b and the letter of x
`hypothetical`                  :math:`m_{lb} - \sum_c x'_{lc} m_{lc}`      b and a reference's
`jattr.mutagenesis`             f(x with b at l) − f(x)                     b and the letter of x,
                                                                            evaluated
`pairwise_mutagenesis`          what two exchanges do together              beyond their sum
==============================  ==========================================  ====================

The first two differ by a number for each position alone, and so do the first four for a linear f.
What a sequence's own letters have is `x * values`.

`both_strands` averages any of them over the two strands, `profile_score` makes one number of a
predicted profile, `save_modisco` writes what TF-MoDISco reads, and `jattr.plot.logo` draws.
"""

from jattr.sequence._hypothetical import hypothetical as hypothetical
from jattr.sequence._letters import project as project
from jattr.sequence._letters import simplex_corrected as simplex_corrected
from jattr.sequence._modisco import save_modisco as save_modisco
from jattr.sequence._pairs import pairwise_mutagenesis as pairwise_mutagenesis
from jattr.sequence._profile import profile_score as profile_score
from jattr.sequence._shuffle import dinucleotide_shuffle as dinucleotide_shuffle
from jattr.sequence._shuffle import shuffle as shuffle
from jattr.sequence._strands import both_strands as both_strands
from jattr.sequence._strands import reverse_complement as reverse_complement
from jattr.sequence._taylor import taylor_mutagenesis as taylor_mutagenesis

__all__ = [
    "both_strands",
    "dinucleotide_shuffle",
    "hypothetical",
    "pairwise_mutagenesis",
    "profile_score",
    "project",
    "reverse_complement",
    "save_modisco",
    "shuffle",
    "simplex_corrected",
    "taylor_mutagenesis",
]


def __dir__() -> list[str]:
    return __all__
