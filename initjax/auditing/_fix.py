"""The repair: draws anew what scaling cannot mend, scales the rest, audits again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from initjax._values import checked_choice, is_key
from initjax.auditing._activations import critical_growth
from initjax.auditing._audit import prepare
from initjax.auditing._reading.expressions import Expression, Path
from initjax.auditing._reading.sites import Site
from initjax.auditing._repairing.gradinit import by_gradient
from initjax.auditing._repairing.redraw import clear_biases, redraw
from initjax.auditing._repairing.repair import Change, Repair
from initjax.auditing._repairing.rescale import by_pass

if TYPE_CHECKING:
    import jax

METHODS = ("variance", "units", "gradient")
_DRIFT = 10.0  # of the gradient's squared norm over a chain, that unit variance may cost
_WARNINGS = {
    "variance": "",
    "units": (
        "centring every unit takes away the mean that activations add: without normalisation the"
        " gradient then grows in every layer, by 1.47 for ReLU, which deep networks do not bear"
    ),
    "gradient": (
        "these scales fit this batch, this loss and this optimizer's first step; other batches and"
        " learning rates want other ones, and small scales can win by learning little"
    ),
}


def fix(
    loss_fn: Callable[..., Any],
    params: Any,
    *batch: Any,
    key: jax.Array | None = None,
    method: str = "variance",
    optimizer: Any = None,
    has_aux: bool = False,
) -> tuple[Any, Repair]:
    r"""Repairs the initialization of a model, and audits it again.

    By method:

    - 'variance': every kernel is multiplied by one number, so that the pre-activations have
      standard deviation one over units and examples, in one pass (layer-sequential unit variance).
      In a chain so long that unit variance would let gradients grow tenfold, the aim is
      :math:`\chi_1 = 1` instead: gradients keep their norm, and the first layer has unit variance.
      Ends of residual branches are brought down to one over the root of their number, and logits
      that are larger than one to .45, at which guessing costs a tenth; neither is ever raised.
    - 'units': every unit is scaled to unit variance and, where there is a bias, centred, as weight
      normalization's first batch does.
    - 'gradient': one scale for each kernel is learned, so that the loss after the optimizer's first
      step is least (GradInit).

    Left alone, with the reason in the result: what is normalised right after (its scale does not
    count), embeddings, what a loop uses in every turn, parameters used in several layers, and
    kernels made of parameters in another way than by a product with a number.

    Scaling cannot help kernels that are zero, constant or copies of others. With a key they are
    drawn anew, orthogonal, before the pass; without one they are left and named. Weights that have
    a mean at fault lose it, and biases that have killed units are set to zero.

    Args:
      loss_fn: as for `initjax.audit`.
      params: a tree of arrays.
      *batch: trees of arrays; 256 examples or more are best.
      key: a PRNG key to draw with what scaling cannot repair; None draws nothing.
      method: 'variance', 'units' or 'gradient'.
      optimizer: an Optax transformation; 'gradient' needs it.
      has_aux: whether loss_fn gives `(loss, anything)`.

    Returns:
      The parameters, of the same structure, shapes, dtypes and shardings, and a `Repair`, which can
      be printed, and whose `before` and `after` are the audits.

    Raises:
      TypeError, ValueError: as `initjax.audit`; method is none of the above, or 'gradient' without
        an optimizer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def loss_fn(params, x):
      ...     return jnp.square(jax.nn.relu(x @ params["in"]) @ params["out"]).mean()
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> params = {"in": 1e3 * jax.random.normal(keys[0], (32, 64)), "out": jnp.ones((64, 4))}
      >>> x = jax.random.normal(keys[2], (128, 32))
      >>> params, repair = fix(loss_fn, params, x)
      >>> round(float((x @ params["in"]).std()), 5)
      1.0

    Reference:
      Mishkin and Matas 2016, "All you need is a good init", algorithm 1,
      https://arxiv.org/abs/1511.06422; Salimans and Kingma 2016, "Weight Normalization", section 3,
      https://arxiv.org/abs/1602.07868; Zhu et al. 2021, "GradInit",
      https://arxiv.org/abs/2102.08098; the target of long chains: Schoenholz et al. 2017,
      https://arxiv.org/abs/1611.01232.
    """
    import jax

    checked_choice("fix", "method", method, METHODS)
    if method == "gradient" and optimizer is None:
        raise ValueError("fix: method='gradient' needs an optimizer, such as optax.adam(1e-3)")
    if key is not None and not is_key(key):
        raise TypeError(f"fix: key must be a PRNG key, such as jax.random.key(0), got {key!r}")
    prepared = prepare("fix", loss_fn, params, batch, optimizer, has_aux)
    traced = prepared.traced
    before = prepared.report(params, batch)
    leaves = list(jax.tree.leaves(params))
    changes: list[Change] = []
    left: list[tuple[str, str]] = []
    target = "nothing: what is not finite has to be mended first"
    if not any(finding.cause == "not_finite" for finding in before.findings):
        redraw(traced, before, leaves, key, changes, left)
        clear_biases(traced, before, leaves, changes)
        if method == "gradient":
            target = "the least loss after the optimizer's first step"
            by_gradient(traced, leaves, batch, optimizer, changes, left)
        else:
            critical = method == "variance" and _drifts(traced.anatomy.sites)
            target = _target(method, critical)
            by_pass(traced, leaves, batch, method, critical, changes, left)
    params = jax.tree.unflatten(traced.structure, leaves)
    after = prepared.report(params, batch)
    # A kernel that was scaled is no draw any more, whose fan could be wrong.
    scaled = {change.name for change in changes}
    told = tuple(
        finding
        for finding in after.findings
        if finding.cause != "wrong_fan"
        or not scaled.issuperset(parameter.path for parameter in finding.parameters)
    )
    after = dataclasses.replace(after, findings=told)
    warning = _WARNINGS[method]
    if method != "variance" and after.verdict not in ("ok", before.verdict):
        warning += "; the verdict is worse than before: method='variance' does better"
    elif method != "variance" and after.verdict == "failure":
        warning += "; this has not mended the network: try method='variance'"
    kept = tuple(dict.fromkeys(left))
    return params, Repair(before, after, tuple(changes), kept, target, warning)


def _target(method: str, critical: bool) -> str:
    if method == "units":
        return "every unit of mean zero and variance one"
    if critical:
        return (
            "chi_1 = 1: gradients keep their norm from layer to layer; at unit variance they would"
            " grow tenfold or more over this depth"
        )
    return "pre-activations of variance one in every layer"


def _drifts(sites: dict[Path, Site]) -> bool:
    """Whether gradients would grow tenfold in the longest chain if all variances were one.

    The chain is read from the program: what was measured may be as broken as the network.
    """
    growth: dict[Path, float] = {}
    for path, site in sites.items():
        signal = site.inputs[-1].signal
        if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
            growth[path] = 0.0
            continue
        turns = math.prod(length or 1 for loop, length in site.loops if loop in site.stacked)
        here = critical_growth(signal.expression) * turns
        growth[path] = here + growth.get(signal.site, 0.0)
    return max(growth.values(), default=0.0) > math.log(_DRIFT)
