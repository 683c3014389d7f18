"""Functions of one layer's output, as they are read from a computation: its activation."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Path = tuple[int, ...]
"""Where an equation stands: its index, and for nested programs the indices on the way to it."""
LONGEST = 4000  # characters of an expression; a longer one is no activation that theory is asked of


@dataclasses.dataclass(frozen=True)
class Expression:
    """An elementwise function of one site's output, as a tree of primitives.

    Two expressions are equal if their texts are.
    """

    text: str
    primitive: Any = dataclasses.field(default=None, compare=False)
    params: Any = dataclasses.field(default=None, compare=False)
    inputs: tuple[Expression | np.generic, ...] = dataclasses.field(default=(), compare=False)

    def __call__(self, z: Any) -> Any:
        """Applies the function to numbers, in their own precision.

        Args:
          z: a floating array of any shape.

        Returns:
          An array of the same shape.
        """
        import jax.numpy as jnp

        z = jnp.asarray(z)
        known: dict[int, Any] = {}

        def value(node: Expression | np.generic) -> Any:
            if not isinstance(node, Expression):
                floats = np.issubdtype(node.dtype, np.floating)
                return jnp.full(z.shape, node.item(), z.dtype if floats else node.dtype)
            if node.primitive is None:
                return z
            if id(node) not in known:
                operands = list(map(value, node.inputs))
                if node.primitive.name == "convert_element_type":
                    (operand,) = operands
                    to = node.params["new_dtype"]
                    keeps = jnp.issubdtype(to, jnp.floating)
                    known[id(node)] = operand.astype(z.dtype if keeps else to)
                else:
                    known[id(node)] = node.primitive.bind(*operands, **node.params)
            return known[id(node)]

        return value(self)


IDENTITY = Expression("z")


def bare(expression: Expression) -> Expression:
    """An expression without the numbers that multiply its value or are added to it."""
    while getattr(expression.primitive, "name", "") in ("mul", "div", "add", "sub"):
        one, other = expression.inputs
        if isinstance(one, Expression) and not isinstance(other, Expression):
            expression = one
        elif isinstance(other, Expression) and not isinstance(one, Expression):
            if expression.primitive.name == "div":
                break
            expression = other
        else:
            break
    return expression


@dataclasses.dataclass(frozen=True)
class Signal:
    """A value that is a function of one site's output alone, number by number."""

    site: Path | None
    """The site; None for a number that is the same everywhere."""
    expression: Expression | np.generic
    """A number for a number that is the same everywhere."""
    layout: tuple[Path, ...] = ()
    """Where it was laid out anew since; only values laid out alike are combined."""
    axes: tuple[int, ...] | None = None
    """The axes of the site's units, as laid out now; None where they cannot be told any more."""
    through_bias: bool = False
    earlier: bool = False
    """Whether it is of the previous turn of a loop."""


def number(value: Any) -> np.generic | None:
    """An array of one number as that number, in a precision that NumPy has; None for a key."""
    import jax
    import jax.numpy as jnp

    if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key):
        return None
    array = np.asarray(value).reshape(())
    if floating(array.dtype) and array.dtype.kind != "f":
        array = array.astype(np.float32)
    return array.dtype.type(array.item()) if array.dtype.kind in "biuf" else None


def floating(dtype: Any) -> bool:
    import jax.numpy as jnp

    return jnp.issubdtype(dtype, jnp.floating)


def text_of(name: str, params: dict[str, Any], inputs: tuple[Any, ...]) -> str:
    numbers = [f"{key}={params[key]}" for key in ("y", "new_dtype") if key in params]
    texts = [node.text if isinstance(node, Expression) else str(node) for node in inputs]
    return f"{name}({', '.join([*texts, *numbers])})"
