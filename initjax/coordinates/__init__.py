"""The coordinate check: whether a model trains alike at every width, and if not, which layer is
at fault.

`coordinate_check` returns a `CoordinateCheck`, with a `Coordinate` for every layer, each with its
`Fault`s and the `Slope` of every size over width.

The work is done in private modules, in this order: `_check` (arguments, and the order of all that
follows), `_program` (the compiled step), `_matching` (the same layers at every width), `_slopes`,
`_judging`, `_coordinate`, `_text`, `_figure` and `_result`.
"""

from initjax.coordinates._check import coordinate_check
from initjax.coordinates._coordinate import Coordinate
from initjax.coordinates._judging import Fault
from initjax.coordinates._result import CoordinateCheck
from initjax.coordinates._slopes import Slope

__all__ = ["Coordinate", "CoordinateCheck", "Fault", "Slope", "coordinate_check"]
