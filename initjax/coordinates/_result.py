"""What a coordinate check returns: data, which can be printed, plotted, saved and asserted."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._extras import require_matplotlib
from initjax.coordinates import _text
from initjax.coordinates._coordinate import Coordinate, Quantity, diverged

if TYPE_CHECKING:
    from initjax._figure import Figure

VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class CoordinateCheck:
    """The result of `initjax.coordinate_check`."""

    widths: tuple[int, ...]
    coordinates: tuple[Coordinate, ...]
    """In the order of execution; parameters that are no layer's weights come last."""
    loss: np.ndarray
    """(widths, seeds, steps + 1); NaN from where a run was stopped."""
    notes: tuple[str, ...]
    """What could not be measured, and why."""

    @property
    def seeds(self) -> int:
        return self.loss.shape[1]

    @property
    def steps(self) -> int:
        return self.loss.shape[2] - 1

    @property
    def diverged(self) -> tuple[tuple[int, int], ...]:
        """The widths at which a loss is not finite, each with the first such step."""
        return diverged(self.widths, self.loss)

    @property
    def stable(self) -> bool:
        """Whether no layer is at fault, none grows or shrinks, and all losses are finite."""
        return all(one.stable for one in self.coordinates) and not self.diverged

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong and how to fix it, in words; empty if the check is stable."""
        return tuple(_text.findings(self.coordinates, self.loss))

    def assert_stable(self) -> None:
        """Raises an AssertionError unless the check is stable. Use it in the tests of your model.

        Raises:
          AssertionError: something is wrong; the message says what.
        """
        if not self.stable:
            raise AssertionError(
                "\n".join([_text.headline(self.coordinates, self.loss), *self.findings])
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain data for JSON. Numbers that aren't finite are None.

        Returns:
          A dictionary. 'version' is 1; it counts up if a key goes or changes its meaning. 'stable'
          is a bool; 'widths', 'findings' and 'notes' are lists; 'loss' is a list of lists, by
          width, seed and step, as are 'size', 'change' and 'own' of every coordinate. 'coordinates'
          is a list of dictionaries, with 'name', 'kind', 'role', 'fan_in', 'verdict', 'changes_at',
          'faults' and 'slopes': of each quantity, a list by step of [mean, low, high] or None.
        """
        return {
            "version": VERSION,
            "stable": self.stable,
            "widths": list(self.widths),
            "findings": list(self.findings),
            "notes": list(self.notes),
            "loss": _plain(self.loss),
            "coordinates": [self._coordinate(each) for each in self.coordinates],
        }

    def _coordinate(self, one: Coordinate) -> dict[str, Any]:
        quantities: tuple[Quantity, ...] = ("size", "change", "own")
        return {
            "name": one.name,
            "kind": one.kind,
            "role": one.role,
            "fan_in": list(one.fan_in),
            "verdict": one.verdict,
            "changes_at": one.changes_at,
            "faults": [
                {**dataclasses.asdict(fault), "slope": _plain(fault.slope)} for fault in one.faults
            ],
            **{name: _plain(getattr(one, name)) for name in quantities},
            "slopes": {
                name: [
                    None if (slope := one.slope(name, step)) is None else _plain(slope)
                    for step in range(self.steps + 1)
                ]
                for name in quantities
            },
        }

    def plot(self, path: str | os.PathLike[str] | None = None, *, title: str = "") -> Figure:
        """Plots the size of each layer's change against width, in one panel for each step.

        Needs Matplotlib: `pip install 'initjax[plot]'`.

        Args:
          path: where to save the figure; the suffix sets the format. With None, nothing is saved.
          title: what was checked, as a headline.

        Returns:
          A Matplotlib figure, which a notebook shows. It belongs to no window of `pyplot`.

        Raises:
          ImportError: Matplotlib is not installed.
        """
        require_matplotlib("result.plot()")
        from initjax.coordinates._figure import draw

        figure = draw(self.coordinates, self.loss, title)
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        return _text.page(self.coordinates, self.loss, self.notes)

    def __repr__(self) -> str:
        about = _text.headline(self.coordinates, self.loss)
        return f"<CoordinateCheck: {about}; print(result) shows all>"


def _plain(numbers: Any) -> Any:
    if isinstance(numbers, np.ndarray | tuple):
        return [_plain(each) for each in numbers]
    return float(numbers) if math.isfinite(numbers) else None
