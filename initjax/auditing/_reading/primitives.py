"""JAX's primitives, by what an audit has to know of them, and the programs nested in them."""

from __future__ import annotations

from typing import Any

ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp"
    " convert_element_type cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt"
    " integer_pow is_finite le lgamma log log1p log2 logistic lt max min mul ne neg nextafter not"
    " one_minus_square or pow reciprocal reduce_precision rem round rsqrt select_n sign sin sinh"
    " sqrt square stop_gradient sub tan tanh xor".split()
)
LINEAR = frozenset("convert_element_type reduce_precision neg stop_gradient".split())
LAYOUT = frozenset(
    "broadcast_in_dim broadcast_to dynamic_slice expand_dims reshape rev slice split squeeze tile"
    " transpose unstack".split()
)
CUTS = frozenset(
    "concatenate dynamic_slice dynamic_update_slice gather pad slice split stack unstack".split()
)
# Equations that give what they take.
SAME = frozenset(
    "copy copy_p device_put layout_constraint mesh_cast name optimization_barrier pcast pvary"
    " reshard sharding_constraint with_memory_space_constraint".split()
)
REDUCTIONS = frozenset(
    "argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_and reduce_max reduce_min"
    " reduce_or reduce_prod reduce_sum reduce_precision_sum".split()
)
STATISTICS = frozenset("reduce_sum reduce_max reduce_min reduce_prod".split())
POOLING = frozenset("reduce_window reduce_window_max reduce_window_sum reduce_window_min".split())
PRODUCTS = frozenset(["dot_general", "conv_general_dilated"])
# Equations without a layer in them, whose results theory does not follow.
UNDERSTOOD = (
    ELEMENTWISE
    | LAYOUT
    | REDUCTIONS
    | POOLING
    | frozenset(
        "concatenate conv_general_dilated dot_general dynamic_update_slice gather iota pad psum"
        " random_bits random_fold_in random_seed random_split random_unwrap random_wrap"
        " scatter scatter_add scatter-add select_and_gather_add select_and_scatter_add sort stack"
        " threefry2x32 top_k bitcast_convert_type real imag complex conj fft shift_left"
        " shift_right_logical shift_right_arithmetic population_count reduce_xor create_token"
        " debug_callback debug_print random_gamma approx_top_k".split()
    )
)
CALLS = frozenset(
    "jit pjit closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr"
    " custom_vmap_call remat remat2 checkpoint custom_lin".split()
)
RECOMPUTED = frozenset("remat remat2 checkpoint".split())
RULED = frozenset("custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr".split())
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")


def inner_programs(eqn: Any) -> list[Any]:
    """The nested programs of an equation that calls, loops or branches, as closed jaxprs.

    Args:
      eqn: an equation.

    Returns:
      The programs in the order in which paths count them; none for any other equation.
    """
    params, name = eqn.params, eqn.primitive.name
    if name in CALLS:
        inner = next(params[key] for key in _INNER if key in params)
        return [_closed(inner)]
    if name == "scan":
        return [_closed(params["jaxpr"])]
    if name == "while":
        return [params["cond_jaxpr"], params["body_jaxpr"]]
    if name == "cond":
        return list(params["branches"])
    return []


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many it carries."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # from JAX 0.12 on
    return len(list(constants)), len(list(carry))


def _closed(jaxpr: Any) -> Any:
    from jax.extend import core

    return jaxpr if hasattr(jaxpr, "consts") else core.ClosedJaxpr(jaxpr, ())


def is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
