"""The end of a grid: runs of processes that may be dead are waited for, those of others aren't."""

import io
import os
import re
import signal
import threading
import time
from typing import Any

import pytest

from experiments.common import claims, filling, progress, sweep_directory
from experiments.common.claims import Claims
from experiments.common.local_process import Process

KEYS = ["a", "b", "c"]


class _Trainer:
    least, most, origin, like = 1, 100, "here", {}

    def train(self, runs, points, pause):
        return [dict.fromkeys(sweep_directory.SCHEMA.names) | {"key": key} for key in runs]


@pytest.fixture
def other(tmp_path):
    """A process of another machine, which has claimed two of three runs."""
    process = Claims(tmp_path / ".claims", Process("another machine", 1, "1"))
    process.beat()
    assert process.claim(KEYS, 2, set) == ["a", "b"]
    return process


def fill(directory, stream=None):
    trainer: Any = _Trainer()
    wanted = dict.fromkeys(KEYS)
    with sweep_directory.SweepDirectory(directory) as stored:
        return filling.fill(stored, wanted, [(wanted, lambda: trainer)], stream)


def test_runs_of_a_process_that_is_dead_are_waited_for_and_trained(other, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    stream = io.StringIO()
    assert fill(tmp_path, stream) == (3, 0)
    (line,) = [line for line in stream.getvalue().splitlines() if line.startswith("wait")]
    text = r"wait    2 runs may still be running elsewhere; checking for up to \d+ s"
    assert re.fullmatch(text, line) and len(line) <= 80
    assert not list((tmp_path / ".claims").iterdir())


def test_runs_of_a_process_that_lives_are_left_to_it(other, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.1)
    ended = threading.Event()

    def beat():
        while not ended.wait(0.01):
            other.beat()

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        assert fill(tmp_path) == (1, 2)
    finally:
        ended.set()
        heart.join()


def test_a_signal_ends_the_wait_at_once(other, tmp_path):
    started = time.monotonic()
    timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path)
    finally:
        timer.cancel()
    assert time.monotonic() - started < claims.BEAT * claims.LEASE / 2
    assert sweep_directory.read(tmp_path)["key"].to_pylist() == ["c"]


def test_in_a_terminal_the_seconds_count_down(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("TERM", "xterm")
    left = iter([10, 10, 10, 5, 5, 20, 0])  # it changes only with each heartbeat, and may grow
    terminal = Terminal()
    progress.countdown(lambda: next(left), "checking", terminal)
    drawn = terminal.getvalue().split("\r\x1b[K")[1:]
    assert drawn == [f"checking for up to {seconds} s" for seconds in (10, 9, 8, 5, 4, 3)] + [""]
