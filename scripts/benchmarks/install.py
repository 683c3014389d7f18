"""Measures what installing the library costs: packages, megabytes and the time to import it.

Builds the wheel of this checkout and installs it in a new virtual environment, then each of the
libraries that it is compared with in one of its own. Size is that of site-packages without pip, and
includes the bytecode that pip compiles. Import time is the median over processes of
`python -c "import NAME"`, each minus a `python -c "pass"` next to it, after a round that reads the
files.

    python scripts/benchmarks/install.py [--rounds=21]

Writes scripts/results/install.md. Takes two minutes on an idle machine; needs a package index.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
PEERS = ("jax", "optax", "equinox")
TOOLS = ("pip", "setuptools")  # in every new environment


def main() -> None:
    parser = argparse.ArgumentParser(
        usage="python scripts/benchmarks/install.py [--rounds=21]", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=21, help="processes for each import time")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(work), str(ROOT))
        (wheel,) = work.glob("initjax-*.whl")
        environments = {name: environment(work / name, name) for name in PEERS}
        environments["initjax"] = environment(work / "initjax", str(wheel))
        environments["jax, initjax"] = environments["initjax"]
        times = import_times(environments, rounds)
        rows = []
        for name in ("initjax", *PEERS):
            python, installed = environments[name], packages(environments[name])
            size = f"{megabytes(python):.0f}"
            rows.append([f"{name} {installed[name]}", str(len(installed)), size, *times[name]])
        rows.append(["`import jax, initjax`", "", "", *times["jax, initjax"]])
        versions = packages(environments["initjax"])
    machine = (
        f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, shared"
        f" with other work (load average {os.getloadavg()[2]:.0f})"
    )
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    body = f"""# What an installation costs

| library | packages | MB in site-packages | import | CPU time of the import |
|---|---|---|---|---|
{chr(10).join(f"| {' | '.join(row)} |" for row in rows)}

Each library in a new virtual environment of its own, with all that `pip install` brings, without
pip itself. Imports are medians of {rounds} processes, minus starting Python. Other work on the
machine slows down what elapses, but hardly changes the CPU time. `import initjax` doesn't import
JAX; the first draw does.

{machine}; Python {platform.python_version()}, {listed}; {datetime.date.today()}.
Measured by `python scripts/benchmarks/install.py`.
"""
    write("install", body)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def environment(path: pathlib.Path, requirement: str) -> pathlib.Path:
    """Makes a virtual environment with one requirement in it; returns its Python."""
    run(sys.executable, "-m", "venv", str(path))
    python = path / "bin" / "python"
    run(str(python), "-m", "pip", "install", "-q", requirement)
    return python


def packages(python: pathlib.Path) -> dict[str, str]:
    """The versions of what is installed, without the tools that a new environment has."""
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
    """How much longer processes take that import something: elapsed, and of CPU time.

    Every library is imported in every round, so that what else the machine does slows all alike.
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
    """What the finished processes that this one started have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def write(name: str, body: str) -> None:
    """Writes a table where the README links to it."""
    path = ROOT / "scripts" / "results" / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(body)
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
