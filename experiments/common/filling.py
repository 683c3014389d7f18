"""Fills a directory with runs: what is missing is trained, batch by batch, and can be stopped."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from experiments.common import console, description, progress, unfinished

if TYPE_CHECKING:  # which take a while to import
    from experiments.common import sweep_directory, trainers

_BATCH_SECONDS = 5.0  # that a batch of runs should take: a killed process loses at most one batch
_SAVE_SECONDS = 60.0  # the same if a single run takes longer
_SAVE_SHARE = 20.0  # saving takes at most a twentieth of the time


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
      KeyboardInterrupt: Ctrl-C was pressed, or a signal came; all finished runs are in the
        directory, and the state of those in progress.
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
            text = f"wait    {runs} may still be running elsewhere; checking"
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
    in_progress = unfinished.Unfinished(stored.directory)
    in_progress.clean(wanted.keys() - missing)
    with (
        console.interrupt_later(stream, "saving the current runs") as asked,
        progress.counted_progress(len(wanted) - len(missing), len(wanted), stream) as show,
    ):
        for group, make in groups:
            trainer = make()
            size = trainer.least
            pause = _saver(in_progress, trainer.origin, asked, stored, stream)
            while batch := stored.claim(_in_progress_first(group, in_progress), size):
                started = time.perf_counter()
                for part, points in _by_step(batch, in_progress, trainer, stream):
                    stored.add(trainer.train({key: group[key] for key in part}, points, pause))
                    # These runs are safe from here on, even if printing fails.
                    in_progress.remove(part)
                    trained += len(part)
                    if error := asked():
                        _stop(error, stored, 0, stream)
                missing = wanted.keys() - stored.finished()
                show(len(wanted) - len(missing))
                group = {key: group[key] for key in group if key in missing}
                pace = _BATCH_SECONDS / (time.perf_counter() - started)
                # The same number for each device, so that none waits for another.
                most = min(trainer.most, 2 * size, round(pace * size))
                size = trainer.least * max(1, most // trainer.least)
    return trained, len(missing)


def _in_progress_first(
    group: Mapping[str, Any], in_progress: unfinished.Unfinished
) -> Iterator[str]:
    """The keys of a group, those of runs first that were begun before; only as many as needed."""
    begun = {key for key in in_progress.keys() if key in group}
    yield from sorted(begun)
    yield from (key for key in group if key not in begun)


def _by_step(
    batch: Sequence[str],
    in_progress: unfinished.Unfinished,
    trainer: "trainers.Trainer",
    stream: TextIO | None,
) -> list[tuple[list[str], dict[str, unfinished.Point]]]:
    """Divides runs into those that are at the same step, with their state."""
    begun = in_progress.keys().intersection(batch)
    parts: dict[int, tuple[list[str], dict[str, unfinished.Point]]] = {}
    for key in batch:
        point = None
        if key in begun:
            try:
                point = in_progress.load(key, trainer.origin, trainer.like)
            except unfinished.Unusable as error:
                path = in_progress.path(key)
                text = f"{path} is not used: {error}. Its run starts again."
                console.say_instead(stream, *description.entry("note", text))
        keys, points = parts.setdefault(point.steps if point else 0, ([], {}))
        keys.append(key)
        if point:
            points[key] = point
    return [parts[steps] for steps in sorted(parts, reverse=True)]


def _saver(
    in_progress: unfinished.Unfinished,
    origin: str,
    asked: Callable[[], type[KeyboardInterrupt] | None],
    stored: "sweep_directory.SweepDirectory",
    stream: TextIO | None,
) -> Callable[[Callable[[], "trainers.Points"]], None]:
    """What to do at each pause: saves the runs in progress if it is time, and stops if asked to."""
    saved, patience = time.monotonic(), _SAVE_SECONDS

    def pause(state: Callable[[], "trainers.Points"]) -> None:
        nonlocal saved, patience
        error, now = asked(), time.monotonic()
        if not error and now - saved < patience:
            return
        points = state()
        try:
            in_progress.save(points, origin)
        except OSError as problem:  # such as a full disk: only the time of these runs is at stake
            text = f"the current runs could not be saved: {problem.strerror or problem}"
            console.say_instead(stream, *description.entry("note", text))
            points = {}
        saved = time.monotonic()
        patience = max(_SAVE_SECONDS, _SAVE_SHARE * (saved - now))
        if error:
            _stop(error, stored, len(points), stream)

    return pause


def _stop(
    error: type[KeyboardInterrupt],
    stored: "sweep_directory.SweepDirectory",
    begun: int,
    stream: TextIO | None,
) -> NoReturn:
    """Says what is kept, and ends the program."""
    with contextlib.suppress(OSError):
        kept = description.count(len(stored.finished()), "run")
        others = f", and {begun} in progress" if begun else ""
        text = f"{kept} in {stored.directory}{others}; run the same command again to go on"
        console.say_instead(stream, *description.entry("kept", text))
    raise error
