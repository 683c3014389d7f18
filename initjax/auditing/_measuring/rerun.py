"""Reruns a computation equation by equation, and calls hooks at chosen equations.

A hook gets what its equation computed, and returns what is used instead and a record. Nested
programs are entered only where there is a hook inside. Everything else runs as it is, with its own
rules of differentiation; so does the backward pass through a function with a custom rule, even if
it has hooks inside. Records in a loop are stacked, one per iteration; a while loop keeps those of
its last iteration. What did not run, such as a branch that was not taken, has a record of NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.meshes import value_of
from initjax.auditing._reading.primitives import RECOMPUTED, RULED, inner_programs, scan_counts

Hook = Callable[[list[Any], list[Any], Any], tuple[list[Any], Any]]
"""Maps the operands of an equation, its results and its slot to the results that are used instead,
and a record. None means no record."""


def rerun(
    jaxpr: Any,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    hooks: Mapping[Path, Hook],
    slots: Mapping[Path, Any] | None = None,
    feeds: Mapping[Path, Path] | None = None,
) -> tuple[list[Any], dict[Path, Any]]:
    """Evaluates a jaxpr with hooks.

    Args:
      jaxpr: a jaxpr.
      constants: what it closes over.
      arguments: its inputs.
      hooks: by the path of the equation.
      slots: any values for the hooks, by the same paths. Those of a hook inside loops have the
        loops' lengths as leading axes, outermost first; the hook gets the slice of its iteration.
      feeds: paths of hooks by those of earlier hooks inside the same loops and branches: the
        record of the earlier hook becomes the slot of the later one.

    Returns:
      The outputs, and the records by path, with the same leading axes.
    """
    plan = _Plan(hooks, feeds or {})
    return _program(jaxpr, constants, arguments, plan, dict(slots or {}), ())


class _Plan(NamedTuple):
    """What is done at which equations."""

    hooks: Mapping[Path, Hook]
    feeds: Mapping[Path, Path]


def _program(
    jaxpr: Any,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    plan: _Plan,
    slots: dict[Path, Any],
    path: Path,
) -> tuple[list[Any], dict[Path, Any]]:
    from jax.extend.core import Literal

    env: dict[Any, Any] = {}
    records: dict[Path, Any] = {}
    last = _last_uses(jaxpr)

    def read(var: Any) -> Any:
        return value_of(var) if isinstance(var, Literal) else env[var]

    env.update(zip(jaxpr.constvars, constants, strict=True))
    env.update(zip(jaxpr.invars, arguments, strict=True))
    for index, eqn in enumerate(jaxpr.eqns):
        here = (*path, index)
        operands = list(map(read, eqn.invars))
        found: dict[Path, Any] = {}
        if any(hook[: len(here)] == here and hook != here for hook in plan.hooks):
            results, found = _nested(eqn, operands, plan, slots, here)
        else:
            results = bind(eqn, operands)
        if here in plan.hooks:
            results, record = plan.hooks[here](operands, results, slots.get(here))
            if record is not None:
                found = {**found, here: record}
        records.update(found)
        fed = {plan.feeds[key]: record for key, record in found.items() if key in plan.feeds}
        slots = {**slots, **fed} if fed else slots
        env.update(zip(eqn.outvars, results, strict=True))
        for var in last.get(index, ()):  # frees the memory of what is no longer needed
            env.pop(var, None)
    return list(map(read, jaxpr.outvars)), records


def _last_uses(jaxpr: Any) -> dict[int, list[Any]]:
    from jax.extend.core import Literal

    last: dict[Any, int] = {}
    for index, eqn in enumerate(jaxpr.eqns):
        for var in eqn.invars:
            if not isinstance(var, Literal):
                last[var] = index
    for var in jaxpr.outvars:
        if not isinstance(var, Literal):
            last.pop(var, None)
    uses: dict[int, list[Any]] = {}
    for var, index in last.items():
        uses.setdefault(index, []).append(var)
    return uses


def bind(eqn: Any, operands: list[Any]) -> list[Any]:
    """The results of an equation for any operands of the types that it takes."""
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _nested(
    eqn: Any,
    operands: list[Any],
    plan: _Plan,
    slots: dict[Path, Any],
    path: Path,
) -> tuple[list[Any], dict[Path, Any]]:
    import jax

    name, params = eqn.primitive.name, eqn.params
    programs = inner_programs(eqn)
    slots = {key: slot for key, slot in slots.items() if key[: len(path)] == path}

    def run(number: int, arguments: Sequence[Any], slots: dict[Path, Any]) -> Any:
        program = programs[number]
        here = (*path, number)
        return _program(program.jaxpr, program.consts, arguments, plan, slots, here)

    if name == "scan":
        return _scan(params, operands, slots, run)
    if name == "while":
        return _while(params, operands, run)
    if name == "cond":
        return _cond(operands, slots, run, len(programs))
    if name in RECOMPUTED:
        again = jax.checkpoint(  # still computes twice to save memory
            lambda *arguments: run(0, arguments[0], arguments[1]),
            policy=params["policy"],
            prevent_cse=params["prevent_cse"],
        )
        return again(operands, slots)
    if name in RULED:
        results, records = run(0, jax.lax.stop_gradient(operands), slots)
        return list(map(_instead, bind(eqn, operands), results)), records
    return run(0, operands, slots)


def _instead(known: Any, hooked: Any) -> Any:
    """What hooks made of a result, with the result's own derivative."""
    import jax
    import jax.numpy as jnp

    if not jnp.issubdtype(known.dtype, jnp.inexact):
        return hooked

    @jax.custom_jvp
    def instead(known: Any, hooked: Any) -> Any:
        return hooked

    instead.defjvp(lambda primals, tangents: (primals[1], tangents[0]))
    return instead(known, hooked)


def _scan(
    params: dict[str, Any],
    operands: list[Any],
    slots: dict[Path, Any],
    run: Callable,
) -> tuple[list[Any], dict[Path, Any]]:
    import jax

    num_consts, num_carry = scan_counts(params)
    constants = operands[:num_consts]

    def body(carry: Any, turn: Any) -> Any:
        slices, slots = turn
        outs, records = run(0, [*constants, *carry, *slices], slots)
        return outs[:num_carry], (outs[num_carry:], records)

    carry, (stacked, records) = jax.lax.scan(
        body,
        operands[num_consts : num_consts + num_carry],
        (operands[num_consts + num_carry :], slots),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked], records


def _while(
    params: dict[str, Any], operands: list[Any], run: Callable
) -> tuple[list[Any], dict[Path, Any]]:
    import jax

    num_test, num_body = params["cond_nconsts"], params["body_nconsts"]
    test_constants = operands[:num_test]
    body_constants = operands[num_test : num_test + num_body]
    start = operands[num_test + num_body :]

    def test(state: Any) -> Any:
        ((outcome,), _) = run(0, [*test_constants, *state[0]], {})
        return outcome

    def body(state: Any) -> Any:
        return run(1, [*body_constants, *state[0]], {})

    nothing = _not_run(jax.eval_shape(lambda: body((start, {}))[1]))
    outs, records = jax.lax.while_loop(test, body, (start, nothing))
    return list(outs), records


def _cond(
    operands: list[Any], slots: dict[Path, Any], run: Callable, number: int
) -> tuple[list[Any], dict[Path, Any]]:
    import jax
    import jax.numpy as jnp

    index, *arguments = operands
    branches = [
        lambda arguments, slots, branch=branch: run(branch, arguments, slots)
        for branch in range(number)
    ]
    shapes = [jax.eval_shape(branch, arguments, slots)[1] for branch in branches]
    everything = {key: record for shape in shapes for key, record in shape.items()}

    def filled(branch: Callable) -> Callable:
        """The branch, with records of NaN for the hooks of the others."""

        def run_and_fill(arguments: Any, slots: Any) -> Any:
            outs, records = branch(arguments, slots)
            return outs, {**_not_run(everything), **records}

        return run_and_fill

    position = jnp.asarray(index, jnp.int32)
    outs, records = jax.lax.switch(position, list(map(filled, branches)), arguments, slots)
    return list(outs), records


def _not_run(shapes: Any) -> Any:
    """Records of hooks that were not called."""
    import jax
    import jax.numpy as jnp

    def nothing(leaf: Any) -> Any:
        floats = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.full(leaf.shape, jnp.nan if floats else 0, leaf.dtype)

    return jax.tree.map(nothing, shapes)
