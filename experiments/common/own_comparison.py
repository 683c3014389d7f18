"""Compares initializers on a network of one's own: any loss function, parameters and arrays."""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np
import optax

from experiments.common import (
    comparison,
    console,
    description,
    filling,
    memory,
    own_inits,
    own_loss,
    progress,
    starting,
    sweep_directory,
    tables,
    tasks,
    trainers,
    verdicts,
)
from experiments.common.config import UsageError

_DIGITS = 12  # of a digest that is part of a name
_ROUNDING = 1e-5  # of a mean of shares in float32
_SECONDS = 1.0  # between two looks for runs that other processes train


class Run(NamedTuple):
    """What tells the runs of a comparison apart."""

    init: str
    seed: int
    learning_rate: float
    """NaN if the optimizer is not a function of it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a comparison found. Printed, it says which initializer is better, and how sure that is.

    Attributes:
      settings: the runs, divided as `experiments.common.comparison.settings` does: one for each
        learning rate and, with several, one that takes each initializer at its own best rate.
    """

    settings: tuple[comparison.Setting, ...]

    def __str__(self) -> str:
        return "\n".join(
            line for setting in self.settings for line in ["", *verdicts.lines(setting)]
        ).lstrip("\n")

    __repr__ = __str__

    @property
    def verdict(self) -> str:
        """The main result in one sentence; with several learning rates, each at its own best."""
        return verdicts.headline(self.settings[-1])

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run, ordered by seed: what it was, and its endpoints.

        `final_loss` and `final_acc` are of the test data. A run that diverged has losses that are
        not finite; to be compared, it counts as untrained.
        """
        found = []
        for row in itertools.chain(*(one.runs.to_pylist() for one in self._separate)):
            found.append(
                {
                    **{name: row[name] for name in ("init", "seed", "status")},
                    "learning_rate": _known(row["learning_rate"]),
                    "train_loss": row["loss"][-1],
                    "initial_loss": row["val_loss"][0],
                    "final_loss": row["val_loss"][-1],
                    **({"final_acc": row["val_acc"][-1]} if row["val_acc"] else {}),
                }
            )
        return sorted(found, key=lambda row: (row["seed"], row["init"]))

    def to_dict(self) -> dict[str, Any]:
        """All numbers: of every setting the verdict, the means and the pairs; and the runs.

        None stands for what there isn't, such as the interval of one run.
        """
        return {
            "settings": [
                {
                    "description": verdicts.describe(setting.fields),
                    "verdict": verdicts.headline(setting),
                    "sentences": verdicts.summary(setting),
                    "endpoints": _rows(tables.endpoints(setting)),
                    "pairs": _rows(tables.pairs(setting)),
                }
                for setting in self.settings
            ],
            "runs": self.rows(),
        }

    @property
    def _separate(self) -> list[comparison.Setting]:
        """The settings of one learning rate each, which together hold every run once."""
        return [one for one in self.settings if one.fields["learning_rate"] is not None]


def _known(value: Any) -> Any:
    """None for NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _rows(table: tables.Table) -> tables.Table:
    return [{name: _known(value) for name, value in row.items()} for row in table]


def compare(
    loss_fn: Callable[..., Any],
    params: Any,
    inits: Mapping[str, Mapping[str, Any] | str],
    data: Any,
    *,
    optimizer: optax.GradientTransformation | Callable[[Any], optax.GradientTransformation],
    learning_rates: float | Sequence[float] | None = None,
    steps: int,
    batch_size: int,
    seeds: int | Sequence[int] = 20,
    test_data: Any = None,
    workdir: str | None = None,
    stream: TextIO | None = sys.stderr,
) -> Result:
    """Trains a network from several initializers with the same seeds, and compares them in pairs.

    With one seed, all initializers see the same batches and draw from the same random numbers, so
    that their difference varies much less than each of them. Every batch is full; a pass over the
    data that ends within a batch is followed by the next. The loss and the accuracy of the test
    data are measured before and after training.

    A run is identified by the programs that JAX makes of the loss function, the optimizer and the
    initializers, and by the data. If any of them changes, it is trained again.

    Args:
      loss_fn: (params, *batch) -> mean loss of the batch, or (loss, metrics), where metrics is a
        dictionary that may hold the "accuracy", a number between 0 and 1. Other metrics are not
        kept. It must be a pure function, as for `jax.jit`.
      params: a tree of parameters, as `initjax.initialize` takes it: arrays, or shapes from
        `jax.eval_shape` or `nnx.eval_shape`. Parameters of Linen, NNX modules, Equinox modules and
        plain trees. All floating-point arrays in it are trained.
      inits: for each initializer, by any name, the rules for `initjax.initialize`; or one
        specification, such as "he_normal", which draws what is called kernel, with biases of zero.
      data: a tuple of arrays, or of trees of them, each with a leading axis of examples: what
        loss_fn takes after the parameters.
      optimizer: of Optax, such as `optax.adam(1e-3)`, or with learning_rates a function of the
        learning rate, such as `optax.adam`.
      learning_rates: one or several numbers > 0. With several, the initializers are compared at
        each, and each at its own best, the one with the lowest training loss.
      steps: of training.
      batch_size: examples per step.
      seeds: how many, counting from 0, or their numbers.
      test_data: what to measure the result on, like data; None means data.
      workdir: a directory for the runs, which several processes can fill, and of which `python -m
        experiments.report` makes a page. Finished runs in it are not trained again. None keeps no
        runs.
      stream: where to show progress; None shows nothing.

    Returns:
      The result; `print(result)` shows the verdict.

    Raises:
      UsageError: an argument doesn't fit, which is a ValueError; or the directory is not writable.
      KeyboardInterrupt: Ctrl-C was pressed; all finished runs are in the directory.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> x = jnp.linspace(-1, 1, 64)[:, None]
      >>> def loss_fn(params, x, y):
      ...     hidden = jax.nn.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
      ...     return jnp.mean((hidden @ params["out"]["kernel"] - y) ** 2)
      >>> shape = lambda *axes: jax.ShapeDtypeStruct(axes, "float32")
      >>> params = {"in": {"kernel": shape(1, 8), "bias": shape(8)}, "out": {"kernel": shape(8, 1)}}
      >>> result = compare(
      ...     loss_fn, params, {"lecun": "lecun_normal", "zeros": "zeros"}, (x, jnp.sin(3 * x)),
      ...     optimizer=optax.sgd(0.1), steps=50, batch_size=16, seeds=6, stream=None,
      ... )
      >>> result.verdict.split(" after")[0]
      'lecun has the lowest mean test loss'
    """
    plan, runs = planned(
        loss_fn,
        params,
        inits,
        data,
        optimizer=optimizer,
        learning_rates=learning_rates,
        steps=steps,
        batch_size=batch_size,
        seeds=seeds,
        test_data=test_data,
    )
    with tempfile.TemporaryDirectory() if workdir is None else nullcontext(workdir) as directory:
        stored = sweep_directory.SweepDirectory(directory)
        if runs.keys() - stored.finished():
            with stored:
                _train(stored, runs, plan, stream)
        found = sweep_directory.read(directory, runs.keys())
    _check_accuracies(found.select(["status", "val_acc"]).to_pylist())
    return Result(tuple(comparison.settings(found)))


def _check_accuracies(rows: list[dict[str, Any]]) -> None:
    """Refuses what is no share. A run that diverged may have NaN."""
    for row in rows:
        for share in row["val_acc"] or ():
            diverged = row["status"] == "diverged" and not math.isfinite(share)
            if not diverged and not 0 <= share <= 1 + _ROUNDING:
                raise UsageError(
                    f"loss_fn returned an accuracy of {share:.4g}; it must be the share of correct"
                    " predictions in the batch, between 0 and 1"
                )


def planned(
    loss_fn: Callable[..., Any],
    params: Any,
    inits: Mapping[str, Mapping[str, Any] | str],
    data: Any,
    *,
    optimizer: Any,
    learning_rates: float | Sequence[float] | None = None,
    steps: int,
    batch_size: int,
    seeds: int | Sequence[int],
    test_data: Any = None,
) -> tuple[trainers.Plan, dict[str, Run]]:
    """Checks the arguments of `compare`; what is trained, and the runs by their keys."""
    numbers = _seeds(seeds)
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise UsageError(f"{name}={value!r}: must be a whole number of at least 1")
    train_set, test_set = _sets(data, test_data, batch_size)
    own_loss.check_state(params)
    rules = own_inits.checked(inits, params)
    loss = own_loss.checked(loss_fn, params, train_set, batch_size)
    transform = own_loss.checked_optimizer(optimizer, loss.params, learning_rates is not None)
    plan = trainers.Plan(
        task=loss.task,
        shapes=loss.params,
        optimizer=transform.of_rate,
        train_set=train_set,
        test_set=test_set,
        epochs=1,
        steps=int(steps),
        batch_size=int(batch_size),
        activations=loss.activations,
        context=functools.partial(
            memory.enough_for,
            f"training with batch_size={batch_size} needs more memory than is available",
        ),
        start=_starter(params, rules),
        columns=_columns(loss, transform, train_set, test_set, steps, batch_size, params, rules),
    )
    runs: dict[str, Run] = {}
    for seed, rate, init in itertools.product(numbers, _rates(learning_rates), rules):
        run = Run(init, seed, rate)
        # The programs instead of their names, which may change.
        programs = {"model": loss.digest, "optimizer": transform.digest}
        text = json.dumps({**plan.columns(run), **programs}, sort_keys=True)
        runs[hashlib.sha256(text.encode()).hexdigest()] = run
    return plan, runs


def _train(
    stored: sweep_directory.SweepDirectory,
    runs: Mapping[str, Run],
    plan: trainers.Plan,
    stream: TextIO | None,
) -> None:
    """Trains what is missing, and waits for what other processes train."""
    number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(plan.shapes))
    finished = len(runs.keys() & stored.finished())
    console.say(
        stream,
        f"compare {', '.join(dict.fromkeys(run.init for run in runs.values()))}:"
        f" {description.count(len(runs), 'run')}, of which {finished} are finished",
        f"        {number:,} parameters, {plan.steps:,} steps of {plan.batch_size} examples, on"
        f" {jax.local_device_count()} x {jax.devices()[0].device_kind}",
    )
    trainer = functools.cache(lambda: trainers.trainer(plan, len(runs)))
    others = 1
    while others:
        missing = {key: run for key, run in runs.items() if key not in stored.finished()}
        _, others = filling.fill(stored, runs, [(missing, trainer)], stream)
        if others:
            with progress.stage(stream, "waiting for runs in other processes"):
                time.sleep(_SECONDS)


def _starter(params: Any, rules: Mapping[str, own_inits.Rules]) -> Callable[[Run], trainers.Start]:
    """Where each run starts."""
    draw = {init: own_inits.drawer(params, one) for init, one in rules.items()}

    def start(run: Run) -> trainers.Start:
        key = starting.root_key(run.seed)
        return trainers.Start(draw[run.init](key), run.learning_rate, starting.order_key(key))

    return start


def _columns(
    loss: own_loss.Loss,
    transform: own_loss.Optimizer,
    train_set: tuple[Any, ...],
    test_set: tuple[Any, ...],
    steps: int,
    batch_size: int,
    params: Any,
    rules: Mapping[str, own_inits.Rules],
) -> Callable[[Run], dict[str, Any]]:
    """The columns that say what a run is."""
    tests = "no" if test_set is train_set else f"{tasks.examples(test_set):,}"
    about = {
        "model": f"{loss.name}@{loss.digest[:_DIGITS]}",
        "dtype": ", ".join(sorted({leaf.dtype.name for leaf in jax.tree.leaves(loss.params)})),
        "optimizer": f"{transform.name}@{transform.digest[:_DIGITS]}",
        "epochs": 1,
        "steps": int(steps),
        "batch_size": int(batch_size),
        "dataset": f"{tasks.examples(train_set):,} training and {tests} test examples",
        "digest": own_loss.data_digest(train_set, test_set),
        "test_images": tasks.examples(test_set),
    }
    texts = {init: own_inits.text(params, one) for init, one in rules.items()}
    return lambda run: {**run._asdict(), **about, "rules": texts[run.init]}


def _sets(data: Any, test_data: Any, batch_size: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The training and the test data, checked."""
    train_set = own_loss.arrays("data", data)
    examples = tasks.examples(train_set)
    if batch_size > examples:
        raise UsageError(f"batch_size={batch_size}: there are only {examples:,} examples in data")
    if test_data is None:
        return train_set, train_set
    test_set = own_loss.arrays("test_data", test_data)
    one, other = (
        jax.tree.map(lambda leaf: (leaf.dtype.name, leaf.shape[1:]), each)
        for each in (train_set, test_set)
    )
    if one != other:
        raise UsageError(f"test_data: must be like data, {one}; got {other}")
    return train_set, test_set


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    """The numbers of the seeds."""
    one = isinstance(seeds, int | np.integer)
    several = isinstance(seeds, Iterable)
    numbers = list(range(seeds)) if one else list(seeds) if several else []
    whole = all(isinstance(seed, int | np.integer) and 0 <= seed < 2**32 for seed in numbers)
    if isinstance(seeds, bool) or not numbers or not whole or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"seeds={seeds!r:.80}: must be how many, at least 1, or different whole numbers from 0"
            " on, such as range(20, 40)"
        )
    return list(map(int, numbers))


def _rates(learning_rates: float | Sequence[float] | None) -> list[float]:
    """The learning rates, each once; NaN if there are none."""
    if learning_rates is None:
        return [math.nan]
    rates = np.atleast_1d(np.asarray(learning_rates, dtype=object)).tolist()
    numbers = all(isinstance(rate, int | float | np.number) for rate in rates)
    numbers = numbers and not any(isinstance(rate, bool) for rate in rates)
    if not rates or not numbers or not all(0 < rate < math.inf for rate in rates):
        raise UsageError(f"learning_rates={learning_rates!r:.80}: must be finite numbers above 0")
    return list(dict.fromkeys(map(float, rates)))
