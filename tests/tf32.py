"""An imitation on any device of TF32, in which GPUs multiply float32 by default."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.extend.core import Literal

_PRODUCTS = ("dot_general", "conv_general_dilated")


def in_tf32(function: Callable) -> Callable:
    """The function with all products in TF32 that don't ask for more.

    Their operands are rounded to 10 bits of mantissa. `jax.default_matmul_precision` counts, as it
    does on a GPU: it is read while the function is traced.
    """

    @functools.wraps(function)
    def rounded(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluated(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return rounded


def _evaluated(jaxpr: Any, constants: list, arguments: list) -> list:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    for eqn in jaxpr.eqns:
        operands = [var.val if isinstance(var, Literal) else env[var] for var in eqn.invars]
        nested = eqn.params.get("jaxpr")
        if eqn.primitive.name in ("jit", "pjit"):
            results = _evaluated(nested.jaxpr, nested.consts, operands)
        else:
            precision = eqn.params.get("precision")
            if eqn.primitive.name in _PRODUCTS and precision in (None, _DEFAULT):
                operands = [lax.reduce_precision(operand, 8, 10) for operand in operands]
            bound = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            results = bound if eqn.primitive.multiple_results else [bound]
        env.update(zip(eqn.outvars, results, strict=True))
    return [var.val if isinstance(var, Literal) else env[var] for var in jaxpr.outvars]


_DEFAULT = (lax.Precision.DEFAULT, lax.Precision.DEFAULT)
