"""What `initjax.recommend` returns: data, which can be printed and saved."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from initjax._values import Initializer, checked_integer
from initjax._wrapping import wrapped
from initjax.advice._choices import Choice
from initjax.advice._evidence import Evidence, Measured
from initjax.advice._theory import Prediction
from initjax.advice._widths import lines
from initjax.parametrization import Plan

VERSION = 1
_LEAST_WIDTH, _WIDTH = 40, 80  # columns
_SYMBOLS = {
    "chi_1": "factor of squared gradients per layer, 1 if they keep their size",
    "q*": "variance at which pre-activations settle",
    "xi_c": "layers over which two inputs become alike",
    "L/n": "depth / width",
}
_OPTIMIZERS = {"adam": "Adam", "momentum": "SGD with momentum", "sgd": "SGD"}


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """How to initialize a network, and why; the result of `initjax.recommend`.

    `print(recommendation)` shows it in 80 columns.
    """

    activation: str
    """What it is called; "unnamed" if it has no name."""
    depth: int
    """The number of hidden layers, or of blocks."""
    width: int
    """The number of units of a hidden layer."""
    residual: bool
    normalization: str | None
    attention: bool
    choice: Choice
    """What to use."""
    alternatives: tuple[Choice, ...]
    """What else was considered."""
    theory: Prediction
    """What theory predicts for the choice."""
    reasons: tuple[str, ...]
    """Why, in sentences."""
    avoid: tuple[str, ...]
    """What not to do."""
    evidence: Evidence | None
    """What was measured near this network; None if nothing was."""
    no_evidence: str
    """Why there is no evidence; "" if there is some."""
    parametrization: Plan | None = dataclasses.field(hash=False)
    """What changes from a network of the base width, for a parameter of each role: 'input',
    'hidden', 'output' and 'vector'; None if no base width was given."""

    @property
    def initializer(self) -> Initializer:
        """For the kernels of the hidden layers."""
        return self.choice.initializer

    @property
    def bias_initializer(self) -> Initializer:
        """For their biases."""
        return self.choice.bias_initializer

    @property
    def spec(self) -> str:
        """The initializer as a specification, for flags and `initjax.parse`."""
        return self.choice.spec

    @property
    def gain(self) -> float:
        """The factor by which kernels are larger than LeCun's: the root of fan_in times their
        variance."""
        return self.choice.gain

    @property
    def bias_variance(self) -> float:
        """The variance of the biases."""
        return self.choice.bias_variance

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain data for JSON; numbers that are not finite are None.

        Returns:
          A dictionary of the fields, with nested dictionaries for 'choice', 'theory', 'evidence'
          and each of 'alternatives' and of evidence's 'settings', and 'version', 1. That of
          'parametrization' is the plan's own.
        """
        plan = self.parametrization
        fields = dataclasses.asdict(dataclasses.replace(self, parametrization=None))
        fields["parametrization"] = None if plan is None else plan.to_dict()
        return {"version": VERSION, **_plain(fields)}

    def to_text(self, width: int = _WIDTH) -> str:
        """Returns what `print(recommendation)` shows, for a terminal of another width.

        Args:
          width: the number of columns; fewer than 40 are taken as 40.

        Raises:
          TypeError, ValueError: width isn't a whole number.
        """
        columns = max(checked_integer("recommendation.to_text", "width", width, 0), _LEAST_WIDTH)
        columns = min(columns, _WIDTH)
        plan = self.parametrization
        blocks = [
            wrapped(self._network(), columns),
            self._use(columns),
            _list("Why", self.reasons, columns),
            self._evidence(columns),
            lines(plan, self.attention, columns) if plan is not None else [],
            _list("What not to do", self.avoid, columns),
            self._legend(columns),
        ]
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<Recommendation: {self.spec} for {self._network()}; print() shows all>"

    def _network(self) -> str:
        kinds = {"residual": self.residual, "attention": self.attention}
        extras = [kind for kind, there in kinds.items() if there]
        if self.normalization is not None:
            extras.append(f"{self.normalization} normalization")
        noun = "block" if self.residual else "hidden layer"
        return (
            f"{self.activation} network, {self.depth} {noun}{'s' * (self.depth != 1)} of"
            f" {self.width} units, {', '.join(extras) or 'plain'}"
        )

    def _use(self, columns: int) -> list[str]:
        choice = self.choice
        variance = f"variance {choice.weight_variance:.4g}/fan_in, gain {choice.gain:.4g}"
        lines = [
            *wrapped(f"{choice.spec}: {variance}", columns, "kernels  ", " " * 9),
            *wrapped(_biases(choice), columns, "biases   ", " " * 9),
        ]
        if choice.branch_scale != 1:
            text = f"multiply the last kernel of each by {choice.branch_scale:.4g}"
            lines += wrapped(text, columns, "branches ", " " * 9)
        return lines

    def _legend(self, columns: int) -> list[str]:
        """What the symbols mean that the text has."""
        text = " ".join((*self.reasons, *self.avoid))
        parts = [f"{symbol}: {meaning}" for symbol, meaning in _SYMBOLS.items() if symbol in text]
        return wrapped("; ".join(parts), columns, rest="  ") if parts else []

    def _evidence(self, columns: int) -> list[str]:
        found = self.evidence
        if found is None:
            return wrapped(f"No evidence: {self.no_evidence}. This is theory alone.", columns)
        share, low, high = found.trained
        count = sum(setting.runs for setting in found.settings)
        trained = sum(setting.trained for setting in found.settings)
        text = (
            f"Evidence: {found.runs} runs from {found.initializers} initializers,"
            f" {_OPTIMIZERS.get(found.optimizer, found.optimizer)}, {found.steps} steps of"
            f" {found.batch_size} images, {found.data}; each at its best learning rate."
            f" From the recommended one, {trained} of {count} runs trained ({share:.0%}; 95%"
            f" interval {low:.0%} to {high:.0%})."
        )
        lines = wrapped(text, columns, rest="  ")
        for setting in found.settings:
            lines += wrapped(_setting(setting), columns, "  ", "    ")
        return lines


def _setting(setting: Measured) -> str:
    difference, low, high = (100 * number for number in setting.difference)
    how = {"ahead": "ahead of", "behind": "behind", "no measurable difference": ""}
    outcome = how[setting.outcome] or f"{setting.outcome} from"
    return (
        f"depth {setting.depth}, width {setting.width}: accuracy {setting.accuracy:.3f} at learning"
        f" rate {setting.learning_rate:g}; {outcome} {setting.other}, {setting.other_accuracy:.3f}"
        f" ({difference:+.2f} points, {low:+.2f} to {high:+.2f})"
    )


def _biases(choice: Choice) -> str:
    more = f": variance {choice.bias_variance:.4g}" if choice.bias_variance else ""
    return f"{choice.bias_spec}{more}"


def _list(title: str, sentences: tuple[str, ...], columns: int) -> list[str]:
    if not sentences:
        return []
    lines = [title]
    for sentence in sentences:
        lines += wrapped(sentence, columns, "- ", "  ")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
