"""A plan: what to change in a model that is wider or deeper than its base model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from initjax._flattening import flatten, is_parameter
from initjax._values import Initializer
from initjax._wrapping import aligned, printable, shortened, wrapped
from initjax.parametrization._counterparts import kind
from initjax.parametrization._draws import drawn, scaled, scaling
from initjax.parametrization._roles import Role
from initjax.parametrization._schemes import RULES, Optimizer, Scheme
from initjax.trees import Params, rescaled

VERSION = 1
_WIDTH = 80  # columns
_LEAST_PATH = 12


class Multiplier(NamedTuple):
    """What the forward pass must multiply by."""

    value: float
    """1 if there is nothing to do."""
    line: str
    """The line to write; "" if there is nothing to do."""


@dataclasses.dataclass(frozen=True)
class PlannedLeaf:
    """What a parametrization says of one parameter. Factors are relative to the base model."""

    path: str
    """Its place in the tree, such as "params/Dense_0/kernel"."""
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    role: Role
    fan_in: float
    """How many products a unit sums; 1 for vectors."""
    ratio: float
    """The growth of fan_in; for vectors and inputs, of their outputs."""
    stddev: float
    """The factor of the standard deviation that it is drawn with."""
    multiplier: float
    """The factor of the product with it in the forward pass."""
    learning_rate: float
    """The factor of its learning rate."""
    epsilon: float
    """The factor of Adam's epsilon."""
    weight_decay: float
    """The factor of its weight decay."""
    in_block: bool
    """Whether it is in a block, of which the model has another number than the base model."""
    why: str
    """Why it has this role."""
    base_initializer: Initializer | None
    """What the base model draws it from: what `init` says, or else LeCun's initializer for kernels;
    None for other parameters."""
    given: bool
    """Whether `init` says so."""


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
        return {
            leaf.path: scaled(leaf.base_initializer, leaf.shape, leaf.base_shape, leaf.stddev)
            for leaf in self.leaves
            if leaf.base_initializer is not None
        }

    def rescale(self, params: Params) -> Params:
        """Scales a draw of the model's own initializers to what the scheme asks for.

        What each parameter was drawn from is `init`'s answer, or else that of `identify`. Constants
        stay as they are.

        Args:
          params: a tree of arrays, with the paths and shapes that the plan was made for.

        Returns:
          A tree of the same structure, shapes and dtypes.

        Raises:
          ValueError: a parameter has another path or shape, or isn't drawn from a law that is
            known; pass its initializer as `init`.
        """
        arrays, structure = flatten(params)
        planned = {leaf.path: leaf for leaf in self.leaves}
        factors = {}
        for name, array in zip(structure.names, arrays, strict=True):
            if not is_parameter(array):
                continue
            leaf = self._leaf("rescale", name or "params", planned)
            if tuple(array.shape) != leaf.shape:
                raise ValueError(
                    f"rescale: {name} has the shape {tuple(array.shape)}, and the plan is for"
                    f" {leaf.shape}"
                )
            factor = _rescaling(leaf, array)
            if factor != 1:
                factors[name] = factor
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
          ValueError: in `update`: a tree has a parameter that the plan wasn't made for.
        """
        import optax

        inner = optax.with_extra_args_support(optimizer)
        planned = {leaf.path: leaf for leaf in self.leaves}
        coupled = self.optimizer != "adamw_independent"

        def scaled_by(tree: Any, number: Any) -> Any:
            """A tree, with a factor for each of its parameters; exact where it is 1."""
            arrays, structure = flatten(tree)
            for index, (name, array) in enumerate(zip(structure.names, arrays, strict=True)):
                if is_parameter(array):
                    factor = number(self._leaf("transform", name or "params", planned))
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

    def _leaf(self, owner: str, path: str, planned: Mapping[str, PlannedLeaf]) -> PlannedLeaf:
        if path not in planned:
            raise ValueError(
                f"{owner}: the plan has no parameter {path!r}; make it for the tree that is"
                f" trained. It has {', '.join([*planned][:5])}{', ...' * (len(planned) > 5)}"
            )
        return planned[path]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON: {"version", "scheme", "optimizer", "source", "leaves",
        "multipliers", "notes"}."""
        leaves = [dataclasses.asdict(leaf) for leaf in self.leaves]
        for leaf in leaves:
            leaf["shape"], leaf["base_shape"] = list(leaf["shape"]), list(leaf["base_shape"])
            made = leaf.pop("base_initializer")
            leaf["base_initializer"] = None if made is None else repr(made)
        return {
            "version": VERSION,
            "scheme": self.scheme,
            "optimizer": self.optimizer,
            "source": self.source,
            "leaves": leaves,
            "multipliers": {name: each._asdict() for name, each in self.multipliers.items()},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int = _WIDTH) -> str:
        """The plan as a table, in so many columns."""
        title = (
            f"initjax plan: {self.scheme} for {self.optimizer}. Factors relative to the base model"
        )
        lines = [*wrapped(title, width), *wrapped(f"Source: {self.source}", width), ""]
        lines += _table(self.leaves, width)
        todo = [(name, each) for name, each in self.multipliers.items() if each.line]
        if todo:
            lines += ["", "In the forward pass:"]
            lines += [f"  {line}" for _, each in todo for line in wrapped(each.line, width - 2)]
        for note in self.notes:
            first, *rest = wrapped(f"- {note}", width - 2)
            lines += ["", first, *(f"  {line.strip()}" for line in rest)]
        return "\n".join(lines)


def _rescaling(leaf: PlannedLeaf, array: Any) -> float:
    """The factor from a draw of the model's own initializer to what the plan asks for."""
    if leaf.shape == leaf.base_shape and leaf.stddev == 1:
        return 1.0
    own = leaf.base_initializer if leaf.given else None
    if own is None:
        found = drawn(array, leaf.base_shape)
        if found.constant:
            return 1.0
        if found.initializer is None:
            raise ValueError(
                f"rescale: {leaf.path}: {found.text}; say what the model draws it from:"
                f" parametrize(..., init={{{leaf.path!r}: ...}})"
            )
        own = found.initializer
    return scaling(own, leaf.shape, leaf.base_shape, leaf.stddev)


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
    others = sum(sizes[1:]) + 2 * (len(sizes) - 1)
    sizes[0] = max(_LEAST_PATH, min(sizes[0], width - others))
    lines = []
    for path, role, *numbers in texts:
        cells = [aligned(shortened(printable(path), sizes[0]), sizes[0]), aligned(role, sizes[1])]
        cells += [
            aligned(cell, size, right=True) for cell, size in zip(numbers, sizes[2:], strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    reasons = dict.fromkeys(f"{leaf.role}: {leaf.why}" for leaf in leaves)
    legend = wrapped("; ".join(reasons), width - 2)
    return [*lines, "", *(f"  {line.strip()}" for line in legend)]
