"""`recommend`: theory proposes an initializer, and training runs near the network decide."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, overload

from initjax._flattening import described
from initjax._values import checked_choice, checked_integer
from initjax.advice import _evidence, _theory
from initjax.advice import table as tables
from initjax.advice._choices import Choice, choices, proposed
from initjax.advice._recommendation import Recommendation
from initjax.advice._widths import widened
from initjax.auditing._activations import function_of, known_name
from initjax.theory._activation import Activation, named

if TYPE_CHECKING:
    from initjax.auditing import Report

Normalization = Literal["layer", "rms", "group", "batch"]
Optimizer = Literal["adam", "momentum", "sgd"]

_MOST_LAYERS = 10_000  # theory is computed layer by layer, which then takes a quarter of a minute


class _Network(NamedTuple):
    """The network that was described."""

    function: Callable[[Any], Any]
    activation: str
    """Its usual name; "" if it has none."""
    title: str
    """What the advice calls it."""
    depth: int
    width: int
    residual: bool
    normalization: str | None
    attention: bool
    optimizer: Optimizer
    base_width: int | None

    @property
    def plain(self) -> bool:
        return not (self.residual or self.normalization or self.attention)


@overload
def recommend(
    activation: Report, /, *, optimizer: Optimizer = "adam", base_width: int | None = None
) -> Recommendation: ...
@overload
def recommend(
    activation: Activation,
    depth: int,
    width: int,
    *,
    residual: bool = False,
    normalization: Normalization | None = None,
    attention: bool = False,
    optimizer: Optimizer = "adam",
    base_width: int | None = None,
) -> Recommendation: ...
def recommend(
    activation: Activation | Report,
    depth: int | None = None,
    width: int | None = None,
    *,
    residual: bool = False,
    normalization: Normalization | None = None,
    attention: bool = False,
    optimizer: Optimizer = "adam",
    base_width: int | None = None,
) -> Recommendation:
    r"""Recommends an initializer for a network, with the reasons and with the evidence.

    Theory proposes one: a scale at which signals and gradients keep their size over the depth
    (:math:`\chi_1 = 1`), and orthogonal kernels in deep networks; an audit proposes the same. Then
    a table of training runs decides, which is part of the library: if theory's choice is measurably
    worse than another one in the settings that surround the network, that one is recommended. Where
    the table ends, nothing is extrapolated: then the advice is theory alone, and says so.

    The table has small multilayer perceptrons on MNIST that were trained for a few hundred steps.
    It shows what can be trained, and what learns fast, not what is best after long training.

    Args:
      activation: of the hidden layers: an elementwise function, or a name in `jax.nn`; or the
        report of an audit, which describes the whole network.
      depth: the number of hidden layers, each followed by the activation; with residual
        connections, the number of blocks.
      width: the number of units of a hidden layer, or its fan_in.
      residual: whether each block is added to its input.
      normalization: 'layer', 'rms', 'group' or 'batch'; None if there is none. An audit doesn't
        tell which one it is: its report is taken for 'layer'.
      attention: whether each block has softmax attention.
      optimizer: 'adam', 'momentum' or 'sgd', of which runs are looked up.
      base_width: the width at which the learning rate was searched, if that was another one: then
        the advice has the `parametrization`, muP, which says what changes with the width so that
        the learning rate stays right. `parametrize` has others, for depth too.

    Returns:
      A `Recommendation`. Print it to see all.

    Raises:
      TypeError, ValueError: activation isn't such a function, name or report, or the report has no
        hidden layer whose activation has a usual name; depth, width or base_width isn't an integer
        above 0, or depth is above 10,000;
        normalization or optimizer is none of the above.

    Example:
      >>> advice = recommend("tanh", depth=100, width=512)
      >>> advice.spec, advice.gain, advice.bias_variance
      ('orthogonal', 1.0, 0.0)
      >>> kernel_init = advice.initializer

    Reference:
      Schoenholz et al. 2017, "Deep Information Propagation", https://arxiv.org/abs/1611.01232, and
      Pennington et al. 2017, "Resurrecting the sigmoid in deep learning through dynamical
      isometry", https://arxiv.org/abs/1711.04735.
    """
    checked_choice("recommend", "optimizer", optimizer, get_args(Optimizer))
    if base_width is not None:
        base_width = checked_integer("recommend", "base_width", base_width, 1)
    if hasattr(activation, "findings"):
        if depth is not None or width is not None or residual or normalization or attention:
            raise TypeError("recommend: a report describes the whole network; leave out the rest")
        report: Any = activation
        return _recommended(_audited(report, optimizer, base_width))
    function = named("recommend", activation)  # pyright: ignore[reportArgumentType]
    for name, value in (("depth", depth), ("width", width)):
        if value is None:
            raise TypeError(f"recommend: {name} is missing; see help(initjax.recommend)")
    for name, value in (("residual", residual), ("attention", attention)):
        if not isinstance(value, bool):
            raise TypeError(f"recommend: {name} must be True or False, got {described(value)}")
    if normalization is not None:
        checked_choice("recommend", "normalization", normalization, get_args(Normalization))
    layers = checked_integer("recommend", "depth", depth, 1)
    if layers > _MOST_LAYERS:
        raise ValueError(f"recommend: depth must be at most {_MOST_LAYERS:,}, got {layers:,}")
    known = known_name(function)
    network = _Network(
        function,
        known,
        _called(activation, known),
        layers,
        checked_integer("recommend", "width", width, 1),
        residual,
        normalization,
        attention,
        optimizer,
        base_width,
    )
    return _recommended(network)


def _called(activation: Any, known: str) -> str:
    name = activation if isinstance(activation, str) else known
    name = name or str(getattr(activation, "__name__", ""))
    return name if name in (activation, known) or name.isidentifier() else "unnamed"


def _audited(report: Report, optimizer: Optimizer, base_width: int | None) -> _Network:
    """The network that an audit has read."""
    hidden = [layer for layer in report.layers if layer.activation]
    counts = collections.Counter(layer.activation for layer in hidden)
    for name, _ in counts.most_common():
        function = function_of(name)
        if function is not None:
            break
    else:
        told = f"has the activation {next(iter(counts))!r}" if counts else "has no activation"
        raise ValueError(
            f"recommend: the audited network {told}, about which nothing is known; describe the"
            " network: recommend(activation, depth, width), with a function or a name in jax.nn"
        )
    layers = [layer for layer in hidden if layer.activation == name]
    ends = sum(layer.role == "branch end" for layer in report.layers)
    return _Network(
        function,
        name,
        name,
        ends or max(report.network.depth, 1),
        max(1, int(statistics.median(layer.units for layer in layers))),
        ends > 0,
        "layer" if any(layer.role == "normalized" for layer in report.layers) else None,
        bool(report.attention),
        optimizer,
        base_width,
    )


def _recommended(network: _Network) -> Recommendation:
    function, name = network.function, network.activation.removesuffix(" (exact)")
    branches = network.depth * (1 + network.attention)
    kind = (branches, network.residual, network.normalization is not None)
    theirs = proposed(function, name, *kind)
    known = choices(function, name, *kind)
    settings, missing, table = _settings(network, name)
    choice = theirs
    if settings:
        choice = known.get(_evidence.chosen(theirs.name, settings), theirs)
    found = table and _evidence.evidence(choice.name, settings, table)
    others = _others(choice, (theirs, *known.values()))
    told = [
        (one, _theory.theory_of(function, one, network.depth, network.width, network.plain))
        for one in (choice, *others)
    ]
    reasons = _theory.reasons(*told[0], network.depth)
    if _drawn(choice) != _drawn(theirs):
        worse = _evidence.where_worse(theirs.name, settings)
        reasons.append(
            f"Theory alone suggests {theirs.spec}. It was measurably worse in runs near this"
            f" network{worse}, so what was better there is recommended."
        )
    if network.residual and network.normalization is None:
        reasons.append(_theory.residual_reason(function, choice, branches))
    if network.normalization is not None:
        reasons.append(_theory.NORMALIZED)
    avoid = _theory.warnings(function, network.title, told[1:], told[0], network.depth)
    if not network.plain:
        avoid = _theory.other_warnings(*network[5:8], network.depth)
    if network.attention:
        reasons.append(_theory.ATTENTION)
    if found:
        avoid += [f"{spec}: no run at {where} trained." for spec, where in found.untrained]
        if not found.settings[0].trained:
            avoid.append(
                "This network: at the closest setting, runs were no better than guessing from any"
                " initializer."
            )
    plan = None
    if network.base_width is not None:
        plan = widened(choice, network.base_width, network.width, network.optimizer)
    return Recommendation(
        activation=network.title,
        depth=network.depth,
        width=network.width,
        residual=network.residual,
        normalization=network.normalization,
        attention=network.attention,
        choice=choice,
        alternatives=tuple(others),
        theory=told[0][1],
        reasons=tuple(reasons),
        avoid=tuple(avoid),
        evidence=found,
        no_evidence="" if found else missing or f"{choice.spec} was not measured near this network",
        parametrization=plan,
    )


def _others(choice: Choice, known: Iterable[Choice]) -> list[Choice]:
    """Each of those that draw something else, once."""
    found = {_drawn(one): one for one in known}
    found.pop(_drawn(choice), None)
    return list(found.values())


def _drawn(choice: Choice) -> tuple[str, str, float]:
    """What tells apart choices that draw something else."""
    return choice.spec, choice.bias_spec, choice.branch_scale


def _settings(
    network: _Network, name: str
) -> tuple[list[tables.Setting], str, tables.Table | None]:
    """The settings of the table near a network, why there are none, and the table."""
    table = tables.shipped()
    if table is None:
        return [], "this version of the library has no table of runs", None
    if network.attention:
        return [], "the table has no networks with attention", None
    if network.normalization not in (None, "layer"):
        return [], f"the table has no networks with {network.normalization} normalization", None
    if network.residual and network.normalization:
        return [], "the table has no residual networks with normalization", None
    kind = "residual" if network.residual else "normalized" if network.normalization else "plain"
    where = (kind, name, network.optimizer, network.width, network.depth)
    return *tables.around(table, *where), table
