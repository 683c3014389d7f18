"""What installing brings: the library alone, with what it requires; extras bring the rest."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import experiments
import initjax

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# A user's first steps, with nothing installed but what the library requires.
SCRIPT = """
import initjax, jax, jax.numpy as jnp

def loss_fn(params, x):
    return jnp.square(jax.nn.relu(x @ params["in"]) @ params["out"]).mean()

keys = jax.random.split(jax.random.key(0), 2)
params = {"in": initjax.he_normal()(keys[0], (32, 64)), "out": jnp.ones((64, 4))}
x = jax.random.normal(keys[1], (128, 32))
report = initjax.audit(loss_fn, params, x)
_, repair = initjax.fix(loss_fn, params, x, key=jax.random.key(1))
print(initjax.__version__, report.verdict, repair.verdict)
for draw in (report.plot, lambda: initjax.theory.phase_diagram("relu")):
    try:
        draw()
    except ImportError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory with the wheel and the source distribution of this checkout."""
    path = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d"]
    subprocess.run([*command, path], cwd=ROOT, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def bare(built, tmp_path_factory):
    """A directory like site-packages, with the wheel and all that it requires."""
    path = tmp_path_factory.mktemp("bare")
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(path)
    (metadata,) = path.glob("initjax-*.dist-info/METADATA")
    pending = importlib.metadata.PathDistribution(metadata.parent).requires or []
    installed = set()
    while pending:
        requirement = pending.pop()
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if "extra ==" in requirement or name in installed:
            continue
        installed.add(name)
        distribution = importlib.metadata.distribution(name)
        pending += distribution.requires or []
        for top in {file.parts[0] for file in distribution.files or []}:
            if top not in ("..", "__pycache__"):
                (path / top).symlink_to(pathlib.Path(str(distribution.locate_file(top))))
    return path


def python(path, *arguments):
    """Runs Python with one directory of packages in place of what is installed here."""
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=ROOT / "tests" if "-c" in arguments else ROOT,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )


def test_the_wheel_holds_the_library_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name.startswith(f"initjax-{initjax.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "initjax/py.typed" in names
    code = {name for name in names if not re.match(r"initjax-[\d.]+\.dist-info/", name)}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "initjax").rglob("*.py")}
    assert code - {"initjax/advice/table.json"} == sources | {"initjax/py.typed"}
    made = (ROOT / "initjax/advice/table.json").exists()
    assert ("initjax/advice/table.json" in code) == made


def test_the_source_distribution_holds_the_library_and_what_builds_it(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "initjax/py.typed"} <= names
    assert not [name for name in names if name.startswith(("experiments", "tests", "scripts"))]


def test_the_library_requires_three_packages():
    names = {re.split(r"\W", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert names == {"jax", "numpy", "scipy"}
    assert all(">=" in requirement for requirement in PROJECT["dependencies"])


def test_the_library_works_with_nothing_else_and_names_the_extra_for_pictures(bare):
    result = python(bare, "-c", SCRIPT)
    assert result.stdout.splitlines() == [
        f"{initjax.__version__} failure ok",
        "report.plot() needs Matplotlib: pip install 'initjax[plot]'",
        "phase_diagram needs Matplotlib: pip install 'initjax[plot]'",
    ], result.stderr


@pytest.mark.parametrize("program", ["mnist", "sweep", "report", "audit", "recommend", "width"])
def test_a_program_names_the_extra_that_it_misses(bare, program):
    result = python(bare, "-m", f"experiments.{program}")
    assert result.returncode == 2 and not result.stdout
    (line,) = result.stderr.splitlines()
    assert "(absl, altair, flax, " in line and line.endswith("pip install -e '.[experiments]'")


def test_importing_the_programs_without_their_extra_is_an_import_error(bare):
    code = f"import sys; sys.path.append({str(ROOT)!r}); import experiments"
    result = python(bare, "-c", code)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ImportError: experiments needs packages")


def test_the_programs_check_for_the_whole_extra():
    distributions = importlib.metadata.packages_distributions()
    checked = {distributions[name][0].lower() for name in experiments._PACKAGES}
    extras = PROJECT["optional-dependencies"]
    required = [*extras["experiments"], *extras["plot"], "jax"]
    names = {re.split(r"[^\w-]", requirement)[0].lower() for requirement in required}
    assert checked == names - {"initjax"}


def test_the_tests_bring_what_the_programs_need():
    extras = PROJECT["optional-dependencies"]
    assert "initjax[experiments]" in extras["test"] and "initjax[plot]" in extras["experiments"]
    assert sorted(extras) == ["benchmark", "dev", "docs", "experiments", "plot", "test"]
