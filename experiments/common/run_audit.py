"""The audit of the network that a run starts from, on the first batch that it would train on."""

import dataclasses
import functools
import math
import re
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import initjax
from experiments.common import data, description
from experiments.common.config import Config, canonical, grouped, model_defaults

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    import jax

    from experiments.common import models, starting

_Audited = TypeVar("_Audited", bound="initjax.Report | initjax.Repair")

COMMAND = "python -m experiments.audit"
BATCH_SIZE = 256  # default of that program
_CALL = re.compile(rf"\b({'|'.join(initjax.NAMES)})\(([^()]*)\)")  # of an initializer, in a remedy
_DEEP = 4  # from this many hidden layers of one size on, a command gives --depth


def auditor(
    config: Config, start: "starting.Start", dataset: data.Dataset, optimizer: bool = False
) -> "Callable[[Any], initjax.Report]":
    """Makes a function that audits any parameters of a run on its first batch.

    Args:
      config: of the run.
      start: its starting point.
      dataset: what it is trained on.
      optimizer: whether to measure the first update of its optimizer, too.
    """
    loss_fn, batch = mean_loss(start.model), first_batch(config, start.key, dataset)
    again = initjax.auditor(
        loss_fn, start.params, *batch, **_optimizer(config, start.model, optimizer)
    )
    return lambda params: again(params, *batch)


def fix(
    config: Config,
    start: "starting.Start",
    dataset: data.Dataset,
    optimizer: bool = False,
) -> "tuple[Any, initjax.Repair]":
    """Repairs the starting point of a run; takes the arguments of `auditor`."""
    return initjax.fix(
        mean_loss(start.model),
        start.params,
        *first_batch(config, start.key, dataset),
        key=initjax.named_key(start.key, "repair"),
        **_optimizer(config, start.model, optimizer),
    )


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

    from experiments.common import batching, starting

    examples = len(dataset.train_labels)
    order = batching.shuffled_batches(
        jax.random.fold_in(starting.order_key(key), 1),
        examples,
        min(config.batch_size, examples),
    )
    rows = np.asarray(order[0])
    return dataset.train_images[rows], dataset.train_labels[rows]


@functools.lru_cache  # one function for each model: what is compiled for it is used again
def mean_loss(model: "models.Model") -> Callable[[Any, "jax.Array", "jax.Array"], "jax.Array"]:
    """The loss that training minimizes, as a function of (params, images, labels)."""
    import jax.numpy as jnp
    import optax

    def loss_fn(params: Any, images: "jax.Array", labels: "jax.Array") -> "jax.Array":
        logits = model.unrolled(params, images)
        logits = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss_fn


def _optimizer(config: Config, model: "models.Model", measured: bool) -> dict[str, Any]:
    from experiments.common import starting, training

    if not measured:
        return {}
    assert config.learning_rate is not None
    found = starting.optimizer(config, model)
    return {"optimizer": training.transform(found, config.learning_rate)}


def command(config: Config, *more: str, optimizer: bool = False) -> str:
    """The command of `experiments.audit` that audits the network of a run.

    Args:
      config: of the run.
      *more: flags to add.
      optimizer: whether the first update of its optimizer is measured.
    """
    hidden = f"--hidden={','.join(grouped(config.hidden))}"
    default = model_defaults(config.model)["hidden"]
    if config.hidden != default and len(config.hidden) >= _DEEP and len(set(config.hidden)) == 1:
        width = [] if config.hidden[0] == default[0] else [f"--width={config.hidden[0]}"]
        more = (f"--depth={len(config.hidden)}", *width, *more)
    elif config.hidden != default:
        more = (hidden, *more)
    others = ("--hidden=", "--epochs=", "--steps=", "--optimizer=")
    if optimizer:
        more = (f"--optimizer={config.optimizer}", *more)
    else:
        others = (*others, "--learning_rate=")
    found = [flag for flag in config.arguments(BATCH_SIZE) if not flag.startswith(others)]
    return f"{COMMAND} {description.quoted([*found, *more])}"


def text(audited: "initjax.Report | initjax.Repair") -> str:
    """What a program prints of an audit or a repair, as wide as the terminal."""
    return in_flags(audited).to_text(shutil.get_terminal_size().columns)


def in_flags(audited: _Audited) -> _Audited:
    """An audit or a repair whose remedies name initializers as the command line takes them.

    Such as "Draw the kernels with --init=he_normal" for "Draw the kernels with he_normal()".
    Code is left out, since a command does the same.
    """
    if isinstance(audited, initjax.Repair):
        before, after = in_flags(audited.before), in_flags(audited.after)
        return dataclasses.replace(audited, before=before, after=after)

    def replaced(finding: "initjax.Finding") -> "initjax.Finding":
        flag = "output_init" if _of_output(finding) else "init"
        remedy = _CALL.sub(
            lambda call: description.quoted([f"--{flag}={_spec(call)}"]), finding.remedy
        )
        return dataclasses.replace(finding, remedy=remedy, code="")

    return dataclasses.replace(audited, findings=tuple(map(replaced, audited.findings)))


def _of_output(finding: "initjax.Finding") -> bool:
    return all(name.startswith("output/") for name in finding.layers)


def _spec(call: re.Match[str]) -> str:
    """The specification of an initializer, from a call of it."""
    return call[0] if call[2] else call[1]


def unrepairable(report: "initjax.Report") -> str:
    """Why there is nothing to repair, as a sentence; empty if there is."""
    causes = {finding.cause for finding in report.findings}
    if "batch" in causes:
        return "Nothing was changed: the batch is too small to judge the weights."
    if causes <= {"update"}:
        return "No repair needed: the weights are healthy, and nothing was changed."
    return ""


def slower(config: Config, report: "initjax.Report") -> Config:
    """The run with a lower learning rate, if the first step is all that is wrong with it."""
    if {finding.cause for finding in report.findings} != {"update"}:
        return config
    assert config.learning_rate is not None
    steps = [layer.update_ratio for layer in report.layers if math.isfinite(layer.update_ratio)]
    tenths = max(1, math.ceil(math.log10(2 * max(steps))))  # a step of half the weights is healthy
    return dataclasses.replace(config, learning_rate=config.learning_rate / 10**tenths)


def next_step(config: Config, report: "initjax.Report", optimizer: bool = False) -> list[str]:
    """What to do about the findings of an audit: one line, or none if there is nothing to do."""
    if report.verdict == "ok":
        return []
    causes = {finding.cause for finding in report.findings}
    if "not_finite" in causes:  # which can't be rescaled
        return another(config, report, optimizer)
    if causes == {"batch"}:
        config = dataclasses.replace(config, batch_size=BATCH_SIZE)
    more = () if unrepairable(report) else ("--fix",)
    return [f"next    {command(slower(config, report), *more, optimizer=optimizer)}"]


def another(config: Config, report: "initjax.Report", optimizer: bool = False) -> list[str]:
    """The line that suggests another network: the one that a remedy names, if it is another."""
    for finding in report.findings:
        field = "output_init" if _of_output(finding) else "init"
        call = _CALL.search(finding.remedy)
        if not call:
            continue
        changes = {"params": None, field: _spec(call)}
        if "use tanh" in finding.remedy:  # since no initializer is enough
            changes["activation"] = "tanh"
        changed = dataclasses.replace(config, **changes)
        if _drawn(changed) != _drawn(config):
            return [f"next    {command(changed, optimizer=optimizer)}"]
    return ["next    choose another --init: rescaling doesn't repair this network"]


def _drawn(config: Config) -> tuple[str, ...]:
    return canonical(config.init), canonical(config.output_init), config.activation
