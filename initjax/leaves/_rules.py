"""Names initializers by the scale of a draw: rules of fans, and usual fixed numbers.

Each rule has a rank: 0 for an initializer as it is called for most kernels, 1 for other ways to
count fans and for fan_out, 2 for several kernels in one array and for recipes. Of the rules that
fit, those of the lowest rank are named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from initjax.fans import compute_fans
from initjax.leaves._families import LEVEL, SAMPLE, Fit

_Z = 3.48  # standard deviations that a scale is off in a share of `LEVEL` of all draws
_KURTOSIS = {"normal": 3.0, "truncated normal": 2.366, "normal off center": 3.0}
_RANGE = math.log(1000)  # of scales that occur; a scale drawn from it is what chance would be
_BOUNDED = ("uniform", "uniform from zero")
_FIXED = {
    "normal": "normal({:g})",
    "truncated normal": "truncated_normal({:g})",
    "uniform": "random_uniform(-{0:g}, {0:g})",
    "uniform from zero": "uniform({:g})",
}
_USUAL, _ROUND = (0.01, 0.02, 0.05, 1.0), (0.001, 0.1, 0.5)
_TRUNCATED = 0.87962566103423978
_WINDOW = 11  # the largest kernel of a convolution that comes before heads in attention
_GATES = 2  # the rank of counting several kernels in one array
_LIKELY = 0.2  # a coincidence from which on only the simplest rules are named


class Rule(NamedTuple):
    """A way to draw, and the scale that it has."""

    spec: str
    scale: float
    """The bound of uniform numbers, the standard deviation of the others."""
    rank: int
    name: str
    """The specification without the arguments that say how it counts fans."""
    note: str = ""
    """These in words, unless it counts as for most kernels."""
    by_fans: bool = False

    @property
    def text(self) -> str:
        return f"{self.name} {self.note}".rstrip()


class Named(NamedTuple):
    """The rules that fit a scale."""

    rules: tuple[Rule, ...]
    ratio: float
    """The scale relative to that of the first of these, or of the nearest of all; NaN if none."""
    nearest: Rule | None
    coincidence: float
    """How likely a scale between 1/1000 and 1 fits a rule of that rank or a lower one by chance."""


def named(
    fit: Fit, size: int, rounding: float, shape: Sequence[int], fans: Iterable[int] = ()
) -> Named:
    """The rules that a scale fits.

    Args:
      fit: the law, with its scale.
      size: the number of numbers.
      rounding: the relative distance of neighboring numbers.
      shape: that of the leaf.
      fans: what may be the fan_in of a bias.
    """
    bounded = fit.law in _BOUNDED
    measured = fit.high * (size + 1) / size if bounded else fit.stddev
    if bounded:  # the largest of so many numbers is short of the bound by chance
        low, high = 1 - 2 * rounding, LEVEL ** (-1 / size) + 2 * rounding
    else:
        tested = min(size, SAMPLE)
        error = _Z * math.sqrt((_KURTOSIS.get(fit.law, 3.0) - 1) / (4 * tested)) + rounding / 4
        low, high = 1 - error, 1 + error
    least = fit.high if bounded else measured
    rules = list(_rules(fit.law, tuple(shape), fans))
    fitting = [rule for rule in rules if low * least <= rule.scale <= high * least]
    rank = min((rule.rank for rule in fitting), default=0)
    covered = _covered([rule.scale for rule in rules if rule.rank <= rank], low, high)
    likely = rank > 0 and covered > _LIKELY
    chosen = () if likely else tuple(rule for rule in fitting if rule.rank == rank)
    nearest = chosen[0] if chosen else None
    usual = [rule for rule in rules if rule.rank == 0 and rule.by_fans]
    if not chosen and usual:
        nearest = min(usual, key=lambda rule: abs(math.log(measured / rule.scale)))
    ratio = measured / nearest.scale if nearest else math.nan
    return Named(chosen, ratio, nearest, covered)


def _covered(scales: list[float], low: float, high: float) -> float:
    """The part of the logarithmic range of scales at which one of these fits."""
    total, end = 0.0, -math.inf
    for scale in sorted(scales):
        first, last = math.log(scale / high), math.log(scale / max(low, 1e-3))
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return min(1.0, total / _RANGE)


def _rules(law: str, shape: tuple[int, ...], fans: Iterable[int]) -> Iterator[Rule]:
    if law not in _FIXED:
        return
    factor = _TRUNCATED if law == "truncated normal" else 1.0
    for value in (*_USUAL, *_ROUND):
        text = _FIXED[law].format(value)
        yield Rule(text, value * factor, int(value in _ROUND), text)
    if law == "uniform":
        for fan in dict.fromkeys(fans):
            yield Rule(f"torch_bias({fan})", fan**-0.5, 0, f"torch_bias({fan})")
        for size, gates in itertools.product(dict.fromkeys(shape), (4, 3)):
            if size % gates == 0 and size > gates:  # of a recurrent layer: by its units
                text = f"torch_bias({size // gates})"
                yield Rule(text, (size // gates) ** -0.5, 1, text)
    seen: set[tuple[str, str, float]] = set()
    for rank, counting, note, fan_in, fan_out in _counts(shape):
        for name, given, scale, more in _by_fans(law, fan_in, fan_out):
            key = name, given, round(math.log(scale), 9)
            if key in seen or ("fan_out" in given and len(shape) == 2):  # as (out, in)
                continue
            if rank == _GATES and "glorot" not in name and "fan_avg" not in given:
                continue
            seen.add(key)
            spec = f"{name}({', '.join(filter(None, (given, counting)))})"
            text = f"{name}({given})" if given else name
            yield Rule(spec, scale, rank + more, text, note, by_fans=True)


def _counts(shape: tuple[int, ...]) -> Iterator[tuple[int, str, str, float, float]]:
    """Ways to count fans: rank, arguments, what they are called, fan_in and fan_out."""
    if len(shape) < 2:
        return
    options: list[tuple[int, dict[str, object], str]] = [(0, {}, "")]
    last = len(shape) - 1
    if len(shape) == 2:
        options.append((1, {"in_axis": 1, "out_axis": 0}, "counting (out, in)"))
    for stacked in range(1, len(shape) - 1):
        axes = 0 if stacked == 1 else tuple(range(stacked))
        count = " x ".join(map(str, shape[:stacked]))
        options.append((1, {"batch_axis": axes}, f"for each of {count} kernels"))
    windows: tuple[int, dict[str, object], str]
    windows = 1, {"in_axis": 1, "out_axis": 0}, "counting (out, in, ...)"
    if len(shape) > 2 and shape[-1] <= _WINDOW:
        options.append(windows)
    for stacked in range(len(shape) - 2):  # a dense layer with several axes of outputs
        counted: dict[str, object] = {
            "in_axis": stacked,
            "out_axis": tuple(range(stacked + 1, last + 1)),
        }
        note = "counting one axis as in"
        if stacked:
            counted["batch_axis"] = 0 if stacked == 1 else tuple(range(stacked))
            note = f"for each of {' x '.join(map(str, shape[:stacked]))} kernels, {note}"
        options.append((1, counted, note))
    if len(shape) > 2 and not shape[-1] <= _WINDOW:
        options.append(windows)
    for rank, given, note in options:
        fan_in, fan_out = compute_fans(shape, **given)  # pyright: ignore
        if fan_in <= 0 or fan_out <= 0:
            continue
        text = ", ".join(f"{name}={value}" for name, value in given.items())
        yield rank, text, note, fan_in, fan_out
    fan_in, fan_out = compute_fans(shape)
    for gates in (2, 3, 4):
        if fan_in > 0 and fan_out > gates and shape[-1] % gates == 0:
            text = f"fan_out_divisor={gates}"
            yield _GATES, text, f"for each of {gates} kernels in one", fan_in, fan_out / gates


def _by_fans(law: str, fan_in: float, fan_out: float) -> Iterator[tuple[str, str, float, int]]:
    """Rules of fans: a name, its first arguments, its scale, and its rank."""
    average = (fan_in + fan_out) / 2
    variances = {"lecun": 1 / fan_in, "he": 2 / fan_in, "glorot": 1 / average}
    if law in ("truncated normal", "uniform"):
        kind, factor, distribution = "normal", 1.0, "truncated_normal"
        if law == "uniform":
            kind, factor, distribution = "uniform", 3.0, "uniform"
        for name, variance in variances.items():
            yield f"{name}_{kind}", "", (factor * variance) ** 0.5, 0
        for scale in (1.0, 2.0):
            given = f"{scale}, 'fan_out', '{distribution}'"
            yield "variance_scaling", given, (factor * scale / fan_out) ** 0.5, 1
    if law == "uniform":
        yield "torch_kaiming_uniform", "5**0.5", fan_in**-0.5, 0
        yield "siren", "", (6 / fan_in) ** 0.5 / 30, 1
        yield "siren", "first=True", 1 / fan_in, 1
    elif law == "uniform from zero":
        for bound in ((6 / fan_in) ** 0.5, (3 / fan_in) ** 0.5, fan_in**-0.5):
            yield "uniform", f"{bound:.4g}", bound, 1
    elif law == "normal":
        for mode, scale, fan in (
            ("fan_in", 1.0, fan_in),
            ("fan_in", 2.0, fan_in),
            ("fan_avg", 1.0, average),
            ("fan_out", 1.0, fan_out),
            ("fan_out", 2.0, fan_out),
        ):
            given = f"{scale}, '{mode}', 'normal'"
            yield "variance_scaling", given, (scale / fan) ** 0.5, int(mode == "fan_out")
        yield "small_init", f"{fan_in:g}", (2 / (5 * fan_in)) ** 0.5, 2
        if fan_out < fan_in:
            yield "spectral", "", fan_out**0.5 / fan_in, 2
