"""Where an activation is smooth: pieces on which a polynomial follows it to ten digits.

They are found once, by looking densely at values and derivatives and halving where no polynomial
follows them; kinks and jumps, wherever they are, become edges of pieces. From then on Gaussian
expectations are a few vector operations. Pieces are laid out by powers of two, so that they serve
all standard deviations within a factor of four, and no spike is missed that is wider than 3e-4 of
its distance from zero, or there than 2e-4 standard deviations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import legendre

from initjax.theory._activation import Evaluate, differentiation, evaluator

ORDER = 16
NODES, WEIGHTS = legendre.leggauss(ORDER)
_DIFFERENTIATION = differentiation(NODES)
_DENSE = 1024  # places to look at in a quarter of an octave
_PANELS = 48  # on either side of zero, where pieces serve one standard deviation
_PANELS_DENSE = 1280  # places to look at in such a panel of a quarter
_DEEPEST = 52  # halvings
_MOST = 2000  # pieces; only noise, as of a float32 function, asks for so many
_MOST_BREAKS = 300  # likewise: the steps of a function in bfloat16
_TOLERANCES = (1e-10, 1e-6, 1e-3, np.inf)  # relative to the largest number no farther from zero
_ROUNDING = 1e-14  # of values, relative to the same
_CLOSEST = 16 * np.finfo(float).eps  # how exactly a break is found, relative to where it is
_CLOSEST_NUMERICAL = 1e-12  # the same where values have to do for derivatives
_POLE_DISTANCES = 1e-8, 1e-6  # relative to where it is, and up to a hundred times that
_DIVERGES = 0.9  # what the closer one adds, relative to the other; a power of x of -0.98
_NARROW_NUMERICAL = 1e-6  # a piece that is not halved any more, since kinks vanish in rounding


class Pieces(NamedTuple):
    """An activation around zero, ready to be integrated."""

    evaluate: Evaluate
    nodes: np.ndarray
    weights: np.ndarray
    value: np.ndarray
    integrands: np.ndarray
    """Columns: phi, phi², phi⁴, phi⁶; phi'², phi'⁴; phi² - phi(0)², the same times u² and u⁴."""
    breaks: np.ndarray
    """Kinks and jumps."""
    edges: np.ndarray
    """Of pieces as large as may be; kinks and jumps are among them."""
    tolerance: float
    singular: bool
    """Whether there is a place that no halving makes smooth, such as 0 for a square root."""
    poles: tuple[tuple[float, np.ndarray], ...]
    """Such places at which integrals diverge, and of which of the first six integrands."""


class _Resolved(NamedTuple):
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    derivative: np.ndarray
    ends: np.ndarray
    """Where halving ended before a polynomial followed."""


def evaluate(activation: Callable, checked: bool = True) -> Evaluate:
    """What evaluates an activation, made once for each; checked, it refuses what is not finite."""
    return cached(_evaluators, activation)[checked]


def pieces(activation: Callable, low: int, high: int) -> Pieces:
    """The pieces within 2**high of zero, the innermost of which reach to 2**low."""
    return cached(_by_powers_of_two, activation, low, high)


def pieces_for_one(activation: Callable, stddev: float, reach: float) -> Pieces:
    """The pieces within so many standard deviations, to serve this one only.

    They are looked at in steps of less than 2e-4 standard deviations everywhere.
    """
    radii = np.linspace(0, reach * stddev, _PANELS + 1)[1:]
    return _pieces(activation, radii, round(_PANELS / reach) - 1, _PANELS_DENSE)


def at_point(activation: Callable, point: float) -> float:
    """The activation there, whether or not it is finite."""
    return float(evaluate(activation, checked=False)(np.full(1, point))[0][0])


def cached(function: Any, *arguments: Any) -> Any:
    """Calls what keeps results for its first argument, if that can be a key, and else anew."""
    try:
        return function(*arguments)
    except TypeError:
        if getattr(arguments[0], "__hash__", None) is not None:
            raise
        return function.__wrapped__(*arguments)  # cannot be a key of the cache


@functools.lru_cache(maxsize=256)
def _evaluators(activation: Callable) -> tuple[Evaluate, Evaluate]:
    function = evaluator(activation)

    def checked(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        value, derivative = function(z)
        for array in (value, derivative):
            if array is not None and not np.isfinite(array).all():
                raise ValueError(f"activation {activation!r} or its derivative isn't finite")
        return value, derivative

    return function, checked


@functools.lru_cache(maxsize=512)
def _by_powers_of_two(activation: Callable, low: int, high: int) -> Pieces:
    quarters = 2.0 ** np.repeat(np.arange(low, high), 4) * np.tile([1, 1.25, 1.5, 1.75], high - low)
    return _pieces(activation, np.append(quarters, 2.0**high), 20, _DENSE)


def _pieces(activation: Callable, radii: np.ndarray, typical: int, dense: int) -> Pieces:
    """The pieces between edges at these distances from zero on both sides.

    Args:
      activation: the function.
      radii: the edges above zero, ascending.
      typical: the index of the one that is about a standard deviation.
      dense: places to look at between two edges.
    """
    function = evaluate(activation, checked=False)
    at_zero = at_point(activation, 0.0)
    edges = np.concatenate([-radii[::-1], [0], radii])
    scale = functools.partial(_scale, radii, _largest(evaluate(activation), radii, typical))
    for tolerance in _TOLERANCES:
        found, singular = _resolved(function, edges, scale, tolerance, dense), False
        if found is not None and 0 < len(found.ends) <= _MOST_BREAKS:
            # Again from the breaks that were found: what stays rough beside them is singular.
            found = _resolved(function, np.union1d(edges, found.ends), scale, tolerance, dense)
            singular = found is not None and len(found.ends) > 0
        if found is not None and len(found.ends) <= _MOST_BREAKS:
            break
    else:
        raise ValueError(f"activation {activation!r} or its derivative isn't finite")
    left, right, value, derivative, _ = found
    breaks = _breaks(function, left, right, scale, tolerance)
    ends = np.concatenate([edges[:1], breaks, found.ends, edges[-1:]])
    whole = _resolved(function, np.unique(ends), scale, tolerance, dense) or found
    half = (right - left)[:, None] / 2
    nodes, weights = (left[:, None] + half * (NODES + 1)).ravel(), (half * WEIGHTS).ravel()
    integrands = _integrands(nodes, value.ravel(), derivative.ravel(), at_zero)
    return Pieces(
        evaluate(activation, checked=not singular),
        nodes,
        weights,
        value.ravel(),
        integrands,
        np.union1d(breaks, found.ends),
        np.union1d(whole.left, whole.right),
        tolerance,
        singular,
        tuple(_poles(nodes, weights[:, None] * integrands[:, :6], found.ends)) if singular else (),
    )


def _poles(nodes: np.ndarray, parts: np.ndarray, places: np.ndarray) -> Iterator:
    """Singular places at which integrals diverge, and which of them do.

    Near 1/x, every power of ten of the distance adds the same to the integral. Near any power of x
    that can be integrated, smaller distances add less.
    """
    for place in places.tolist():
        diverges = np.zeros(parts.shape[1], bool)
        for side in (-1, 1):
            distance = side * (nodes - place) / (abs(place) or 2.0**-3 * nodes.max())
            inner, outer = (
                np.abs(parts[(low < distance) & (distance <= 100 * low)]).sum(axis=0)
                for low in _POLE_DISTANCES
            )
            diverges |= inner > _DIVERGES * outer
        if diverges.any():
            yield place, diverges


def _integrands(
    nodes: np.ndarray, value: np.ndarray, derivative: np.ndarray, at_zero: float
) -> np.ndarray:
    with np.errstate(over="ignore"):
        change = value**2 - (at_zero**2 if math.isfinite(at_zero) else 0)
        columns = [value, value**2, value**4, value**6, derivative**2, derivative**4]
        columns += [change, nodes**2 * change, nodes**4 * change]
        return np.clip(np.stack(columns, axis=1), -1e300, 1e300)


def _largest(function: Evaluate, radii: np.ndarray, typical: int) -> np.ndarray:
    """The largest value and derivative, both absolute, that were seen within each radius.

    At the least a thousandth of those within about a standard deviation: what cancels to nearly
    nothing around zero is rounded like that from which it cancels.
    """
    z = radii[:, None] * (1 + np.arange(16) / 64)
    z[0] = radii[0] * 0.5 ** np.arange(0, 64, 4)
    seen = []
    for array in function(np.stack([z, -z])):
        largest = np.zeros(len(radii)) if array is None else np.abs(array).max(axis=(0, 2))
        largest = np.maximum.accumulate(largest)
        seen.append(np.maximum(largest, 1e-3 * largest[typical]) + 1e-300)
    return np.stack(seen)


def _scale(radii: np.ndarray, seen: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """What errors of values and derivatives within a radius are relative to: (2, radii)."""
    return seen[:, np.minimum(np.searchsorted(radii, radius), len(radii) - 1)]


@functools.cache
def _looks(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in [-1, 1] and the matrix from a polynomial's values at the nodes to those there."""
    places = np.linspace(-1, 1, number) * (1 - 1e-11)
    barycentric = 1 / np.prod(NODES[:, None] - NODES + np.eye(ORDER), axis=1)
    matrix = barycentric / (places[:, None] - NODES)
    return places, np.ascontiguousarray((matrix / matrix.sum(axis=1, keepdims=True)).T)


@np.errstate(invalid="ignore")  # what isn't finite is rough
def _resolved(
    function: Evaluate, edges: np.ndarray, scale: Callable, tolerance: float, dense: int
) -> _Resolved | None:
    """Halves the pieces between edges until polynomials follow; None if they get too many."""
    left, right = edges[:-1], edges[1:]
    numerical = function(edges[:1])[1] is None
    closest = _CLOSEST_NUMERICAL if numerical else _CLOSEST
    narrowest = _NARROW_NUMERICAL if numerical else _CLOSEST
    done, ends, settled = [], [], 0
    for level in range(_DEEPEST):
        places, interpolate = _looks(max(dense >> level, 32))
        half = (right - left)[:, None] / 2
        radius = np.maximum(np.abs(left), np.abs(right))
        at_nodes = left[:, None] + half * (NODES + 1)
        at_places = left[:, None] + half * (places + 1)
        # Breaks are at edges, but for so much: nothing is looked at that may be beyond one.
        near = np.minimum(closest * radius[:, None], half / 2)
        inside = np.clip(at_places, left[:, None] + near, right[:, None] - near)
        moved = inside - at_places
        moved_little = np.abs(moved) < 0.01 * half
        values, derivatives = function(np.concatenate([at_nodes, inside], axis=1))
        finite = np.isfinite(values).all(axis=1)
        if derivatives is not None:
            finite &= np.isfinite(derivatives).all(axis=1)
        value, size = values[:, :ORDER], scale(radius)
        if derivatives is None:
            derivative = value @ _DIFFERENTIATION.T / half
        else:
            derivative = derivatives[:, :ORDER]
        slope = np.einsum("pn,nl->pl", derivative, interpolate)  # @ has threads that take longer
        error = np.einsum("pn,nl->pl", value, interpolate) + slope * moved - values[:, ORDER:]
        error = np.where(moved_little, np.abs(error), 0).max(axis=1)
        limit = tolerance * np.maximum(size[0], np.abs(values).max(axis=1))
        if derivatives is None:
            # Errors of the derivative show in the value, as far as that is not rounded.
            rough = error > np.maximum(half[:, 0] / radius, _ROUNDING / tolerance) * limit
        else:
            error_of_slope = np.abs(slope - derivatives[:, ORDER:])
            error_of_slope = np.where(moved_little, error_of_slope, 0).max(axis=1)
            steepest = np.maximum(size[1], np.abs(derivatives).max(axis=1))
            rough = (error > limit) | (error_of_slope > tolerance * steepest)
        rough |= ~finite
        narrow = half[:, 0] <= narrowest * radius
        done.append((left[~rough], right[~rough], value[~rough], derivative[~rough]))
        ends.append(np.stack([left, right])[:, rough & narrow])
        left, right = left[rough & ~narrow], right[rough & ~narrow]
        if not len(left):
            break
        settled += (~rough).sum()
        if max(len(left), settled) > _MOST:
            return None
        middle = (left + right) / 2
        left = np.stack([left, middle], axis=1).ravel()
        right = np.stack([middle, right], axis=1).ravel()
    ends.append(np.stack([left, right]))
    joined = [np.concatenate(column) for column in zip(*done, strict=True)]
    order = np.argsort(joined[0])
    left, right = np.sort(np.concatenate(ends, axis=1), axis=1)
    first = np.append(-np.inf, right)[:-1] < left  # neighbours are one place
    last = np.append(first[1:], True)[: len(left)]
    left, right = left[first], right[last]
    places = _located(function, left, right) if numerical and len(left) else (left + right) / 2
    left, right, value, derivative = (column[order] for column in joined)
    return _Resolved(left, right, value, derivative, places)


def _located(function: Evaluate, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Where between two points the values leave the polynomial before for the one behind."""
    reach = 100 * (right - left)[:, None]
    nodes, power = (NODES - 1) / 2, legendre.legvander(NODES, 7)
    fit = np.linalg.pinv(power)
    sides = function(np.stack([left[:, None] + reach * nodes, right[:, None] - reach * nodes]))[0]
    coefficients = sides @ fit.T
    low, high = left, right
    for _ in range(36):
        middle = (low + high) / 2
        x = 1 + 2 * (np.stack([middle - left, right - middle])) / reach[:, 0]
        before, behind = (coefficients * legendre.legvander(x, 7)).sum(axis=-1)
        value = function(middle)[0]
        is_before = np.abs(value - before) <= np.abs(value - behind)
        low, high = np.where(is_before, middle, low), np.where(is_before, high, middle)
    return (low + high) / 2


@np.errstate(invalid="ignore")
def _breaks(
    function: Evaluate, left: np.ndarray, right: np.ndarray, scale: Callable, tolerance: float
) -> np.ndarray:
    """The edges across which no polynomial follows."""
    edges = (right[:-1] + left[1:]) / 2
    reach = np.minimum(right[:-1] - left[:-1], right[1:] - left[1:])[:, None] / 4
    places = np.concatenate([(NODES - 1) / 2, (NODES + 1) / 2])
    vandermonde = legendre.legvander(places, ORDER - 1)
    residual = np.eye(len(places)) - vandermonde @ np.linalg.pinv(vandermonde)
    broken = np.zeros(len(edges), bool)
    sizes = scale(np.maximum(-left[:-1], right[1:]))
    for array, size in zip(function(edges[:, None] + reach * places), sizes, strict=True):
        if array is not None:
            size = np.maximum(size, np.abs(array).max(axis=1))
            broken |= ~(np.abs(array @ residual).max(axis=1) <= 10 * tolerance * size)
    return edges[broken]
