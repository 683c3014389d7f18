"""What is shown: a bar in a terminal, plain lines elsewhere, within 80 columns."""

import io

from experiments.common import console

METRICS = {"loss": 0.33214, "acc": 0.9, "val_loss": 0.1534, "val_acc": 0.9545}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_finished_epoch_is_one_line_of_at_most_80_columns():
    stream = io.StringIO()
    progress = console.Progress(10, stream)
    assert not progress.live
    progress.epoch(3, 0.314, METRICS)
    line = "Epoch  3/10 0.31s - loss 0.3321 - acc 0.9000 - val_loss 0.1534 - val_acc 0.9545\n"
    assert stream.getvalue() == line and len(line) <= 81


def test_a_terminal_gets_a_bar_that_the_line_replaces():
    stream = Terminal()
    progress = console.Progress(5, stream)
    assert progress.live
    progress.steps(1, 0, 469, {})
    progress.steps(1, 1, 469, {})  # too soon to draw again
    progress._drawn = 0.0
    progress.steps(1, 335, 469, {"loss": 0.5, "acc": 0.0001})
    progress.epoch(1, 1.0, METRICS)
    bars = stream.getvalue().split("\r\x1b[K")[1:]
    assert bars[0] == "Epoch 1/5 ──────────────────── 0/469"
    assert bars[1] == "Epoch 1/5 ━━━━━━━━━━━━━━────── 335/469 - loss 0.5000 - acc 1.0000e-04"
    assert bars[2].startswith("Epoch 1/5 1.00s - loss 0.3321") and len(bars) == 3


def test_without_a_stream_nothing_is_shown(capsys):
    progress = console.Progress(5, None)
    progress.say("hello")
    progress.epoch(1, 1.0, METRICS)
    assert not progress.live and capsys.readouterr() == ("", "")


def test_a_loss_that_is_no_number_is_shown_as_such():
    stream = io.StringIO()
    console.Progress(5, stream).epoch(1, 1.0, {"loss": float("nan"), "acc": 0.0})
    assert "loss nan - acc 0.0000" in stream.getvalue()
