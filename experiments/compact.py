"""Compacts a sweep: merges its many files into a few large ones, ordered by setting.

Question: how is a directory of a million runs read quickly?
Command:  python -m experiments.compact runs/sweep
Time:     a minute for a million runs; minutes on a busy machine
"""

import pathlib
import sys

from experiments.common import command_line, console, description, flags, progress
from experiments.common.config import UsageError

COMMAND = "python -m experiments.compact"

_GROUPS = {"Flags": ("help",)}
_FLAGS = flags.define(_GROUPS)


def main(directory: str = "runs/sweep") -> None:
    from experiments.common import compaction, run_files  # which take a moment to import

    root = pathlib.Path(flags.expanded(directory))
    files = len(run_files.listed(run_files.folders(root)))
    if not files:
        raise UsageError(f"{root} holds no runs; run python -m experiments.sweep first")
    try:
        with progress.counted_progress(0, files, sys.stdout, "files") as show:
            found = compaction.compact(root, show)
    except OSError as error:
        raise UsageError(f"cannot write to {root} ({error.strerror})") from None
    console.say(
        sys.stdout,
        f"runs    {found.runs:,}",
        f"files   {description.count(found.after, 'file')}, before {found.before:,}",
        f"results {root}",
    )


_PROGRAM = command_line.Program(
    f"{COMMAND} [RUNS]",
    "Compacts a sweep (default: runs/sweep): merges its many files into a few large ones, ordered"
    " by setting, so that reports are made quickly. No run is lost, whenever it is"
    " stopped, and sweeps can go on meanwhile.",
    _FLAGS,
    _GROUPS,
    examples=("", "runs/rates"),
    arguments=1,
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
