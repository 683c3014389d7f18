"""Learning curves are drawn from the files of a run, for every kind of run."""

import math

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from experiments.common import files, learning_curve


def record(path, epochs, per_epoch, loss, acc):
    steps = [
        {"step": step, "epoch": 1 + step // per_epoch, "loss": loss(step), "acc": acc}
        for step in range(1, epochs * per_epoch + 1)
    ]
    lines = [
        {"epoch": epoch, "val_loss": loss(epoch * per_epoch), "val_acc": acc}
        for epoch in range(epochs + 1)
    ]
    files.append_lines(path / "steps.jsonl", steps)
    files.append_lines(path / "metrics.jsonl", lines)


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "loss", "acc"),
    [
        (5, 40, lambda step: 2.3 / (1 + step), 0.97),
        (1, 1, lambda step: 2.3, 0.1),
        (2, 7, lambda step: math.nan, 0.0),
        (2, 7, lambda step: math.inf if step > 3 else 1e30, 0.0),
        (2, 7, lambda step: 0.0, 1.0),
    ],
    ids=["falling", "one step", "nan", "inf", "perfect"],
)
def test_every_kind_of_run_gets_a_learning_curve(epochs, per_epoch, loss, acc, tmp_path):
    record(tmp_path, epochs, per_epoch, loss, acc)
    chance_loss = 0.0 if acc == 1.0 else math.log(10)
    learning_curve.draw(tmp_path, "a title with $x_{$", "subtitle", chance_loss)
    with PIL.Image.open(tmp_path / "learning_curve.png") as picture:
        assert picture.size == (1500, 660)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


@pytest.mark.parametrize("highest", [2.4, 300.0, 1e6, 1e32])
def test_the_axis_of_losses_is_labeled_whatever_they_are(highest):
    figure = Figure()
    axes = figure.subplots()
    learning_curve._loss_axis(axes, np.array([0.1, highest]), math.log(10))
    low, high = axes.get_ylim()
    figure.draw_without_rendering()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert len(ticks) >= 3 and axes.yaxis.get_major_formatter()(ticks[1], 1)
