"""What changes in a network that is wider than the base model that was tuned."""

from __future__ import annotations

from initjax._wrapping import aligned, wrapped
from initjax.advice._choices import Choice
from initjax.parametrization import Plan, parametrize
from initjax.parametrization._schemes import Optimizer

_INPUTS, _OUTPUTS = 100, 10  # any: factors are the same for all
_NAMES = {
    "input": "input kernels",
    "hidden": "hidden kernels",
    "output": "output kernels",
    "vector": "biases, scales",
}


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
        sizes = {
            "input": (_INPUTS, width),
            "hidden": (width, width),
            "output": (width, _OUTPUTS),
            "vector": (width,),
        }
        return {role: jax.ShapeDtypeStruct(size, "float32") for role, size in sizes.items()}

    return parametrize(
        shapes(width),
        shapes(base_width),
        "mup",
        optimizer,
        roles={"input": "input", "hidden": "hidden", "output": "output", "vector": "vector"},
        init={"hidden": choice.initializer},
    )


def lines(plan: Plan, attention: bool, columns: int) -> list[str]:
    """The factors by role, as text."""
    (base,), (width,) = next(
        (leaf.base_shape, leaf.shape) for leaf in plan.leaves if leaf.role == "vector"
    )
    title = (
        f"Width {base} to {width}, by muP: a learning rate that was searched at width {base} stays"
        f" right if, relative to the network of that width:"
    )
    found = wrapped(title, columns, rest="  ")
    for role, name in _NAMES.items():
        leaf = next(leaf for leaf in plan.leaves if leaf.role == role)
        told = {"stddev": leaf.stddev, "rate": leaf.learning_rate, "epsilon": leaf.epsilon}
        if plan.optimizer != "adam":
            del told["epsilon"]
        numbers = [aligned(f"{word} x{number:.3g}", 14) for word, number in told.items()]
        found.append(f"  {aligned(name, 16)}{' '.join(numbers)}".rstrip())
    if attention:
        text = "If heads grow, divide scores by their size, not by its root: see `head_size`."
        found += wrapped(text, columns, "  ", "    ")
    text = (
        f'initjax.parametrize(shapes, base_shapes, "{plan.scheme}", "{plan.optimizer}") does it for'
        " a model, and initjax.coordinate_check tells whether it holds. No run of the table is"
        " about it."
    )
    return [*found, *wrapped(text, columns, "  ", "    ")]
