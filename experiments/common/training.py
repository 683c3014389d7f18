"""Training as pure, jitted functions of parameters, keys and data, for any task.

An epoch is one `lax.scan` over its batches, without any transfer to the host. The data are
arguments of the program, not constants, and the state is donated. Initialization is separate, so
one compiled program serves every initializer.

On a mesh of devices (see `experiments.common.meshes`) the programs are the same, but the rows of a
batch are arguments: each process reads its own from its host, for many steps at once.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import processes, tasks
from experiments.common.meshes import Placement
from experiments.common.tasks import Metrics, Task


class State(NamedTuple):
    """What training updates: the parameters and the state of the optimizer."""

    params: Any
    opt_state: Any


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "sgd": optax.sgd,
}
"""The optimizers of `config.OPTIMIZERS`, as functions of the learning rate."""

_PAUSE_SECONDS = 1.0  # that a part of an epoch may take, where training can be paused
_FIRST_STEPS = 8  # of the first part, before it is known how long one takes
_SPAN_STEPS = 32  # of many runs on an accelerator, about, between two questions to the host
_BLOCK_BYTES = 2**28  # of the rows of all devices that are on a mesh at once

Optimizer = str | Callable[..., optax.GradientTransformation]
"""The name of one of them, or a function like them. Equal functions are one object, so that jit
caches what is compiled for them."""


class History(NamedTuple):
    """The metrics of many runs."""

    batches: Metrics
    """Arrays of shape (runs, epochs, steps): for each training batch, before its update."""
    tests: Metrics
    """Arrays of shape (runs, epochs + 1, batches): for the test set, before training and after
    every epoch. If a number of steps is trained: (runs, 1, batches), after them, since scoring a
    network takes as long as training it for dozens of steps; both if guessing isn't `known`."""


class Progress(NamedTuple):
    """Where many runs stand, all at the same step: arrays with a leading axis of runs."""

    state: Any
    """Of training, with the words of keys in place of keys. Before the first step, only the
    parameters count."""
    history: History
    """Zero for what is to come."""


class Epoch(NamedTuple):
    """The results of an epoch."""

    number: int
    """1 for the first; 0 is the network before training."""
    metrics: dict[str, float]
    """`loss`, `acc` (means over the epoch, in training mode), `val_loss`, `val_acc`; epoch 0 has
    only the last two."""
    batch_metrics: Metrics | None
    """Means over the examples of each batch, arrays of shape (steps,); None for epoch 0."""
    params: Any
    """The parameters; valid until the next epoch is requested, which reuses their buffers."""
    seconds: float
    """Wall time including evaluation, and including compilation the first time."""


class Point(NamedTuple):
    """Where a training stands, between two steps: all that is needed to go on."""

    state: State
    """Valid until the next step, which reuses its buffers."""
    epoch: int
    """The epoch that is being trained, 1 for the first."""
    step: int
    """How many of its steps are done."""
    sums: Metrics
    """The metrics of these steps, NumPy arrays of shape (step,)."""


def fit(
    task: Task,
    optimizer: Optimizer,
    learning_rate: float,
    params: Any,
    key: jax.Array,
    train_set: tuple[Any, ...],
    test_set: tuple[Any, ...],
    *,
    epochs: int,
    batch_size: int,
    steps: int | None = None,
    watch: Callable[[int, int, int, dict[str, float]], None] | None = None,
    inspect: Callable[[int, Any], None] | None = None,
    inspect_every: int | None = None,
    resume: Point | None = None,
    pause: Callable[[Point], None] | None = None,
    pause_every: int | None = None,
    placement: Placement | None = None,
) -> Iterator[Epoch]:
    """Trains a model, epoch by epoch; every example counts, including the last, partial batch.

    An epoch is one program from end to end; with `watch`, `inspect` or `pause` it is run in several
    parts, and the training is bit-for-bit the same.

    Args:
      task: what is trained.
      optimizer: one of `config.OPTIMIZERS`, or a function of the learning rate.
      learning_rate: a number > 0.
      params: the parameters to start from.
      key: determines the order of the examples; the key of each epoch is folded from it.
      train_set: trees of arrays with a leading axis of examples, as the task takes them.
      test_set: the same, to evaluate on after every epoch.
      epochs: how many.
      batch_size: examples per batch.
      steps: train that many steps instead, as one epoch, whatever their number.
      watch: called with (epoch, steps done, steps, metrics so far) about ten times per epoch.
      inspect: called with (steps so far, parameters) before training and after every
        `inspect_every` steps, counted over all epochs. The parameters are valid during the call
        only. `Epoch.seconds` does not include its time.
      inspect_every: see `inspect`, which needs it.
      resume: where to go on, instead of starting with `params`; its buffers are donated.
      pause: called about every second with the point that is reached, and after every
        `pause_every` steps, counted over all epochs; at the end of an epoch after that is yielded.
        `Epoch.seconds` does not include its time.
      pause_every: see `pause`.
      placement: the mesh to train on, on which the parameters are; the data stay on the host. If it
        has devices of several processes, all of them train together, and pause at the same steps.

    Yields:
      Epoch 0, which is the network before training, then every epoch; of a training that is resumed
      only those that are not finished at that point.
    """
    nothing = Metrics(np.zeros(0), np.zeros(0))
    begin = resume or Point(
        initial_state(optimizer, learning_rate, params, placement=placement), 1, 0, nothing
    )
    state, first, done, sums = begin
    tests = tasks.examples(test_set)
    test_rows = None
    if placement:
        order = _in_batches(jnp.arange(tests), task.test_batch)
        test_rows = placement.rows(test_set, np.asarray(order))
    else:
        train_set, test_set = jax.device_put((train_set, test_set))
    examples = tasks.examples(train_set)
    batch_size = min(batch_size, examples)
    sizes = batch_sizes(examples, batch_size, steps)
    seen, steps = int(sizes.sum()), len(sizes)

    def test() -> dict[str, float]:
        if placement and test_rows:
            sums = score(state.params, test_rows, task=task, placement=placement)
        else:
            sums = evaluate(state.params, test_set, task=task)
        return {f"val_{name}": value for name, value in means(_fetched(sums), tests).items()}

    started = time.perf_counter()
    if not resume:
        yield Epoch(0, test(), None, state.params, time.perf_counter() - started)
        if inspect:
            inspect(0, state.params)
    pace = _FIRST_STEPS
    for epoch in range(first, epochs + 1):
        started = time.perf_counter()
        batches = batch_order(key, epoch, examples, batch_size, steps)
        blocks = _blocks(placement, train_set, np.asarray(batches)) if placement else None
        before = (epoch - 1) * steps
        ends = set(_about_ten_ends(steps) if watch else [steps])
        for every in filter(None, (inspect_every, pause_every)):
            ends |= set(range(every - before % every, steps, every))
        while done < steps:
            if watch:
                watch(epoch, done, steps, means(sums, sizes[:done].sum()) if done else {})
            last = min(end for end in ends if end > done)
            if pause:
                last = min(last, done + pace)
            began = time.perf_counter()
            arguments = state, learning_rate, train_set
            if blocks:
                rows, start, end = blocks(done)
                last = min(last, end)
                span = slice(done - start, last - start)
                state, more = train_span(
                    *(state, learning_rate, None, rows, span.start, span.stop),
                    task=task,
                    optimizer=optimizer,
                    placement=placement,
                )
                more = Metrics(*(column[span] for column in _fetched(more)))
            elif inspect_every or pause:  # parts of many lengths
                state, more = train_span(
                    *arguments, batches, done, last, task=task, optimizer=optimizer
                )
                more = Metrics(*(column[done:last] for column in jax.device_get(more)))
            else:
                part = batches if last - done == steps else batches[done:last]
                state, more = train(*arguments, part, task=task, optimizer=optimizer)
            sums = Metrics(*map(np.append, sums, jax.device_get(more)))
            paused = time.perf_counter()
            if pause:  # the first part includes compilation
                faster = _PAUSE_SECONDS * (last - done) / (paused - began)
                pace = processes.least(max(1, min(2 * pace, round(faster))))
            done = last
            if inspect and inspect_every and (before + done) % inspect_every == 0:
                inspect(before + done, state.params)
            if pause and done < steps:
                pause(Point(state, epoch, done, sums))
            started += time.perf_counter() - paused
        metrics = means(sums, seen) | test()
        batch_metrics = Metrics(sums.loss / sizes, sums.correct / sizes)
        yield Epoch(epoch, metrics, batch_metrics, state.params, time.perf_counter() - started)
        done, sums = 0, nothing
        if pause:
            pause(Point(state, epoch + 1, done, sums))


def _fetched(metrics: Metrics) -> Metrics:
    """Metrics as NumPy arrays. Other threads run meanwhile, which `device_get` alone keeps waiting
    for Python's lock: they notice if a process is lost whose part is waited for."""
    return jax.device_get(jax.block_until_ready(metrics))


def _blocks(
    placement: Placement, data: tuple[Any, ...], batches: np.ndarray
) -> Callable[[int], tuple[tuple[Any, jax.Array], int, int]]:
    """Puts the rows of an epoch on a mesh, one block of steps after another.

    All blocks have the same number of steps, so that one program serves all of them; the last one
    is filled up with steps that aren't to be trained.

    Args:
      placement: the mesh.
      data: the training examples, on the host.
      batches: the epoch's batches, as indices.

    Returns:
      A function of a step that returns the block with it, its first step, and the step after it.
    """
    steps, width = batches.shape
    row = sum(np.asarray(leaf[0]).nbytes for leaf in jax.tree.leaves(data))
    count = -(-steps * width * row // _BLOCK_BYTES)
    size = -(-steps // max(1, min(count, steps)))
    missing = tasks.examples(data)

    @functools.lru_cache(maxsize=1)
    def block(number: int) -> tuple[Any, jax.Array]:
        part = batches[number * size : (number + 1) * size]
        filled = np.pad(part, ((0, size - len(part)), (0, 0)), constant_values=missing)
        return placement.rows(data, filled)

    def find(step: int) -> tuple[tuple[Any, jax.Array], int, int]:
        number = step // size
        return block(number), number * size, min(steps, (number + 1) * size)

    return find


def _about_ten_ends(steps: int) -> list[int]:
    """The ends of about ten parts of an epoch, of equal length where that is possible.

    Each length is compiled separately, so the number of parts is one that divides well.
    """
    count = min(range(6, 13), key=lambda count: steps % count)
    size = -(-steps // count)
    return [*range(size, steps, size), steps]


def batch_sizes(
    examples: int, batch_size: int, steps: int | None = None, full: bool = False
) -> np.ndarray:
    """The number of examples in each batch: only the last of each pass over them may hold fewer.

    Args:
      examples: the number of training examples.
      batch_size: examples per batch.
      steps: how many batches; None means one pass over the examples.
      full: as for `batch_order`: all batches hold the same number.
    """
    if full:
        return np.full(steps or examples // batch_size, batch_size)
    once = np.diff(np.append(np.arange(0, examples, batch_size), examples))
    return np.resize(once, len(once) if steps is None else steps)


def batch_order(
    key: jax.Array,
    epoch: jax.typing.ArrayLike,
    examples: int,
    batch_size: int,
    steps: int,
    full: bool = False,
) -> jax.Array:
    """The batches of an epoch, whose steps may be fewer or more than a pass over the examples.

    Args:
      key: the key of the order; that of each pass is folded from it.
      epoch: its number, 1 for the first. There is only one if it is not one pass.
      examples: as for `shuffled_batches`.
      batch_size: as for `shuffled_batches`.
      steps: the number of batches.
      full: whether the passes follow one another without padding, so that a batch may hold the end
        of one and the beginning of the next.
    """
    if full:
        passes = -(-steps * batch_size // examples)
        orders = jax.lax.map(lambda key: _shuffled(key, examples), _pass_keys(key, epoch, passes))
        return orders.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)
    passes = -(-steps // -(-examples // batch_size))
    if passes == 1:
        return shuffled_batches(jax.random.fold_in(key, epoch), examples, batch_size)[:steps]
    batches = jax.lax.map(
        lambda key: shuffled_batches(key, examples, batch_size), _pass_keys(key, epoch, passes)
    )
    return batches.reshape(-1, batch_size)[:steps]


def _pass_keys(key: jax.Array, epoch: jax.typing.ArrayLike, passes: int) -> jax.Array:
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(epoch + jnp.arange(passes))


def means(sums: Metrics, examples: int) -> dict[str, float]:
    """The mean loss and accuracy over the examples, summed in float64, under Keras's names."""
    named = {"loss": sums.loss, "acc": sums.correct}
    return {
        name: float(np.sum(column, dtype=np.float64)) / examples
        for name, column in named.items()
        if column is not None
    }


@functools.partial(jax.jit, static_argnames=("examples", "batch_size"))
def shuffled_batches(key: jax.Array, examples: int, batch_size: int) -> jax.Array:
    """Draws the order of an epoch.

    Args:
      key: the epoch's own key.
      examples: the number of examples; each appears exactly once.
      batch_size: examples per batch; the last batch may hold fewer.

    Returns:
      Indices int32 (batches, batch_size). The last batch is padded with the index `examples`,
      which means no example.
    """
    return _in_batches(_shuffled(key, examples), batch_size)


def _shuffled(key: jax.Array, examples: int) -> jax.Array:
    # Sorting by random words gives a permutation. On a CPU, XLA sorts single words five times as
    # fast as pairs of word and index, so each word holds both: the index in its low bits, random
    # bits above. That leaves few random bits (16 for 60,000 examples), and words with equal random
    # bits keep their order, so sorting is repeated until 32 random bits are used.
    # jax.random.permutation sorts pairs, twice, which takes a sixth of the time of an epoch.
    index_bits = max(1, (examples - 1).bit_length())
    mask = jnp.uint32(2**index_bits - 1)
    positions = jnp.arange(examples, dtype=jnp.uint32)
    order = positions
    for round_key in jax.random.split(key, -(-32 // (32 - index_bits))):
        words = jax.random.bits(round_key, (examples,), jnp.uint32)
        order = order[jnp.sort((words & ~mask) | positions) & mask]
    return order.astype(jnp.int32)


def _in_batches(order: jax.Array, batch_size: int) -> jax.Array:
    padding = -len(order) % batch_size
    order = jnp.pad(order, (0, padding), constant_values=len(order))
    return order.reshape(-1, batch_size)


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


def _placed(placement: Placement | None, state: State) -> State:
    """The state, divided over the devices of a mesh if there is one, in a jitted function."""
    if placement is None:
        return state
    return jax.lax.with_sharding_constraint(state, placement.state(state))


def _whole(placement: Placement | None, metrics: Metrics) -> Metrics:
    """Metrics, of which every device of a mesh gets a copy, in a jitted function."""
    return jax.lax.with_sharding_constraint(metrics, placement.whole) if placement else metrics


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
    step = _step(task, optimizer, learning_rate, data)
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
    step = _step(task, optimizer, learning_rate, data)

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


def _step(
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


def run_shapes(
    params: Any,
    train_set: tuple[Any, ...],
    test_set: tuple[Any, ...],
    *,
    task: Task,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int,
    steps: int | None = None,
) -> Progress:
    """The shapes and dtypes of what is kept of one run, without an axis of runs.

    Args:
      params: the shapes of its parameters.
      train_set: as for `train_runs`, like all others.
    """
    state = jax.eval_shape(lambda params: _plain(initial_state(optimizer, 0.0, params)), params)
    tested = jax.eval_shape(functools.partial(evaluate, task=task), params, test_set)
    examples = tasks.examples(train_set)
    count = len(batch_sizes(examples, min(batch_size, examples), steps, not task.padded))
    tests = epochs if _only_after(task, steps) else epochs + 1

    def shapes(*axes: int) -> Metrics:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(axes, leaf.dtype), tested)

    return Progress(state, History(shapes(epochs, count), shapes(tests, tested.loss.shape[0])))


def _only_after(task: Task, steps: int | None) -> bool:
    """Whether the network is tested only after training, see `History`."""
    return steps is not None and task.known


@functools.partial(
    jax.jit,
    static_argnames=("task", "optimizer", "epochs", "batch_size", "steps", "mesh"),
    donate_argnames=("progress",),
)
def train_runs(
    counts: jax.Array,
    progress: Progress,
    learning_rates: jax.Array,
    keys: jax.Array,
    train_set: tuple[Any, ...],
    test_set: tuple[Any, ...],
    first: jax.typing.ArrayLike,
    last: jax.typing.ArrayLike,
    *,
    task: Task,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int,
    steps: int | None = None,
    mesh: jax.sharding.Mesh,
) -> Progress:
    """Trains many runs in one program, each as `fit` does: in full, or some of its steps.

    On a CPU the runs of a device are trained one after another, so each is bit-for-bit equal to a
    run on its own, in however many calls. On other devices they are trained together (`vmap`),
    which is much faster there.

    Args:
      counts: how many runs of each device to train, (devices,). The others are padding, so that
        one program serves any number of runs.
      progress: where the runs stand, the same number per device; its buffers are donated.
      learning_rates: (runs,).
      keys: determine the order of the examples of each run, (runs,).
      train_set: trees of arrays with a leading axis of examples, as the task takes them.
      test_set: the same.
      first: the steps that are done, counted over all epochs.
      last: the steps that will be done; both are multiples of `span_steps`.
      task: what is trained.
      optimizer: one of `config.OPTIMIZERS`, or a function of the learning rate.
      epochs: how many.
      batch_size: examples per batch.
      steps: as for `fit`.
      mesh: the devices, along one axis `runs`.

    Returns:
      Where they stand then.
    """
    examples = tasks.examples(train_set)
    batch_size = min(batch_size, examples)
    only_after = _only_after(task, steps)
    steps = len(batch_sizes(examples, batch_size, steps, not task.padded))
    # A loop whose length is an argument has an accelerator ask the host at each turn.
    span = span_steps(steps)

    def train_one(progress, learning_rate, key, first, last, train_set, test_set):
        step = _step(task, optimizer, learning_rate, train_set)
        (state, (sums, tests)), begins = progress, first == 0
        fresh = initial_state(optimizer, learning_rate, state.params)
        state = jax.tree.map(functools.partial(jnp.where, begins), _plain(fresh), state)

        def train_epoch(epoch, carry):
            state, sums, tests = carry
            batches = batch_order(key, epoch, examples, batch_size, steps, full=not task.padded)
            spans = batches.reshape(-1, span, batch_size)

            def train_span(index, carry):
                state, mine = carry
                state, more = jax.lax.scan(step, state, spans[index])
                return state, _with_row(mine, index, more)

            before = (epoch - 1) * steps
            start, end = jnp.maximum(first - before, 0), jnp.minimum(last - before, steps)
            mine = jax.tree.map(lambda leaf: leaf[epoch - 1].reshape(-1, span), sums)
            state, mine = jax.lax.fori_loop(
                start // span, end // span, train_span, (_typed(state, fresh), mine)
            )
            sums = _with_row(sums, epoch - 1, jax.tree.map(jnp.ravel, mine))

            def tested():
                row = epoch - 1 if only_after else epoch
                return _with_row(tests, row, evaluate(state.params, test_set, task=task))

            return _plain(state), sums, jax.lax.cond(end == steps, tested, lambda: tests)

        # Epoch 0 has no steps, only a test.
        begin = first // steps + 1 if only_after else jnp.where(begins, 0, first // steps + 1)
        epochs_of_span = begin, (last + steps - 1) // steps + 1
        state, sums, tests = jax.lax.fori_loop(*epochs_of_span, train_epoch, (state, sums, tests))
        return Progress(state, History(sums, tests))

    def train_shard(counts, runs, *others):
        if jax.default_backend() != "cpu":
            return jax.vmap(lambda run: train_one(*run, *others))(runs)

        def train_next(index, progress):
            mine = jax.tree.map(lambda leaf: leaf[index], (progress, *runs[1:]))
            return _with_row(progress, index, train_one(*mine, *others))

        return jax.lax.fori_loop(0, counts[0], train_next, runs[0])

    shard, whole = jax.P("runs"), jax.P()
    return jax.shard_map(
        train_shard,
        mesh=mesh,
        in_specs=(shard, shard, whole, whole, whole, whole),
        out_specs=shard,
        check_vma=False,  # the loop's counts differ between devices
    )(
        counts,
        (progress, learning_rates, keys),
        jnp.asarray(first, jnp.int32),
        jnp.asarray(last, jnp.int32),
        train_set,
        test_set,
    )


def span_steps(steps: int) -> int:
    """The steps that `train_runs` always trains together, given how many there are in an epoch."""
    if jax.default_backend() == "cpu":
        return 1
    divisors = [number for number in range(1, steps + 1) if steps % number == 0]
    return min(divisors, key=lambda number: abs(math.log(number / _SPAN_STEPS)))


def _with_row(tree: Any, index: jax.typing.ArrayLike, row: Any) -> Any:
    """The arrays with others in place of one row of each."""
    return jax.tree.map(lambda all, one: all.at[index].set(one), tree, row)


def _plain(tree: Any) -> Any:
    """A tree with the words of keys in place of keys, which NumPy doesn't have."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _typed(plain: Any, like: Any) -> Any:
    """A tree with keys as those in another one."""
    return jax.tree.map(
        lambda x, one: (
            jax.random.wrap_key_data(x, impl=jax.random.key_impl(one)) if _is_key(one) else x
        ),
        plain,
        like,
    )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


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
    batches = _in_batches(jnp.arange(examples - rest, dtype=jnp.int32), size)
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


def _rows(data: tuple[Any, ...], batch: jax.Array) -> tuple[tuple[Any, ...], jax.Array]:
    """The rows of a batch, and which of them are real examples."""
    # Rows are gathered inside the loop, images as uint8: for MNIST that is as fast as shuffling the
    # epoch beforehand and needs no second copy of the data. Padding reads the last row and counts
    # zero.
    real = batch < tasks.examples(data)
    return jax.tree.map(lambda leaf: leaf.at[batch].get(mode="clip"), data), real


def transform(
    optimizer: Optimizer, learning_rate: jax.typing.ArrayLike
) -> optax.GradientTransformation:
    """The optimizer with its learning rate, which may be traced."""
    return (OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer)(learning_rate)
