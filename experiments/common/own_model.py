"""The network that `--model=package.module:function` names: imported, made and checked."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from experiments.common.config import UsageError, choices

ARGUMENTS = ("image_shape", "classes", "hidden", "activation", "dtype", "rngs")
"""What a function may take, by keyword."""


def load(spec: str) -> Callable[..., Any]:
    """Imports the function that "package.module:function" names.

    Raises:
      UsageError: there is no such module or function, or importing it fails.
    """
    module_name, _, name = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and (module_name == error.name or module_name.startswith(f"{error.name}."))
        ):
            raise UsageError(
                f"--model={spec}: there is no module {error.name}; modules are looked for in the"
                " current directory and among the installed packages"
            ) from None
        raise UsageError(
            f"--model={spec}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(found, name):
        own = [key for key, value in vars(found).items() if key[:1] != "_" and callable(value)]
        listed = choices(name, own, "it has ") if own else "it has no functions"
        raise UsageError(f"--model={spec}: {module_name} has no {name}; {listed}")
    function = getattr(found, name)
    if not callable(function):
        raise UsageError(
            f"--model={spec}: {name} is {type(function).__name__}, not a function that returns an"
            " nnx.Module"
        )
    return function


def arguments(spec: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given arguments that a function names in its signature.

    Raises:
      UsageError: it needs another one.
    """
    named = inspect.signature(function).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in named):
        return dict(given)
    for one in named:
        optional = one.default is not one.empty or one.kind is one.VAR_POSITIONAL
        if not optional and (one.name not in given or one.kind is one.POSITIONAL_ONLY):
            raise UsageError(
                f"--model={spec}: its argument {one.name} has no default; a function can take"
                f" {', '.join(ARGUMENTS)}, by keyword"
            )
    return {one.name: given[one.name] for one in named if one.name in given}


def checked_state(spec: str, module: Any) -> nnx.State:
    """The parameters of a module, which must be all of its state.

    Raises:
      UsageError: it is no module, or has other state.
    """
    if not isinstance(module, nnx.Module):
        raise UsageError(
            f"--model={spec} returned {type(module).__name__}, expected an nnx.Module of Flax"
        )
    _, params, others = nnx.split(module, nnx.Param, ...)
    for _, variable in nnx.to_flat_state(others):
        kind = type(variable).__name__
        advice = "leave dropout out, since training passes no random numbers"
        if issubclass(type(variable), nnx.BatchStat):
            advice = "use nnx.LayerNorm or nnx.GroupNorm, which keep no statistics"
        raise UsageError(
            f"--model={spec}: the module holds state other than parameters ({kind}), which training"
            f" doesn't update; {advice}"
        )
    return params


def check_logits(spec: str, logits: Any, batch: int, classes: int) -> None:
    """Checks what a module returned for a batch of images.

    Raises:
      UsageError: it isn't an array of logits, (batch, classes).
    """
    shape, dtype = getattr(logits, "shape", None), getattr(logits, "dtype", bool)
    if shape != (batch, classes) or not jnp.issubdtype(dtype, jnp.floating):
        got = type(logits).__name__ if shape is None else f"{dtype} {shape}"
        raise UsageError(
            f"--model={spec}: for {batch} images the module returned {got}, expected logits of"
            f" shape ({batch}, {classes}), one column per class"
        )
