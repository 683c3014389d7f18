"""Training as pure, jitted functions of parameters, keys and data, for any task.

An epoch is one `lax.scan` over its batches, without any transfer to the host. The data are
arguments of the program, not constants, and the state is donated. Initialization is separate, so
one compiled program serves every initializer.

On a mesh of devices (see `experiments.common.meshes`) the programs are the same, but the rows of a
batch are arguments: each process reads its own from its host, for many steps at once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import batching, tasks
from experiments.common.meshes import Placement
from experiments.common.tasks import Metrics, Task

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "sgd": optax.sgd,
}
"""The optimizers of `config.OPTIMIZERS`, as functions of the learning rate."""

Optimizer = str | Callable[..., optax.GradientTransformation]
"""The name of one of them, or a function like them. Equal functions are one object, so that jit
caches what is compiled for them."""


class State(NamedTuple):
    """What training updates: the parameters and the state of the optimizer."""

    params: Any
    opt_state: Any


def transform(
    optimizer: Optimizer, learning_rate: jax.typing.ArrayLike
) -> optax.GradientTransformation:
    """The optimizer with its learning rate, which may be traced."""
    return (OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer)(learning_rate)


@functools.partial(jax.jit, static_argnames=("optimizer", "placement"))
def initial_state(
    optimizer: Optimizer,
    learning_rate: jax.typing.ArrayLike,
    params: Any,
    *,
    placement: Placement | None = None,
) -> State:
    """The state before training, for given parameters, whose buffers are kept."""
    return _placed(placement, State(params, transform(optimizer, learning_rate).init(params)))


@functools.partial(jax.jit, static_argnames=("task", "optimizer"), donate_argnames=("state",))
def train(
    state: State,
    learning_rate: jax.typing.ArrayLike,
    data: tuple[Any, ...],
    batches: jax.Array,
    *,
    task: Task,
    optimizer: Optimizer,
) -> tuple[State, Metrics]:
    """Trains on batches, one after another: those of an epoch, or of a part of it.

    Args:
      state: the state to continue from; its buffers are donated.
      learning_rate: an argument, so that one program serves every learning rate.
      data: all training examples.
      batches: indices int32 (batches, batch_size); n means no example.
      task: what is trained.
      optimizer: one of `config.OPTIMIZERS`, or a function of the learning rate.

    Returns:
      The new state, and each batch's metrics in training mode, before its update.
    """
    step = step_of(task, optimizer, learning_rate, data)
    return jax.lax.scan(step, state, batches)


@functools.partial(
    jax.jit, static_argnames=("task", "optimizer", "placement"), donate_argnames=("state",)
)
def train_span(
    state: State,
    learning_rate: jax.typing.ArrayLike,
    data: tuple[Any, ...] | None,
    batches: Any,
    first: jax.typing.ArrayLike,
    last: jax.typing.ArrayLike,
    *,
    task: Task,
    optimizer: Optimizer,
    placement: Placement | None = None,
) -> tuple[State, Metrics]:
    """Trains on the batches from `first` to before `last`, which are arguments of one program.

    `train` is compiled for each number of batches, this only once. In return, an accelerator has to
    ask the host before each step whether to go on.

    On a mesh, the data are None and the batches are rows, as `Placement.rows` gives them.

    Returns:
      The new state, and the metrics of all batches: zero for those outside the span.
    """
    step = step_of(task, optimizer, learning_rate, data)

    def batch(index: jax.typing.ArrayLike) -> Any:
        return jax.tree.map(lambda leaf: leaf[index], batches)

    def next_step(index: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
        state, metrics = step(carry[0], batch(index))
        metrics = jax.tree.map(lambda all, one: all.at[index].set(one), carry[1], metrics)
        return _placed(placement, state), metrics

    _, shapes = jax.eval_shape(step, state, batch(0))
    count = tasks.examples(batches)
    empty = jax.tree.map(lambda one: jnp.zeros(count, one.dtype), shapes)
    state, metrics = jax.lax.fori_loop(first, last, next_step, (state, empty))
    return _placed(placement, state), _whole(placement, metrics)


def step_of(
    task: Task,
    optimizer: Optimizer,
    learning_rate: jax.typing.ArrayLike,
    data: tuple[Any, ...] | None,
) -> Callable[[State, Any], tuple[State, Metrics]]:
    """One training step, as a function of the state and the indices of a batch, or its rows."""
    transformed = transform(optimizer, learning_rate)

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        rows, real = batch if data is None else _rows(data, batch)

        def mean_loss(params: Any) -> tuple[jax.Array, Metrics]:
            metrics = task.sums(params, rows, real)
            return metrics.loss / jnp.sum(real, dtype=metrics.loss.dtype), metrics

        grads, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = transformed.update(grads, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state), metrics

    return step


@functools.partial(jax.jit, static_argnames=("task",))
def evaluate(
    params: Any,
    data: tuple[Any, ...],
    *,
    task: Task,
) -> Metrics:
    """Scores every image once.

    Args:
      params: the model's parameters.
      data: the examples.
      task: what is trained.

    Returns:
      The metrics of each batch; their sums divided by n are loss and accuracy.
    """
    examples = tasks.examples(data)
    size = task.test_batch
    rest = 0 if task.padded else examples % size
    batches = batching.in_batches(jnp.arange(examples - rest, dtype=jnp.int32), size)
    sums = jax.lax.map(lambda batch: task.sums(params, *_rows(data, batch)), batches)
    if rest:  # a batch of its own
        last = task.sums(params, *_rows(data, jnp.arange(examples - rest, examples)))
        sums = jax.tree.map(lambda all, one: jnp.append(all, one), sums, last)
    return sums


@functools.partial(jax.jit, static_argnames=("task", "placement"))
def score(params: Any, batches: Any, *, task: Task, placement: Placement) -> Metrics:
    """The metrics of batches on a mesh, as `evaluate` returns them.

    Args:
      params: the model's parameters.
      batches: rows, as `Placement.rows` gives them.
      task: what is trained.
      placement: the mesh.
    """
    sums = jax.lax.map(lambda batch: task.sums(params, *batch), batches)
    return _whole(placement, sums)


def means(sums: Metrics, examples: int) -> dict[str, float]:
    """The mean loss and accuracy over the examples, summed in float64, under Keras's names."""
    named = {"loss": sums.loss, "acc": sums.correct}
    return {
        name: float(np.sum(column, dtype=np.float64)) / examples
        for name, column in named.items()
        if column is not None
    }


def _placed(placement: Placement | None, state: State) -> State:
    """The state, divided over the devices of a mesh if there is one, in a jitted function."""
    if placement is None:
        return state
    return jax.lax.with_sharding_constraint(state, placement.state(state))


def _whole(placement: Placement | None, metrics: Metrics) -> Metrics:
    """Metrics, of which every device of a mesh gets a copy, in a jitted function."""
    return jax.lax.with_sharding_constraint(metrics, placement.whole) if placement else metrics


def _rows(data: tuple[Any, ...], batch: jax.Array) -> tuple[tuple[Any, ...], jax.Array]:
    """The rows of a batch, and which of them are real examples."""
    # Rows are gathered inside the loop, images as uint8: for MNIST that is as fast as shuffling the
    # epoch beforehand and needs no second copy of the data. Padding reads the last row and counts
    # zero.
    real = batch < tasks.examples(data)
    return jax.tree.map(lambda leaf: leaf.at[batch].get(mode="clip"), data), real
