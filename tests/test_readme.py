"""What the READMEs say is true: code runs, commands work, links lead somewhere, nothing is missing.

Every code block is run. Commands run in a short form; of all others the flags are checked.
"""

import doctest
import functools
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

import initjax
import initjax.auditing
import initjax.theory

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "scripts/results"
READMES = [ROOT / "README.md"]
for folder in ("initjax", "experiments", "scripts"):
    READMES += sorted((ROOT / folder).rglob("README.md"))
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in READMES}
FRONT = TEXTS["README.md"]
BLOCKS = [
    (name, language, text)
    for name, readme in TEXTS.items()
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.M | re.S)
]
PYTHON = [number for number, (_, language, _) in enumerate(BLOCKS) if language == "python"]
SCRIPTS = [
    path.relative_to(ROOT).as_posix()
    for folder in ("scripts", "scripts/benchmarks")
    for path in sorted((ROOT / folder).glob("[!_]*.py"))
]
# What is run: each command once, a report together with the sweep before it.
CHAINS = re.findall(
    r"^(?:\$ )?(python -m experiments\.\w+ .*(?:\npython -m experiments\.report .*)?)",
    "\n".join(text for _, language, text in BLOCKS if language in ("bash", "text")),
    re.M,
)
# All commands, also those within sentences.
COMMANDS = sorted(
    {
        command
        for text in TEXTS.values()
        for command in re.findall(
            r"(?<!/)(?:python (?:-m experiments\.[a-z]+|scripts/\S+\.py)|scripts/\S+\.sh)[^`\n|]*",
            text,
        )
    }
)


def name_of(number):
    return f"{BLOCKS[number][0]}-{number}"


def without_numbers(text):
    """A report's words: its numbers depend on the version of JAX, and lines break after them."""
    return re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?%?", "#", " ".join(text.split()))


@pytest.mark.parametrize("number", PYTHON, ids=name_of)
def test_an_example_runs(number, capsys):
    name, _, text = BLOCKS[number]
    if ">>>" in text:
        runner = doctest.DocTestRunner()
        runner.run(doctest.DocTestParser().get_doctest(text, {}, name, name, 0))
        assert runner.failures == 0 and runner.tries > 0
        return
    names = {}
    exec(compile(text, name, "exec"), names)
    for test in (value for key, value in names.items() if key.startswith("test_")):
        test()
    shown = BLOCKS[number + 1 : number + 2]
    if shown and shown[0][:2] == (name, "text"):
        assert without_numbers(capsys.readouterr().out) == without_numbers(shown[0][2])


@pytest.mark.parametrize("chain", CHAINS)
def test_a_command_works(chain, folder, tmp_path):
    """In as short a form as there is, on fewer images."""
    fewer = ["--epochs=1", f"--data_dir={folder}"]
    shorter = {"experiments.mnist": fewer, "experiments.sweep": [*fewer, "--seeds=2"]}
    for command in chain.splitlines():
        python, *arguments = shlex.split(command)
        assert python == "python"
        arguments += shorter.get(arguments[1], [])
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            # A program that runs once, for a second, compiles in half the time.
            env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        for _, _, text in BLOCKS:
            if text.startswith(f"$ {command}\n"):
                assert first_words(result.stdout) == first_words(text.partition("\n")[2])


def first_words(output):
    """Of every line, apart from those about what takes long on a busy machine."""
    output = re.sub(r"^.*ing.*, \d+ s\n", "", output, flags=re.M)
    return list(dict.fromkeys(line.split()[0] for line in output.splitlines() if line.strip()))


def test_every_block_is_run():
    kinds = {language for _, language, _ in BLOCKS}
    assert kinds == {"python", "bash", "text"}
    for number, (_, language, text) in enumerate(BLOCKS):
        if language == "text":
            python = number - 1 in PYTHON
            # tests/programs/test_width.py runs the second, in a shorter form.
            shown = ("$ python -m experiments.mnist ", "$ python -m experiments.width\n", "host-a$")
            assert python or text.startswith(shown), text
        for line in text.splitlines() if language == "bash" else ():
            ran = any(line in chain.splitlines() for chain in CHAINS)
            known = tuple(COMMANDS)  # which others may start, such as sbatch
            assert ran or line.endswith(known) or line.startswith("python3 -m venv "), line


def test_the_front_page_is_a_page_with_two_commands_to_set_up():
    set_up = re.findall(r"^python3 -m venv .*", FRONT, re.M)
    assert [line.rpartition("-m ")[2].split()[0] for line in set_up] == [
        "experiments.mnist",
        "pytest",
    ]
    assert len(FRONT.splitlines()) <= 170


@functools.cache
def help_of(program):
    result = subprocess.run(
        [sys.executable, *shlex.split(program), "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def flags_of(program):
    # The shell scripts hand their flags on to a sweep, or to the program that they are given.
    if match := re.fullmatch(r"\S+\.sh ?(\w*)", program):
        program = f"-m experiments.{match[1] or 'sweep'}"
    return set(re.findall(r"--(\w+)", help_of(program)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_explains_itself(script):
    assert help_of(script).startswith(f"usage: python {script} ")


def test_commands_have_only_flags_that_exist():
    assert len(COMMANDS) > 15
    for command in COMMANDS:
        program = re.sub(r"^python ", "", re.split(r" (?=--)", command)[0].strip())
        program = re.sub(r"(-m \S+|\S+\.py|\S+\.sh( \w+)?).*", r"\1", program)
        assert program.startswith("-m ") or (ROOT / program.split()[0]).is_file(), command
        assert set(re.findall(r"--(\w+)", command)) <= flags_of(program), command


def test_flags_in_sentences_exist():
    programs = ("mnist", "audit", "sweep", "depth", "width", "transfer", "report", "recommend")
    known = set().union(*(flags_of(f"-m experiments.{program}") for program in programs))
    others = {"logdir", "help"}  # of TensorBoard and all programs
    others |= {"array", "nodes", "ntasks", "gres", "signal"}  # of Slurm
    assert set(re.findall(r"--(\w+)", TEXTS["experiments/README.md"])) <= known | others


def test_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    named = re.findall(r"'\.\[(\w+)\]'", "\n".join(TEXTS.values()))
    assert len(named) >= 5 and set(named) <= extras
    table = re.findall(r"^\| (`\w+`.*?) \|", FRONT.partition("| extra |")[2], re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == extras


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_every_local_link_leads_somewhere(name):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXTS[name]):
        path, _, anchor = target.partition("#")
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), target
        assert not anchor or anchor in anchors(page.read_text()), target


def test_every_public_name_is_explained():
    library = "".join(text for name, text in TEXTS.items() if name.startswith("initjax/"))
    names = {*initjax.__all__, *initjax.auditing.__all__, *initjax.theory.__all__}
    missing = []
    for name in sorted(names):
        family = name.partition("_")[0]
        if not re.search(rf"`[^`\n]*\b{name}\b", library) and f"`{family}_*`" not in library:
            missing.append(name)
    assert not missing


def test_every_cause_is_explained_in_the_words_of_the_code():
    from initjax.auditing._judging.causes import CAUSES

    section = TEXTS["initjax/auditing/README.md"].partition("## Causes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `.*$", section, re.M)
    causes = CAUSES.values()
    assert rows == [f"| `{row.name}` | {row.meaning} | {row.explained} |" for row in causes]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.name)
def test_a_file_of_results_says_what_measured_it(path):
    if path.name == "README.md":
        return
    assert f"| `{path.name}` |" in TEXTS["scripts/results/README.md"]
    text = path.read_text()
    command = re.search(r"`python (scripts/\S+\.py)\b", text)
    assert command and command[1] in SCRIPTS and re.search(r"\d{4}-\d\d-\d\d", text)


def test_the_front_page_says_what_an_installation_brings_as_measured():
    measured = (RESULTS / "install.md").read_text()
    sizes = {
        name: (packages, megabytes)
        for name, packages, megabytes in re.findall(
            r"^\| (\w+) [\d.]+ \| (\d+) \| (\d+) \|", measured, re.M
        )
    }
    text = " ".join(FRONT.split())
    said = re.search(
        r"(\d+) packages and (\d+) MB \(JAX alone: (\d+) packages and (\d+) MB\)", text
    )
    assert said and said.groups() == (*sizes["initjax"], *sizes["jax"])


def test_the_front_page_shows_the_published_comparison_as_measured():
    measured = {
        tuple(cells[:2]): cells[2:]
        for line in (RESULTS / "published.md").read_text().splitlines()
        if line.startswith("| ")
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    }
    shown = re.findall(r"^\| (\w+) \| ([\d.]+) \| (.+) \| ([\d.]+) \| (.+) \|$", FRONT, re.M)
    assert len(shown) == 6
    for init, *numbers in shown:
        published, ours = measured[init, "published"], measured[init, "ours"]
        assert numbers == [published[0], ours[0], published[7], ours[7]]


@pytest.mark.skipif(not (RESULTS / "audit_evidence.md").exists(), reason="not measured yet")
def test_the_counts_of_the_evidence_are_as_measured():
    counts = [
        re.findall(r"(?i)(found|correctly|alarms):? (\d+) of\s(\d+)", text)
        for text in (
            TEXTS["initjax/auditing/README.md"],
            (RESULTS / "audit_evidence.md").read_text(),
        )
    ]
    assert len(counts[0]) == 3 and counts[0] == counts[1]
