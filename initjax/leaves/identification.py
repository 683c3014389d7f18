"""Says of each parameter which initializer it looks drawn from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from initjax._copies import copies
from initjax.leaves._arrays import as_array, broken, constant, leaves_of, unwritten
from initjax.leaves._families import FEWEST, Fit, fits, numbers_of, rounding_of
from initjax.leaves._rules import Named, named
from initjax.leaves._structures import Structure, structure
from initjax.leaves._table import table

_PRINT = 512  # numbers by which leaves are compared with each other
_FILLED = 0.9  # the part of rows that aren't zero, from which on the others may be padding
_SMALL = 0.1  # a ratio of which two digits are told
_UNSURE = 0.1  # a coincidence that is told
_MOST_RULES = 3
_MOST_KERNELS = 256  # of a stack that are tested one by one
_SPECS = {
    "normal": "normal({stddev:.3g})",
    "truncated normal": "truncated_normal({before:.3g})",
    "uniform": "random_uniform({low:.3g}, {high:.3g})",
    "uniform from zero": "uniform({high:.3g})",
    "uniform off center": "random_uniform({low:.3g}, {high:.3g})",
    "normal off center": "random_normal({mean:.3g}, {stddev:.3g})",
    "log-uniform": "log_uniform({low:.3g}, {high:.3g})",
    "logarithm of uniform": "logarithm(random_uniform({lowest:.3g}, {highest:.3g}))",
    "inverse softplus of log-uniform": "inverse_softplus(log_uniform({least:.3g}, {most:.3g}))",
}


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
                text=f"{leaf.text}; same numbers as {_listed(same[leaf.path])}",
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
    return told(**_drawn(array, shape, fans, special))


def _drawn(
    array: np.ndarray, shape: tuple[int, ...], fans: tuple[int, ...], special: Structure | None
) -> dict[str, Any]:
    """What is told of random numbers."""
    inner = array if special is None or special.inner is None else special.inner
    filled = _without_zeros(inner) if special is None else inner
    outer = "{}" if special is None else special.spec
    numbers = numbers_of(filled)
    found = fits(numbers)
    padded = f"; {len(inner) - len(filled)} of {len(inner)} rows are zero"
    padded = padded if len(filled) < len(inner) else ""
    if not found and special is None and (each := _each(array)):
        return each
    if not found:
        text = "no law fits: trained, loaded, or drawn by a law that isn't known"
        zeros = 1 - np.count_nonzero(array) / array.size
        if zeros > 0.01:
            text += f"; {zeros:.0%} of it is zero"
        return {"law": "none", "text": text, "laws": ()}
    rounding = rounding_of(array.dtype)
    if outer.startswith("sparse"):  # its scale has nothing to do with fans
        fit = found[0]
        spec = outer.format(f"{fit.stddev:.3g}")
        return {"law": "sparse", "text": spec, "rules": [spec], "p_value": fit.p_value}
    scales = [named(fit, numbers.size, rounding, inner.shape, fans) for fit in found]
    rules, texts = [], []
    for fit, scale in zip(found, scales, strict=True):
        specs = [outer.format(rule.spec) for rule in scale.rules]
        rules += specs
        texts.append(_one(fit, scale, outer))
    fit, scale = found[0], scales[0]
    law = fit.law if special is None else special.law
    if len(found) == 1:
        fixed = fit.law not in ("normal", "truncated normal", "uniform", "uniform from zero")
        return {
            "law": law,
            "laws": [fit.law],
            "text": texts[0] + padded,
            "rules": rules or [outer.format(_spec(fit))],
            "ratio": scale.ratio,
            "coincidence": 0.0 if fixed else scale.coincidence,
            "p_value": fit.p_value,
        }
    text = f"too few numbers to tell: {_listed([_short(fit, outer) for fit in found], 'or')}"
    fitting = [rule.text for scale in scales for rule in scale.rules if rule.rank == 0]
    if fitting:
        text += f"; the scale fits {_listed(fitting, 'or')}"
    return {
        "law": "too few numbers",
        "laws": [fit.law for fit in found] + ([] if special is None else [special.law]),
        "text": text,
        "rules": rules,
        "ratio": scale.ratio,
        "coincidence": max(scale.coincidence for scale in scales),
        "p_value": max(fit.p_value for fit in found),
    }


def _each(array: np.ndarray) -> dict[str, Any] | None:
    """What is told of a stack of kernels that were drawn by one law at different scales."""
    if array.ndim < 3 or not 1 < len(array) <= _MOST_KERNELS:
        return None
    found = [fits(numbers_of(kernel)) for kernel in array]
    laws = {tuple(fit.law for fit in fitting) for fitting in found}
    if len(laws) != 1 or len(found[0]) != 1:
        return None
    stddevs = [fitting[0].stddev for fitting in found]
    law = found[0][0].law
    text = f"{law}: {len(array)} kernels with standard deviations of {min(stddevs):.3g} to"
    # The least of so many p values, as one.
    p_value = min(1.0, len(found) * min(fitting[0].p_value for fitting in found))
    return {"law": law, "text": f"{text} {max(stddevs):.3g}", "p_value": p_value}


def _without_zeros(array: np.ndarray) -> np.ndarray:
    """The array without a few rows of zeros, such as that of padding in an embedding."""
    if array.ndim != 2 or np.count_nonzero(array[:, 0]) == len(array):
        return array
    rows = array.any(axis=1)
    return array[rows] if rows.mean() > _FILLED else array


def _one(fit: Fit, scale: Named, outer: str) -> str:
    """The text for a law that is sure."""
    if not scale.rules:
        text = outer.format(_spec(fit))
        if scale.nearest is None:
            return text
        usual = _SMALL < scale.ratio < 100
        ratio = f"{scale.ratio:.2f}" if usual else f"{scale.ratio:.2g}"
        return f"{text}, {ratio} of the scale of {scale.nearest.text}"
    notes = {rule.note for rule in scale.rules}
    if len(notes) == 1:  # said once
        names = _listed([outer.format(rule.name) for rule in scale.rules], "or")
        shown = f"{names} {notes.pop()}".rstrip()
    else:
        shown = _listed([outer.format(rule.text) for rule in scale.rules], "or")
    text = f"{shown}, {scale.ratio:.2f} of its scale"
    if scale.coincidence > _UNSURE:
        text += f" (by chance: {scale.coincidence:.0%})"
    return text


def _short(fit: Fit, outer: str) -> str:
    return fit.law if outer == "{}" else outer.format(fit.law)


def _spec(fit: Fit) -> str:
    """An initializer with the estimated parameters."""
    return _SPECS[fit.law].format(
        **fit._asdict(),
        before=fit.high / 2,
        lowest=math.exp(min(fit.low, 700)),
        highest=math.exp(min(fit.high, 700)),
        least=np.logaddexp(0, fit.low),
        most=np.logaddexp(0, fit.high),
    )


def _listed(names: Iterable[str], word: str = "and") -> str:
    names = list(dict.fromkeys(names))
    if len(names) > _MOST_RULES:
        names = [*names[: _MOST_RULES - 1], f"{len(names) - _MOST_RULES + 1} more"]
        word = "and"
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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
