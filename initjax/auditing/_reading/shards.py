"""Rewrites programs that run on shards, so that they can be read.

`shard_map`, and `pmap` by it, run a program on every device with a shard of each array. The same
numbers come from `vmap` over the shards, with the mesh's axes as named axes. The layers of that
program have all examples, collectives are sums over axes of arrays, and nothing else has to know
of shards.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

from initjax.auditing._reading.meshes import mapped, merge, named, names_of, split, value_of
from initjax.auditing._reading.primitives import is_program

# They only tell JAX's type system over which devices a value may differ.
_CASTS = frozenset(
    "pvary pcast reduced_vary_cast_p vary_unreduced_cast vary_unreduced_cast_p".split()
)
# They only tell it how arrays are sharded.
_RESHARDS = frozenset("reshard mesh_cast sharding_constraint".split())
_SHARDINGS = frozenset("sharding out_sharding".split())
_SUMS = frozenset(["psum", "psum_invariant"])


def without_shards(closed: Any) -> Any:
    """The program with `vmap` in place of every `shard_map`.

    Args:
      closed: a closed jaxpr.

    Returns:
      A closed jaxpr of the same function; the same one if it has no shards, or if `vmap` can't do
      what it does with them. The types of the new one don't say how arrays are sharded.
    """
    import jax
    from jax.extend import core

    if not _has_shards(closed, {}):
        return closed

    def gradients(*arguments: Any) -> Any:
        results, pullback = jax.vjp(core.jaxpr_as_fun(found), *arguments)
        return pullback(results)

    try:
        found = _rewritten(closed, None)
        jax.eval_shape(gradients, *_shapes(found))
    except Exception:  # JAX has no rule for it: then the audit says that it isn't read
        return closed
    return found


def _has_shards(program: Any, known: dict[int, bool]) -> bool:
    jaxpr = getattr(program, "jaxpr", program)
    if id(jaxpr) not in known:
        known[id(jaxpr)] = any(
            eqn.primitive.name == "shard_map"
            or any(_has_shards(inner, known) for inner in _programs(eqn.params))
            for eqn in jaxpr.eqns
        )
    return known[id(jaxpr)]


def _programs(value: Any) -> list[Any]:
    """The nested programs in a parameter of an equation, or in all of them."""
    if is_program(value):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [program for part in value for program in _programs(part)] if _holds(value) else []


def _holds(value: Any) -> bool:
    return isinstance(value, tuple | list)


class _Checked(NamedTuple):
    """Where JAX's types say over which devices a value may differ."""

    mesh: Any
    axes: frozenset[str]


def _rewritten(closed: Any, where: _Checked | None) -> Any:
    """A program traced again, for the same shapes."""
    import jax

    return jax.make_jaxpr(lambda *arguments: _run(closed, arguments, where))(*_shapes(closed))


def _shapes(closed: Any) -> list[Any]:
    """The shapes and types of a program's inputs, without what they say about devices."""
    import jax

    avals = [var.aval for var in closed.jaxpr.invars]
    return [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))
        for aval in avals
    ]


def _run(closed: Any, arguments: Sequence[Any], where: _Checked | None) -> list[Any]:
    from jax.extend.core import Literal

    jaxpr = closed.jaxpr
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, arguments, strict=True))

    def read(var: Any) -> Any:
        return value_of(var) if isinstance(var, Literal) else env[var]

    partial = _partial_products(jaxpr)
    for eqn in jaxpr.eqns:
        if partial.keys() & set(eqn.outvars):
            continue
        summed = [partial[var] for var in partial.keys() & _variables(eqn)]
        if summed:
            (product,) = summed
            results = [_summed_product(eqn, product, *map(read, product.invars))]
        else:
            results = _equation(eqn, list(map(read, eqn.invars)), where)
        env.update(zip(eqn.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _partial_products(jaxpr: Any) -> dict[Any, Any]:
    """The matrix products of which nothing but the sum over shards is used, by their results."""
    from jax.extend.core import Literal

    made = {
        eqn.outvars[0]: eqn
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "dot_general" and eqn.params["dimension_numbers"][0][0]
    }
    uses = collections.Counter(var for eqn in jaxpr.eqns for var in _variables(eqn))
    uses.update([var for var in jaxpr.outvars if not isinstance(var, Literal)])
    return {
        var: made[var]
        for eqn in jaxpr.eqns
        if eqn.primitive.name in _SUMS and len(eqn.invars) == 1 and _axes(eqn)
        for var in _variables(eqn)
        if var in made and uses[var] == 1
    }


def _variables(eqn: Any) -> list[Any]:
    from jax.extend.core import Literal

    return [var for var in eqn.invars if not isinstance(var, Literal)]


def _axes(eqn: Any) -> tuple[str, ...]:
    """The named axes that an equation sums over; none if it is in groups or over others, too."""
    axes = tuple(eqn.params["axes"])
    grouped = eqn.params.get("axis_index_groups") is not None
    return () if grouped or any(isinstance(axis, int) for axis in axes) else axes


def _summed_product(eqn: Any, product: Any, left: Any, right: Any) -> Any:
    """A product whose summed axes are split over shards: one layer, and not one for each shard."""
    import jax

    (own, others), _ = product.params["dimension_numbers"]
    for axis in _axes(eqn):
        left = jax.lax.all_gather(left, axis, axis=own[0], tiled=True)
        right = jax.lax.all_gather(right, axis, axis=others[0], tiled=True)
    return product.primitive.bind(left, right, **product.params)


def _equation(eqn: Any, operands: list[Any], where: _Checked | None) -> list[Any]:
    import jax

    name, params = eqn.primitive.name, eqn.params
    if name == "shard_map":
        return _all_shards(params, operands, where)
    if name in _CASTS or name in _RESHARDS:
        return operands
    if name in _SUMS and _axes(eqn):  # as a sum over an axis of an array
        for axis in _axes(eqn):
            operands = [jax.lax.all_gather(operand, axis).sum(0) for operand in operands]
        return operands
    if name == "all_gather_invariant":
        axis, tiled = params["all_gather_dimension"], params["tiled"]
        return [
            jax.lax.all_gather(operand, params["axis_name"], axis=axis, tiled=tiled)
            for operand in operands
        ]
    params = eqn.primitive.get_bind_params(
        {
            key: _unchecked(value) if key == "bwd" else _nested(value, where)
            for key, value in (params | dict.fromkeys(_SHARDINGS & params.keys())).items()
        }
    )
    results = eqn.primitive.bind(*operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _nested(value: Any, where: _Checked | None) -> Any:
    """A parameter of an equation, with the programs in it rewritten."""
    from jax.extend import core

    if is_program(value):
        if hasattr(value, "consts"):
            return _rewritten(value, where)
        return _rewritten(core.ClosedJaxpr(value, ()), where).jaxpr
    if _holds(value) and _programs(value):
        parts = [_nested(part, where) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if hasattr(value, "call_wrapped"):  # makes the program of a custom rule when it is asked to
        return _rule(value, where)
    return value


def _rule(made: Any, where: _Checked | None) -> Any:
    """What makes the program of a custom rule of differentiation, with that program rewritten."""
    import jax
    from jax.extend import core, linear_util

    def again(*flags: Any) -> Any:
        found: list[Any] = []

        def trace() -> tuple[()]:
            found.append(made.call_wrapped(*flags))
            return ()

        if where is None:
            trace()
        else:  # it is checked by these types, too
            inside = jax.shard_map(
                trace, mesh=where.mesh, in_specs=(), out_specs=(), axis_names=set(where.axes)
            )
            jax.make_jaxpr(inside)()
        jaxpr, constants, *rest = found[0]
        closed = _rewritten(core.ClosedJaxpr(jaxpr, constants), where)
        return closed.jaxpr, closed.consts, *rest

    return linear_util.wrap_init(again, debug_info=made.debug_info)


def _unchecked(backward: Any) -> Any:
    """The backward pass of a custom rule, without the check that its types fit to the devices."""
    import jax
    from jax.extend import linear_util

    def cotangents(*arguments: Any) -> Any:
        before = jax.config.values["jax_disable_bwd_checks"]
        jax.config.update("jax_disable_bwd_checks", True)
        try:
            return backward.call_wrapped(*arguments)
        finally:
            jax.config.update("jax_disable_bwd_checks", before)

    return linear_util.wrap_init(cotangents, debug_info=backward.debug_info)


def _all_shards(params: dict[str, Any], operands: list[Any], outside: _Checked | None) -> list[Any]:
    """What a shard_map returns, by `vmap` over its shards."""
    from jax.extend import core

    jaxpr, mesh = params["jaxpr"], params["mesh"]
    closed = jaxpr if hasattr(jaxpr, "consts") else core.ClosedJaxpr(jaxpr, ())
    axes = {name: size for name, size in mesh.shape.items() if name in params["newly_manual_axes"]}
    manual = frozenset(axes) | (outside.axes if outside else frozenset())
    where = _Checked(mesh, manual) if params["check_vma"] else None
    inner = [names_of(spec, axes) for spec in params["in_specs"]]
    outer = [names_of(spec, axes) for spec in params["out_specs"]]
    shards = [split(x, names, axes) for x, names in zip(operands, inner, strict=True)]

    def one(*arguments: Any) -> list[Any]:
        return _run(closed, arguments, where)

    try:
        results = mapped(one, axes, inner, outer)(*shards)
    except ValueError:  # a result may differ among devices that its spec says are alike
        everywhere = [{0: tuple(axes), **names} for names in outer]
        results = mapped(one, axes, inner, everywhere)(*shards)
        results = [
            result[tuple(slice(None) if named(name, names) else 0 for name in axes)]
            for result, names in zip(results, outer, strict=True)
        ]
    return [merge(x, names, axes) for x, names in zip(results, outer, strict=True)]
