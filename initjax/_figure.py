"""The figures that initjax returns. Import this module only where Matplotlib is installed."""

from __future__ import annotations

import io

from matplotlib.figure import Figure as MatplotlibFigure


class Figure(MatplotlibFigure):
    """A Matplotlib figure that a notebook shows, although it belongs to no window of `pyplot`."""

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
