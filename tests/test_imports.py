"""What imports what: programs use the public library, which needs little and has no circles."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = sorted([*(ROOT / "experiments").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
LIBRARY = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "initjax").rglob("*.py"))
}
REQUIRED = {"jax", "ml_dtypes", "numpy", "scipy"}  # JAX itself requires ml_dtypes
OPTIONAL = {"matplotlib", "optax"}  # who hands over an optimizer has Optax


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere below a node, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """What a module imports when it is imported itself."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from imported(node)


def private_names(text: str) -> list[str]:
    """Imports of private modules or names of the library, and strings and paths that name one."""
    tree = ast.parse(text)
    names = {name for name in imported(tree) if name.startswith("initjax.")}
    names |= {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    names |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return sorted(name for name in names if re.match(r"initjax\.([\w.]+\.)?_[a-z]", name))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_program_uses_no_private_part_of_the_library(path):
    assert not private_names(path.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "import initjax.auditing._audit",
        "from initjax.auditing._audit import audit",
        "from initjax.fans import _product",
        "from initjax import _values",
        "def f():\n    import initjax._laws as laws",
        "importlib.import_module('initjax._drawing')",
        "import initjax\ninitjax.auditing._fix.METHODS",
    ],
)
def test_a_private_part_is_found_however_it_is_imported(text):
    assert private_names(text)


def test_public_parts_are_not_mistaken_for_private_ones():
    text = "import initjax\nfrom initjax.theory import gain\ninitjax.__version__\n'initjax audit'"
    assert not private_names(text)


def test_no_modules_of_the_library_import_each_other_in_a_circle():
    """Neither at once, nor in functions, nor for types alone."""
    graph = {name: set() for name in LIBRARY}
    for name, path in LIBRARY.items():
        for target in imported(ast.parse(path.read_text())):
            assert not target.startswith("."), f"{name}: imports are absolute in the library"
            module = target if target in LIBRARY else target.rpartition(".")[0]
            if module in LIBRARY:
                graph[name].add(module)
    assert graph["initjax.auditing"] and graph["initjax.theory.moments"]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("module", LIBRARY)
def test_a_module_of_the_library_imports_only_what_is_installed_with_it(module):
    tree = ast.parse(LIBRARY[module].read_text())
    own = {"initjax", *sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in imported(tree)} - own <= REQUIRED | OPTIONAL
    at_once = {name.partition(".")[0] for name in imported_at_once(tree)} - own
    # Its class extends one of Matplotlib's. All who import it do so in a function, or are imported
    # in one: see the next test.
    assert at_once <= REQUIRED | (OPTIONAL if module == "initjax._figure" else set())


def test_importing_the_library_imports_neither_jax_nor_scipy():
    code = "import sys, initjax; print(sorted({'jax', 'scipy', 'matplotlib'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr
