"""Ranks and histograms of samples, and means over the turns of loops: NumPy on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BINS = np.linspace(-4, 4, 42)  # of histograms, in root mean squares

Record = dict[str, np.ndarray]


def described(records: Sequence[Record]) -> list[Record]:
    """Turns the float32 statistics of layers into the records that are judged.

    Samples become ranks and a histogram, and scaled squares become squares in float64. Where no
    gradient reaches a layer, its statistics are NaN; a gradient of NaN counts as infinite. What did
    not run is NaN.
    """
    columns = {
        "rank": _of_samples(records, "sample", _least_rank),
        "histogram": _of_samples(records, "sample", _histograms),
        "weight_rank": _of_samples(records, "weight_sample", _least_rank_of_weights),
    }
    found = []
    for number, record in enumerate(records):
        numbers = {
            name: array.astype(np.float64)
            for name, array in record.items()
            if not name.endswith("sample")
        }
        numbers |= {name: column[number] for name, column in columns.items() if number in column}
        found.append(_described(numbers))
    return found


def _described(numbers: Record) -> Record:
    if "input_square" in numbers:
        numbers["input_largest"] = numbers.pop("input_scale")
        numbers["input_square"] *= numbers["input_largest"] ** 2
        numbers["input_largest"][numbers["input_square"] == 0] = 0
    if "scale" in numbers:
        scale = numbers.pop("scale")
        for name, power in (("mean", 1), ("square", 2), ("unit_variance", 2)):
            numbers[name] *= scale**power
    if "called" in numbers:
        called = numbers.pop("called") > 0
        numbers["rank"] = np.where(called, numbers["rank"], math.nan)
        for name in ("log_square", "log_typical"):
            size = np.where(np.isnan(numbers[name]), math.inf, numbers[name])
            numbers[name] = np.where(called, size, math.nan)
    gone = np.isnan(numbers.pop("ran", np.zeros(1)))
    if gone.any():
        for name, array in numbers.items():
            where = gone.reshape(-1, *(1,) * (array.ndim - 1))
            numbers[name] = np.where(where, 0 if name == "histogram" else math.nan, array)
    return numbers


def _of_samples(
    records: Sequence[Record], name: str, function: Callable[[np.ndarray], np.ndarray]
) -> dict[int, np.ndarray]:
    """A function of the samples of all records that have some: all of one shape at a time."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, record in enumerate(records):
        if name in record:
            rows.setdefault(record[name].shape[1:], []).append(number)
    found: dict[int, np.ndarray] = {}
    for numbers in rows.values():
        samples = [records[number][name] for number in numbers]
        ends = np.cumsum([len(sample) for sample in samples])[:-1]
        results = np.split(function(np.concatenate(samples)), ends)
        found.update(zip(numbers, results, strict=True))
    return found


def _least_rank(samples: np.ndarray) -> np.ndarray:
    """The effective rank of the member that has the least."""
    return effective_rank(samples).min(-1)


def _least_rank_of_weights(samples: np.ndarray) -> np.ndarray:
    return effective_rank(samples, centered=False).min(-1)


def over_turns(record: dict[str, np.ndarray], turns: int) -> dict[str, Any]:
    """The means of a record over the turns of loops: of those turns in which it was measured.

    Args:
      record: what was measured, with the turns as leading axes.
      turns: how many such axes there are.

    Returns:
      The record without these axes; NaN for what was never measured.
    """
    if not turns:
        return record
    axes = tuple(range(turns))
    means = {}
    for name, array in record.items():
        known = ~np.isnan(array)
        count = known.sum(axes)
        if name.startswith("log"):  # of the squares, which a float may not hold
            largest = np.where(known, array, -math.inf).max(axes, initial=-math.inf)
            unit = np.where(np.isfinite(largest), largest, 0)
            parts = np.exp(np.where(known, array, -math.inf) - unit).sum(axes)
            with np.errstate(divide="ignore"):
                mean = np.log(parts / np.maximum(count, 1)) + unit
        else:
            mean = np.where(known, array, 0).sum(axes) / np.maximum(count, 1)
        means[name] = np.where(count > 0, mean, math.nan)
    return means


def effective_rank(samples: np.ndarray, centered: bool = True) -> np.ndarray:
    """The effective rank of the units' functions: the participation ratio of their covariance.

    Args:
      samples: (..., samples, units).
      centered: whether a unit's mean over samples does not count.

    Returns:
      (...): 1 if all units compute the same function of the batch up to a factor and, if centered,
      an offset; 0 if they compute nothing; NaN if a number is not finite.
    """
    scaled, largest = _scaled(samples, (-2, -1))
    if centered:
        scaled -= scaled.mean(axis=-2, keepdims=True)
        scaled[np.abs(scaled) < 1e-5] = 0  # rounding in float32 is not a direction
    gram = scaled @ np.swapaxes(scaled, -2, -1)
    trace, norm = np.trace(gram, axis1=-2, axis2=-1), np.square(gram).sum((-2, -1))
    rank = np.square(trace) / np.where(norm == 0, 1, norm)
    return np.where(np.isfinite(largest[..., 0, 0]), rank, math.nan)


def _histograms(samples: np.ndarray) -> np.ndarray:
    """The part of the numbers of each turn in every bin, in their root mean squares; zeros where
    nothing is finite."""
    turns, count = len(samples), samples[0].size
    scaled, _ = _scaled(samples.reshape(turns, -1), (-1,))
    root = np.sqrt(np.square(scaled).mean(-1, keepdims=True))
    scaled = np.clip(scaled / np.where(root == 0, 1, root), BINS[0], BINS[-1])
    bins = len(BINS) - 1
    places = np.minimum(((scaled - BINS[0]) * (bins / (BINS[-1] - BINS[0]))).astype(int), bins - 1)
    offsets = bins * np.arange(turns)[:, None]
    counts = np.bincount((places + offsets).ravel(), minlength=bins * turns).reshape(turns, bins)
    finite = np.isfinite(samples.reshape(turns, -1)).all(axis=-1, keepdims=True)
    return np.where(finite, counts, 0) / count


def _scaled(samples: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Samples in float64 over the largest of them, and that; zeros where it is not finite."""
    largest = np.abs(samples).max(axis=axes, keepdims=True, initial=0)
    finite = np.isfinite(largest)
    divisor = np.where(finite & (largest > 0), largest, 1)
    return np.where(finite, samples, 0).astype(np.float64) / divisor, largest
