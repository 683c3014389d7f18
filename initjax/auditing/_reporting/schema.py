"""What `report.to_dict()` returns: its version, its keys, and their documentation."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Iterator
from typing import Any

from initjax.auditing._judging.attention import Attention
from initjax.auditing._judging.findings import Finding
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.network import Network
from initjax.auditing._reporting.glossary import REASONS

VERSION = 1
"""Counts changes that break readers: keys that go, or mean something else. New keys do not."""

# For code that works with the parameters; not part of the data that is saved.
_NOT_SAVED = frozenset(["parameters", "source", "logits", "saturating"])
_TYPES = {
    "float": "number or null",
    "int": "integer",
    "str": "string",
    "Level": "string",
    "Reason | str": "string",
    "tuple[int, ...]": "list of integers",
    "tuple[str, ...]": "list of strings",
    "tuple[float, ...]": "list of numbers or nulls",
    "tuple[float, float]": "list of numbers or nulls",
}
_TOP = (
    ("version", "integer", f"{VERSION}; counts up if a key goes or changes its meaning"),
    ("verdict", "string", "'ok', 'warning' or 'failure'"),
    ("summary", "string", "the verdict in plain words, as the first line of the printed report"),
    ("network", "object", "numbers of the whole network"),
    ("findings", "list of objects", "what is wrong, failures first"),
    ("layers", "list of objects", "all layers in the order of execution, none folded"),
    ("attention", "list of objects", "all softmax attentions in the order of execution"),
    ("unread", "list of strings", "parts of the computation that could not be read"),
)
_KINDS = (
    ("network", Network),
    ("findings[]", Finding),
    ("layers[]", Layer),
    ("attention[]", Attention),
)
_UNPREDICTED = (
    "in words, why predictions restart from this layer's measured input; empty if its input follows"
    " from another layer's output"
)


def plain(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as data for JSON; infinite numbers and NaN become None."""
    return {field.name: _plain(getattr(value, field.name)) for field in _saved(type(value))}


def plain_layer(layer: Layer) -> dict[str, Any]:
    """A layer as data for JSON, with a readable reason why predictions restart."""
    return {**plain(layer), "unpredicted": REASONS.get(layer.unpredicted, layer.unpredicted)}


def _saved(kind: type) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(kind) if field.name not in _NOT_SAVED)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def schema_table() -> str:
    """The table of keys in Markdown, as the README has it."""
    rows = [*_TOP]
    for prefix, kind in _KINDS:
        meanings = {**_meanings(kind), "unpredicted": _UNPREDICTED}
        rows += [
            (f"{prefix}.{field.name}", _TYPES[str(field.type)], meanings.get(field.name, ""))
            for field in _saved(kind)
        ]
    lines = ["| key | type | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{key}` | {type} | {text} |" for key, type, text in rows)])


def _meanings(kind: type) -> dict[str, str]:
    """The documentation below each field of a class, without the period at its end."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            name = field.target.id
            words = ast.literal_eval(text.value).split()
            found[name] = " ".join(words).removesuffix(".")
    return found
