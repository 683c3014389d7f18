"""One layer at every width, and what several layers say together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from initjax._values import checked_choice, checked_integer
from initjax.coordinates._judging import Fault
from initjax.coordinates._matching import Role
from initjax.coordinates._slopes import Slope, slope_of

Verdict = Literal["stable", "grows", "shrinks", "not trained"]
Quantity = Literal["size", "change", "own"]


@dataclasses.dataclass(frozen=True, eq=False)
class Coordinate:
    """One layer at every width: how large its coordinates are, and how much training changes them.

    Arrays are root mean squares, (widths, seeds, steps + 1); the first step is the start. In a loop
    they are taken over all of its turns.
    """

    name: str
    """The paths of its parameters. A parameter that is no layer's weight, such as a bias, is a
    coordinate too, and so are the scores of an attention."""
    kind: str
    """'dense', 'convolution', 'embedding', 'attention' or 'parameter'."""
    role: Role
    """What grows with width: the units of an 'input' or, if it is looked up, an 'embedding'; the
    fan-in of an 'output'; both of a 'hidden' layer; nothing of a 'scalar'. A parameter that grows
    along one axis is a 'vector'."""
    fan_in: tuple[float, ...]
    """By width; the size of a head for the scores of an attention, 0 for a parameter."""
    widths: tuple[int, ...]
    size: np.ndarray
    """Of the pre-activations; NaN for a parameter."""
    change: np.ndarray
    """Of the pre-activations, or of the parameter, since the start."""
    own: np.ndarray
    """The part of that change that this layer's own weights make: of the changed weights' product
    with the input. NaN for the scores of an attention."""
    verdict: Verdict
    """Whether size or change grow or shrink with width, at the last step."""
    changes_at: int | None
    """The first step after which it has changed at every width; None if it isn't trained."""
    faults: tuple[Fault, ...]
    """What is wrong with this layer itself, and not with those before it."""
    logits: bool = False
    """Whether a softmax and a loss follow."""

    @property
    def stable(self) -> bool:
        """Whether it is not at fault, and neither grows nor shrinks."""
        return not self.faults and self.verdict not in ("grows", "shrinks")

    @property
    def state(self) -> str:
        """What is wrong with it in a word or two: the causes of its faults, or else its verdict."""
        causes = dict.fromkeys(fault.cause.replace("_", " ") for fault in self.faults)
        return ", ".join(causes) or self.verdict

    def slope(self, quantity: Quantity, step: int) -> Slope | None:
        """The power of width by which a quantity grows.

        Args:
          quantity: 'size', 'change' or 'own'.
          step: after how many updates.

        Returns:
          The mean over seeds and its 95% interval; None if it has no logarithm, as it is zero, was
          not measured, or is not finite.

        Raises:
          TypeError, ValueError: quantity is none of these, or step is no integer from 0 to the
            number of steps.
        """
        checked_choice("slope", "quantity", quantity, get_args(Quantity))
        sizes: np.ndarray = getattr(self, quantity)
        number, last = checked_integer("slope", "step", step, 0), sizes.shape[2] - 1
        if number > last:
            raise ValueError(f"slope: step must be at most {last}, the last one; got {step!r}")
        return slope_of(self.widths, sizes[:, :, number])

    def __repr__(self) -> str:
        return f"<Coordinate {self.name}: {self.role}, {self.state}>"


def diverged(widths: Sequence[int], loss: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The widths at which a loss, (widths, seeds, steps), isn't finite, and the first such step."""
    found = []
    for width, losses in zip(widths, loss, strict=True):
        broken = ~np.isfinite(losses).all(axis=0)
        if broken.any():
            found.append((width, int(broken.argmax())))
    return tuple(found)
