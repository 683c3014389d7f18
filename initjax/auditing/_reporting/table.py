"""The table of an audit's layers, as wide as the terminal, and its legend."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from initjax._wrapping import aligned, columns, shortened, wrapped
from initjax.auditing._judging.layers import Layer
from initjax.auditing._reporting.folding import Number, Row, fold, number
from initjax.auditing._reporting.glossary import COLUMNS
from initjax.auditing._reporting.naming import distinct, short_names

MARKS = {"ok": " ", "warning": "!", "failure": "x"}
_MOST_ROWS = 40
_TEXTS = ("layer", "then")  # columns that aren't numbers
_LONGEST_NAME, _LONGEST_THEN = 22, 12  # for longer ones, no column is left out
# The columns of a table that are left out first where it is too wide.
_LEAST_NEEDED = (
    "spread", "z", "grad", "step", "theory", "chi_1", "then", "corr", "dead", "flat",
)  # fmt: skip


class Table(NamedTuple):
    """Rows of texts and numbers below a header."""

    header: list[str]
    rows: list[Row]
    legend: Mapping[str, str]
    """A few words about each column that needs them."""

    @property
    def marks(self) -> list[str]:
        return [MARKS[row.level] for row in self.rows]


def layers_table(layers: Sequence[Layer], levels: Sequence[str]) -> Table:
    """The table of layers, of which those that are alike are one row.

    Args:
      layers: in the order of execution.
      levels: of each layer: 'ok', 'warning' or 'failure'.
    """
    steps = any(not math.isnan(layer.update_ratio) for layer in layers)
    flat = any(layer.saturating for layer in layers)
    header = ["layer", "then", "gain", "rms", "theory", "z", "spread", "corr"]
    header += ["flat" if flat else "dead", "step" if steps else "grad", "ratio", "chi_1"]
    rows = []
    for layer, name, level in zip(layers, short_names(layers), levels, strict=True):
        predicted = not layer.unpredicted
        cells = (
            _then(layer),
            number(compact, layer.weight_variance),
            number(compact, layer.rms),
            number(compact, layer.predicted_rms if predicted else math.nan),
            number(_tenths, layer.rms_z if predicted else math.nan),
            number(compact, layer.unit_stddev),
            number(_hundredths, layer.correlation),
            number(_percent, layer.saturated if layer.saturating else layer.dead),
            number(compact, layer.update_ratio) if steps else _gradient(layer),
            number(compact, layer.gradient_ratio),
            number(compact, layer.predicted_gradient_ratio),
        )
        uses = f" x{layer.uses}" if layer.uses > 1 else ""
        alike = layer.kind, layer.shape, _size(layer.weight_variance), layer.gradient == 0
        rows.append(Row(name + uses, cells, level, alike))
    return Table(header, fold(rows), {name: COLUMNS[name].legend for name in header})


def _size(gain: float) -> int | None:
    """The order of magnitude of a gain, in hundreds: an outlier is not alike."""
    return round(math.log10(gain) / 2) if 0 < gain < math.inf else None


def _then(layer: Layer) -> str:
    if not layer.samples:
        return "not run"
    if layer.role == "last":
        return layer.activation or ("logits" if layer.logits else "")
    return layer.activation or layer.role


def _gradient(layer: Layer) -> str | Number:
    if math.isnan(layer.gradient) and layer.samples:
        return "none"
    return number(compact, layer.gradient)


def table_lines(table: Table, width: int) -> list[str]:
    """The lines of a table, with marks at rows at fault, and its legend.

    Args:
      table: what is shown; the middle of many rows is left out.
      width: columns of the terminal; the columns that are least needed are left out.
    """
    if not table.rows:
        return []
    header, rows = table.header, table.rows
    shown = _shown([row.level for row in rows])
    texts = {place: rows[place].texts for place in shown}
    needed, widths = _widths(header, texts.values())
    all_columns = _total(widths)
    if all_columns > width:  # ranges take the place of columns
        texts = {place: rows[place].short_texts for place in shown}
        needed, widths = _widths(header, texts.values())
    blank = [
        name for place, name in enumerate(header) if not any(text[place] for text in texts.values())
    ]
    for name in (*blank, *_LEAST_NEEDED):
        if _total(widths) > width:
            widths.pop(name, None)
    first = header[0]
    widths[first] = min(needed[first], widths[first] + max(0, width - _total(widths)))
    widths[first] = min(widths[first], max(1, widths[first] + width - _total(widths)))

    def line(mark: str, text: Sequence[str]) -> str:
        cells = [
            aligned(shortened(cell, widths[name]), widths[name], name not in (first, *_TEXTS))
            for name, cell in zip(header, text, strict=True)
            if name in widths
        ]
        return f"{mark} {' '.join(cells)}".rstrip()

    lines, before = [line(" ", header)], -1
    for place in shown:
        if place > before + 1:
            hidden = sum(row.layers for row in rows[before + 1 : place])
            lines.append(f"  ... {hidden} more layers ...")
        lines.append(line(MARKS[rows[place].level], texts[place]))
        before = place
    hidden = ", ".join(name for name in header if name not in {*widths, *blank})
    if hidden:
        remark = f"not shown: {hidden}; a width of {all_columns} shows all columns"
        lines += wrapped(remark, width, "  ")
    about = any("~" in cell for text in texts.values() for cell in text[1:])
    explained = legend(table, widths) + "; ~a: all about a" * about
    return lines + wrapped(explained, width, "  ", "  ")


def _widths(
    header: Sequence[str], texts: Collection[Sequence[str]]
) -> tuple[dict[str, int], dict[str, int]]:
    """The width that each column needs, and the one that it has if no long name is written out."""
    needed = {
        name: max(columns(text[place]) for text in (header, *texts))
        for place, name in enumerate(header)
    }
    least = {header[0]: distinct([text[0] for text in texts], _LONGEST_NAME), "then": _LONGEST_THEN}
    return needed, {name: min(size, least.get(name, size)) for name, size in needed.items()}


def legend(table: Table, shown: Collection[str] | None = None) -> str:
    """A few words about each column that is shown; None stands for all."""
    names = [name for name in table.header if shown is None or name in shown]
    parts = [f"{name}: {table.legend[name]}" for name in names if table.legend.get(name)]
    folded = any(row.layers > 1 for row in table.rows)
    return "; ".join([*parts, *["a..b: smallest to largest"] * folded])


def _total(widths: Mapping[str, int]) -> int:
    return 1 + sum(1 + width for width in widths.values())


def _shown(levels: Sequence[str]) -> list[int]:
    """The rows that a table shows: the first, the last, and the first failures."""
    count = len(levels)
    if count <= _MOST_ROWS:
        return list(range(count))
    third = _MOST_ROWS // 3
    failures = [place for place, level in enumerate(levels) if level == "failure"][:third]
    return sorted({*range(third), *failures, *range(count - third, count)})


def compact(value: float, digits: int = 3) -> str:
    """A number in about six characters; nothing for NaN."""
    if math.isnan(value):
        return ""
    if value == 0 or 1e-3 <= abs(value) < 9999.5:
        return f"{value:.{digits}g}" if abs(value) < 10.0**digits else f"{value:.0f}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def _fixed(value: float, places: int) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.{places}f}" if abs(value) < 1000 else f"{value:.0e}".replace("e+0", "e")


def _tenths(value: float, digits: int) -> str:
    return _fixed(value, 1)


def _hundredths(value: float, digits: int) -> str:
    return _fixed(value, 2)


def _percent(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.0%}"
