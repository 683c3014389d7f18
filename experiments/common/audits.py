"""The audit of the network that a run starts from, on the first batch that it would train on."""

import dataclasses
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import initjax
from experiments.common import data, runs

# JAX, and what imports it, is imported in the functions: a mistake in a flag is told before.
if TYPE_CHECKING:
    import jax
    import optax

    from experiments.common import models
    from initjax import Repair, Report

COMMAND = "python -m experiments.audit"
BATCH_SIZE, WIDTH = 256, 128  # of that program, where no flag says otherwise
_DEEP = 4  # hidden layers of one size from which on their number says it shorter


def audit(
    config: runs.Config,
    model: "models.Model",
    params: Any,
    key: "jax.Array",
    dataset: data.Dataset,
    optimizer: bool = False,
) -> "Report":
    """Audits freshly drawn parameters.

    Args:
      config: of the run.
      model: its network.
      params: what it starts from.
      key: its root key.
      dataset: what it is trained on.
      optimizer: whether to measure the first update of its optimizer too.
    """
    return initjax.audit(
        mean_loss(model),
        params,
        *first_batch(config, key, dataset),
        optimizer=_optimizer(config) if optimizer else None,
    )


def fix(
    config: runs.Config,
    model: "models.Model",
    params: Any,
    key: "jax.Array",
    dataset: data.Dataset,
    optimizer: bool = False,
) -> tuple[Any, "Repair"]:
    """Repairs freshly drawn parameters; takes what `audit` takes."""
    return initjax.fix(
        mean_loss(model),
        params,
        *first_batch(config, key, dataset),
        key=initjax.named_key(key, "repair"),
        optimizer=_optimizer(config) if optimizer else None,
    )


def first_batch(
    config: runs.Config, key: "jax.Array", dataset: data.Dataset
) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels that a run takes its first step on."""
    import jax

    from experiments.common import training

    examples = len(dataset.train_labels)
    order = training.shuffled_batches(
        jax.random.fold_in(runs.order_key(key), 1), examples, min(config.batch_size, examples)
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


def _optimizer(config: runs.Config) -> "optax.GradientTransformation":
    from experiments.common import training

    return training.OPTIMIZERS[config.optimizer](config.learning_rate)


def command(config: runs.Config, *more: str, optimizer: bool = False) -> str:
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
    elif config.hidden != runs.Config.hidden:
        more = (hidden, *more)
    others = ("--hidden=", "--epochs=", "--optimizer=")
    if optimizer:
        more = (f"--optimizer={config.optimizer}", *more)
    else:
        others = (*others, "--learning_rate=")
    found = [flag for flag in runs.arguments(config, BATCH_SIZE) if not flag.startswith(others)]
    return f"{COMMAND} {shlex.join([*found, *more])}"


def next_step(config: runs.Config, report: "Report", optimizer: bool = False) -> list[str]:
    """What to do about what an audit found: a line, or none if there is nothing to do."""
    if report.verdict == "ok":
        return []
    causes = {finding.cause for finding in report.findings}
    if "not_finite" in causes:
        return ["mend    take another --init, as said above: what is infinite cannot be rescaled"]
    more = ("--fix",)
    if causes == {"batch"}:
        config, more = dataclasses.replace(config, batch_size=BATCH_SIZE), ()
    elif causes == {"update"} and config.learning_rate is not None:
        config, more = dataclasses.replace(config, learning_rate=config.learning_rate / 10), ()
    return [f"mend    {command(config, *more, optimizer=optimizer)}"]
