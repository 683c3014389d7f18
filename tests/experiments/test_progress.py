"""Progress: a bar in a terminal, plain lines elsewhere, within 80 columns."""

import io
import re
import time

import pytest

from experiments.common import progress

METRICS = {"loss": 0.33214, "acc": 0.9, "val_loss": 0.1534, "val_acc": 0.9545}


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_finished_epoch_is_one_line_of_at_most_80_columns():
    stream = io.StringIO()
    shown = progress.EpochProgress(10, stream)
    assert not shown.live
    shown.epoch(3, 0.314, METRICS)
    line = "Epoch  3/10 0.31s - loss 0.3321 - acc 0.9000 - val_loss 0.1534 - val_acc 0.9545\n"
    assert stream.getvalue() == line and len(line) <= 81


@pytest.mark.parametrize("epochs", [1, 5, 99, 100, 1000, 10**6])
@pytest.mark.parametrize("loss", [0.1, 123.4567, 242232.3125, 1.2259e32, 1e-30, float("nan")])
@pytest.mark.parametrize("seconds", [0.1, 99.9, 1234.5])
def test_the_line_of_an_epoch_stays_within_80_columns(epochs, loss, seconds):
    stream = io.StringIO()
    metrics = {"loss": loss, "acc": 0.1, "val_loss": loss, "val_acc": 0.1135}
    progress.EpochProgress(epochs, stream).epoch(epochs, seconds, metrics)
    line = stream.getvalue().removesuffix("\n")
    assert len(line) <= 80 and "\n" not in line
    assert line.endswith("val_acc 0.1135") and f"{epochs}/{epochs} " in line


def test_a_terminal_gets_a_bar_that_the_line_replaces(monkeypatch):
    stream = Terminal()
    shown = progress.EpochProgress(5, stream)
    assert shown.live
    shown.steps(1, 0, 469, {})
    shown.steps(1, 1, 469, {})  # too soon to draw again
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.0)
    shown.steps(1, 335, 469, {"loss": 0.5, "acc": 0.0001})
    shown.epoch(1, 1.0, METRICS)
    bars = stream.getvalue().split("\r\x1b[K")[1:]
    assert bars[0] == "Epoch 1/5 ──────────────────── 0/469"
    assert bars[1] == "Epoch 1/5 ━━━━━━━━━━━━━━────── 335/469 - loss 0.5000 - acc 1.0e-04"
    assert bars[2].startswith("Epoch 1/5 1.00s - loss 0.3321") and len(bars) == 3


def test_without_a_stream_nothing_is_shown(capsys):
    shown = progress.EpochProgress(5, None)
    shown.say("hello")
    shown.epoch(1, 1.0, METRICS)
    assert not shown.live and capsys.readouterr() == ("", "")
    with progress.counted_progress(0, 3, None) as show:
        show(3)
    assert capsys.readouterr() == ("", "")


def test_a_loss_that_is_not_a_number_is_shown_as_nan():
    stream = io.StringIO()
    progress.EpochProgress(5, stream).epoch(1, 1.0, {"loss": float("nan"), "acc": 0.0})
    assert "loss nan - acc 0.0000" in stream.getvalue()


def test_a_terminal_sees_the_runs_of_a_sweep_as_one_bar():
    stream = Terminal()
    with progress.counted_progress(2, 8, stream) as show:
        show(5)
        show(8)
    first, second, third = stream.getvalue().split("\r\x1b[K")[1:]
    assert first == "━━━━━─────────────── 2/8 runs"
    assert re.fullmatch(r"━{12}─{8} 5/8 runs, [\d.]+ runs/s, 0:00:0\d left", second)
    assert re.fullmatch(r"━{20} 8/8 runs, [\d.]+ runs/s, 0:00:00 left\n", third)


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 3), (10.0, 1)])
def test_outside_a_terminal_a_sweep_prints_a_line_every_ten_seconds_and_at_the_end(
    monkeypatch, seconds, lines
):
    monkeypatch.setattr(progress, "_LINE_SECONDS", seconds)
    stream = io.StringIO()
    with progress.counted_progress(0, 3, stream) as show:
        for done in (1, 2, 3):
            show(done)
    written = stream.getvalue().splitlines()
    assert len(written) == lines
    assert re.fullmatch(r"3/3 runs, [\d.]+ runs/s, 0:00:00 left", written[-1])


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_a_short_stage_shows_nothing(stream):
    with progress.stage(stream, "compiling"):
        pass
    assert stream.getvalue() == ""


def test_a_long_stage_is_one_line_outside_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.01)
    stream = io.StringIO()
    with progress.stage(stream, "compiling"):
        time.sleep(0.2)
    assert stream.getvalue() == "compiling, 0 s\n"


def test_a_long_stage_counts_its_seconds_in_a_terminal_and_leaves_no_line(monkeypatch):
    monkeypatch.setattr(progress, "_STAGE_SECONDS", 0.01)
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), progress.stage(stream, "compiling"):
        time.sleep(0.2)
        raise KeyboardInterrupt
    assert stream.getvalue() == "\r\x1b[Kcompiling, 0 s\r\x1b[K"


def test_a_bar_that_is_not_finished_makes_room_for_what_is_said_next():
    stream = Terminal()
    with progress.counted_progress(2, 8, stream) as show:
        show(5)
    assert stream.getvalue().endswith(" left\r\x1b[K")


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    shown = progress.EpochProgress(5, stream)
    shown.say("hello")
    with progress.counted_progress(2, 8, stream) as show:
        show(8)
    assert not shown.live and "\x1b" not in stream.getvalue()


def test_a_stage_says_how_much_is_done_and_the_time_left(monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.05)
    stream = io.StringIO()
    with progress.stage(stream, "start   decoding") as count:
        count(0, 4000)
        time.sleep(0.01)
        count(1000, 4000)
        time.sleep(0.2)
    assert re.fullmatch(
        r"start   decoding, 0 s; 1,000 of 4,000, about 0 s left\n", stream.getvalue()
    )


def test_the_first_line_comes_after_two_seconds(monkeypatch):
    clock = iter([0.0, 1.9, 2.1, 5.0, 12.0, 12.2])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with progress.counted_progress(0, 9, stream, "figures") as show:
        for done in (1, 2, 3, 4, 5):
            show(done)
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["2/9", "5/9"]
    assert lines[0] == "2/9 figures, 0.95 figures/s, 0:00:07 left"


def test_progress_without_a_pace_is_not_shown(monkeypatch):
    """On Windows a clock may stand still for 16 ms."""
    stream = io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: 1.0)
    with progress.counted_progress(0, 3, stream) as show:
        show(0)
        show(1)
    assert stream.getvalue() == ""
