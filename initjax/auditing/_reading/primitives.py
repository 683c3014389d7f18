"""One row per JAX primitive: what an audit has to know about it.

To teach the audit a primitive, add its name to `PRIMITIVES` below, and nothing else. Choose its
`kind`, which decides how its result is read, and set the other properties that hold. If no kind
fits, use "other": the audit then knows that no weight enters there, and predictions restart behind
it. A primitive without a row works too, but the report lists the parameters that enter it as not
read. If a property needs a new function (how axes move, how a weight enters, how a softmax
continues), write it in `layout.py`, `products.py` or `softmax.py`, and name it in the row. Only a
new kind of loop or branch takes more: a rule in `control_flow.py`, its programs in
`inner_programs`, and how to run it again in `_measuring/rerun.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from initjax.auditing._reading import layout, products, softmax
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.layout import MoveAxes
from initjax.auditing._reading.products import ProductRule
from initjax.auditing._reading.softmax import SoftmaxRule

Kind = Literal[
    "elementwise",  # each element of the result depends on the same element of every operand
    "layout",  # rearranges, repeats or selects elements of the first operand
    "same",  # returns its operands
    "reduction",  # combines elements along axes
    "product",  # sums products of two operands
    "other",  # anything else, if no weight can enter
    "unknown",  # has no row in the table
    "call",  # runs a nested program once
    "scan",
    "while",
    "cond",
]


class Primitive(NamedTuple):
    """What an audit has to know about a primitive."""

    kind: Kind
    linear: bool = False
    """Whether it is elementwise and its result is proportional to its only operand."""
    arithmetic: Literal["", "sum", "difference", "product", "quotient", "choice"] = ""
    """Which operation it performs on two operands; 'choice' selects one of several by the first."""
    affine: bool = False
    """Whether its result is a sum of elements of its operands, or holds some of them."""
    root: bool = False
    """Whether it turns a variance into a standard deviation, or into the reciprocal of one."""
    lost: str = ""
    """Why predictions restart behind it. The default is the reason of an operand, or the name of
    the primitive."""
    cuts: bool = False
    """Whether the result holds only some elements of an operand, or elements of several."""
    statistic: bool = False
    """Whether it is a reduction whose result can be a statistic, such as a mean."""
    move_axes: MoveAxes = layout.unknown_axes
    """Where it moves the axes of its first operand."""
    product: ProductRule | None = None
    """How a weight can enter here."""
    softmax: SoftmaxRule | None = None
    """How it continues a softmax."""
    logarithm: bool = False
    """Whether it is a logarithm: that of a softmax shows which units are logits."""
    recomputed: bool = False
    """Whether the nested program is computed a second time in the backward pass."""
    ruled: bool = False
    """Whether the nested program has its own differentiation rule."""
    exact: Callable[..., Any] | None = None
    """A NumPy function that gives the same bits on constants. It saves a compilation by XLA; None
    leaves the constants to JAX."""


def _rows(names: str, row: Primitive) -> dict[str, Primitive]:
    return dict.fromkeys(names.split(), row)


def _layout(move_axes: MoveAxes, **properties: Any) -> Primitive:
    rule = softmax.moved(move_axes)
    return Primitive("layout", affine=True, move_axes=move_axes, softmax=rule, **properties)


def _softmax_step(rule: SoftmaxRule = softmax.combined, **properties: Any) -> Primitive:
    """An elementwise primitive that can be a step of a softmax."""
    return Primitive("elementwise", softmax=rule, **properties)


def _reduction(**properties: Any) -> Primitive:
    return Primitive("reduction", lost="reduction", **properties)


def _select(which: Any, *cases: Any) -> Any:
    return cases[int(which)]


PRIMITIVES: dict[str, Primitive] = {
    # Arithmetic
    "add": _softmax_step(arithmetic="sum", affine=True, exact=np.add),
    "add_any": _softmax_step(arithmetic="sum", affine=True, exact=np.add),
    "sub": _softmax_step(arithmetic="difference", affine=True, exact=np.subtract),
    "mul": _softmax_step(softmax.multiplied, arithmetic="product", exact=np.multiply),
    "div": _softmax_step(softmax.divided, arithmetic="quotient"),
    "select_n": _softmax_step(arithmetic="choice", exact=_select),
    # Other elementwise functions
    "convert_element_type": _softmax_step(linear=True, affine=True, exact=np.asarray),
    "reduce_precision": _softmax_step(linear=True, affine=True),
    "stop_gradient": _softmax_step(linear=True, affine=True),
    "neg": Primitive("elementwise", linear=True, affine=True, exact=np.negative),
    "abs": _softmax_step(exact=np.abs),
    "max": _softmax_step(exact=np.maximum),
    "min": _softmax_step(exact=np.minimum),
    "clamp": _softmax_step(),
    "exp": _softmax_step(softmax.exponential),
    "exp2": _softmax_step(softmax.exponential),
    "sqrt": Primitive("elementwise", root=True, exact=np.sqrt),
    **_rows("rsqrt pow", Primitive("elementwise", root=True)),
    "log": Primitive("elementwise", logarithm=True),
    "eq": Primitive("elementwise", exact=np.equal),
    "ne": Primitive("elementwise", exact=np.not_equal),
    "lt": Primitive("elementwise", exact=np.less),
    "le": Primitive("elementwise", exact=np.less_equal),
    "gt": Primitive("elementwise", exact=np.greater),
    "ge": Primitive("elementwise", exact=np.greater_equal),
    **_rows(
        "acos acosh and asin asinh atan atan2 atanh cbrt ceil cos cosh digamma erf erf_inv erfc"
        " expm1 floor integer_pow is_finite lgamma log1p log2 logistic nextafter not"
        " one_minus_square or reciprocal rem round sign sin sinh square tan tanh xor",
        Primitive("elementwise"),
    ),
    # Layout
    "transpose": _layout(layout.transposed_axes),
    "broadcast_in_dim": _layout(layout.broadcast_axes),
    **_rows("reshape squeeze expand_dims", _layout(layout.reshaped_axes)),
    "rev": _layout(layout.same_axes),
    **_rows("slice split", _layout(layout.same_axes, cuts=True)),
    "dynamic_slice": _layout(layout.same_axes, cuts=True, product=products.row),
    **_rows("broadcast_to tile", _layout(layout.unknown_axes)),
    "unstack": _layout(layout.unknown_axes, cuts=True),
    # Equations that return their operands
    **_rows(
        "copy copy_p device_put layout_constraint mesh_cast name optimization_barrier pcast pvary"
        " reshard sharding_constraint with_memory_space_constraint",
        Primitive("same"),
    ),
    # Reductions and pools
    "reduce_sum": _reduction(statistic=True, affine=True, softmax=softmax.summed),
    **_rows("reduce_max reduce_min reduce_prod", _reduction(statistic=True)),
    **_rows(
        "argmax argmin cumlogsumexp cummax cummin cumprod reduce_and reduce_or"
        " reduce_precision_sum",
        _reduction(),
    ),
    "cumsum": _reduction(affine=True),
    "reduce_window_sum": Primitive("other", affine=True, lost="pooling"),
    **_rows(
        "reduce_window reduce_window_max reduce_window_min", Primitive("other", lost="pooling")
    ),
    # Products, lookups and joints
    "dot_general": Primitive("product", product=products.dense, lost="attention"),
    "conv_general_dilated": Primitive("product", product=products.convolution),
    "gather": Primitive(
        "other", cuts=True, product=products.embedding, softmax=softmax.moved(layout.unknown_axes)
    ),
    **_rows("concatenate pad stack", Primitive("other", cuts=True, affine=True, lost="join")),
    # Understood, but theory does not follow the results
    "dynamic_update_slice": Primitive("other", cuts=True),
    **_rows(
        "iota psum random_bits random_fold_in random_seed random_split random_unwrap random_wrap"
        " scatter scatter_add scatter-add select_and_gather_add select_and_scatter_add sort"
        " threefry2x32 top_k bitcast_convert_type real imag complex conj fft shift_left"
        " shift_right_logical shift_right_arithmetic population_count reduce_xor create_token"
        " debug_callback debug_print random_gamma approx_top_k",
        Primitive("other"),
    ),
    # Nested programs
    **_rows(
        "jit pjit closed_call core_call custom_lin custom_partitioning custom_vmap_call",
        Primitive("call"),
    ),
    **_rows("remat remat2 checkpoint", Primitive("call", recomputed=True)),
    **_rows("custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr", Primitive("call", ruled=True)),
    "scan": Primitive("scan"),
    "while": Primitive("while"),
    "cond": Primitive("cond"),
}
RECOMPUTED = frozenset(name for name, row in PRIMITIVES.items() if row.recomputed)
RULED = frozenset(name for name, row in PRIMITIVES.items() if row.ruled)

_UNKNOWN = Primitive("unknown")
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")


def primitive_of(eqn: Any) -> Primitive:
    """The row of an equation's primitive."""
    return PRIMITIVES.get(eqn.primitive.name, _UNKNOWN)


def inner_programs(eqn: Any) -> list[Any]:
    """The nested programs of an equation that calls, loops or branches, as closed jaxprs.

    Args:
      eqn: an equation.

    Returns:
      The programs in the order in which paths number them; none for any other equation.
    """
    params, kind = eqn.params, primitive_of(eqn).kind
    if kind == "call":
        inner = next(params[key] for key in _INNER if key in params)
        return [_closed(inner)]
    if kind == "scan":
        return [_closed(params["jaxpr"])]
    if kind == "while":
        return [params["cond_jaxpr"], params["body_jaxpr"]]
    if kind == "cond":
        return list(params["branches"])
    return []


def program_at(jaxpr: Any, path: Path) -> Any:
    """The nested program that has the equation of a path."""
    for index, number in zip(path[:-1:2], path[1::2], strict=True):
        jaxpr = inner_programs(jaxpr.eqns[index])[number].jaxpr
    return jaxpr


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # since JAX 0.12
    return len(list(constants)), len(list(carry))


def is_program(value: Any) -> bool:
    """Whether a parameter of an equation is a nested program."""
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _closed(jaxpr: Any) -> Any:
    from jax.extend import core

    return jaxpr if hasattr(jaxpr, "consts") else core.ClosedJaxpr(jaxpr, ())
