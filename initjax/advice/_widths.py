"""What changes in a network that is wider than the base model that was tuned."""

from __future__ import annotations

from initjax._wrapping import aligned, wrapped
from initjax.advice._choices import Choice
from initjax.parametrization import Plan, parametrize
from initjax.parametrization._schemes import Optimizer

_INPUTS, _OUTPUTS = 100, 10  # any: factors are the same for all
_ROLES = ("input", "hidden", "output", "vector")


def widened(choice: Choice, base_width: int, width: int, optimizer: Optimizer) -> Plan:
    """The plan of muP for one parameter of each role.

    Args:
      choice: what the network is drawn from.
      base_width: the width at which it was tuned.
      width: its width.
      optimizer: what trains it.
    """
    import jax

    def shapes(width: int) -> dict[str, jax.ShapeDtypeStruct]:
        sizes = (_INPUTS, width), (width, width), (width, _OUTPUTS), (width,)
        made = [jax.ShapeDtypeStruct(size, "float32") for size in sizes]
        return dict(zip(_ROLES, made, strict=True))

    return parametrize(
        shapes(width),
        shapes(base_width),
        "mup",
        optimizer,
        roles={role: role for role in _ROLES},
        init={"hidden": choice.initializer},
    )


def lines(plan: Plan, attention: bool, columns: int) -> list[str]:
    """The factors by role, as text."""
    leaves = {leaf.role: leaf for leaf in plan.leaves}
    (base,), (width,) = leaves["vector"].base_shape, leaves["vector"].shape
    title = (
        f"Width {base} to {width}, by muP. Multiply what the network of width {base} has by these"
        " factors, so that the learning rate that was searched there stays right:"
    )
    found = wrapped(title, columns, rest="  ")
    names = ["stddev", "rate", "epsilon"] if plan.optimizer == "adam" else ["stddev", "rate"]
    found.append(" " * 10 + "".join(aligned(name, 10, right=True) for name in names))
    for role in _ROLES:
        leaf = leaves[role]
        numbers = (leaf.stddev, leaf.learning_rate, leaf.epsilon)[: len(names)]
        cells = [aligned(f"x{number:.3g}", 10, right=True) for number in numbers]
        found.append(f"  {aligned(role, 8)}{''.join(cells)}")
    if attention:
        text = "If heads grow, divide scores by their size, not by its root: see `head_size`."
        found += wrapped(text, columns, "  ", "    ")
    text = (
        f'initjax.parametrize(shapes, base_shapes, "{plan.scheme}", "{plan.optimizer}") does it for'
        " a model, and initjax.coordinate_check tells whether it holds. No run of the table is"
        " about it."
    )
    return [*found, *wrapped(text, columns, "  ", "    ")]
