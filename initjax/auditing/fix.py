"""The repair: scales learned from data, in one pass forward.

A pre-activation is proportional to its kernel but for the bias. So the pass that measures a layer
can rescale its output on the spot, and go on with what the repaired layer gives; no layer is
visited twice. Afterwards the kernels are multiplied by the factors that the pass has used.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from initjax._drawing import draw_dtypes
from initjax._values import checked_choice
from initjax.auditing.audit import reported
from initjax.auditing.judge import some
from initjax.auditing.measure import measurer
from initjax.auditing.report import Report
from initjax.auditing.rerun import rerun
from initjax.auditing.signals import IDENTITY, Expression, Path
from initjax.auditing.sites import Site
from initjax.auditing.trace import Traced, trace
from initjax.theory._integrals import single
from initjax.trees import named_key, placed_like

if TYPE_CHECKING:
    import jax

METHODS = ("variance", "units", "gradient")
_LOGITS = 0.45  # standard deviation of logits that costs a tenth in the initial loss
_LARGE_LOGITS = 1.0
_KILLING = 0.5  # variance of biases that is too much beside pre-activations of variance one
_DRIFT = 10.0  # of the gradient's squared norm over a chain, that unit variance may cost
_STEPS = 100  # of the search for scales by gradient
_GRID = np.exp(np.linspace(math.log(1e-8), math.log(1e3), 400))  # variances
_WIDTH = 100
_MOST_CHANGES = 16  # that are printed

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


class Change(NamedTuple):
    """What was done to one parameter."""

    name: str
    what: str
    """What was done and why."""
    factors: tuple[float, ...]
    """By what it was multiplied: once, or for every slice of a stacked one; empty if it was drawn
    anew or set to zero, or scaled unit by unit."""


@dataclasses.dataclass(frozen=True)
class Repair:
    """The result of `initjax.fix` besides the parameters. `print(repair)` shows it."""

    before: Report
    after: Report
    changes: tuple[Change, ...]
    left: tuple[tuple[str, str], ...]
    """The layers that were left alone, and why."""
    target: str
    """What the scales aim at."""
    warning: str

    @property
    def verdict(self) -> str:
        """That of the audit afterwards."""
        return self.after.verdict

    def __str__(self) -> str:
        count = len({change.name for change in self.changes})
        title = (
            f"initjax fix: {count} parameter{'' if count == 1 else 's'} changed;"
            f" {self.before.verdict} before, {self.after.verdict} after"
        )
        lines = [title, *_wrapped(f"target: {self.target}", "    ")]
        width = min(44, max((len(change.name) for change in self.changes), default=0))
        shown = self.changes
        if len(shown) > _MOST_CHANGES:
            shown = (*shown[: _MOST_CHANGES // 2], None, *shown[-_MOST_CHANGES // 2 :])
        for change in shown:
            if change is None:
                lines.append(f"  ... {len(self.changes) - _MOST_CHANGES} more ...")
                continue
            factors = ", ".join(f"{factor:.4g}" for factor in change.factors[:3])
            if len(change.factors) > 3:
                factors += ", ..."
            times = f"times {factors}: " if factors else ""
            lines += _wrapped(f"  {change.name:{width}}  {times}{change.what}", " " * (width + 4))
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left:
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            lines += _wrapped(f"left alone: {some(names)}: {reason}", "    ")
        if self.warning:
            lines += _wrapped(f"warning: {self.warning}", "    ")
        return "\n".join([*lines, "", "after:", str(self.after)])


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, drop_whitespace=True,
                         break_long_words=False, break_on_hyphens=False,
                         replace_whitespace=False)  # fmt: skip


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
    drawn anew, orthogonal, before the pass; without one they are left and named. Biases that have
    killed units are set to zero.

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
    traced = trace("fix", loss_fn, params, batch, has_aux)
    measure = measurer(traced, optimizer)
    before = reported(traced, measure(params, batch), params, batch)
    leaves = list(jax.tree.leaves(params))
    changes: list[Change] = []
    left: list[tuple[str, str]] = []
    target = "nothing: what is not finite has to be mended first"
    if not any(finding.cause == "not_finite" for finding in before.findings):
        _redraw(traced, before, leaves, key, changes, left)
        _clear_biases(traced, before, leaves, changes)
        if method == "gradient":
            target = "the least loss after the optimizer's first step"
            _by_gradient(traced, leaves, batch, optimizer, changes, left)
        else:
            critical = method == "variance" and _drifts(before)
            target = _target(method, critical)
            _by_pass(traced, leaves, batch, method, critical, changes, left)
    params = jax.tree.unflatten(traced.structure, leaves)
    after = reported(traced, measure(params, batch), params, batch)
    kept = tuple(dict.fromkeys(left))
    return params, Repair(before, after, tuple(changes), kept, target, _WARNINGS[method])


def _target(method: str, critical: bool) -> str:
    if method == "units":
        return "every unit of mean zero and variance one"
    if critical:
        return (
            "chi_1 = 1: gradients keep their norm from layer to layer; at unit variance they would"
            " grow tenfold or more over this depth"
        )
    return "pre-activations of variance one in every layer"


def _drifts(before: Report) -> bool:
    """Whether gradients would grow tenfold in the longest chain if all variances were one."""
    layers = [layer for layer in before.layers if layer.expression is not None]
    growth = 0.0
    for layer in layers[: before.network.depth] if before.network.depth else []:
        growth += _critical_growth(layer.expression)
    return growth > math.log(_DRIFT)


@functools.lru_cache(maxsize=256)
def _critical_growth(expression: Expression | None) -> float:
    """log chi_1 at unit variance; zero where no smaller variance has chi_1 = 1."""
    if expression is None or expression == IDENTITY:
        return 0.0
    try:
        one = single(expression, 1.0)
        return max(0.0, math.log(float(one.derivative_second) / float(one.second)))
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0


# What scaling cannot repair


def _redraw(
    traced: Traced,
    before: Report,
    leaves: list[Any],
    key: jax.Array | None,
    changes: list[Change],
    left: list[tuple[str, str]],
) -> None:
    names = {name or "params": index for index, name in enumerate(traced.names)}
    sites = {
        source.leaf: site
        for site in traced.anatomy.sites.values()
        for source in site.sources
        if len(site.sources) == 1 and source.how == "whole" and site.kind != "embedding"
    }
    for finding in before.findings:
        if finding.cause not in ("zero", "symmetry", "duplicate"):
            continue
        involved = list(
            dict.fromkeys(name.split("[")[0].split(" (use")[0] for name in finding.layers)
        )
        if finding.cause == "duplicate" and len(involved) > 1:
            involved = involved[1:]  # the first keeps its draw
        for name in involved:
            index = names.get(name, -1)
            if index not in sites or any(change.name == name for change in changes):
                continue
            if key is None:
                reason = "scaling cannot repair it; give key= to draw it anew"
                left.append((name, f"{finding.cause}: {reason}"))
                continue
            leaves[index] = _orthogonal(
                sites[index], named_key(key, name), leaves[index], _spread(leaves[index])
            )
            changes.append(Change(name, f"drawn anew, orthogonal ({finding.cause})", ()))


def _spread(leaf: Any) -> float:
    """The standard deviation of a random kernel, which a new draw keeps; 0 for a constant one."""
    import jax.numpy as jnp

    wide = leaf.astype(jnp.float32)
    stddev, largest = float(wide.std()), float(jnp.abs(wide).max(initial=0))
    return stddev if stddev > 1e-3 * largest else 0.0


def _orthogonal(site: Site, key: jax.Array, leaf: Any, stddev: float) -> Any:
    """A leaf drawn anew with orthogonal units, of unit gain or of the standard deviation it had."""
    import jax

    from initjax.orthogonal import orthogonal

    (source,) = site.sources
    stacked = len(source.stacked)
    shape = leaf.shape[stacked:]
    units = math.prod(shape[axis] for axis in site.weight_units) if not source.laid_out else 0
    rows = math.prod(shape) // units if units else shape[0]
    columns = units or math.prod(shape[1:])
    count = math.prod(leaf.shape[:stacked])
    flat = [orthogonal()(k, (rows, columns), "float32") for k in jax.random.split(key, count)]
    others = [axis for axis in range(len(shape)) if axis not in site.weight_units]
    drawn = []
    for matrix in flat:
        gain = matrix * (stddev / float(matrix.std()) if stddev > 0 else 1.0)
        if units:
            order = [*others, *site.weight_units]
            array = gain.reshape([shape[axis] for axis in order])
            gain = array.transpose([order.index(axis) for axis in range(len(shape))])
        drawn.append(gain.reshape(shape))
    import jax.numpy as jnp

    whole = jnp.stack(drawn).reshape(leaf.shape).astype(leaf.dtype)
    return placed_like(leaf, whole)


def _clear_biases(traced: Traced, before: Report, leaves: list[Any], changes: list[Change]) -> None:
    """Sets biases to zero that outweigh their inputs in layers with dead units."""
    import jax.numpy as jnp

    dead = {name for f in before.findings if f.cause == "dead" for name in f.layers}
    for layer in before.layers:
        site = traced.anatomy.sites[layer.path]
        whole = [source for source in site.bias_sources if source.how == "whole"]
        if layer.name not in dead or len(whole) != 1 or len(site.bias_sources) != 1:
            continue
        name = traced.names[whole[0].leaf]
        large = layer.bias_variance > _KILLING  # kernels are going to be scaled to variance one
        if large and not any(change.name == name for change in changes):
            leaves[whole[0].leaf] = jnp.zeros_like(leaves[whole[0].leaf])
            changes.append(Change(name, "set to zero: it has killed units", ()))


# The pass


def _by_pass(
    traced: Traced,
    leaves: list[Any],
    batch: tuple[Any, ...],
    method: str,
    critical: bool,
    changes: list[Change],
    left: list[tuple[str, str]],
) -> None:
    import jax

    sites = traced.anatomy.sites
    reasons = _reasons(traced, leaves, method)
    hooks: dict[Path, Any] = {}
    branches = sum(
        math.prod(length or 1 for _, length in site.loops)
        for site in sites.values()
        if site.residual
    )
    stuck = {name for name, _ in left}
    for path, site in sites.items():
        name = _name(traced, site)
        if name in stuck:
            continue
        if reasons[path]:
            left.append((name, reasons[path]))
            continue
        squares: dict[str, Any] = {}
        table = _critical_table(site, sites) if critical else None
        rescale = functools.partial(
            _rescale_units if method == "units" else _rescale, site, branches, table, squares
        )
        if table is not None:
            note = functools.partial(_note, site, squares)
            if site.output == path:
                rescale = functools.partial(_both, note, rescale)
            else:
                hooks[path] = note
        hooks[site.output] = rescale
    if not hooks:
        return

    @jax.jit
    def run(leaves: list[Any], batch: list[Any], constants: list[Any]) -> dict[Path, Any]:
        return rerun(traced.jaxpr, constants, [*leaves, *batch], hooks)[1]

    records = run(leaves, jax.tree.leaves(batch), traced.constants)
    for site in sites.values():
        if site.output in records:
            _apply(traced, site, records[site.output], leaves, changes, left)


def _reasons(traced: Traced, leaves: list[Any], method: str) -> dict[Path, str]:
    """Why sites are left alone; "" for those that are not."""
    sites = traced.anatomy.sites
    uses: dict[int, int] = {}
    for site in sites.values():
        for source in site.sources:
            uses[source.leaf] = uses.get(source.leaf, 0) + 1
    last = next((s.path for s in reversed(sites.values()) if s.softmax), list(sites)[-1])
    reasons = {}
    for path, site in sites.items():
        shared = {loop for loop, _ in site.loops} - site.stacked
        if site.kind == "embedding":
            reason = "an embedding, whose rows are no sums"
        elif len(site.sources) != 1 or any(s.how != "whole" for s in site.sources):
            reason = "made of parameters otherwise than by a product with a number"
        elif shared:
            reason = "a loop uses it in every turn; an orthogonal draw keeps a recurrence stable"
        elif uses[next(iter(site.sources)).leaf] > 1:
            reason = "used in several layers"
        elif site.normalised and not site.added:
            reason = "its output is normalised, so that its scale does not count"
        elif site.added and not site.residual:
            reason = "its output is added to another layer's"
        elif path == last and not (site.softmax or site.residual):
            reason = "the last layer, whose scale is the targets'"
        elif method == "units" and (site.residual or path == last):
            reason = "the end of a branch or of the network"
        elif method == "units" and next(iter(site.sources)).laid_out:
            reason = "its units cannot be told in the parameter's own layout"
        else:
            reason = ""
        reasons[path] = reason
    return reasons


def _both(first: Callable, second: Callable, operands: list, results: list, slot: Any) -> Any:
    first(operands, results, slot)
    return second(operands, results, slot)


def _note(site: Site, squares: dict[str, Any], operands: list, results: list, slot: Any) -> Any:
    """Keeps the mean squares of a site's weight and input for the hook of its output."""
    import jax.numpy as jnp

    squares["input"] = jnp.square(operands[1 - site.weight].astype(jnp.float32)).mean()
    return results, None


def _rescale(
    site: Site,
    branches: int,
    table: Any,
    squares: dict[str, Any],
    operands: list,
    results: list,
    slot: Any,
) -> tuple[list, Any]:
    """Multiplies what a kernel gives, so that the pre-activation has the standard deviation aimed
    at, and records the factor."""
    import jax.numpy as jnp

    (output,) = results
    product = output if site.bias is None else operands[1 - site.bias]
    wide = product.astype(jnp.float32)
    bias = output.astype(jnp.float32) - wide
    size = jnp.abs(wide).max(initial=0)
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    normal, offset = wide / unit, bias / unit  # squares stay within float32
    variance, covariance = normal.var(), ((normal - normal.mean()) * offset).mean()
    extra = offset.var()
    stddev = jnp.sqrt(jnp.maximum(variance + 2 * covariance + extra, 0)) * unit
    aim = jnp.float32(1)
    if table is not None:
        aim = jnp.exp(jnp.interp(jnp.log(squares["input"]), table[0], table[1])) ** 0.5
    if site.residual:
        aim = jnp.minimum(stddev, 1 / math.sqrt(branches))
    elif site.softmax:
        aim = jnp.where(stddev > _LARGE_LOGITS, _LOGITS, stddev)
    goal = jnp.square(aim / unit)
    # |factor * product + bias|^2 = goal, or without the bias if that is larger by itself.
    alone = jnp.sqrt(goal / jnp.where(variance > 0, variance, 1))
    root = jnp.square(covariance) + variance * (goal - extra)
    solved = (jnp.sqrt(jnp.maximum(root, 0)) - covariance) / jnp.where(variance > 0, variance, 1)
    factor = jnp.where(goal > extra, solved, alone)
    factor = jnp.where((variance > 0) & jnp.isfinite(factor) & (factor > 0), factor, 1)
    rescaled = (factor * wide + bias).astype(output.dtype)
    return [rescaled], {"factor": factor, "before": stddev, "after": aim}


def _rescale_units(
    site: Site,
    branches: int,
    table: Any,
    squares: dict[str, Any],
    operands: list,
    results: list,
    slot: Any,
) -> tuple[list, Any]:
    """The same unit by unit, centred where there is a bias to do it."""
    import jax.numpy as jnp

    (output,) = results
    product = (output if site.bias is None else operands[1 - site.bias]).astype(jnp.float32)
    axes = tuple(axis for axis in range(output.ndim) if axis not in site.output_axes)
    mean = product.mean(axes, keepdims=True)
    stddev = product.std(axes, keepdims=True)
    factor = jnp.where(stddev > 0, 1 / jnp.where(stddev > 0, stddev, 1), 1)
    movable = site.bias is not None and all(source.how == "whole" for source in site.bias_sources)
    offset = -mean * factor if movable else output.astype(jnp.float32) - product
    rescaled = (product * factor + offset).astype(output.dtype)
    order = [site.output_axes.index(axis) for axis in sorted(site.output_axes)]

    def by_unit(array: Any) -> Any:
        """The numbers of the units, along the axes in the order of the weight's."""
        found = array.reshape([array.shape[axis] for axis in sorted(site.output_axes)])
        return jnp.transpose(found, tuple(np.argsort(order).tolist())) if found.ndim > 1 else found

    record = {"factor": by_unit(factor), "before": product.std(), "after": jnp.float32(1)}
    if movable:
        record["bias"] = by_unit(offset)
    return [rescaled], record


def _critical_table(site: Site, sites: dict[Path, Site]) -> Any:
    """For a layer behind an activation: by the logarithm of its input's mean square, that of the
    variance at which chi_1 = 1. None for any other layer."""
    signal = site.inputs[-1].signal
    if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
        return None
    if signal.expression == IDENTITY:
        return None
    return _table(signal.expression)


@functools.lru_cache(maxsize=64)
def _table(expression: Expression) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        found = single(expression, _GRID)
    except (TypeError, ValueError):
        return None
    second, slope = np.asarray(found.second), np.asarray(found.derivative_second)
    known = (second > 0) & (slope > 0) & np.isfinite(second) & np.isfinite(slope)
    second, slope = second[known], slope[known]
    if second.size < 2 or (np.diff(second) <= 0).any():
        return None  # an input's mean square does not tell the variance
    aims = np.minimum(second / slope, 1.0)
    return np.log(second).astype(np.float32), np.log(aims).astype(np.float32)


def _apply(
    traced: Traced,
    site: Site,
    record: dict[str, Any],
    leaves: list[Any],
    changes: list[Change],
    left: list[tuple[str, str]],
) -> None:
    """Multiplies a site's parameter by the factors of the pass."""
    import jax.numpy as jnp

    (source,) = site.sources
    name = traced.names[source.leaf] or "params"
    factor = np.asarray(record["factor"], np.float64)
    before, after = np.asarray(record["before"]), np.asarray(record["after"])
    if not (before > 0).all():
        left.append((name, "its output is constant: no factor gives it a variance"))
        if not (before > 0).any():
            return
    if np.allclose(factor, 1, rtol=1e-6):
        why = "small enough as it is" if site.residual or site.softmax else "right as it is"
        left.append((name, why))
        return
    leaf = leaves[source.leaf]
    stacked = len(source.stacked)
    _, wide = draw_dtypes(leaf.dtype, None)
    if factor.ndim > stacked:  # unit by unit
        shape = list(factor.shape[:stacked]) + [
            leaf.shape[stacked + axis] if axis in site.weight_units else 1
            for axis in range(leaf.ndim - stacked)
        ]
        order = np.argsort(site.weight_units)
        whole = np.transpose(factor, (*range(stacked), *(stacked + order)))
        spread = whole.reshape(shape)
        factors: tuple[float, ...] = ()
        what = "every unit to variance one"
        if "bias" in record:
            _set_bias(traced, site, np.asarray(record["bias"]), leaves, changes)
            what += " and mean zero"
    else:
        spread = factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim))
        factors = tuple(float(number) for number in np.ravel(factor))
        aim, was = float(np.ravel(after)[0]), float(np.ravel(before)[0])
        what = f"standard deviation {was:.3g} to {aim:.3g}"
        if site.residual:
            what += ", as the end of a residual branch"
        elif site.softmax:
            what += ", as logits"
    scaled = (jnp.asarray(leaf).astype(wide) * spread.astype(wide)).astype(leaf.dtype)
    leaves[source.leaf] = placed_like(leaf, scaled)
    changes.append(Change(name, what, factors))


def _set_bias(
    traced: Traced, site: Site, bias: np.ndarray, leaves: list[Any], changes: list[Change]
) -> None:
    import jax.numpy as jnp

    (source,) = site.bias_sources
    leaf = leaves[source.leaf]
    leaves[source.leaf] = placed_like(leaf, jnp.asarray(bias.reshape(leaf.shape), leaf.dtype))
    name = traced.names[source.leaf] or "params"
    changes.append(Change(name, "minus the units' means, scaled", ()))


def _name(traced: Traced, site: Site) -> str:
    return " @ ".join(sorted({traced.names[source.leaf] or "params" for source in site.sources}))


# Scales learned by gradient


def _by_gradient(
    traced: Traced,
    leaves: list[Any],
    batch: tuple[Any, ...],
    optimizer: Any,
    changes: list[Change],
    left: list[tuple[str, str]],
) -> None:
    """Learns one scale for each kernel: the loss after the optimizer's first step is to be least.

    The step itself is taken as given, as GradInit does for Adam: no third derivative is needed.
    """
    import jax
    import jax.numpy as jnp

    kernels = sorted({s.leaf for site in traced.anatomy.sites.values() for s in site.sources})
    kernels = [index for index in kernels if index in traced.inexact]

    def loss(floats: dict[int, Any], given: Any) -> Any:
        leaves, inputs, constants = given
        arguments = [floats.get(index, leaf) for index, leaf in enumerate(leaves)]
        ((value,), _) = rerun(traced.jaxpr, constants, [*arguments, *inputs], {})
        return value.astype(jnp.float32)

    def after_step(logs: jax.Array, given: Any) -> Any:
        leaves = given[0]
        scale = dict(zip(kernels, jnp.exp(logs), strict=True))
        floats = {
            index: (leaves[index].astype(jnp.float32) * scale.get(index, 1)).astype(
                leaves[index].dtype
            )
            for index in traced.inexact
        }
        gradients = jax.grad(loss)(floats, given)
        full = [floats.get(index, leaf) for index, leaf in enumerate(leaves)]
        slopes = [gradients.get(index, jnp.zeros_like(leaf)) for index, leaf in enumerate(leaves)]
        params = jax.tree.unflatten(traced.structure, full)
        steps, _ = optimizer.update(
            jax.tree.unflatten(traced.structure, slopes), optimizer.init(params), params
        )
        steps = jax.lax.stop_gradient(jax.tree.leaves(steps))
        return loss({index: floats[index] + steps[index] for index in floats}, given)

    @jax.jit
    def search(given: Any) -> tuple[Any, Any, Any]:
        def turn(state: Any, number: Any) -> Any:
            logs, best, least = state
            value, slope = jax.value_and_grad(after_step)(logs, given)
            better = value < least
            best, least = jnp.where(better, logs, best), jnp.where(better, value, least)
            rate = 0.1 * (1 - number / _STEPS)
            moved = logs - rate * jnp.sign(jnp.where(jnp.isfinite(slope), slope, 0))
            return (jnp.clip(moved, math.log(0.01), math.log(100.0)), best, least), value

        start = jnp.zeros(len(kernels))
        (_, best, least), values = jax.lax.scan(turn, (start, start, jnp.inf), jnp.arange(_STEPS))
        return best, values[0], least

    logs, first, least = search((leaves, jax.tree.leaves(batch), traced.constants))
    for index, scale in zip(kernels, np.exp(np.asarray(logs, np.float64)), strict=True):
        name = traced.names[index] or "params"
        if abs(scale - 1) < 1e-6:
            left.append((name, "right as it is"))
            continue
        leaf = leaves[index]
        _, wide = draw_dtypes(leaf.dtype, None)
        scaled = (jnp.asarray(leaf).astype(wide) * wide.type(scale)).astype(leaf.dtype)
        leaves[index] = placed_like(leaf, scaled)
        what = f"loss after the first step {float(first):.4g} to {float(least):.4g}, all together"
        changes.append(Change(name, what, (float(scale),)))
