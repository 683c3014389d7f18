"""A private Slurm cluster for these tests, which are skipped where Slurm isn't installed."""

import os
import pathlib
import sys
from collections.abc import Iterator

import pytest

from tests.cluster import private_slurm

PROJECT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment of a user of a cluster with two nodes of one CPU.

    What skips its tests is shown at the end of all tests, see tests/conftest.py.
    """
    if missing := private_slurm.missing():
        pytest.skip(f"Slurm, without {', '.join(missing)} here")
    with private_slurm.running(tmp_path_factory.mktemp("slurm")) as environment:
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        active = {"PATH": path, "VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(PROJECT)}
        yield {**environment, **active}
