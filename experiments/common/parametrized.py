"""Networks with a parametrization: how they start, multiply and learn, relative to a base network.

The plan is that of `initjax.parametrize`, made from the shapes of the two networks.
"""

import dataclasses
import functools
from typing import Any

import initjax
from experiments.common import models, training
from experiments.common.config import HEADS, NORMALIZED, UsageError


@functools.lru_cache
def network(
    scheme: str,
    optimizer: str,
    base: tuple[int, ...],
    features: tuple[int, ...],
    **options: Any,
) -> models.Model:
    """Makes a network with a parametrization, without drawing any parameter.

    Args:
      scheme: one of `config.SCHEMES`.
      optimizer: one of `config.OPTIMIZERS`.
      base: the sizes of the base network's hidden blocks.
      features: as for `models.network`.
      **options: the other arguments of `models.network`.

    Raises:
      UsageError: the two networks don't fit together.
    """
    inputs, *hidden, classes = features
    make = functools.partial(models.network, **options)
    shapes, base_shapes = make(features).shapes, make((inputs, *base, classes)).shapes
    residual = options["residual"] or options["model"] in NORMALIZED
    heads = options["model"] == "transformer"

    @functools.lru_cache
    def plan(init: models.Init = ()) -> initjax.Plan:
        try:
            return initjax.parametrize(
                shapes,
                base_shapes,
                scheme,  # pyright: ignore[reportArgumentType]  # which `Config` has checked
                optimizer,  # pyright: ignore[reportArgumentType]
                depth=(len(base), len(hidden)) if residual else None,
                head_size=(base[0] // HEADS, hidden[0] // HEADS) if heads else None,
                init=dict(init),
            )
        except ValueError as error:
            raise UsageError(f"--scheme={scheme}: {error}") from None

    multipliers = models.Multipliers(
        plan().multipliers["attention"].value,
        plan().multipliers["residual"].value,
        tuple((leaf.path, leaf.multiplier) for leaf in plan().leaves if leaf.multiplier != 1),
    )
    # Equal functions are one object, so that jit caches what is compiled for them.
    changed = {} if multipliers == models.NO_MULTIPLIERS else {"multipliers": multipliers}
    return dataclasses.replace(make(features, **changed), plan=plan)


@functools.lru_cache
def optimizer(model: models.Model) -> training.Optimizer:
    """The optimizer of a network with a parametrization: of packed and of other parameters."""
    assert model.plan is not None
    plan = model.plan()
    if all(leaf.learning_rate == leaf.epsilon == 1 for leaf in plan.leaves):
        return plan.optimizer
    return lambda learning_rate: plan.transform(training.OPTIMIZERS[plan.optimizer](learning_rate))
