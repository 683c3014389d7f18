"""Checks of the optimizer's first step: what it leaves as it is, moves uphill, or moves too far."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from initjax.auditing._judging.draws import origin_of
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.graph import layers_after
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import Parameter, label, some
from initjax.auditing._judging.numbers import plain

_STEP = 0.5  # of the weights' standard deviation, and of a pre-activation's
_MANY = 16  # numbers; weight decay alone moves so many uphill once in 2^16
_LOST = 0.5  # of the numbers: then the typical one stays where it is
_NARROW = 4  # bytes: wider numbers lose a step only if there is hardly any gradient


def ascent(evidence: Evidence) -> list[Finding]:
    """Parameters that the first step moves along their gradient, and not against it.

    Some may be meant to climb, as the weights of the terms of a loss are, but not all, and not by
    their bare gradients, which `optax.masked` passes on for what its mask leaves out.
    """
    steps = _steps(evidence)
    uphill = [i for i, found in steps.items() if found["uphill"] and not found["downhill"]]
    moved = [i for i, found in steps.items() if found["uphill"] or found["downhill"]]
    if uphill == moved and sum(steps[index]["uphill"] for index in uphill) >= _MANY:
        message = "The optimizer's first step adds the gradient and does not subtract it, so the"
        message += " loss grows"
        remedy = "Scale the updates by -1 times the learning rate: optax.scale(-1) at the end"
        code = "optimizer = optax.chain(optimizer, optax.scale(-1))"
        return finding("failure", "ascent", _parameters(evidence, uphill), message, remedy, code)
    bare = _parameters(evidence, (index for index in uphill if steps[index]["bare"]))
    if not bare:
        return []
    names = _names(bare)
    message = (
        f"The optimizer adds to {names} the gradient as it is, so the loss grows: optax.masked"
        " changes nothing where its mask is False, and what comes through is the gradient"
    )
    remedy = f"Give {names} no update, or an update of their own"
    code = "optimizer = optax.multi_transform({True: optimizer, False: optax.set_to_zero()}, mask)"
    return finding("failure", "ascent", bare, message, remedy, code)


def frozen(evidence: Evidence) -> list[Finding]:
    """Parameters that the first step leaves as they are, although they get a gradient."""
    return _rounded_away(evidence) or _left_out(evidence)


def _rounded_away(evidence: Evidence) -> list[Finding]:
    """Steps that are smaller than the distance of two neighboring numbers."""
    steps, shapes = _steps(evidence), evidence.traced.shapes
    narrow = [index for index in steps if shapes[index].dtype.itemsize < _NARROW]
    numbers, moved = (sum(steps[index][name] for index in narrow) for name in ("steps", "moved"))
    if not numbers or moved > (1 - _LOST) * numbers:
        return []
    lost = _parameters(
        evidence, (i for i in narrow if steps[i]["moved"] < (1 - _LOST) * steps[i]["steps"])
    )
    dtype = shapes[lost[0].index].dtype
    message = (
        f"The optimizer's first step changes only {moved / numbers:.0%} of the numbers in"
        f" {_names(lost)}: for the others it is smaller than half of the distance of two"
        f" {dtype} numbers, and is rounded away"
    )
    remedy = "Keep the parameters in float32, and convert them where the model uses them"
    code = "params = jax.tree.map(lambda x: x.astype(jnp.float32), params)"
    return finding("warning", "frozen", lost, message, remedy, code)


def _left_out(evidence: Evidence) -> list[Finding]:
    """Random kernels that the optimizer does not train.

    What is frozen on purpose was trained before. Where that is most of the model, adapters within
    it may stand for those of a trained one; a head behind it may not.
    """
    steps = _steps(evidence)
    whole = _size(steps, steps)
    still = {index for index, found in steps.items() if not found["steps"]}
    weights = {leaf for layer in evidence.layers for leaf in layer.leaves}
    left = _parameters(evidence, weights & still)
    drawn = [(each, origin) for each in left if (origin := origin_of(evidence, each))]
    if not drawn:
        return []
    if _size(steps, still) > _LOST * whole:
        fresh = _size(steps, {each.index for each, _ in drawn})
        loaded = fresh <= _LOST * _size(steps, {each.index for each in left})
        if loaded or not _only_heads(evidence, steps.keys() - still):
            return []
    parameters = [parameter for parameter, _ in drawn]
    message = (
        f"The optimizer's first step leaves {_names(parameters)} unchanged, although"
        f" {'it gets' if len(drawn) == 1 else 'they get'} a gradient;"
        f" {_names(parameters[:1])} looks drawn from {drawn[0][1]}, and not trained before"
    )
    remedy = "Look for a mask or a label of the optimizer that leaves out too much"
    return finding("warning", "frozen", parameters, message, remedy)


def _size(steps: Mapping[int, Mapping[str, float]], indices: Iterable[int]) -> float:
    """How many numbers there are in these parameters."""
    return sum(steps[index]["numbers"] for index in indices)


def _only_heads(evidence: Evidence, trained: Collection[int]) -> bool:
    """Whether all that is trained are layers at the end, or there are no kernels in it.

    A step that trains nothing at all may be the first of a warmup.
    """
    heads = [layer for layer in evidence.layers if not set(layer.leaves).isdisjoint(trained)]
    inside = {leaf for layer in heads for leaf in layer.leaves}
    inside |= {source.leaf for layer in heads for source in layer.site.bias_sources}
    behind = {other.row for layer in heads for other in layers_after(layer, evidence.layers)}
    at_end = inside.issuperset(trained) and behind <= {head.row for head in heads}
    return bool(trained) and (at_end or not heads)


def update(evidence: Evidence) -> list[Finding]:
    """First steps as large as the weights, if they change what the layer computes as much.

    Kernels that are small on purpose, such as those of a policy, a gate or an adapter, may take
    them: as long as the pre-activations hardly move, nothing is lost.
    """
    found = large_steps(evidence)
    if not found:
        return []
    worst = max(found, key=lambda layer: layer.update_ratio)
    message = (
        f"The optimizer's first step at {some(names_of(found))} is"
        f" {plain(worst.update_ratio)} times the weights' standard deviation"
    )
    remedy = "Lower the learning rate, or draw the weights at a larger scale"
    return finding("warning", "update", found, message, remedy)


def large_steps(evidence: Evidence) -> list[JudgedLayer]:
    """The layers whose first step is as large as their weights, and matters."""
    return [
        layer
        for layer in evidence.layers
        if layer.update_ratio > _STEP and not _change(layer) < _STEP
    ]


def _change(layer: JudgedLayer) -> float:
    """By how much the first step may change the pre-activations, relative to one or to their size.

    Each weight moves with the sign of its input at best.
    """
    variance = max(0.0, layer.weight_square - layer.weight_mean**2)
    step = layer.update_ratio * math.sqrt(variance)
    change = step * layer.fan_in * math.sqrt(layer.input_square) * abs(layer.site.scale)
    return change / (layer.rms if layer.role == "normalized" else max(1.0, layer.rms))


def _parameters(evidence: Evidence, indices: Iterable[int]) -> list[Parameter]:
    return [evidence.parameter(index) for index in sorted(indices)]


def _names(parameters: Sequence[Parameter]) -> str:
    return some([label([parameter]) for parameter in parameters])


def _steps(evidence: Evidence) -> dict[int, dict[str, float]]:
    """What the first step does to each parameter that is to be trained and gets a gradient."""
    return {
        index: found
        for index, found in enumerate(evidence.measured.parameters)
        if "downhill" in found and found["learning"] and evidence.trainable[index]
    }
