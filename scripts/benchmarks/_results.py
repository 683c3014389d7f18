"""What the scripts share: their command line, and the files of results that they write.

Each script writes its tables to `scripts/results/NAME.md`, with the machine, the versions, the date
and the command. Nothing is copied by hand.
"""

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "scripts/results"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of the script's command line, with the flag that all scripts have."""
    script = _relative(sys.argv[0])
    result = argparse.ArgumentParser(
        prog=pathlib.Path(script).name,
        usage=f"python {script} [--FLAG=VALUE ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "--results",
        type=pathlib.Path,
        default=RESULTS,
        metavar="DIR",
        help="where to write the table (default: scripts/results); another directory for a trial",
    )
    return result


def runs_options(
    description: str | None, results: str, program: str
) -> tuple[list[pathlib.Path], pathlib.Path]:
    """The command line of a script that makes a table of runs.

    Args:
      description: of the script.
      results: the file that tells a directory of results.
      program: what writes it.

    Returns:
      The directories of results, and where to write the table, a directory that is there then.
    """
    options = parser(description)
    options.add_argument("runs", type=pathlib.Path, nargs="+", help="directories of results")
    given = options.parse_args()
    for directory in given.runs:
        if not (directory / results).exists():
            options.error(f"{directory} holds no results: {program} writes them")
    given.results.mkdir(parents=True, exist_ok=True)
    return given.runs, given.results


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(
    name: str, title: str, body: str, packages: Iterable[str], directory: pathlib.Path = RESULTS
) -> pathlib.Path:
    """Writes a file of results, prints what it holds, and returns its path.

    Args:
      name: of the file, without `.md`.
      title: its heading.
      body: tables and text, in Markdown.
      packages: whose versions matter, by the names that `pip install` takes; those that are not
        installed are left out.
      directory: where the file goes.
    """
    versions = [f"Python {platform.python_version()}", *_versions(packages)]
    noun = "core" if cores() == 1 else "cores"
    text = (
        f"# {title}\n\n"
        f"`{command()}` on {datetime.date.today()}: {_processor()}, {cores()} {noun},"
        f" {platform.system()}; {', '.join(versions)}.\n\n"
        f"{body.strip()}\n"
    )
    path = directory / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"\n{text}\nwritten to {_relative(path)}")
    return path


def command() -> str:
    """The command that was given, without where its results went."""
    kept = [word for word in sys.argv[1:] if not word.startswith("--results")]
    return shlex.join(["python", _relative(sys.argv[0]), *kept])


def _relative(path: str | pathlib.Path) -> str:
    path = pathlib.Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _versions(packages: Iterable[str]) -> list[str]:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The name of the CPU; on Linux `platform.processor()` does not have it."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
