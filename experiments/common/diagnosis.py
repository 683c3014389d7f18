"""Why a run learned nothing, as far as what it has measured anyway tells."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.common import data, run_directory
from experiments.common.config import Config
from experiments.common.progress import number

if TYPE_CHECKING:
    from experiments.common import fitting

# As in a sweep: so many standard deviations above guessing, an accuracy is not a matter of luck.
_DEVIATIONS = 5
_HUGE = 10.0  # times the loss of guessing
_HARDLY = 0.01  # a relative difference of losses
_EQUAL = 1e-3  # between the loss of a network whose outputs are all but equal and that of guessing


class Diagnosis(NamedTuple):
    """What went wrong with a run."""

    problem: str
    """What shows that nothing was learned."""
    cause: str
    """What most likely caused it."""
    rate: bool = False
    """Whether the learning rate may be to blame."""

    def __str__(self) -> str:
        return f"{self.problem}. Likely cause: {self.cause}"


def diagnose(
    config: Config,
    dataset: data.Dataset,
    params: Mapping[Any, Any],
    epochs: Sequence["fitting.Epoch"],
) -> Diagnosis | None:
    """Judges a run; None if it learned something, or has not finished an epoch.

    Args:
      config: of the run.
      dataset: what it was trained on.
      params: its parameters before training.
      epochs: its finished epochs, from epoch 0 on.
    """
    if len(epochs) < 2:
        return None
    before, last = epochs[0].metrics["val_loss"], epochs[-1].metrics
    guess, luck = _guessing(dataset.test_labels)
    # The losses of knowing how common the classes are, and of not even that.
    known_loss, guess_loss = _entropy(dataset.train_labels), math.log(dataset.num_classes)
    if known_loss == 0:  # of a single class there is nothing to learn
        return None
    if not math.isfinite(last["loss"] + last["val_loss"]):
        problem = f"training diverged: val_loss {number(last['val_loss'])}"
    elif last["val_acc"] <= guess + luck and last["loss"] > (1 - _HARDLY) * known_loss:
        problem = (
            f"nothing was learned: val_acc {last['val_acc']:.4f} is no better than guessing"
            f" ({guess:.4f})"
        )
    elif last["loss"] >= guess_loss:
        problem = (
            f"hardly anything was learned: loss {number(last['loss'])} is no better than guessing"
            f" ({guess_loss:.4f})"
        )
    else:
        return None

    if alike := next(_constant_kernels(params), None):
        return Diagnosis(problem, alike)
    if not before < _HUGE * guess_loss:
        cause = f"the initial weights are too large: loss {number(before)} before training"
        return Diagnosis(problem, cause)
    steps = np.concatenate([epoch.batch_metrics.loss for epoch in epochs if epoch.batch_metrics])
    rate = f"--learning_rate={config.learning_rate:g}"
    if lost := np.flatnonzero(~np.isfinite(steps)).tolist():
        cause = f"{rate} is too high: the loss is not finite from step {lost[0] + 1} on"
        return Diagnosis(problem, cause, True)
    if not math.isfinite(last["val_loss"]) or steps.max() > _HUGE * max(before, guess_loss):
        cause = f"{rate} is too high: the loss rose to {number(steps.max())} during training"
        return Diagnosis(problem, cause, True)
    blocked = "signals or gradients vanish on their way, or units are dead"
    if abs(before - guess_loss) < _EQUAL * guess_loss:
        return Diagnosis(problem, blocked)
    if abs(last["val_loss"] - before) < _HARDLY * before:
        cause = f"{rate} is too low, or {blocked}: the loss hardly changed"
        return Diagnosis(problem, cause, True)
    return Diagnosis(problem, f"{blocked}; or {rate} is too high", True)


def _guessing(labels: np.ndarray) -> tuple[float, float]:
    """The accuracy of always guessing the most common class, and what luck may add to it."""
    guess = float(np.bincount(labels).max()) / len(labels)
    return guess, _DEVIATIONS * math.sqrt(guess * (1 - guess) / len(labels))


def _entropy(labels: np.ndarray) -> float:
    """The loss of predicting every class as often as it is there."""
    counts = np.bincount(labels)
    shares = counts[counts > 0] / len(labels)
    return float(-np.sum(shares * np.log(shares)))


def _constant_kernels(params: Mapping[Any, Any]) -> Iterator[str]:
    """Says of each hidden kernel whose numbers are all the same what follows from that."""
    for name, value in run_directory.flatten(params):
        kernel = name.startswith("hidden/") and name.endswith("kernel")
        # Computed where the array is, since it may be divided over devices of many hosts.
        if kernel and value.size > 1 and value.max() == value.min():
            kind = "constant" if value.any() else "zero"
            yield f"{name} is {kind}, so all units of that layer compute the same function"
