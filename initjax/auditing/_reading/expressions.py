"""Expressions: elementwise functions of one layer's output, such as activations."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

Path = tuple[int, ...]
"""The position of an equation: its index in the program, preceded, in a nested program, by the
indices of every outer equation and of the program inside that equation."""
LONGEST = 4000  # characters of an expression; theory is not asked about longer ones


@dataclasses.dataclass(frozen=True)
class Expression:
    """An elementwise function of one site's output, as a tree of primitives.

    Two expressions are equal if their texts are equal.
    """

    text: str
    primitive: Any = dataclasses.field(default=None, compare=False)
    params: Any = dataclasses.field(default=None, compare=False)
    inputs: tuple[Expression | np.generic, ...] = dataclasses.field(default=(), compare=False)

    def __call__(self, z: Any) -> Any:
        """Applies the function in the precision of its argument.

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
    """The expression without constants that multiply its value or are added to it."""
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


def number(value: Any) -> np.generic | None:
    """An array of one element as a NumPy number; None for a key.

    Precisions that NumPy lacks, such as bfloat16, become float32.
    """
    if not isinstance(getattr(value, "dtype", np.dtype(np.float32)), np.dtype):  # a key
        return None
    array = np.asarray(value).reshape(())
    if array.dtype.kind not in "biuf" and floating(array.dtype):
        array = array.astype(np.float32)
    return array.dtype.type(array.item()) if array.dtype.kind in "biuf" else None


@functools.lru_cache(maxsize=256)
def floating(dtype: Any) -> bool:
    """Whether a dtype is real and floating; JAX's narrow ones count."""
    import jax.numpy as jnp

    return jnp.issubdtype(dtype, jnp.floating)


def text_of(name: str, params: dict[str, Any], inputs: tuple[Any, ...]) -> str:
    """The text of a primitive applied to inputs. Equal functions have equal texts."""
    numbers = [f"{key}={params[key]}" for key in ("y", "new_dtype") if key in params]
    texts = [node.text if isinstance(node, Expression) else str(node) for node in inputs]
    return f"{name}({', '.join([*texts, *numbers])})"
