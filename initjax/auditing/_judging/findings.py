"""A finding: one thing that is wrong with an initialization."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import Parameter, label

Level = Literal["warning", "failure"]
Verdict = Literal["ok", "warning", "failure"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, why, and what helps."""

    level: Level
    """'failure' if the network can hardly train, 'warning' if it may train worse."""
    cause: str
    """Such as 'exploding'; the audit's README lists all causes."""
    layers: tuple[str, ...]
    """The names of the layers, parameters or parts of the batch that are at fault."""
    message: str
    """What was measured, and what was expected: a sentence."""
    remedy: str
    """What to do about it: a sentence."""
    parameters: tuple[Parameter, ...] = ()
    """The parameters at fault, for code that looks them up."""
    code: str = ""
    """The remedy as Python that can be pasted, written as the model is; empty if there is none."""

    def __str__(self) -> str:
        return f"{self.level}, {self.cause}: {self.message} {self.remedy}"

    def __repr__(self) -> str:
        return f"<Finding: {self}>"


def finding(
    level: Level,
    cause: str,
    subjects: Sequence[Layer] | Sequence[Parameter] | Sequence[str],
    message: str,
    remedy: str,
    code: str = "",
) -> list[Finding]:
    """One finding about layers, parameters or parts of the batch.

    Message and remedy are sentences without the period at their end. Code that needs to know how
    the model is written is added later.
    """
    names, parameters = [], []
    for subject in subjects:
        if isinstance(subject, str):
            names.append(subject)
        elif isinstance(subject, Layer):
            names.append(subject.name)
            parameters += subject.parameters
        else:
            names.append(label([subject]))
            parameters.append(subject)
    unique = tuple(dict.fromkeys(names)), tuple(dict.fromkeys(parameters))
    return [Finding(level, cause, unique[0], f"{message}.", f"{remedy}.", unique[1], code)]


def names_of(layers: Sequence[Layer]) -> list[str]:
    return [layer.name for layer in layers]
