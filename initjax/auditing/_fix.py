"""The repair: redraws what scaling can't repair, scales the rest, and audits again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from initjax._flattening import flatten
from initjax._keys import checked_key
from initjax._values import checked_choice
from initjax.auditing._audit import prepare
from initjax.auditing._judging.findings import Finding
from initjax.auditing._measuring.jobs import unchecked
from initjax.auditing._reading.trace import trace
from initjax.auditing._repairing.critical import unit_variance_explodes
from initjax.auditing._repairing.draft import Draft
from initjax.auditing._repairing.gradinit import gradinit
from initjax.auditing._repairing.reasons import REASONS
from initjax.auditing._repairing.redraw import center, clear_biases, redraw
from initjax.auditing._repairing.repair import Repair
from initjax.auditing._repairing.rescale import rescale
from initjax.auditing._reporting.report import Report
from initjax.trees import Params

if TYPE_CHECKING:
    import jax

Method = Literal["variance", "units", "gradient"]

# Causes that no other weights would remove: the model, the loss or the data must change.
_NOT_OF_WEIGHTS = frozenset(
    [
        "unused",
        "no_gradient",
        "batch",
        "constant_output",
        "double_softmax",
        "bounded_output",
        "target_scale",
        "batch_coupling",
        "sum_loss",
        "no_activation",
        "first_layer",
        "attention_uniform",
        "ascent",
        "frozen",
    ]
)
# Causes that come first: scales that fit these inputs do not fit inputs of the right scale.
_OF_INPUT = ("input_scale", "input_offset")
_WARNINGS: dict[Method, str] = {
    "variance": "",
    "units": (
        "centering every unit removes the mean that activations add; without normalization, the"
        " gradient then grows from layer to layer, for ReLU 1.47x per layer: too much for a deep"
        " network"
    ),
    "gradient": (
        "these scales fit this batch, this loss and this optimizer's first step; other batches and"
        " learning rates need other scales, and small scales can win by learning little"
    ),
}


@unchecked()
def fix(
    loss_fn: Callable[..., Any],
    params: Params,
    *batch: Any,
    key: jax.Array | None = None,
    method: Method | None = None,
    optimizer: Any = None,
    has_aux: bool = False,
) -> tuple[Params, Repair]:
    r"""Repairs the initialization of a model, and audits it again.

    Without a method, a model in which the audit finds nothing to repair is returned as it is, and
    any other is repaired by 'variance'. A method that you name is applied to healthy models, too.
    The methods:

    - 'variance': multiplies each kernel by one number, so that its pre-activations have standard
      deviation one over units and examples (layer-sequential unit variance, in one forward pass).
      If a chain of layers is so long that unit variance would make gradients grow tenfold, the
      target is :math:`\chi_1 = 1` instead: gradients keep their norm, and the first layer has unit
      variance. The ends of n residual branches are scaled down to standard deviation
      :math:`1/\sqrt n`. Logits with a standard deviation above 1 are scaled down to 0.45, where the
      initial loss is about 0.1 above that of a uniform guess.
    - 'units': scales each unit to unit variance, and centers it if it has a bias, as in the
      data-dependent initialization of weight normalization.
    - 'gradient': learns one scale per kernel that minimizes the loss after the optimizer's first
      step (GradInit).

    What may be small on purpose is never scaled up: the ends of residual branches, outputs, gates,
    and the few units of a router, a policy or a box. The first two methods calculate in full
    precision even where a device's default is less, as TF32 on GPUs is.

    Some parameters are left unchanged, and the result says why: kernels whose output is normalized
    (their scale doesn't matter), embeddings, kernels that a loop uses in every iteration, kernels
    shared by several layers, and kernels that are computed from parameters, unless only by scaling
    one. Kernels that only derivatives use again, as in a physics-informed loss, are scaled for
    their first use.

    What no weights can repair is left to you, and the result says what to change: the model or its
    loss, or the input, if that is far from unit scale or from mean zero. Scale the input, and call
    `fix` again.

    Scaling can't repair kernels that are zero, constant or copies of others. With a key, these are
    redrawn as orthogonal matrices and then scaled. Without a key, they are left unchanged and
    listed. Kernels with a harmful mean are centered. Biases that make units dead are set to zero.

    Args:
      loss_fn: maps `(params, *batch)` to a scalar loss, as for `initjax.audit`.
      params: a tree of arrays, or a module of Equinox or NNX.
      *batch: trees of arrays. 256 examples or more are best.
      key: a PRNG key for redrawing what scaling can't repair. With None, nothing is redrawn.
      method: 'variance', 'units' or 'gradient'. With None, 'variance', if there is anything to
        repair.
      optimizer: an Optax transformation, required for 'gradient'. If given, the audits also
        measure its first update.
      has_aux: whether loss_fn returns `(loss, anything)`.

    Returns:
      The repaired parameters, with the same structure, shapes, dtypes and shardings, and a
      `Repair`. Print it to see what was changed. `repair.before` and `repair.after` are the audits;
      `after` lists what `fix` couldn't repair.

    Raises:
      TypeError, ValueError: as for `initjax.audit`; also if the method is unknown, the key is not a
        PRNG key, or 'gradient' is given without an optimizer.

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
      https://arxiv.org/abs/2102.08098; the target in long chains: Schoenholz et al. 2017,
      https://arxiv.org/abs/1611.01232.
    """
    import jax

    if method is not None:
        checked_choice("fix", "method", method, get_args(Method))
    if method == "gradient" and optimizer is None:
        raise ValueError("fix: method='gradient' needs an optimizer, such as optax.adam(1e-3)")
    if key is not None:
        checked_key("fix", key, "call fix(loss_fn, params, *batch, key=key)")
    prepared = prepare("fix", loss_fn, params, batch, optimizer, has_aux)
    traced = prepared.traced
    before = prepared.report(params, batch)
    nothing = _nothing_to_do(before, method)
    if nothing:
        return params, Repair(before, before, (), (), nothing, "")
    method, inputs = method or "variance", flatten(batch)[0]
    draft = redraw(Draft(tuple(flatten(params)[0])), traced, before, key)
    draft = center(draft, traced, before)
    draft = clear_biases(draft, traced, before)
    if method == "gradient":
        target = "the smallest loss after the optimizer's first step"
        draft = gradinit(draft, traced, inputs, before.layers, optimizer)
    else:
        critical = method == "variance" and unit_variance_explodes(traced.anatomy.sites)
        target = _target(method, critical)
        with jax.default_matmul_precision("highest"):  # which is read when a function is traced
            exact = trace("fix", loss_fn, params, batch, has_aux)
            draft = rescale(draft, exact, inputs, before, method == "units", critical)
    params = traced.whole.unflatten(draft.leaves)
    after = _without_scaled_fans(prepared.report(params, batch), draft)
    left = tuple((name, REASONS[reason]) for name, reason in draft.left)
    return params, Repair(
        before, after, draft.changes, left, target, _warning(method, before, after)
    )


def _nothing_to_do(before: Report, method: Method | None) -> str:
    """Why nothing is to be changed; "" if something is."""
    causes = {finding.cause for finding in before.findings}
    if "not_finite" in causes:
        return "none: non-finite values can't be rescaled; fix those first"
    if not before.layers:
        return "none: no layer was found, so there is nothing to repair"
    if method is not None:
        return ""
    for finding in before.findings:
        if finding.cause in _OF_INPUT and finding.level == before.verdict:
            return f"none: the input comes first, then call fix again. {finding.remedy}"
    if not causes:
        return (
            "none: the audit found nothing to repair, so nothing was changed; name a method to"
            " apply it anyway"
        )
    if causes <= _NOT_OF_WEIGHTS:
        remedies = " ".join(dict.fromkeys(finding.remedy for finding in before.findings))
        return f"none: no other weights would help, so nothing was changed. {remedies}"
    return ""


def _target(method: Method, critical: bool) -> str:
    if method == "units":
        return "mean zero and variance one for every unit"
    if critical:
        return (
            "chi_1 = 1: gradients keep their norm from layer to layer; at unit variance they would"
            " grow tenfold or more over this depth"
        )
    return "pre-activations of variance one in every layer"


def _without_scaled_fans(after: Report, draft: Draft) -> Report:
    """The report without wrong fans of kernels that `fix` changed: their scale is no longer that
    of an initializer."""

    def counts(finding: Finding) -> bool:
        names = {parameter.path for parameter in finding.parameters}
        return finding.cause != "wrong_fan" or not names <= draft.changed

    return dataclasses.replace(after, findings=tuple(filter(counts, after.findings)))


def _warning(method: Method, before: Report, after: Report) -> str:
    warning = _WARNINGS[method]
    levels = ("ok", "warning", "failure")
    if method != "variance" and levels.index(after.verdict) > levels.index(before.verdict):
        warning += "; the verdict is worse than before: use method='variance' instead"
    elif method != "variance" and after.verdict == "failure":
        warning += "; this did not repair the network: try method='variance'"
    return warning
