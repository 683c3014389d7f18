"""Measures what installing the library costs: packages, megabytes and the time to import it.

    python scripts/benchmarks/install.py

Builds the wheel of this checkout and installs it in a new virtual environment, then does the same
for each library that it is compared with. Size is that of site-packages without pip, including the
bytecode that pip compiles. Import time is the median over processes of `python -c "import NAME"`,
each minus a `python -c "pass"` next to it, after a round that reads the files. About 2 minutes on
an idle machine; needs a package index.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import _results

PEERS = ("jax", "optax", "equinox")
TOOLS = ("pip", "setuptools")  # in every new environment


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="processes for each import time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        root = str(_results.ROOT)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(work), root)
        (wheel,) = work.glob("initjax-*.whl")
        environments = {name: environment(work / name, name) for name in PEERS}
        environments["initjax"] = environment(work / "initjax", str(wheel))
        environments["jax, initjax"] = environments["initjax"]
        times = import_times(environments, options.rounds)
        rows = []
        for name in ("initjax", *PEERS):
            python, installed = environments[name], packages(environments[name])
            size = f"{megabytes(python):.0f}"
            rows.append([f"{name} {installed[name]}", str(len(installed)), size, *times[name]])
        rows.append(["`import jax, initjax`", "", "", *times["jax, initjax"]])
        versions = packages(environments["initjax"])
    head = ["library", "packages", "MB in site-packages", "import", "CPU time of the import"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    body = (
        "Each library has a new virtual environment, with all that `pip install` brings, not"
        f" counting pip. Imports are medians of {options.rounds} processes, minus the time to start"
        " Python. Other work on the machine slows down an import, but hardly changes its CPU time;"
        f" the load average was {os.getloadavg()[2]:.0f}. `import initjax` doesn't import JAX; the"
        f" first draw does.\n\n{_results.table(head, rows)}\n\nInstalled with initjax: {listed}."
    )
    _results.write("install", "What an installation costs", body, (), options.results)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def environment(path: pathlib.Path, requirement: str) -> pathlib.Path:
    """Makes a virtual environment with one requirement in it; returns its Python."""
    run(sys.executable, "-m", "venv", str(path))
    python = path / "bin" / "python"
    run(str(python), "-m", "pip", "install", "-q", requirement)
    return python


def packages(python: pathlib.Path) -> dict[str, str]:
    """The versions of the installed packages, without the tools that a new environment has."""
    code = (
        "import importlib.metadata, json;"
        "print(json.dumps({one.name: one.version for one in importlib.metadata.distributions()}))"
    )
    listed = json.loads(run(str(python), "-c", code))
    return {name: version for name, version in sorted(listed.items()) if name not in TOOLS}


def megabytes(python: pathlib.Path) -> float:
    """The size of site-packages, without the tools that a new environment has."""
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    tools = (*TOOLS, "pkg_resources", "_distutils_hack", "distutils-precedence")
    files = (
        file
        for entry in site.iterdir()
        if not entry.name.startswith(tools)
        for file in (entry.rglob("*") if entry.is_dir() else [entry])
    )
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def import_times(environments: dict[str, pathlib.Path], rounds: int) -> dict[str, list[str]]:
    """How much longer a process takes if it imports something: elapsed time and CPU time.

    Each round imports every library, so that a busy machine slows all alike.
    """
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in environments}
    for _ in range(rounds + 1):  # the first one reads the files
        for name, python in environments.items():
            bare, full = process_times(python, "pass"), process_times(python, f"import {name}")
            measured[name].append((full[0] - bare[0], full[1] - bare[1]))
    return {
        name: [f"{1000 * statistics.median(kind):.0f} ms" for kind in zip(*some[1:], strict=True)]
        for name, some in measured.items()
    }


def process_times(python: pathlib.Path, code: str) -> tuple[float, float]:
    """The seconds that a process takes, elapsed and of CPU time."""
    started, used = time.perf_counter(), cpu_seconds()
    subprocess.run([python, "-c", code], check=True, cwd=python.parent)
    return time.perf_counter() - started, cpu_seconds() - used


def cpu_seconds() -> float:
    """The CPU time of the finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
