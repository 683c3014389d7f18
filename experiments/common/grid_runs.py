"""Trains a grid of runs into a directory: what is missing, with progress, until Ctrl-C."""

import contextlib
import functools
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TextIO

from experiments.common import console, data, filling, grids, memory, progress, shards
from experiments.common.config import Config

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.


def opened(configs: Sequence[Config], stream: TextIO | None) -> tuple[list[Config], data.Dataset]:
    """Checks what can be checked of a grid without JAX, and loads its data.

    Args:
      configs: what is to be trained; at least one, all on the same data.
      stream: where to show progress; None shows nothing.

    Returns:
      The configurations, see `pinned`, and the data.

    Raises:
      UsageError: the data can't be loaded, a network doesn't fit in memory, or one of the user's
        own can't be made.
    """
    one = configs[0]
    data.check(one.dataset, one.data_dir)
    for config in {config.hidden: config for config in configs}.values():
        memory.check(config)
    console.use_all_cores()
    with progress.stage(stream, "start   loading the data") as watch:
        dataset = data.load(one.dataset, one.data_dir, watch)
    return pinned(configs, dataset), dataset


def analyzed(
    grid: grids.Grid,
    shard: shards.Shard,
    workdir: str,
    header: Callable[[list[Config], data.Dataset, int], list[str]],
    analyze: Callable[[list[Config], data.Dataset, str], list[str]],
    what: str,
) -> None:
    """The whole of a program: trains a grid, and prints what its runs show.

    Args:
      grid: what to train.
      shard: the part of it that this process trains. Only the whole is analyzed.
      workdir: the directory.
      header: the lines to show first, given the configurations, the data and how many runs are
        missing.
      analyze: writes the results to the directory, and returns them as text.
      what: is fitted to the runs.

    Raises:
      UsageError, KeyboardInterrupt: as `train`.
    """
    configs, dataset = opened(shard.part(grid), sys.stdout)
    top = functools.partial(header, configs, dataset)
    _, others = train(configs, dataset, workdir, sys.stdout, top, shard.label(grid.digest))
    if lines := what_next(others, shard, "for the results"):
        console.say(sys.stdout, *lines, f"results {workdir}")
        return
    with progress.stage(sys.stdout, f"results fitting {what}"):
        lines = analyze(configs, dataset, workdir)
    console.say(sys.stdout, *lines, "", f"results {workdir}")


def what_next(others: int, shard: shards.Shard, purpose: str) -> list[str]:
    """What the user has to do for the results of a grid; empty if all of its runs are finished.

    Args:
      others: how many runs are running in other processes.
      shard: the part that this process has trained.
      purpose: why to do it.

    Example:
      >>> what_next(1, shards.WHOLE, "to compare")
      ['1 run is running in other processes; rerun this command to compare']
      >>> what_next(0, shards.Shard(3, 8), "to compare")
      ['shard   3/8 is finished; when all 8 are, rerun without --shard to compare']
    """
    if others:
        left = "1 run is" if others == 1 else f"{others} runs are"
        part = purpose if shard == shards.WHOLE else "to finish this shard"
        return [f"{left} running in other processes; rerun this command {part}"]
    if shard == shards.WHOLE:
        return []
    when = f"when all {shard.number} are, rerun without --shard {purpose}"
    return textwrap.wrap(f"shard   {shard} is finished; {when}", 80, subsequent_indent=" " * 8)


def pinned(configs: Sequence[Config], dataset: data.Dataset) -> list[Config]:
    """The configurations with a digest of the user's own network, see `own_model.pinned`."""
    if not any(config.own for config in configs):  # JAX isn't needed yet
        return list(configs)
    with console.uninterrupted():  # as below
        from experiments.common import starting

    return [starting.pinned(config, dataset) for config in configs]


def train(
    configs: Sequence[Config],
    dataset: data.Dataset,
    workdir: str,
    stream: TextIO | None,
    header: Callable[[int], list[str]],
    label: str = "",
) -> tuple[int, int]:
    """Trains the runs that are missing from a directory and adds them to it.

    Args:
      configs: what to train; at least one.
      dataset: what to train on.
      workdir: the directory, see `experiments.common.sweep_directory`; it may hold other runs.
      stream: where to show progress; None shows nothing.
      header: the lines to show first, given the number of runs that are missing.
      label: of the shard that they are, see `Shard.label`.

    Returns:
      How many runs were trained, and how many are still running in other processes.

    Raises:
      UsageError: an initializer does not fit a parameter, a network does not fit in memory, or the
        directory is not writable.
      KeyboardInterrupt: Ctrl-C was pressed; all finished runs are in the directory.
    """
    with progress.stage(stream, "start   loading JAX and checking the runs"):
        with console.uninterrupted():  # which would abort while C++ is loaded
            from experiments.common import run_batches, sweep_directory

        wanted = {config.identity(dataset.digest): config for config in configs}
        stored = sweep_directory.SweepDirectory(workdir, label)
        missing = wanted.keys() - stored.finished()
        run_batches.check(wanted, dataset)
    with stored if missing else contextlib.nullcontext():  # nothing may need writing
        lines = header(len(missing))
        wrapped = [textwrap.wrap(line, 80, subsequent_indent=" " * 8) for line in lines]
        console.say(stream, *(piece for pieces in wrapped for piece in pieces))
        groups = run_batches.groups({key: wanted[key] for key in wanted if key in missing})
        makers = [
            (group, functools.partial(run_batches.trainer, group, dataset)) for group in groups
        ]
        return filling.fill(stored, wanted, makers, stream)
