"""The audit of the network that a run starts from, on the first batch that it would train on."""

import dataclasses
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import initjax
from experiments.common import data
from experiments.common.config import Config

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    import jax

    from experiments.common import models, starting

COMMAND = "python -m experiments.audit"
BATCH_SIZE, WIDTH = 256, 128  # defaults of that program
_DEEP = 4  # from this many hidden layers of one size on, a command gives --depth


def audit(
    config: Config,
    start: "starting.Start",
    dataset: data.Dataset,
    optimizer: bool = False,
) -> "initjax.Report":
    """Audits the starting point of a run.

    Args:
      config: of the run.
      start: its starting point.
      dataset: what it is trained on.
      optimizer: whether to measure the first update of its optimizer, too.
    """
    return initjax.audit(
        mean_loss(start.model),
        start.params,
        *first_batch(config, start.key, dataset),
        **_optimizer(config, optimizer),
    )


def auditor(
    config: Config, start: "starting.Start", dataset: data.Dataset
) -> "Callable[[Any], initjax.Report]":
    """Makes a function that audits any parameters of a run on its first batch."""
    loss_fn, batch = mean_loss(start.model), first_batch(config, start.key, dataset)
    again = initjax.auditor(loss_fn, start.params, *batch)
    return lambda params: again(params, *batch)


def fix(
    config: Config,
    start: "starting.Start",
    dataset: data.Dataset,
    optimizer: bool = False,
) -> "initjax.Repair":
    """Repairs the starting point of a run; takes the arguments of `audit`."""
    _, repair = initjax.fix(
        mean_loss(start.model),
        start.params,
        *first_batch(config, start.key, dataset),
        key=initjax.named_key(start.key, "repair"),
        **_optimizer(config, optimizer),
    )
    return repair


def first_batch(
    config: Config, key: "jax.Array", dataset: data.Dataset
) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a run's first training step.

    Args:
      config: of the run.
      key: its root key.
      dataset: what it is trained on.
    """
    import jax

    from experiments.common import starting, training

    examples = len(dataset.train_labels)
    order = training.shuffled_batches(
        jax.random.fold_in(starting.order_key(key), 1),
        examples,
        min(config.batch_size, examples),
    )
    rows = np.asarray(order[0])
    return dataset.train_images[rows], dataset.train_labels[rows]


def mean_loss(model: "models.Model") -> Callable[[Any, "jax.Array", "jax.Array"], "jax.Array"]:
    """The loss that training minimizes, as a function of (params, images, labels)."""
    import jax.numpy as jnp
    import optax

    def loss_fn(params: Any, images: "jax.Array", labels: "jax.Array") -> "jax.Array":
        logits = model.apply(params, images)
        logits = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss_fn


def _optimizer(config: Config, measured: bool) -> dict[str, Any]:
    from experiments.common import training

    if not measured:
        return {}
    return {"optimizer": training.OPTIMIZERS[config.optimizer](config.learning_rate)}


def command(config: Config, *more: str, optimizer: bool = False) -> str:
    """The command of `experiments.audit` that audits the network of a run.

    Args:
      config: of the run.
      *more: flags to add.
      optimizer: whether the first update of its optimizer is measured.
    """
    hidden = f"--hidden={','.join(map(str, config.hidden))}"
    if len(config.hidden) >= _DEEP and len(set(config.hidden)) == 1:
        width = [] if config.hidden[0] == WIDTH else [f"--width={config.hidden[0]}"]
        more = (f"--depth={len(config.hidden)}", *width, *more)
    elif config.hidden != Config.hidden:
        more = (hidden, *more)
    others = ("--hidden=", "--epochs=", "--optimizer=")
    if optimizer:
        more = (f"--optimizer={config.optimizer}", *more)
    else:
        others = (*others, "--learning_rate=")
    found = [flag for flag in config.arguments(BATCH_SIZE) if not flag.startswith(others)]
    return f"{COMMAND} {shlex.join([*found, *more])}"


def next_step(config: Config, report: "initjax.Report", optimizer: bool = False) -> list[str]:
    """What to do about the findings of an audit: one line, or none if there is nothing to do."""
    if report.verdict == "ok":
        return []
    causes = {finding.cause for finding in report.findings}
    if "not_finite" in causes:
        return ["next    choose another --init: non-finite weights can't be rescaled"]
    more = ("--fix",)
    if causes == {"batch"}:
        config, more = dataclasses.replace(config, batch_size=BATCH_SIZE), ()
    elif causes == {"update"} and config.learning_rate is not None:
        config, more = dataclasses.replace(config, learning_rate=config.learning_rate / 10), ()
    return [f"next    {command(config, *more, optimizer=optimizer)}"]
