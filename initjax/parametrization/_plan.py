"""A plan: what to change in a model that is wider or deeper than its base model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from initjax._flattening import flatten, is_parameter
from initjax._values import Initializer, checked_integer
from initjax._wrapping import aligned, printable, shortened, wrapped
from initjax.auditing._measuring.optimizers import check_optimizer
from initjax.parametrization._counterparts import kind
from initjax.parametrization._draws import Scaled, scaling
from initjax.parametrization._leaves import PlannedLeaf
from initjax.parametrization._rescaling import rescalings
from initjax.parametrization._schemes import RULES, Optimizer, Scheme
from initjax.trees import Params, rescaled

VERSION = 1
_WIDTH = 80  # columns
_INDENT = 2


class Multiplier(NamedTuple):
    """What the forward pass must multiply by."""

    value: float
    """1 if there is nothing to do; NaN if it differs between kernels, see their `multiplier`."""
    line: str
    """The line to write, one for each value; "" if there is nothing to do."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to initialize and train a model so that its base model's learning rate stays right.

    `print(plan)` shows it in 80 columns.
    """

    scheme: Scheme
    optimizer: Optimizer
    leaves: tuple[PlannedLeaf, ...]
    """The parameters, in the tree's order."""
    multipliers: Mapping[str, Multiplier]
    """What the forward pass must multiply by: 'kernels', 'logits', 'attention' and 'residual'."""
    notes: tuple[str, ...]
    """What shapes don't tell, and what the scheme has no rule for."""

    @property
    def source(self) -> str:
        """Where the scheme is from."""
        return RULES[self.scheme].source

    @property
    def rules(self) -> dict[str, Initializer]:
        """Initializers by path, for `initialize`. Parameters that are drawn as in the base model
        have none."""
        found = {}
        for leaf in self.leaves:
            base = leaf.base_initializer
            if base is not None:
                factor = scaling(base, leaf, leaf.stddev)
                found[leaf.path] = base if factor == 1 else Scaled(base, factor)
        return found

    def rescale(self, params: Params) -> Params:
        """Scales a draw of the model's own initializers to what the scheme asks for.

        How the law of a parameter changes with the width is told by `init`, or by comparison with
        the arrays of the base model; if only their shapes were given, `identify` must tell the law.
        Constants stay as they are, and so do vectors that don't grow.

        Args:
          params: a tree of arrays, with the paths and shapes that the plan was made for.

        Returns:
          A tree of the same structure, shapes, dtypes and shardings.

        Raises:
          ValueError: a parameter has another path or shape, isn't finite, or can't be told which
            law drew it; then give `parametrize` the arrays of the base model, or `init`.
        """
        arrays, structure = flatten(params)
        planned = {leaf.path: leaf for leaf in self.leaves}
        found = {}
        for name, array in zip(structure.names, arrays, strict=True):
            if not is_parameter(array):
                continue
            leaf = _leaf("rescale", name or "params", planned)
            if tuple(array.shape) != leaf.shape:
                raise ValueError(
                    f"rescale: {name} has the shape {tuple(array.shape)}, and the plan is for"
                    f" {leaf.shape}"
                )
            found[leaf.path] = array
        factors = rescalings(self.leaves, found)
        return rescaled("rescale", params, factors) if factors else params

    def transform(self, optimizer: Any) -> Any:
        """Gives every parameter its own learning rate, epsilon and weight decay.

        The optimizer is the base model's, such as `optax.adam(1e-3)`. Its updates are multiplied by
        the factors of the learning rates. Adam's epsilon is changed by the scale of the gradients
        that it sees, and a weight decay by that of the parameters that it sees. So clip gradients
        before: `optax.chain(optax.clip_by_global_norm(1.0), plan.transform(optax.adam(1e-3)))`.

        Args:
          optimizer: an Optax transformation, learning rate included.

        Returns:
          An `optax.GradientTransformationExtraArgs`.

        Raises:
          TypeError: optimizer is no Optax transformation.
          ValueError: in `update`: a tree has a parameter that the plan wasn't made for.
        """
        import optax

        check_optimizer("transform", optimizer)
        inner = optax.with_extra_args_support(optimizer)
        planned = {leaf.path: leaf for leaf in self.leaves}
        coupled = self.optimizer != "adamw_independent"

        def scaled_by(tree: Any, number: Any) -> Any:
            """A tree, with a factor for each of its parameters; exact where it is 1."""
            arrays, structure = flatten(tree)
            for index, (name, array) in enumerate(zip(structure.names, arrays, strict=True)):
                if is_parameter(array):
                    factor = number(_leaf("transform", name or "params", planned))
                    arrays[index] = array if factor == 1 else array * factor
            return structure.unflatten(arrays)

        def decay(leaf: PlannedLeaf) -> float:
            return leaf.weight_decay / (1.0 if coupled else leaf.learning_rate)

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            updates = scaled_by(updates, lambda leaf: 1 / leaf.epsilon)
            seen = None if params is None else scaled_by(params, decay)
            updates, state = inner.update(updates, state, seen, **extra)
            return scaled_by(updates, lambda leaf: leaf.learning_rate), state

        return optax.GradientTransformationExtraArgs(inner.init, update)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON: {"version", "scheme", "optimizer", "source", "leaves",
        "multipliers", "notes"}."""
        leaves = [dataclasses.asdict(leaf) for leaf in self.leaves]
        for leaf in leaves:
            leaf |= {name: list(each) for name, each in leaf.items() if isinstance(each, tuple)}
            made = leaf.pop("base_initializer")
            leaf["base_initializer"] = None if made is None else repr(made)
        return {
            "version": VERSION,
            "scheme": self.scheme,
            "optimizer": self.optimizer,
            "source": self.source,
            "leaves": leaves,
            "multipliers": {
                name: {"value": None if math.isnan(each.value) else each.value, "line": each.line}
                for name, each in self.multipliers.items()
            },
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int = _WIDTH) -> str:
        """The plan as a table, in so many columns.

        Raises:
          TypeError, ValueError: width isn't an integer of at least 20.
        """
        width = checked_integer("to_text", "width", width, 20)
        title = (
            f"initjax plan: {self.scheme} for {self.optimizer}. Factors relative to the base model"
        )
        lines = [*wrapped(title, width), *wrapped(f"Source: {self.source}", width), ""]
        lines += _table(self.leaves, width)
        lines += _forward(self.multipliers, width)
        for note in self.notes:
            first, *rest = wrapped(f"- {note}", width - 2)
            lines += ["", first, *(f"  {line.strip()}" for line in rest)]
        return "\n".join(lines)


def _leaf(owner: str, path: str, planned: Mapping[str, PlannedLeaf]) -> PlannedLeaf:
    if path not in planned:
        raise ValueError(
            f"{owner}: the plan has no parameter {path!r}; make it for the tree that is trained."
            f" It has {', '.join([*planned][:5])}{', ...' * (len(planned) > 5)}"
        )
    return planned[path]


def _forward(multipliers: Mapping[str, Multiplier], width: int) -> list[str]:
    """The lines to write in the forward pass, and the kernels that they are for."""
    lines = []
    for each in multipliers.values():
        for line in each.line.splitlines():
            code, _, paths = line.partition("  # ")
            lines.append(f"  {code}")
            for path in paths.split(", ") if paths else ():
                lines.append(f"      {shortened(printable(path), width - 6)}")
    return ["", "In the forward pass:", *lines] if lines else []


def _table(leaves: Sequence[PlannedLeaf], width: int) -> list[str]:
    """One row for each parameter; those that differ only in numbers of their paths share one."""
    columns = {
        "parameter": lambda leaf: leaf.path,
        "role": lambda leaf: leaf.role,
        "fan_in": lambda leaf: f"{leaf.fan_in:g}",
        "ratio": lambda leaf: f"{leaf.ratio:.4g}",
        "stddev": lambda leaf: f"x{leaf.stddev:.3g}",
        "rate": lambda leaf: f"x{leaf.learning_rate:.3g}",
        "epsilon": lambda leaf: f"x{leaf.epsilon:.3g}",
        "decay": lambda leaf: f"x{leaf.weight_decay:.3g}",
        "product": lambda leaf: f"x{leaf.multiplier:.3g}",
    }
    for name in ("epsilon", "decay", "product"):
        if all(columns[name](leaf) == "x1" for leaf in leaves):
            del columns[name]
    rows: dict[tuple[str, ...], list[str]] = {}
    for leaf in leaves:
        path, *cells = (cell(leaf) for cell in columns.values())
        rows.setdefault((kind(path), *cells), []).append(path)
    texts = [list(columns)]
    for (path, *cells), paths in rows.items():
        texts.append([paths[0] if len(paths) == 1 else f"{path} ({len(paths)})", *cells])
    sizes = [max(map(len, column)) for column in zip(*texts, strict=True)]
    most = width - sum(sizes[1:]) - 2 * (len(sizes) - 1)
    apart = sizes[0] > most  # then the numbers go below the paths
    sizes[0] = _INDENT if apart else sizes[0]
    lines = []
    for path, role, *numbers in texts:
        if apart and numbers != texts[0][2:]:
            lines.append(shortened(printable(path), width))
        first = "" if apart else printable(path)
        cells = [aligned(first, sizes[0]), aligned(role, sizes[1])]
        cells += [
            aligned(cell, size, right=True) for cell, size in zip(numbers, sizes[2:], strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    reasons = dict.fromkeys(f"{leaf.role}: {leaf.why}" for leaf in leaves)
    legend = wrapped("; ".join(reasons), width - 2)
    return [*lines, "", *(f"  {line.strip()}" for line in legend)]
