"""Why a run learned nothing: the cause that its numbers tell."""

import math
import types

import numpy as np
import pytest

from experiments.common import diagnosis, fitting, training
from experiments.common.config import Config

LABELS = np.repeat(np.arange(10), 100)
DIGITS = types.SimpleNamespace(test_labels=LABELS, train_labels=LABELS, num_classes=10)
GUESS = math.log(10)


def kernels(value=None):
    kernel = np.random.default_rng(0).normal(size=(5, 4))
    return {"hidden": {0: {"kernel": kernel if value is None else np.full((5, 4), value)}}}


def diagnose(before, steps, last, params=None, **changes):
    """Of a run with a loss before training, one for each step, and its last metrics."""
    metrics = {"loss": last[0], "acc": last[1], "val_loss": last[0], "val_acc": last[1], **changes}
    batches = training.Metrics(np.array(steps), np.zeros(len(steps)))
    epochs = [
        fitting.Epoch(0, {"val_loss": before, "val_acc": 0.1}, None, None, 0.1),
        fitting.Epoch(1, metrics, batches, None, 0.1),
    ]
    return diagnosis.diagnose(Config(), DIGITS, params or kernels(), epochs)  # pyright: ignore


@pytest.mark.parametrize("accuracy", [0.15, 0.5, 1.0])
def test_a_run_that_learned_anything_is_not_diagnosed(accuracy):
    assert diagnose(2.4, [2.4, 2.2], (2.2, accuracy)) is None
    assert diagnose(2.4, [2.4, 2.2], (2.2, accuracy), kernels(0.0)) is None


def test_a_run_without_a_finished_epoch_is_not_diagnosed():
    epochs = [fitting.Epoch(0, {"val_loss": 2.3, "val_acc": 0.1}, None, None, 0.1)]
    assert diagnosis.diagnose(Config(), DIGITS, kernels(), epochs) is None  # pyright: ignore


@pytest.mark.parametrize("accuracy", [0.0, 0.1, 0.14])
def test_an_accuracy_within_the_noise_of_guessing_is_nothing_learned(accuracy):
    """Five standard deviations of 1,000 guesses: 0.1 + 5 sqrt(0.1 0.9 / 1000) = 0.147."""
    found = diagnose(2.4, [2.4, 2.35], (2.31, accuracy))
    assert found and found.problem.startswith("nothing was learned: val_acc 0.")
    assert "no better than guessing (0.1000)" in found.problem


@pytest.mark.parametrize(
    ("run", "cause", "rate"),
    [
        ((GUESS, [2.31, 2.3], (2.3, 0.1), kernels(0.0)), "hidden/0/kernel is zero", False),
        ((2.5, [2.5, 2.3], (2.3, 0.1), kernels(0.3)), "hidden/0/kernel is constant", False),
        ((1e6, [1e6, 1e5], (1e5, 0.7)), "weights are too large: loss 1.0e+06 before", False),
        ((math.nan, [math.nan], (math.nan, 0.1)), "weights are too large: loss nan before", False),
        (
            (2.4, [2.4, math.inf], (math.nan, 0.1)),
            "=0.001 is too high: the loss is not finite from step 2",
            True,
        ),
        ((2.4, [2.4, 9e3, 3.0], (2.6, 0.1)), "=0.001 is too high: the loss rose to 9.0e+03", True),
        ((GUESS, [2.31, 2.3], (2.3, 0.1)), "gradients vanish", False),
        ((2.4, [2.4, 2.4], (2.4, 0.1)), "=0.001 is too low, or signals", True),
        ((2.9, [2.9, 2.6], (2.6, 0.1)), "=0.001 is too high", True),
    ],
)
def test_the_cause_is_what_the_losses_and_the_weights_show(run, cause, rate):
    found = diagnose(*run)
    assert found and cause in found.cause and found.rate == rate


def test_a_falling_training_loss_is_something_learned_whatever_luck_says_of_the_accuracy():
    """As after a few steps on few images."""
    assert diagnose(2.4, [2.4, 2.0], (2.0, 0.14)) is None
    assert diagnose(2.4, [2.4, 0.1], (0.1, 0.9), val_acc=0.1, val_loss=5.0) is None


def test_of_a_single_class_there_is_nothing_to_learn():
    data = types.SimpleNamespace(test_labels=LABELS * 0, train_labels=LABELS * 0, num_classes=1)
    metrics = {"loss": 0.0, "acc": 1.0, "val_loss": 0.0, "val_acc": 1.0}
    epochs = [fitting.Epoch(number, metrics, None, None, 0.1) for number in range(2)]
    assert diagnosis.diagnose(Config(), data, kernels(), epochs) is None  # pyright: ignore
