"""Says of each parameter which initializer it looks drawn from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from initjax._copies import copies
from initjax.leaves._arrays import as_array, broken, constant, leaves_of, unwritten
from initjax.leaves._families import FEWEST
from initjax.leaves._structures import structure
from initjax.leaves._table import table
from initjax.leaves.draws import drawn, listed

_PRINT = 512  # numbers by which leaves are compared with each other


@dataclasses.dataclass(frozen=True)
class IdentifiedLeaf:
    """What a parameter looks drawn from."""

    path: str
    """Its place in the tree, such as "params/Dense_0/kernel"."""
    shape: tuple[int, ...]
    dtype: str
    law: str
    """The law, such as "truncated normal", "orthogonal" or "constant"; "too few numbers", "none",
    "not finite", "unwritten" or "skipped" if there is none to name."""
    laws: tuple[str, ...]
    """All laws that fit; several if there are too few numbers to tell."""
    rules: tuple[str, ...]
    """Specifications, as `parse` reads them, of the initializers that fit law and scale."""
    ratio: float
    """The scale, relative to that of the first rule, or of the nearest one if none fits; else
    NaN."""
    coincidence: float
    """How likely a scale between 1/1000 and 1 fits a rule as simple by chance; 0 where that is no
    question."""
    p_value: float
    """The share of draws of this law that look less like it; NaN if nothing was tested."""
    same_as: tuple[str, ...]
    """Paths of other parameters with the same random numbers, up to a factor and an offset."""
    text: str
    """All of this in words."""


@dataclasses.dataclass(frozen=True)
class Identification:
    """What the parameters of a tree look drawn from; prints as a table."""

    leaves: tuple[IdentifiedLeaf, ...]

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int = 80) -> str:
        """The table, in so many columns."""
        rows = [
            (leaf.path, "x".join(map(str, leaf.shape)) or "()", leaf.text) for leaf in self.leaves
        ]
        return table(("leaf", "shape", "looks drawn from"), rows, width)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON: {"leaves": [...]}, a dict of the fields of each leaf."""
        leaves = [dataclasses.asdict(leaf) for leaf in self.leaves]
        for leaf in leaves:
            for name, value in leaf.items():
                if isinstance(value, float) and not math.isfinite(value):
                    leaf[name] = None
                elif isinstance(value, tuple):
                    leaf[name] = list(value)
        return {"leaves": leaves}


def identify(params: Any) -> Identification:
    """Says of each parameter which initializer of initjax it looks drawn from.

    The law is tested first: a leaf that one of the known laws drew is told otherwise in at most one
    of 2000 cases, and so is its scale, so a leaf is named wrongly in at most one of 1000. Then the
    scale is compared with those of all rules: fans counted in every way, and usual fixed numbers.
    If several rules fit, all of the simplest kind are named, with how likely a coincidence is.

    Known are constants, identities, uniform, normal and truncated normal numbers, those of any mean
    and on [0, a), log-uniform ones and those stored through a function, orthogonal, sparse and
    unit-norm kernels, splines, subpixel kernels, and the deterministic kernels and vectors. What
    fits none is "no law fits": trained, loaded, or drawn by another law. A few steps of training
    with a small learning rate can't be seen.

    Args:
      params: a tree of arrays, or a module of Flax or Equinox. Up to 65536 numbers of each leaf are
        tested, after one pass over all. Integers and PRNG keys are skipped and named.

    Returns:
      `Identification`, with an `IdentifiedLeaf` for each array, in the tree's order.

    Raises:
      TypeError, ValueError: params has no array, or is traced by JAX.

    Example:
      >>> import initjax, jax
      >>> keys = jax.random.split(jax.random.key(0))
      >>> params = {
      ...     "in": {"kernel": initjax.he_normal()(keys[0], (784, 128))},
      ...     "out": {"kernel": initjax.orthogonal(0.01)(keys[1], (128, 10))},
      ... }
      >>> print(identify(params))
      leaf        shape    looks drawn from
      in/kernel   784x128  he_normal, 1.00 of its scale
      out/kernel  128x10   orthogonal(0.01)
    """
    leaves = leaves_of("identify", params)
    arrays = {path: as_array(leaf) for path, leaf in leaves.items()}
    fans = _fans({path: array.shape for path, (array, _) in arrays.items() if array is not None})
    found = [
        _identified(path, leaf, *arrays[path], fans.get(path, ())) for path, leaf in leaves.items()
    ]
    same = _same({leaf.path: arrays[leaf.path][0] for leaf in found if _is_random(leaf)})
    return Identification(
        tuple(
            dataclasses.replace(
                leaf,
                same_as=same[leaf.path],
                text=f"{leaf.text}; same numbers as {listed(same[leaf.path])}",
            )
            if leaf.path in same
            else leaf
            for leaf in found
        )
    )


def _identified(
    path: str, leaf: Any, array: np.ndarray | None, reason: str, fans: tuple[int, ...]
) -> IdentifiedLeaf:
    dtype = str(getattr(leaf, "dtype", type(leaf).__name__))
    shape = tuple(getattr(leaf, "shape", ()))

    def told(
        law: str,
        text: str,
        rules: Iterable[str] = (),
        laws: Iterable[str] = (),
        ratio: float = math.nan,
        coincidence: float = 0.0,
        p_value: float = math.nan,
    ) -> IdentifiedLeaf:
        every = tuple(laws) or (law,)
        given = ratio, coincidence, p_value
        return IdentifiedLeaf(path, shape, dtype, law, every, tuple(rules), *given, (), text)

    if array is None:
        return told("skipped", f"{reason}: skipped")
    if array.dtype.kind in "biu" or array.dtype.kind not in "fcV":
        return told("skipped", f"{'flags' if array.dtype.kind == 'b' else 'integers'}: skipped")
    if not array.size:
        return told("skipped", "empty: skipped")
    if lost := broken(array):
        return told("not finite", f"not finite: {lost} of {array.size} numbers")
    if array.dtype.kind == "c":
        if constant(array):
            return told("constant", f"constant {array.reshape(-1)[0]:.6g}")
        return told("skipped", "complex: skipped")
    if unwritten(array):
        text = f"looks like memory that nothing was written to: numbers of {_magnitudes(array)}"
        return told("unwritten", text)
    special = structure(array)
    if special is not None and special.inner is None:
        text = f"constant {special.scale:.6g}" if special.law == "constant" else special.spec
        text = text.replace("()", "") if text.endswith("()") else text
        # What is made in one piece of a stack isn't a specification.
        spec, comma, _ = special.spec.partition("), ")
        return told(special.law, text, [spec + (")" if comma else "")])
    if array.dtype.itemsize == 1:
        return told("too few numbers", "too coarse to tell: numbers of 8 bits")
    if array.size < FEWEST:
        return told("too few numbers", f"too few numbers to tell: only {array.size}")
    return told(**drawn(array, shape, fans, special))


def _magnitudes(array: np.ndarray) -> str:
    some = np.abs(array.reshape(-1).astype(np.float64))
    some = some[some > 0]
    return f"{some.min():.1g} to {some.max():.1g}"


def _is_random(leaf: IdentifiedLeaf) -> bool:
    fixed = ("constant", "identity", "constants by gate", "transform", "state space")
    return leaf.law not in ("skipped", "not finite", "unwritten", *fixed)


def _same(arrays: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The leaves that have the same numbers as others, with the paths of these."""
    paths = list(arrays)
    prints = [arrays[path].reshape(-1)[:_PRINT].astype(np.float32) for path in paths]
    found: dict[str, tuple[str, ...]] = {}
    for group in copies(prints):
        for row in group:
            found[paths[row]] = tuple(paths[other] for other in group if other != row)
    return found


def _fans(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """What may be the fan_in of each vector: those of the kernels beside it, with its outputs."""
    found: dict[str, tuple[int, ...]] = {}
    for path, shape in shapes.items():
        if len(shape) != 1:
            continue
        node = path.rpartition("/")[0]
        beside = [
            other
            for name, other in shapes.items()
            if name.rpartition("/")[0] == node and len(other) > 1 and shape[0] in other
        ]
        sizes = [math.prod(other) // shape[0] for other in beside]
        found[path] = tuple(dict.fromkeys([*sizes, shape[0]]))
    return found
