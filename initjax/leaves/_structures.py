"""Recognizes what isn't made of independent numbers: constants, identities, orthogonal kernels.

What isn't random is compared number by number with what our initializer makes. For the others,
the property that they have is tested, such as orthonormal columns; independent numbers have it by
chance in fewer than one of 1e6 cases, or there are too few of them to be called so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from initjax.leaves._arrays import constant
from initjax.leaves._families import (
    FEWEST,
    LEVEL,
    kolmogorov,
    normal_cdf,
    numbers_of,
    rounding_of,
    uniform,
)

_SPARSE = 0.3  # the part of zeros from which on they are a pattern
_MOST = 2**20  # numbers of a matrix that is compared with what an initializer makes
_VECTORS = 128  # that are compared with each other
_FACTORS = (2, 3, 4)  # of subpixels


class Structure(NamedTuple):
    """A structure that was recognized, and the specification of what makes it."""

    law: str
    spec: str
    scale: float
    inner: np.ndarray | None = None
    """The independent numbers that it is made of, to be identified by themselves."""
    shape: tuple[int, ...] | None = None
    """The shape of a draw of them."""


def structure(array: np.ndarray) -> Structure | None:
    """The structure of an array of finite numbers; None if there is none.

    Args:
      array: of real numbers, at least one.
    """
    first = float(array.reshape(-1)[0])
    if constant(array):
        return Structure("constant", _constant(first), first)
    if array.size <= 2:
        return None
    tolerance = 4 * rounding_of(array.dtype)
    looks = (_patterns, _sequences, _subpixels, _orthogonal, _splines, _directions)
    for look in looks if array.dtype.itemsize > 1 else looks[:1]:
        found = look(array, tolerance)
        if found is not None:
            return found
    return None


def _constant(value: float) -> str:
    return {0.0: "zeros", 1.0: "ones"}.get(value) or f"constant({value:.6g})"


def _patterns(array: np.ndarray, tolerance: float) -> Structure | None:
    """Arrays with many zeros: identities, sparse and delta-orthogonal kernels, gates."""
    nonzero = int(np.count_nonzero(array))
    if nonzero > (1 - _SPARSE) * array.size:
        return None
    values = array[array != 0].astype(np.float64)
    found = _gate(array)
    if found is not None or array.ndim == 1:
        return found
    alike = np.abs(values - values[0]).max() <= tolerance * abs(values[0])
    if alike:
        found = _made(_identities(array.shape, float(values[0])), array, tolerance)
        return None if found is None else Structure("identity", found, float(values[0]))
    if array.ndim > 2 and (center := _center(array, nonzero)) is not None:
        found = _orthogonal(center, tolerance)
        if found is not None:
            spec = found.spec.replace("scaled_orthogonal", "orthogonal")
            return found._replace(law="delta-orthogonal", spec=f"delta_{spec}")
    if np.abs(np.abs(values) - abs(values[0])).max() <= tolerance * abs(values[0]):
        found = _made(["hadamard_identity"], array, tolerance)
        if found is not None:
            return Structure("identity", found, 1.0)
    for kernels in (array.reshape(-1, *array.shape[-2:]), array.reshape(1, -1, array.shape[-1])):
        counts = np.count_nonzero(kernels, axis=1)
        if counts.size > 1 and (counts == counts[0, 0]).all() and values.size >= FEWEST:
            connections = int(counts[0, 0])
            inner = values.reshape(-1, 1)
            return Structure("sparse", f"sparse({connections}, {{}})", 1.0, inner)
    return None


def _gate(array: np.ndarray) -> Structure | None:
    """Biases of several gates, one of which has a constant; the same for all leading axes."""
    rows = array.reshape(-1, array.shape[-1])
    places = np.flatnonzero(rows[0])
    if len(places) < 2 or not (rows == rows[:1]).all() or rows.shape[1] % len(places):
        return None
    values, (gate, shift) = rows[0][places], divmod(int(places[0]), len(places))
    gates = rows.shape[1] // len(places)
    if shift or gates not in (2, 3, 4) or (np.diff(places) != 1).any() or np.ptp(values):
        return None
    value = float(values[0])
    given = f"{value:.6g}, {gate}, {gates}" if (gate, gates) != (1, 4) else f"{value:.6g}"
    spec = f"forget_gate_bias({given if given != '1' else ''})"
    return Structure("constants by gate", spec, value)


def _identities(shape: tuple[int, ...], gain: float) -> Iterator[str]:
    yield f"identity({gain:.6g})" if gain != 1 else "identity()"
    if gain == 1:
        yield from ("hadamard_identity", "dirac()", "dirac(2)", "dirac(4)", "dirac(8)")


def _center(array: np.ndarray, nonzero: int) -> np.ndarray | None:
    """The matrix at the center tap, if all other taps are zero."""
    center = array[tuple((size - 1) // 2 for size in array.shape[:-2])]
    return center if np.count_nonzero(center) == nonzero else None


def _sequences(array: np.ndarray, tolerance: float) -> Structure | None:
    """State space models' matrices and vectors, the same for all leading axes; other transforms."""
    row = array.reshape(-1, array.shape[-1])[0].astype(np.float64)
    if array.ndim == 3 and array.shape[1] == 1 and array.size <= _MOST:
        found = _made(("stft('real')", "stft('imag')"), array, tolerance)
        if found is not None:
            return Structure("transform", found, 1.0)
    if array.ndim > 1 and np.abs(np.abs(row) - abs(row[0])).max() <= tolerance * abs(row[0]):
        found = _made(["hadamard_identity()"], array, tolerance)
        if found is not None:
            return Structure("identity", found, 1.0)
    specs: list[str] = []
    steps = np.sign(np.diff(row))
    if row.size > 2 and (abs(steps.sum()) == steps.size or len(np.unique(row)) <= 3):
        specs += [f"s4d({method!r}, 'imag')" for method in ("lin", "inv", "legs")]
        specs += ["s4d()"] + [f"hippo({m!r}, 'input')" for m in ("legs", "legt", "fourier")]
    square = array.ndim > 1 and array.shape[-1] == array.shape[-2]
    if square and any(abs(row[0] - start) <= tolerance for start in (-1, -0.5)):
        specs += [f"hippo({measure!r}, 'state')" for measure in ("legs", "legt", "fourier")]
    for axes in range(1, (2 if square else 1) + 1 if specs else 1):
        part = array.reshape(-1, *array.shape[array.ndim - axes :])
        if part[0].size > _MOST or not (part[:2] == part[0]).all() or not (part == part[0]).all():
            continue
        found = _made(specs, part[0], tolerance)
        if found is not None:
            return Structure("state space", found, 1.0)
    return None


def _subpixels(array: np.ndarray, tolerance: float) -> Structure | None:
    """Kernels whose outputs come in groups of equal ones."""
    if array.ndim < 2:
        return None
    for factor in _FACTORS:
        outputs, rest = divmod(array.shape[-1], factor**2)
        if rest:
            continue
        tiled = array.reshape(*array.shape[:-1], factor**2, outputs)
        repeated = np.moveaxis(array.reshape(*array.shape[:-1], outputs, factor**2), -1, -2)
        for layout, groups in (("", tiled), (", 'pixel_shuffle'", repeated)):
            one = groups.reshape(-1, *groups.shape[-2:])[0]
            if (one == one[:1]).all() and (groups == groups[..., :1, :]).all():
                inner = groups[..., 0, :]
                return Structure("subpixels", f"icnr({{}}, {factor}{layout})", 1.0, inner)
    return None


def _orthogonal(array: np.ndarray, tolerance: float) -> Structure | None:
    """Orthonormal columns or rows, times a scale."""
    if array.ndim < 2:
        return None
    # Orthogonal kernels in a stack first: together their columns are orthogonal, too.
    for stacked in reversed(range(array.ndim - 1)):
        slices = array.reshape(-1, *array.shape[stacked:])
        if slices.shape[0] == 1 and stacked:
            continue
        scales = [_orthonormal(part, tolerance) for part in slices[:_VECTORS]]
        if any(scale is None for scale in scales):
            continue
        scale = float(np.mean([scale for scale in scales if scale is not None]))
        if np.ptp([scale or 0.0 for scale in scales]) > 0.01 * scale:
            continue
        wide = max(array.shape[-1] / array.shape[-2], 1) ** 0.5
        stack = f", each of {slices.shape[0]} kernels" if stacked else ""
        if wide > 1 and abs(scale / wide - 1) < 0.01 and array.ndim == 2:
            return Structure("orthogonal", "scaled_orthogonal()", scale)
        return Structure("orthogonal", f"orthogonal({_scale(scale)}){stack}", scale)
    return None


def _scale(scale: float) -> str:
    if abs(scale - 1) < 0.01:
        return ""
    return "2**0.5" if abs(scale / 2**0.5 - 1) < 0.005 else f"{scale:.3g}"


def _orthonormal(array: np.ndarray, tolerance: float) -> float | None:
    """The length of the columns or rows, whichever are fewer, if they are orthogonal."""
    matrix = array.reshape(-1, array.shape[-1])
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    length, count = matrix.shape
    if count < 2:
        return None
    some = matrix[:, :: -(-count // _VECTORS)].astype(np.float64)
    gram = some.T @ some
    square = float(np.diag(gram).mean())
    if square <= 0:
        return None
    gram /= square
    off = gram[~np.eye(len(gram), dtype=bool)]
    tight = max(1e-4, tolerance)
    if np.abs(np.diag(gram) - 1).max() > tight or np.abs(off).max() > tight:
        return None
    # In few bits, independent numbers may be that close; then there have to be enough of them.
    if tight > 1e-3 and (count < 8 or length * np.square(off).mean() > 0.1):
        return None
    return math.sqrt(square)


def _splines(array: np.ndarray, tolerance: float) -> Structure | None:
    """Coefficients of cubic splines through uniform noise: they span fewer dimensions."""
    order = 3
    intervals = array.shape[-1] - order
    if array.ndim < 2 or not 1 <= intervals <= 64 or array.size < 64:
        return None
    from initjax.kan import _least_norm

    solve = _least_norm(intervals, order)
    rows = array.reshape(-1, array.shape[-1])[:1024].astype(np.float64)
    noise = rows @ np.linalg.pinv(solve)
    if np.abs(noise @ solve - rows).max() > max(1e-5, tolerance) * np.abs(rows).max():
        return None
    fit = uniform(numbers_of(noise.astype(np.float32)))
    if fit is None:
        return None
    scale = 2 * intervals * fit.high
    spec = "kan_spline()" if abs(scale / 0.3 - 1) < 0.01 else f"kan_spline({scale:.3g})"
    return Structure("splines", spec, scale)


def _directions(array: np.ndarray, tolerance: float) -> Structure | None:
    """Vectors of one length in random directions."""
    if array.ndim < 2:
        return None
    for axis in (-2, -1):
        length = array.shape[axis]
        vectors = np.moveaxis(array, axis, -1).reshape(-1, length)
        if length < 2 or vectors.shape[0] < 4 or vectors.size < 32:
            continue
        some = vectors[:: -(-vectors.shape[0] // _VECTORS)].astype(np.float64)
        norms = np.sqrt(np.square(some).sum(axis=1))
        scale = float(norms.mean())
        if scale == 0 or np.abs(norms / scale - 1).max() > max(1e-5, tolerance / 2):
            continue
        # Independent lengths make normal numbers of random directions.
        lengths = np.sqrt(np.random.default_rng(0).chisquare(length, len(some)))
        if _is_normal(some / scale * lengths[:, None]):
            given = ([f"axis={axis}"] if axis != -2 else []) + (
                [f"scale={scale:.3g}"] if abs(scale - 1) > 0.01 else []
            )
            return Structure("unit norm", f"unit_norm({', '.join(given)})", scale)
    return None


def _is_normal(values: np.ndarray) -> bool:
    return kolmogorov(normal_cdf(numbers_of(values).sample)) > LEVEL


def _made(specs: Any, array: np.ndarray, tolerance: float) -> str | None:
    """The first of these initializers that makes this array."""
    import jax

    from initjax.specs import parse

    if array.size > _MOST:
        return None
    values = array.astype(np.float64)
    reach = np.abs(values).max()
    for spec in specs:
        try:
            made = np.asarray(parse(spec)(jax.random.key(0), array.shape, array.dtype.name))
        except (TypeError, ValueError):
            continue
        if np.abs(made.astype(np.float64) - values).max() <= tolerance * max(reach, 1e-30):
            return spec if "(" in spec else f"{spec}()"
    return None
