"""The updates of an optimizer, whichever arguments its update takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Raises an error unless an object is an Optax transformation.

    Raises:
      TypeError: it has no init or no update.
    """
    if all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        return
    inner = getattr(optimizer, "tx", None)
    given = repr(optimizer) if inner is None else f"{type(optimizer).__name__}: give its tx"
    raise TypeError(f"{owner}: optimizer must be an Optax transformation, got {given}")


def first_update(
    optimizer: Any, gradients: Any, params: Any, loss: Any, loss_fn: Callable[[Any], Any]
) -> Any:
    """What an optimizer adds to parameters in its first step; arguments as for `update`."""
    return update(optimizer, gradients, optimizer.init(params), params, loss, loss_fn)[0]


def update(
    optimizer: Any,
    gradients: Any,
    state: Any,
    params: Any,
    loss: Any,
    loss_fn: Callable[[Any], Any],
) -> tuple[Any, Any]:
    """What an optimizer adds to parameters in one step, and its next state.

    Args:
      optimizer: an Optax transformation; a line search also gets the loss, and a schedule for
        plateaus too.
      gradients: a tree.
      state: the state of the optimizer.
      params: the tree that the gradients belong to.
      loss: the loss there.
      loss_fn: the loss of any such tree.

    Raises:
      TypeError: its update needs other arguments.
    """
    accepted = inspect.signature(optimizer.update).parameters
    extra = {"value": loss, "grad": gradients, "value_fn": loss_fn}
    if not any(one.kind is one.VAR_KEYWORD for one in accepted.values()):
        extra = {name: value for name, value in extra.items() if name in accepted}
    try:
        return optimizer.update(gradients, state, params, **extra)
    except TypeError as error:
        raise TypeError(
            "optimizer: its update needs more than gradients, state, params, value, grad and"
            f" value_fn: {error}"
        ) from error
