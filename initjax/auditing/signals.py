"""What is known of a value while a computation is read: where it comes from, and through what."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Path = tuple[int, ...]
"""Where an equation stands: its index, and for nested programs the indices on the way to it."""

_LONGEST = (
    4000  # characters of an expression; a longer one is no activation that theory is asked of
)


class Source(NamedTuple):
    """How a weight comes from a parameter."""

    leaf: int
    """The index of the parameter."""
    how: str = "whole"
    """'whole': the parameter itself, laid out anew or times a number; 'part': some of it;
    'nonlinear': a function of it that is not proportional to it."""
    stacked: tuple[Path, ...] = ()
    """The loops that take a slice along its first axis in every turn, outermost first."""
    laid_out: bool = False
    """Whether its axes are other ones than the parameter's, but for those slices."""


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


@dataclasses.dataclass(frozen=True)
class Tag:
    """What is known of one value."""

    leaves: frozenset[int] = frozenset()
    """The parameters that it depends on."""
    data: bool = False
    """Whether it depends on the batch."""
    batch: frozenset[int] = frozenset()
    """The inputs of the batch that it depends on."""
    sources: frozenset[Source] = frozenset()
    """For a value of parameters alone: how it comes from them."""
    signal: Signal | None = None
    lost: str = ""
    """Why there is no signal."""
    sites: frozenset[Path] = frozenset()
    """All sites upstream, within one turn of a loop."""
    near: frozenset[Path | None] = frozenset()
    """The sites upstream with no other site between; None stands for the batch itself."""
    linear: bool = True
    """Whether it is proportional to the values of the sites near."""
    statistic: bool = False
    """Whether it is a statistic, such as a mean, of the sites near."""
    root: bool = False
    """Whether it is a square root of a statistic, or one over it."""
    once: bool = True
    """Whether it is used once."""

    @property
    def pure(self) -> bool:
        """Whether it is made of parameters alone."""
        return bool(self.leaves) and not self.data

    @property
    def number(self) -> bool:
        """Whether it is one number everywhere."""
        return self.signal is not None and self.signal.site is None


def join(tags: list[Tag]) -> Tag:
    """What is known of a value that may be any of several, or is made of all of them."""
    first, *others = tags
    if all(other == first for other in others):
        return first
    return Tag(
        leaves=frozenset().union(*(tag.leaves for tag in tags)),
        data=any(tag.data for tag in tags),
        batch=frozenset().union(*(tag.batch for tag in tags)),
        sources=frozenset().union(*(tag.sources for tag in tags)),
        lost=reason(tags),
        sites=frozenset().union(*(tag.sites for tag in tags)),
        near=frozenset().union(*(tag.near for tag in tags)),
        linear=all(tag.linear for tag in tags),
        statistic=any(tag.statistic for tag in tags),
        root=any(tag.root for tag in tags),
    )


def reason(tags: list[Tag]) -> str:
    """Why a value made of others has no signal, as far as that is why one of them has none."""
    reasons = [tag.lost for tag in tags if tag.lost]
    if any(tag.near - {None} for tag in tags):  # it is not the batch itself
        reasons = [text if text != "the batch" else "data enter" for text in reasons]
        reasons.sort(key=lambda text: text == "data enter")
    return reasons[0] if reasons else ""


def applied(eqn: Any, tags: list[Tag]) -> Signal | str:
    """The signal that an elementwise equation makes of its operands', or why it makes none."""
    signals = [tag.signal for tag in tags]
    if any(signal is None for signal in signals):
        if any(tag.pure for tag in tags):
            return "a parameter enters the activation"
        return reason(tags) or "an array enters"
    known: list[Signal] = [signal for signal in signals if signal is not None]
    sites = [signal for signal in known if signal.site is not None]
    if len({(s.site, s.earlier) for s in sites}) > 1:
        return "layers meet"
    if len({s.layout for s in sites}) > 1:
        return "a layer's units meet"
    inputs = tuple(signal.expression for signal in known)
    name = eqn.primitive.name
    if not sites:
        import jax

        with jax.ensure_compile_time_eval():
            operands = [
                np.asarray(value, var.aval.dtype)
                for value, var in zip(inputs, eqn.invars, strict=True)
            ]
            result = number(eqn.primitive.bind(*operands, **eqn.params))
        return "an array enters" if result is None else Signal(None, result)
    if name == "convert_element_type":
        to, source = np.dtype(eqn.params["new_dtype"]), eqn.invars[0].aval.dtype
        if _floating(to) and _floating(source):
            return sites[0]
    expression = Expression(_text(name, eqn.params, inputs), eqn.primitive, eqn.params, inputs)
    if len(expression.text) > _LONGEST:
        return "a long expression"
    return dataclasses.replace(sites[0], expression=expression)


def number(value: Any) -> np.generic | None:
    """An array of one number as that number, in a precision that NumPy has; None for a key."""
    import jax
    import jax.numpy as jnp

    if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key):
        return None
    array = np.asarray(value).reshape(())
    if _floating(array.dtype) and array.dtype.kind != "f":
        array = array.astype(np.float32)
    return array.dtype.type(array.item()) if array.dtype.kind in "biuf" else None


def _floating(dtype: Any) -> bool:
    import jax.numpy as jnp

    return jnp.issubdtype(dtype, jnp.floating)


def _text(name: str, params: dict[str, Any], inputs: tuple[Any, ...]) -> str:
    numbers = [f"{key}={params[key]}" for key in ("y", "new_dtype") if key in params]
    texts = [node.text if isinstance(node, Expression) else str(node) for node in inputs]
    return f"{name}({', '.join([*texts, *numbers])})"


@functools.lru_cache(maxsize=256)
def name_of(expression: Expression | None) -> str:
    """The usual name of an activation: jax.nn's, if it is one of those, else its text.

    Args:
      expression: the activation; None where it could not be read.

    Returns:
      The name, of at most 40 characters; "" for None.
    """
    if not isinstance(expression, Expression):
        return ""
    if expression == IDENTITY:
        return "identity"
    mine = _values(expression)
    for rtol, atol in ((1e-4, 1e-5), (5e-3, 2e-3)):  # constants may be rounded to 8 bits
        for name, function in _named().items():  # each is compiled once, if it comes to that
            if np.allclose(mine, _values(function), rtol=rtol, atol=atol):
                return name
    text = expression.text
    return text if len(text) <= 40 else text[:37] + "..."


@functools.lru_cache(maxsize=256)
def _values(function: Callable) -> np.ndarray:
    import jax

    with jax.ensure_compile_time_eval():
        return np.asarray(function(np.linspace(-7.3, 7.1, 97, dtype=np.float32)))


@functools.cache
def _named() -> dict[str, Callable]:
    import jax
    import jax.numpy as jnp

    names = "relu gelu tanh silu leaky_relu sigmoid softplus elu selu celu relu6 mish".split()
    names += "hard_tanh soft_sign hard_sigmoid hard_silu log_sigmoid squareplus".split()
    return {
        **{name: getattr(jax.nn, name) for name in names},
        "gelu (exact)": lambda z: jax.nn.gelu(z, approximate=False),
        "leaky_relu(0.2)": lambda z: jax.nn.leaky_relu(z, 0.2),
        "squared relu": lambda z: jax.nn.relu(z) ** 2,
        "sin": jnp.sin,
        "cos": jnp.cos,
        "sin(30 z)": lambda z: jnp.sin(30 * z),
        "exp": jnp.exp,
        "square": jnp.square,
        "erf": jax.scipy.special.erf,
    }
