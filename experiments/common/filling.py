"""Fills a directory with runs: what is missing is trained, batch by batch, and can be stopped."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from experiments.common import console, description, progress

if TYPE_CHECKING:  # which take a while to import
    from experiments.common import sweep_directory, trainers

_BATCH_SECONDS = 5.0  # that a batch of runs should take: a killed process loses at most one batch


def fill(
    stored: "sweep_directory.SweepDirectory",
    wanted: Mapping[str, Any],
    groups: Iterable[tuple[Mapping[str, Any], Callable[[], "trainers.Trainer"]]],
    stream: TextIO | None,
) -> tuple[int, int]:
    """Trains the runs that are missing from a directory and adds them to it.

    Args:
      stored: the directory; entered, if runs are missing.
      wanted: all runs by their keys, finished ones, too.
      groups: the missing runs, divided by the programs that train them; each with a function that
        makes its trainer.
      stream: where to show progress; None shows nothing.

    Returns:
      How many runs were trained, and how many are still running in other processes. If those may
      be dead, their runs are waited for.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed; all finished runs are in the directory.
    """
    groups, trained = list(groups), 0
    while True:
        more, left = _train(stored, wanted, groups, stream)
        trained += more
        # The last runs may be those of a process that was killed on another machine.
        if not left or (seconds := stored.doubt()) is None:
            return trained, left
        if seconds:
            runs = description.count(left, "run")
            text = f"wait    {runs} may be running in other processes; known"
            progress.countdown(stored.doubt, text, stream)


def _train(
    stored: "sweep_directory.SweepDirectory",
    wanted: Mapping[str, Any],
    groups: Iterable[tuple[Mapping[str, Any], Callable[[], "trainers.Trainer"]]],
    stream: TextIO | None,
) -> tuple[int, int]:
    """Trains what isn't claimed by other processes; as `fill`."""
    trained = 0
    missing = wanted.keys() - stored.finished()
    with (
        console.interrupt_later(stream) as interrupted,
        progress.counted_progress(len(wanted) - len(missing), len(wanted), stream) as show,
    ):
        for group, make in groups:
            trainer = make()
            size = trainer.least
            while batch := stored.claim(group, size):
                started = time.perf_counter()
                stored.add(trainer.train({key: group[key] for key in batch}))
                # These runs are safe from here on, even if printing fails.
                trained += len(batch)
                missing = wanted.keys() - stored.finished()
                if interrupted():
                    with contextlib.suppress(OSError):
                        kept = len(stored.finished())
                        console.say(stream, f"kept    {kept} runs in {stored.directory}")
                    raise KeyboardInterrupt
                show(len(wanted) - len(missing))
                group = {key: group[key] for key in group if key in missing}
                pace = _BATCH_SECONDS / (time.perf_counter() - started)
                # The same number for each device, so that none waits for another.
                most = min(trainer.most, 2 * size, round(pace * size))
                size = trainer.least * max(1, most // trainer.least)
    return trained, len(missing)
