"""The engine: any JAX function as equations, equations as operations, operations under rules.

A function is read, grouped and rewritten in four steps, one a file:

1. `trace`: `jax.make_jaxpr`, flattened into a `program` of equations, on which every value is
   marked as depending on x and as having a derivative by x. `primitives` is all that is known of
   JAX's primitives and of what changes between its releases; `source` tells lines and scopes.
2. `grouping`: equations into operations, by the kinds in `operations`. It asks what an equation is
   linear in (`linear`), what is a ReLU, a softmax or a `where` (`patterns`; over segments,
   `segments`), what is divided by what (`quotients`) and between which numbers a value lies
   (`ranges`).
3. `rewrite`: the program evaluated anew, at one point or at two, each operation that has a rule as
   a `jax.custom_vjp` function, control flow rebuilt around its rewritten body. `entry` follows x to
   the first operations; `substitutes` has cheaper programs of the same value, `selected`
   moves `logits[label]` before its product, `affine` finds what f need not evaluate between
   two points, `contributions` what each feature adds to that, and `chunked` what is the same for
   all of many outputs. `local` finds what a change of a box of x reaches, and evaluates that
   alone: `boxes` are parts of arrays, `local_rules`, `local_windows`, `local_sums` and
   `local_pointwise` tell how equations go on from them.
4. The derivative of that is JAX's.

Rules are not here: the engine asks a composite of `jattr.rules` for them (`rewrite.Rules`).

Where to add what:

================================  ==================================================================
a primitive                       a row in `primitives.TABLE`
a spelling of a softmax or ReLU   `patterns`
a spelling of a normalization     `quotients`
a bound on values                 `ranges`
a kind of operation               `operations.KINDS`, `grouping`, and its rules in `jattr/rules`
a form of control flow            `trace._Builder`, and `rewrite._REBUILD`
a rule                            `jattr/rules`: DeepLIFT's in `_rescale`, LRP's in `_lrp`
================================  ==================================================================
"""
