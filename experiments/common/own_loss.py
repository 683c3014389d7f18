"""A loss function of one's own as a task of training: checked, and identified by its program.

Python code has no identity that survives a process: two functions of one name may differ, and equal
ones are different objects. What decides about a run's numbers is the program that JAX makes of the
function, so that program's text identifies it: all operations, shapes and constants, but neither
names nor addresses. Another version of JAX may make another program.
"""

import functools
import hashlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import tasks
from experiments.common.config import UsageError

_MOST_LISTED = 5  # lengths in an error


class Loss(NamedTuple):
    """A checked loss function."""

    task: tasks.Task
    """What is trained: a function of the trained leaves of the parameters and a batch."""
    params: Any
    """The trained leaves as `jax.ShapeDtypeStruct`, in a tree that holds None for all others."""
    name: str
    """Of the function."""
    digest: str
    """Identifies the program that gives the loss and its gradient."""
    activations: int
    """Bytes that one step needs besides parameters and data, at most, about."""


class Optimizer(NamedTuple):
    """A checked optimizer."""

    of_rate: Callable[[Any], optax.GradientTransformation]
    """The optimizer as a function of the learning rate, which it may not depend on."""
    name: str
    digest: str
    """Identifies the program that gives the updates."""


def checked(loss_fn: Callable[..., Any], params: Any, data: tuple[Any, ...], size: int) -> Loss:
    """Checks a loss function, and makes it a task.

    Args:
      loss_fn: (params, *batch) -> scalar loss, or (loss, metrics).
      params: a tree of arrays or shapes, which may hold other leaves, too; those are not trained.
      data: trees of arrays, each with a leading axis of examples.
      size: examples per batch.

    Raises:
      UsageError: the loss is no floating scalar, the parameters hold state that training would not
        update, or the program calls back into Python.
    """
    if not callable(loss_fn):
        raise UsageError(f"loss_fn must be a function of (params, *batch), got {loss_fn!r:.60}")
    try:
        inspect.signature(loss_fn).bind(params, *data)
    except TypeError as error:
        number = "one array" if len(data) == 1 else f"{len(data)} arrays"
        raise UsageError(
            f"loss_fn is called with the parameters and {number}, as many as data has: {error}"
        ) from None
    except ValueError:  # it has no signature that Python knows
        pass
    trained, others = split(params)

    def metrics(params: Any, batch: tuple[Any, ...]) -> tuple[jax.Array, jax.Array | None]:
        loss, accuracy = _parts(loss_fn(joined(params, others), *batch))
        return _wide(loss), None if accuracy is None else _wide(accuracy)

    def sums(params: Any, batch: tuple[Any, ...], real: jax.Array) -> tasks.Metrics:
        return tasks.Metrics(*jax.tree.map(lambda mean: mean * len(real), metrics(params, batch)))

    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), data
    )
    program = program_of("loss_fn", jax.value_and_grad(metrics, has_aux=True), trained, batch)
    name = _name(loss_fn, "loss_fn")
    task = tasks.Task(sums, padded=False, known=False, test_batch=size)
    return Loss(task, trained, name, program.digest, program.outputs)


def checked_optimizer(optimizer: Any, params: Any, has_rates: bool) -> Optimizer:
    """Checks an optimizer.

    Args:
      optimizer: of Optax, or a function of the learning rate that returns one.
      params: the trained parameters, as shapes.
      has_rates: whether there are learning rates.

    Raises:
      UsageError: it is not what it has to be, or needs more than gradients and parameters.
    """
    ready = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    if ready and has_rates:
        raise UsageError(
            "optimizer: with learning_rates it must be a function of the learning rate, such as"
            " optax.adam without parentheses"
        )
    if not ready and not callable(optimizer):
        raise UsageError(
            f"optimizer: must be one of Optax, such as optax.adam(1e-3); got {optimizer!r:.60}"
        )
    if not ready and not has_rates:
        raise UsageError(
            "optimizer: a function needs learning_rates; or call it, as in optax.adam(1e-3)"
        )

    def of_rate(rate: Any) -> Any:
        return optimizer if ready else optimizer(rate)

    def step(rate: Any, grads: Any, params: Any) -> Any:
        transform = of_rate(rate)
        return transform.update(grads, transform.init(params), params)

    rate = jax.ShapeDtypeStruct((), jnp.promote_types(jax.tree.leaves(params)[0].dtype, np.float32))
    try:
        digest = program_of("optimizer", step, rate, params, params).digest
    except (TypeError, AttributeError) as error:
        raise UsageError(
            "optimizer: training calls update(grads, state, params) of what optax.adam(1e-3) or"
            f" a function of a traced learning rate returns, which failed: {error}"
        ) from error
    name = "optimizer" if ready else _name(optimizer, "optimizer")
    return Optimizer(of_rate, name, digest)


def _name(function: Any, default: str) -> str:
    """The name of a function."""
    name = getattr(function, "__name__", default)
    return name if name.isidentifier() else default


def split(params: Any) -> tuple[Any, Any]:
    """The trained leaves, as shapes, and all others; each tree has None for those of the other."""
    leaves, tree = jax.tree.flatten(params)
    trained = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_trained(leaf) else None
        for leaf in leaves
    ]
    others = [None if is_trained(leaf) else leaf for leaf in leaves]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.complexfloating):
            raise UsageError(
                f"{name} is {leaf.dtype}; only real parameters can be trained: keep its real and"
                " imaginary part as two"
            )
        if isinstance(leaf, jax.ShapeDtypeStruct) and not is_trained(leaf):
            raise UsageError(
                f"{name} is {leaf.dtype}, which no initializer draws, and only a shape; pass its"
                " value"
            )
    return tree.unflatten(trained), tree.unflatten(others)


def is_trained(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers, or its shape."""
    return hasattr(leaf, "shape") and jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating)


def joined(trained: Any, others: Any) -> Any:
    """The whole tree, from its two parts."""
    return jax.tree.map(
        lambda leaf, other: other if leaf is None else leaf,
        trained,
        others,
        is_leaf=lambda leaf: leaf is None,
    )


class Program(NamedTuple):
    """What is known of the program that JAX makes of a function."""

    digest: str
    """SHA-256 (hex) of its text."""
    outputs: int
    """Bytes of the outputs of all its operations."""


def program_of(name: str, function: Callable[..., Any], *shapes: Any) -> Program:
    """The program that JAX makes of a function.

    Args:
      name: of what the user gave, for the error.
      function: of trees of arrays.
      *shapes: these trees, of arrays or of shapes.

    Raises:
      UsageError: the program calls back into Python, where its text says nothing about what is
        called.
    """
    traced = jax.jit(lambda *arguments: function(*arguments)).trace(*shapes)
    text = traced.lower().as_text()
    if re.search(r"custom_call @\w*callback", text):
        raise UsageError(
            f"{name} calls back into Python, so that its results can't be told from those of other"
            " code; remove jax.debug.print, jax.debug.callback, jax.pure_callback and io_callback"
        )
    outputs = sum(
        math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
        for equation in traced.jaxpr.eqns
        for variable in equation.outvars
    )
    return Program(hashlib.sha256(text.encode()).hexdigest(), outputs)


def data_digest(*data: Any) -> str:
    """SHA-256 (hex) of trees of arrays: their structure, dtypes, shapes and numbers."""
    leaves, tree = jax.tree.flatten(data)
    found = hashlib.sha256(str(tree).encode())
    for leaf in leaves:
        array = np.ascontiguousarray(leaf)
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.view(np.uint8).data if array.size else b"")
    return found.hexdigest()


def arrays(name: str, data: Any) -> tuple[Any, ...]:
    """Data as a tuple of trees of arrays with the same number of examples.

    Args:
      name: of the argument, for errors.
      data: an array, a tuple of arrays, or a tuple of trees of them.

    Raises:
      UsageError: it holds no examples, or trees of different lengths.
    """
    parts = tuple(data) if isinstance(data, tuple | list) else (data,)
    leaves = jax.tree.leaves(parts)
    wrong = [leaf for leaf in leaves if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype")]
    if wrong or not leaves:
        got = type(wrong[0]).__name__ if wrong else "nothing"
        raise UsageError(
            f"{name}: must be a tuple of arrays, one row per example, such as (images, labels);"
            f" got {got}"
        )
    for leaf in leaves:
        if not any(jnp.issubdtype(leaf.dtype, kind) for kind in (jnp.bool_, jnp.number)):
            raise UsageError(f"{name}: must hold numbers, got an array of dtype {leaf.dtype}")
    lengths = [leaf.shape[0] if leaf.shape else None for leaf in leaves]
    if None in lengths:
        raise UsageError(f"{name}: an array has no axes; the first axis is that of the examples")
    if len(set(lengths)) > 1:
        listed = ", ".join(f"{length:,}" for length in lengths[:_MOST_LISTED])
        raise UsageError(f"{name}: all arrays must have the same number of examples, got {listed}")
    if not lengths[0]:
        raise UsageError(f"{name}: there are no examples")
    return jax.tree.map(functools.partial(_canonical, name), parts)


def _canonical(name: str, leaf: Any) -> Any:
    """An array in the dtype that JAX would give it: without x64, float32 for float64."""
    found = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    if np.issubdtype(found.dtype, np.integer) and not np.array_equal(found, leaf):
        raise UsageError(
            f"{name}: numbers of an array of {leaf.dtype} don't fit in {found.dtype}, in which JAX"
            " computes without x64"
        )
    return found


def _parts(result: Any) -> tuple[jax.Array, jax.Array | None]:
    """The loss and the accuracy, if there is one, that a loss function returned."""
    expected = "must return a scalar loss, or (loss, {'accuracy': ...})"
    loss: Any = result
    metrics: Any = {}
    if isinstance(result, tuple) and len(result) == 2:
        loss, metrics = result
    if not isinstance(metrics, dict):
        raise UsageError(
            f"loss_fn {expected}; got {type(metrics).__name__} as the second part. If that is new"
            " state, such as batch statistics, training can't keep it: normalize by the batch alone"
        )
    found = {"the loss": loss} | {name: metrics[name] for name in ("accuracy",) if name in metrics}
    for name, value in found.items():
        dtype = getattr(value, "dtype", None)
        if dtype is None or np.shape(value) or not jnp.issubdtype(dtype, jnp.floating):
            got = type(value).__name__ if dtype is None else f"{dtype} of shape {np.shape(value)}"
            raise UsageError(f"loss_fn {expected}, each a float; {name} is {got}")
    return loss, found.get("accuracy")


def _wide(value: jax.Array) -> jax.Array:
    return jnp.asarray(value, jnp.promote_types(jnp.float32, value.dtype))


def check_state(params: Any) -> None:
    """Refuses what Flax keeps beside parameters, which training would leave as it is."""
    if hasattr(params, "keys") and "params" in params and len(params) > 1:
        other = next(name for name in params if name != "params")
        raise UsageError(
            f"the parameters hold the collection {other!r}, which training doesn't update; pass"
            " only {'params': ...}, and have loss_fn add the rest"
        )
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return
    variables: Sequence[Any] = jax.tree.leaves(
        params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    for variable in variables:
        if isinstance(variable, nnx.Variable) and not isinstance(variable, nnx.Param):
            raise UsageError(
                f"the parameters hold {type(variable).__name__}, which training doesn't update;"
                " pass the second part of nnx.split(model, nnx.Param, ...), and have loss_fn merge"
                " it with the others: without dropout, and with batches normalized by themselves"
            )
