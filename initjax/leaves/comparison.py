"""Says which parameters a step of training, or a checkpoint, left unchanged."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import numpy as np

from initjax._wrapping import wrapped
from initjax.leaves._arrays import as_array, broken, leaves_of, parts, unwritten
from initjax.leaves._table import table

_FEWEST = 100  # numbers from which on a correlation tells a new draw
_UNRELATED = 5.0  # standard deviations of a correlation by chance
_SAME_SCALE = 1.25  # the scales of two draws differ by less, besides chance
_FAULTS = ("not finite", "unwritten", "reshaped", "added", "removed", "skipped")


@dataclasses.dataclass(frozen=True)
class ComparedLeaf:
    """What became of a parameter."""

    path: str
    """Its place in the tree, such as "params/Dense_0/kernel"."""
    shape: tuple[int, ...]
    """After; before, if it is gone."""
    status: str
    """'unchanged': the same bits; 'changed'; 'redrawn': unrelated numbers of the same scale;
    'not finite' or 'unwritten' after; 'reshaped': another shape or dtype; 'added', 'removed', or
    'skipped' if it can't be read."""
    relative_change: float
    """Root mean square of the difference over that of the numbers before, as after an update of an
    optimizer; infinite if they were zero, NaN if there is no difference to take."""
    correlation: float
    """Of the numbers before and after; NaN if a constant is among them."""
    text: str
    """All of this in words."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What became of the parameters of a tree; prints as a table."""

    leaves: tuple[ComparedLeaf, ...]

    @property
    def unchanged(self) -> tuple[str, ...]:
        """The paths of the parameters that are the same."""
        return tuple(leaf.path for leaf in self.leaves if leaf.status == "unchanged")

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int = 80) -> str:
        """A summary and the table, in so many columns."""
        rows = [
            (leaf.path, "x".join(map(str, leaf.shape)) or "()", leaf.text) for leaf in self.leaves
        ]
        lines = wrapped(_summary(self.leaves), width, rest="")
        return "\n".join([*lines, "", table(("leaf", "shape", "change"), rows, width)])

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON: {"leaves": [...]}, a dict of the fields of each leaf."""
        leaves = [dataclasses.asdict(leaf) | {"shape": list(leaf.shape)} for leaf in self.leaves]
        for leaf in leaves:
            for name, value in leaf.items():
                if isinstance(value, float) and not math.isfinite(value):
                    leaf[name] = None
        return {"leaves": leaves}


def compare_leaves(before: Any, after: Any) -> Comparison:
    """Says which parameters are unchanged, which changed and by how much, and which were redrawn.

    Compare parameters before and after a step of training, to see what it doesn't reach: frozen
    leaves, a module of Flax NNX that is updated under `jax.jit` instead of `nnx.jit`. Or compare a
    model before and after it loads a checkpoint, or what was saved with what was loaded, to see
    what was not loaded, or drawn again afterwards.

    A leaf is redrawn if its numbers are uncorrelated with those before, although their standard
    deviations agree: an update would have to be larger than the parameters. Uncorrelated means
    within five standard deviations of chance: among 1e6 redrawn leaves less than one is not seen.
    Leaves of less than 100 numbers are not called redrawn.

    Args:
      before: a tree of arrays, or a module of Flax or Equinox. A module of NNX changes in place, so
        keep a copy: `before = jax.tree.map(jnp.copy, nnx.state(model))`.
      after: another one, with the same paths.

    Returns:
      `Comparison`, with a `ComparedLeaf` for each array of both.

    Raises:
      TypeError, ValueError: a tree has no array, or is traced by JAX.

    Example:
      >>> import numpy as np
      >>> before = {"kernel": np.arange(1.0, 5.0), "bias": np.zeros(2)}
      >>> print(compare_leaves(before, before | {"kernel": before["kernel"] * 1.01}))
      1 of 2 leaves unchanged, 1 changed
      <BLANKLINE>
      leaf    shape  change
      bias    2      unchanged
      kernel  4      changed by 0.01 of its root mean square
    """
    old, new = leaves_of("compare_leaves", before), leaves_of("compare_leaves", after)
    both = [path for path in old if path in new]
    gone = [path for path in old if path not in new]
    found = [_compared(path, old[path], new[path]) for path in both]
    for paths, leaves, status in ((gone, old, "removed"), (new, new, "added")):
        for path in paths:
            if status == "removed" or path not in old:
                shape = tuple(getattr(leaves[path], "shape", ()))
                there = "before" if status == "removed" else "after"
                text = f"{status}: only in what was given as {there}"
                found.append(ComparedLeaf(path, shape, status, math.nan, math.nan, text))
    return Comparison(tuple(found))


def _compared(path: str, old: Any, new: Any) -> ComparedLeaf:
    shape = tuple(getattr(new, "shape", ()))

    def told(
        status: str, text: str, change: float = math.nan, correlation: float = math.nan
    ) -> ComparedLeaf:
        return ComparedLeaf(path, shape, status, change, correlation, text)

    if _is_key(old) and _is_key(new):
        old, new = _words(old), _words(new)
    (was, why_old), (now, why_new) = as_array(old), as_array(new)
    if was is None or now is None:
        return told("skipped", f"skipped: {why_old or why_new}")
    if was.shape != now.shape or was.dtype != now.dtype:
        text = f"{_kind(was)} before, {_kind(now)} after"
        return told("reshaped", text)
    if _equal(was, now):
        return told("unchanged", "unchanged", 0.0 if now.dtype.kind in "fcV" else math.nan)
    if now.dtype.kind not in "fcV":
        return told("changed", "changed")
    if lost := broken(now):
        return told("not finite", f"not finite: {lost} of {now.size} numbers")
    if now.dtype.kind != "c" and unwritten(now) and not (broken(was) or unwritten(was)):
        return told("unwritten", "looks like memory that nothing was written to")
    if broken(was):
        return told("changed", "changed: not finite before")
    return told(*_change(was, now))


def _change(was: np.ndarray, now: np.ndarray) -> tuple[str, str, float, float]:
    """The status, the text, the relative change and the correlation."""
    if was.dtype.kind == "c":  # its real and imaginary parts
        was, now = (np.stack([np.real(array), np.imag(array)]) for array in (was, now))
    size, start, end = was.size, float(was.flat[0]), float(now.flat[0])
    squares, moments = np.zeros(2), np.zeros(5)
    for one, other in zip(parts(was), parts(now), strict=True):
        x, y = one.astype(np.float64), other.astype(np.float64)
        squares += np.square(y - x).sum(), np.square(x).sum()
        x, y = x - start, y - end  # zeros for a constant
        moments += x.sum(), y.sum(), x @ x, y @ y, x @ y
    change = math.sqrt(squares[0] / squares[1]) if squares[1] > 0 else math.inf
    first, second = moments[2:4] - np.square(moments[:2]) / size
    if not (first > 1e-12 * moments[2] and second > 1e-12 * moments[3]):
        text = f"constant {start:.3g} before" if first <= 1e-12 * moments[2] else "constant after"
        more = f", changed by {change:.2g} of it" if 0 < squares[1] and "before" in text else ""
        return "changed", f"{text}{more}", change, math.nan
    covariance = moments[4] - moments[0] * moments[1] / size
    correlation = float(covariance / math.sqrt(first * second))
    scale = math.sqrt(second / first)
    chance = _UNRELATED / math.sqrt(size)
    alike = abs(math.log(scale)) < math.log(_SAME_SCALE) + chance
    if size >= _FEWEST and abs(correlation) < chance and alike:
        text = f"redrawn: correlation {correlation:.2g} with before, {scale:.2f} of the scale"
        return "redrawn", text, change, correlation
    return "changed", f"changed by {change:.2g} of its root mean square", change, correlation


def _equal(was: np.ndarray, now: np.ndarray) -> bool:
    """Whether all bits are the same."""
    pairs = zip(parts(was), parts(now), strict=True)
    return all(one.tobytes() == other.tobytes() for one, other in pairs)


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype.name}[{','.join(map(str, array.shape))}]"


def _is_key(leaf: Any) -> bool:
    import jax

    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and bool(jax.numpy.issubdtype(dtype, jax.dtypes.prng_key))


def _words(key: Any) -> Any:
    import jax

    return key if isinstance(key, jax.ShapeDtypeStruct) else jax.random.key_data(key)


def _summary(leaves: tuple[ComparedLeaf, ...]) -> str:
    counts = collections.Counter(leaf.status for leaf in leaves)
    text = f"{counts['unchanged']} of {len(leaves)} leaves unchanged"
    for status in ("changed", "redrawn", *_FAULTS):
        if counts[status]:
            text += f", {counts[status]} {status}"
    if counts["unchanged"] == len(leaves):
        text += (
            ". If this was a step of training, its result was not kept: assign what it returns, and"
            " update a module of Flax NNX under nnx.jit"
        )
    return text
