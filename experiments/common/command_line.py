"""The command line of a program: its flags as absl's users know them, --help, and its errors."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from absl import flags

from experiments.common import description
from experiments.common.config import UsageError, choices

_HELP = ("help", "helpshort", "helpfull", "version")


class Program(NamedTuple):
    """What a program is called, what it does, and what it takes."""

    command: str
    """The command without flags, such as `python -m experiments.mnist`."""
    description: str
    """What it does, for --help."""
    flags: flags.FlagValues
    """Its own flags; those that ask for help or the version are added to them."""
    groups: Mapping[str, Iterable[str]]
    """The names of the flags under the headings of --help."""
    examples: Sequence[str]
    """Command lines worth trying, without the command itself."""
    arguments: int = 0
    """The maximum number of positional arguments."""

    @property
    def name(self) -> str:
        """Such as `experiments.mnist`."""
        return self.command.split()[2]


def parse(program: Program, argv: Sequence[str]) -> list[str] | str:
    """Reads a command line into the flags of a program.

    Args:
      program: the program.
      argv: as `sys.argv`.

    Returns:
      The positional arguments; or, if the command line asks for the help or the version, the text
      to print instead of running the program.

    Raises:
      UsageError: the command line is not valid; the message names what is.
    """
    values = program.flags
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    flags.DEFINE_bool("helpshort", False, "The same.", flag_values=values)
    flags.DEFINE_bool("helpfull", False, "The same.", flag_values=values)
    flags.DEFINE_bool("version", False, "Show the versions in use.", flag_values=values)
    try:
        _, *rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        known = [flag for group in program.groups.values() for flag in group]
        valid = choices(error.flagname, known, "valid flags: ", "--")
        raise UsageError(f"unknown flag --{error.flagname}; {valid}") from None
    except flags.IllegalFlagValueError as error:
        raise UsageError(_illegal_value(str(error))) from None
    except flags.CantOpenFlagFileError as error:
        reason = str(error).rpartition("] ")[2]
        raise UsageError(f"--flagfile: cannot read the file: {reason}") from None
    except UnicodeDecodeError:
        raise UsageError("--flagfile: must be a text file with one flag per line") from None
    except flags.Error as error:
        raise UsageError(str(error)) from None
    except ValueError as error:  # of absl, about a value of --noNAME
        raise UsageError(str(error)) from None
    if values["version"].value:
        return "\n".join(" ".join(pair) for pair in description.versions().items())
    if any(values[name].value for name in _HELP):
        return help_text(program)
    if len(rest) > program.arguments:
        wrong = rest[program.arguments]
        raise UsageError(f"unexpected argument {wrong!r}; flags are written --NAME=VALUE")
    return rest


def _illegal_value(message: str) -> str:
    """Absl's message about a value, in the words of our own."""
    flag, _, reason = message.removeprefix("flag ").partition(": ")
    if reason.startswith("invalid literal for int"):
        reason = "must be an integer"
    elif reason.startswith("could not convert string to float"):
        reason = "must be a number"
    elif "Non-boolean argument" in reason:
        name = flag.partition("=")[0]
        if name.removeprefix("--") in _HELP:
            reason = f"takes no value; write {name}"
        else:
            reason = f"must be true or false; {name} alone means true"
    return f"{flag}: {reason}"


def help_text(program: Program) -> str:
    """The text of --help, at most as wide as the terminal and 100 columns."""
    width = min(shutil.get_terminal_size().columns, 100)
    usage = f"usage: {program.command} [--FLAG=VALUE ...]"
    parts = [usage, textwrap.fill(program.description, width)]
    for heading, names in program.groups.items():
        lines = [f"{heading}:"]
        for flag_name in names:
            flag = program.flags[flag_name]
            default = flag.default
            default = ",".join(default) if isinstance(default, list) else default
            shown = "" if default in (None, "") or default is False else f" (default: {default})"
            text, _, _ = flag.help.partition(";\n    repeat this option")  # which absl adds
            lines.append(f"  --{flag_name}")
            lines += textwrap.wrap(
                f"{text}{shown}", width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        parts.append("\n".join(lines))
    others = (
        "Also: --helpshort and --helpfull show this help, --version the versions in use, and"
        " --flagfile=FILE reads flags from a file, one per line."
    )
    command = program.command.partition(" [")[0]
    examples = [f"  {command} {example}".rstrip() for example in program.examples]
    return "\n\n".join([*parts, textwrap.fill(others, width), "\n".join(["Examples:", *examples])])
