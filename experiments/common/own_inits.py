"""The initializers that a comparison of one's own network names: checked, drawn and identified."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import initjax
from experiments.common import own_loss, starting
from experiments.common.config import UsageError

Rules = Mapping[str, Any]
"""Patterns of parameters, each with an initializer or its specification."""

_KERNELS, _BIASES = "*kernel", "*bias"
_CLEAR = (2, 4)  # axes of a kernel: of a layer, of a 2-D convolution


def checked(inits: Mapping[str, Rules | str], params: Any) -> dict[str, Rules]:
    """The rules of every initializer; checks that they fit the parameters.

    Args:
      inits: rules, or one specification for all kernels, by the name of the initializer.
      params: a tree of arrays or shapes.

    Raises:
      UsageError: rules can't be read, or don't fit a parameter; the message names the initializer.
    """
    if not isinstance(inits, Mapping) or not inits:
        raise UsageError(
            "inits: must map names to rules, as in {'he': {'*bias': 'zeros', '*': 'he_normal'},"
            f" 'glorot': 'glorot_normal'}}; got {inits!r:.80}"
        )
    found = {}
    for name, rules in inits.items():
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"inits: a name must be text, got {name!r}")
        try:
            found[name] = dict(rules) if isinstance(rules, Mapping) else _whole(rules, params)
            jax.eval_shape(functools.partial(_draw, params, found[name]), starting.root_key(0))
        except UsageError as error:
            raise UsageError(f"inits: {name!r}: {error}") from None
        except (TypeError, ValueError) as error:
            text = str(error).removeprefix("initialize: ")
            raise UsageError(f"inits: {name!r}: {text}") from None
    return found


def _whole(spec: Any, params: Any) -> Rules:
    """The rules for one specification: it draws the kernels, and biases are zero."""
    rules = {_KERNELS: initjax.get(spec)}
    try:
        taken = _taken(params, {**rules, _BIASES: initjax.zeros, "*": initjax.zeros})
    except ValueError:  # no biases
        taken = _taken(params, {**rules, "*": initjax.zeros})
    unclear = [shape for shape, _ in taken[_KERNELS] if len(shape) not in _CLEAR]
    if unclear:
        raise UsageError(
            f"a kernel of shape {unclear[0]} may be that of a 1-D convolution or of attention,"
            " whose fans differ; write rules, such as {'*bias': 'zeros', '*': 'he_normal'}"
        )
    return {**rules, **({_BIASES: initjax.zeros} if _BIASES in taken else {})}


def drawer(params: Any, rules: Rules) -> Callable[[jax.Array], Any]:
    """The program that draws the trained leaves from a key: compiled once for any number of seeds.

    Args:
      params: a tree of arrays or shapes.
      rules: for `initjax.initialize`.
    """
    return jax.jit(functools.partial(_draw, params, rules))


def _draw(params: Any, rules: Rules, key: jax.Array) -> Any:
    drawn = initjax.initialize(params, initjax.named_key(key, "weights"), rules)
    return jax.tree.map(lambda leaf: leaf if own_loss.is_trained(leaf) else None, drawn)


def text(params: Any, rules: Rules) -> str:
    """The rules as text that identifies what they draw.

    It holds the specifications of the library's initializers, a digest of the program of any other,
    and a digest of the parameters that no rule matches.
    """
    taken = _taken(params, rules)
    lines = {pattern: _text(rule, taken[pattern]) for pattern, rule in rules.items()}
    if kept := taken[None]:
        lines["all others"] = f"kept@{own_loss.data_digest(kept)}"
    return json.dumps(lines)


def _taken(params: Any, rules: Rules) -> dict[str | None, list[Any]]:
    """The shape and dtype of the parameters that each pattern draws; under None, the kept ones."""
    found: dict[Any, list[Any]] = {pattern: [] for pattern in rules}
    drawn = []

    def marker(pattern: str) -> Callable[..., np.ndarray]:
        def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            found[pattern].append((tuple(shape), np.dtype(dtype)))
            drawn.append(np.broadcast_to(np.zeros((), dtype), shape))
            return drawn[-1]

        return draw

    marks: Any = {pattern: marker(pattern) for pattern in rules}
    marked = initjax.initialize(params, starting.root_key(0), marks)
    ids = set(map(id, drawn))
    leaves = jax.tree.leaves(marked)
    found[None] = [leaf for leaf in leaves if hasattr(leaf, "dtype") and id(leaf) not in ids]
    return found


def _text(rule: Any, taken: list[tuple[tuple[int, ...], np.dtype]]) -> str:
    """A rule as text: a specification of the library, or a name with a digest of the program."""
    if isinstance(rule, str | Mapping) or hasattr(rule, "get_config"):
        return repr(initjax.get(rule))
    try:
        if initjax.get(repr(rule)) == rule:
            return repr(rule)
    except (TypeError, ValueError):
        pass  # an initializer of another library, or the user's own

    def draw(key: jax.Array) -> list[jax.Array]:
        return [rule(key, shape, dtype) for shape, dtype in taken]

    name = getattr(rule, "__name__", type(rule).__name__)
    digest = own_loss.program_of(f"the initializer {name}", draw, starting.root_key(0)).digest
    return f"{name}@{digest}"
