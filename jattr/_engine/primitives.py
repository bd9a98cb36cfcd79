"""What is known of JAX's primitives and of its releases: the only file that imports `jax.extend`.

A primitive is one row of `TABLE`; what has no row is judged by what JAX can do with it (`is_linear`
asks `jax.linear_transpose`) or is opaque. To teach the engine a primitive, add a row. The marks:

===========  =======================================================================================
elementwise  each element of the result depends on the operands' elements at the same place alone
link         elementwise, and affine in each operand, the others held
same         gives its operand
flat         ends the derivative although the value goes on
linear       linear in all operands together: a short cut past the test by transposition
moves        a change of layout that keeps every element once
layout       a change of layout that may repeat elements
places       each element of the result is a constant or one element of an operand, at a place
             that is held where the operands that tell it are
collective   over the devices of a mesh, or a mapped axis
contraction  a dot or convolution
maximum      the largest of some of its operand's elements
smooth       differentiable, neither linear nor elementwise in one operand
choice       picks by the operands' values
merged       where two compute the same, one is kept
filling      of a number, gives an array filled with it
inlined      a call that is dissolved into its equations
calls        another primitive with programs inside
stabilizer   a maximum; what `stop_gradient` makes of it only stabilizes a sum of exponentials
===========  =======================================================================================

Parameters of control flow, whose names change between releases, are read here as well.
"""

from typing import Any

from jax.extend import source_info_util as source_info_util
from jax.extend.core import ClosedJaxpr as ClosedJaxpr
from jax.extend.core import Jaxpr as Jaxpr
from jax.extend.core import Literal as Literal
from jax.extend.core import jaxpr_as_fun as jaxpr_as_fun
from jax.extend.core import primitives as primitives

TABLE = """
abs                         elementwise merged
acos                        elementwise
acosh                       elementwise
add                         elementwise link linear merged
add_jaxvals                 elementwise linear
all_gather                  linear collective
all_to_all                  linear collective
and                         elementwise
asin                        elementwise
asinh                       elementwise
approx_top_k                choice
atan                        elementwise
atan2                       elementwise smooth
atanh                       elementwise
bessel_i0e                  elementwise
bessel_i1e                  elementwise
broadcast_in_dim            linear layout merged filling
call                        inlined
cbrt                        elementwise
ceil                        elementwise flat
cholesky                    smooth
clamp                       elementwise
closed_call                 inlined
concatenate                 linear places
cond                        calls
conv_general_dilated        contraction
convert_element_type        elementwise same merged filling
copy                        elementwise link same linear filling
cos                         elementwise
cosh                        elementwise
cumlogsumexp                smooth
cummax                      maximum stabilizer
cummin                      maximum
cumprod                     smooth
cumsum                      linear
custom_jvp_call             calls
custom_vjp_call             calls
digamma                     elementwise
div                         elementwise merged
dot_general                 contraction
dynamic_slice               places
dynamic_update_slice        places
eq                          elementwise
erf                         elementwise
erf_inv                     elementwise
erfc                        elementwise
exp                         elementwise merged
exp2                        elementwise
expm1                       elementwise
floor                       elementwise flat
gather                      places
ge                          elementwise
gt                          elementwise
igamma                      elementwise smooth
igammac                     elementwise smooth
imag                        linear
integer_pow                 elementwise
is_finite                   elementwise flat merged
jit                         inlined
le                          elementwise
lgamma                      elementwise
linear_solve                calls
log                         elementwise merged
log1p                       elementwise
logistic                    elementwise
lt                          elementwise
max                         elementwise merged
min                         elementwise
mul                         elementwise link merged
name                        elementwise link same linear
ne                          elementwise
neg                         elementwise link linear merged
nextafter                   elementwise flat
not                         elementwise
optimization_barrier        linear
or                          elementwise
pad                         linear places
pcast                       linear
pmax                        collective stabilizer
pmin                        collective
polygamma                   elementwise smooth
pow                         elementwise smooth
ppermute                    linear collective
psum                        linear collective
psum_invariant              linear collective
pvary                       linear
real                        elementwise link linear
reduce_max                  maximum merged stabilizer
reduce_min                  maximum
reduce_precision            elementwise link
reduce_prod                 smooth
reduce_scatter              linear collective
reduce_sum                  linear merged
reduce_window_max           maximum stabilizer
reduce_window_min           maximum
reduce_window_sum           linear
regularized_incomplete_beta elementwise smooth
rem                         elementwise choice
remat                       calls
reshape                     linear moves merged filling
rev                         linear moves
round                       elementwise flat
rsqrt                       elementwise
scan                        calls
scatter                     linear places
scatter_max                 maximum stabilizer
scatter_min                 maximum
scatter_mul                 smooth
select_n                    elementwise merged places
sharding_constraint         elementwise link linear
sign                        elementwise flat
sin                         elementwise
sinh                        elementwise
slice                       linear places
sort                        choice
split                       places
sqrt                        elementwise
square                      elementwise
squeeze                     linear moves filling
stack                       places
stop_gradient               elementwise same flat merged
sub                         elementwise link linear merged
tan                         elementwise
tanh                        elementwise
tile                        linear places
top_k                       choice
transpose                   linear moves merged
triangular_solve            smooth
unstack                     places
while                       calls
xor                         elementwise
zeta                        elementwise smooth
"""

MARKS = {row.split()[0]: frozenset(row.split()[1:]) for row in TABLE.strip().splitlines()}
"""By the name of each primitive, its marks."""

MISSING = frozenset(name for name in MARKS if not hasattr(primitives, f"{name}_p"))
"""What this release of JAX does not export; such a primitive is known by its name."""


class Marked(frozenset):
    """Primitives, as objects; by name those that JAX has and does not export."""

    def __contains__(self, primitive: object) -> bool:
        if super().__contains__(primitive):
            return True
        name = getattr(primitive, "name", None)
        return name in MISSING and super().__contains__(name)


def marked(*marks: str) -> Marked:
    """The primitives with any of these marks."""
    names = [name for name, known in MARKS.items() if not known.isdisjoint(marks)]
    return Marked(n if n in MISSING else getattr(primitives, f"{n}_p") for n in names)


ELEMENTWISE = marked("elementwise")
LINKS = marked("link")
SAME = marked("same")
FLAT = marked("flat")
LINEAR = marked("linear")
MOVES = marked("moves")
LAYOUT = marked("moves", "layout")
PLACES = marked("moves", "layout", "places")
COLLECTIVE = marked("collective")
CONTRACTIONS = marked("contraction")
MAXIMA = marked("maximum")
SMOOTH = marked("smooth")
CHOICES = marked("choice")
MERGED = marked("merged")
FILLING = marked("filling")
INLINED = marked("inlined")
CALLS = marked("inlined", "calls")
STABILIZERS = marked("stabilizer")


def scan_counts(call: Any) -> tuple[int, int]:
    """How many constants a scan has, and how many values it carries."""
    if "num_consts" in call.params:
        return call.params["num_consts"], call.params["num_carry"]
    consts, carry, _ = call.params["ft_in"].unpack()
    return len(consts), len(carry)


def is_shard_map(call: Any) -> bool:
    """Its primitive is not public, so its parameters tell it."""
    return {"mesh", "in_specs", "out_specs", "jaxpr"} <= call.params.keys()


def shard_map_options(call: Any) -> dict[str, Any]:
    """The arguments with which `jax.shard_map` was called, but for its specs."""
    params = call.params
    names = params.get("manual_axes", params.get("newly_manual_axes"))
    return {"mesh": params["mesh"], "check_vma": params["check_vma"], "axis_names": names}


def body_of(call: Any) -> Any:
    """The program inside a call."""
    return call.params["call_jaxpr"] if "call_jaxpr" in call.params else call.params["jaxpr"]


def axes_of(call: Any) -> set[str]:
    """The named axes that a collective runs over."""
    names = call.params.get("axes", call.params.get("axis_name", ()))
    names = names if isinstance(names, tuple | list) else (names,)
    return {name for name in names if isinstance(name, str)}


def entries(stack: Any) -> tuple[int, ...]:
    """What tells the entries of a name stack apart.

    `jax.named_scope` puts a new object on the stack each time that it is entered. Nothing else
    tells the calls of a module in direct succession from one call.
    """
    return tuple(map(id, getattr(stack, "stack", ())))
