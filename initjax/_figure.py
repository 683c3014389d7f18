"""The figures that initjax returns. Import this module only where Matplotlib is installed."""

from __future__ import annotations

import functools
import io
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure as MatplotlibFigure

# Colors and sizes are those that our figures are made for, whatever style a user prefers.
default_style = functools.partial(matplotlib.style.context, "default")


class Figure(MatplotlibFigure):
    """A Matplotlib figure that a notebook shows, although it belongs to no window of `pyplot`."""

    def draw(self, renderer: Any) -> None:
        """Draws the figure; Matplotlib makes ticks only now."""
        with default_style():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
