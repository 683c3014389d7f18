"""The texts of a coordinate check: verdict, findings, table and losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from initjax._wrapping import aligned, columns, printable, shortened, wrapped
from initjax.auditing._judging.names import some
from initjax.coordinates._coordinate import Coordinate, diverged
from initjax.coordinates._judging import Fault
from initjax.coordinates._slopes import Slope

_WIDTH = 80
_LEAST = 12  # columns of a name
_MOST_STEPS = 8
_AT_ONCE = "A plan of `initjax.parametrize` makes such changes all at once."
_ROLES = {"input": "input", "embedding": "embedding", "hidden": "hidden layer",
          "output": "output", "vector": "vector", "scalar": "scalar"}  # fmt: skip
_A_ROLE = {role: f"{'an' if text[0] in 'aeio' else 'a'} {text}" for role, text in _ROLES.items()}


def headline(coordinates: Sequence[Coordinate], loss: np.ndarray) -> str:
    """The first line."""
    widths = coordinates[0].widths
    unstable = [one.name for one in coordinates if not one.stable]
    guilty = [one.name for one in coordinates if one.faults]
    start = "coordinate check: not stable: "
    if guilty:
        return f"{start}{_some(guilty)} at fault"
    if diverged(widths, loss):
        return f"{start}a loss isn't finite"
    if unstable:
        return f"{start}{_some(unstable)}"
    return f"coordinate check: stable over widths {widths[0]} to {widths[-1]}"


def findings(coordinates: Sequence[Coordinate], loss: np.ndarray) -> Iterator[str]:
    """What is wrong, in sentences: losses, layers at fault, and layers without a known cause."""
    for width, step in diverged(coordinates[0].widths, loss):
        yield f"the loss at width {width} isn't finite {_when(step)}"
    alike: dict[tuple, list[tuple[Coordinate, Fault]]] = {}
    for one in coordinates:
        for fault in one.faults:
            key = fault.cause, fault.step, fault.exponent, one.role, one.kind == "parameter"
            alike.setdefault(key, []).append((one, fault))
    for found in alike.values():
        yield _fault([one for one, _ in found], [fault for _, fault in found])
    others = [one for one in coordinates if not one.faults and not one.stable]
    last = loss.shape[2] - 1
    if alike and others:
        names = _some([one.name for one in others])
        yield f"affected by {'this' if len(alike) == 1 else 'these'}: {names}"
    elif not alike:
        for one in others:
            slopes = [one.slope("size", last), one.slope("change", last)]
            slope, *_ = sorted(filter(None, slopes), key=lambda slope: -slope.mean)
            slope = slopes[0] if one.verdict == "shrinks" else slope
            yield f"{_some([one.name])} {one.verdict} as width^{slope} {_when(last)}"


def _when(step: int) -> str:
    return f"after step {step}" if step else "at the start"


def _fault(layers: Sequence[Coordinate], faults: Sequence[Fault]) -> str:
    """What is wrong with layers of one role, and what to do."""
    (first, *more), fault = layers, faults[0]
    slopes = sorted((each.slope for each in faults), key=lambda slope: slope.mean)
    power = f"width^{slopes[0]}"
    if more:
        power = f"width^{slopes[0].mean:.2f} to width^{slopes[-1].mean:.2f}"
    moves = ("grow" if fault.exponent < 0 else "shrink") + "s" * (not more)
    names = _some([one.name for one in layers])
    if fault.cause == "scores":
        moves = moves.removesuffix("s")
        return (
            f"{names} {moves} as {power} {_when(fault.step)}, and queries and keys don't; divide"
            " them by the size of a head, not by its square root"
        )
    its = "their" if more else "its"
    output = f"{its} output{'s' * bool(more)}"
    subject = f"{its} own change{'s' * bool(more)}"
    if fault.cause == "stddev" and fault.step:
        subject = f"with {its} first weights, {output}"
        if first.logits:
            subject, moves = f"with {its} first weights, the logits", moves.removesuffix("s")
    elif fault.cause == "stddev":
        subject = output
    verb = "divide" if fault.exponent < 0 else "multiply"
    be = f"are {_ROLES[first.role]}s" if more else f"is {_A_ROLE[first.role]}"
    if fault.cause == "multiplier":
        output = "the logits" if first.logits else output
        return (
            f"{names} {be}: what its first weights and its updates make {moves} as {power}"
            f" {_when(fault.step)}; {verb} {output} by {_power(abs(fault.exponent))}, not {its}"
            " stddev and learning rate"
        )
    what = {"stddev": "stddev", "learning_rate": "learning rate"}[fault.cause]
    return (
        f"{names} {be}: {subject} {moves} as {power} {_when(fault.step)}; {verb} {its}"
        f" {what} by {_power(abs(fault.exponent))}"
    )


def _power(exponent: float) -> str:
    return {0.5: "sqrt(width)", 1.0: "width"}.get(exponent, f"width^{exponent:g}")


def page(coordinates: Sequence[Coordinate], loss: np.ndarray, notes: Sequence[str]) -> str:
    """What `print` shows, in 80 columns."""
    _, seeds, steps = loss.shape
    what = (
        f"Widths {', '.join(map(str, coordinates[0].widths))}; {_counted(seeds, 'seed')};"
        f" {_counted(steps - 1, 'step')} of training."
    )
    blocks = [
        wrapped(headline(coordinates, loss), _WIDTH, rest=""),
        [
            *(
                line
                for number, text in enumerate(findings(coordinates, loss), 1)
                for line in wrapped(text, _WIDTH, f"{number}. ", "   ")
            ),
            *([_AT_ONCE] if sum(bool(one.faults) for one in coordinates) > 1 else []),
        ],
        [*wrapped(what, _WIDTH, rest=""), *_table(coordinates, steps - 1)],
        _losses(coordinates[0].widths, loss),
        [line for note in notes for line in wrapped(note, _WIDTH, rest="")],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _table(coordinates: Sequence[Coordinate], last: int) -> list[str]:
    """Powers of width, by layer."""
    shown = [one for one in coordinates if one.kind != "parameter" or not one.stable]
    guilty = any(one.faults for one in coordinates)
    header = ["layer", "role", "start", "change", "own", "verdict"]
    cells = [
        [
            one.role,
            _cell(one.slope("size", 0)).split()[0],
            _cell(one.slope("change", last)),
            _cell(one.slope("own", last)),
            _state(one, guilty),
        ]
        for one in shown
    ]
    sizes = [max(map(len, column)) for column in zip(header[1:], *cells, strict=True)]
    longest = max(_WIDTH - sum(sizes) - len(sizes), _LEAST)
    names = ["layer", *(shortened(name, longest) for name in _short([one.name for one in shown]))]
    sizes = [max(map(columns, names)), *sizes]
    lines = [
        " ".join(
            aligned(cell, size, right=2 <= column < 5)
            for column, (cell, size) in enumerate(zip([name, *row], sizes, strict=True))
        ).rstrip()
        for name, row in zip(names, [header[1:], *cells], strict=True)
    ]
    legend = (
        f"Powers of width: of the size at the start, of its change after step {last}, and of the"
        " part of that change that the layer's own weights make."
    )
    if len(shown) < len(coordinates):
        left = _counted(len(coordinates) - len(shown), "other parameter")
        legend += f" Stable and not shown: {left}."
    return [*lines, *wrapped(legend, _WIDTH, rest="")]


def _state(one: Coordinate, guilty: bool) -> str:
    """The verdict of a row, short enough for the table."""
    causes = dict.fromkeys(fault.cause.removeprefix("learning_") for fault in one.faults)
    return ", ".join(causes) or ("affected" if guilty and not one.stable else one.verdict)


def _short(names: Sequence[str]) -> list[str]:
    """Paths without the folders that all have in common."""
    parts = [printable(name).split("/") for name in names]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ["/".join(part[shared:]) for part in parts]


def _cell(slope: Slope | None) -> str:
    if slope is None:
        return "-"
    half = "" if np.isnan(slope.low) else f" ±{slope.high - slope.mean:.2f}"
    return f"{slope.mean:+.2f}{half}"


def _losses(widths: Sequence[int], loss: np.ndarray) -> list[str]:
    last = loss.shape[2] - 1
    steps = sorted({round(step) for step in np.linspace(0, last, min(last + 1, _MOST_STEPS))})
    rows = [["loss at width", *(f"step {step}" for step in steps)]]
    for width, losses in zip(widths, loss, strict=True):
        rows.append([str(width), *(f"{losses[:, step].mean():.3g}" for step in steps)])
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(aligned(cell, size, right=True) for cell, size in zip(row, sizes, strict=True))
        for row in rows
    ]


def _some(names: Sequence[str]) -> str:
    return some([f"`{name}`" for name in names])
