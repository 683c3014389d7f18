"""One layer: what was measured of it, and what theory predicts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from initjax.auditing._judging.names import Parameter
from initjax.auditing._reading.expressions import Expression, Path
from initjax.auditing._reading.reasons import Reason
from initjax.auditing._reading.sites import Site


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: what was measured of it, and what theory predicts. NaN means not measured."""

    name: str
    """The path of its kernel, with the number of the slice if loops stack layers in it."""
    kind: str
    """'dense', 'convolution' or 'embedding'."""
    shape: tuple[int, ...]
    """Of its kernel."""
    fan_in: float
    """How many products a unit sums, on average over positions."""
    fan_out: float
    """How many products an input enters, on average."""
    units: int
    """How many numbers it gives for one example and position."""
    members: int
    """How many layers run side by side, as under `vmap`; ranks are those of the worst member."""
    samples: int
    """How many examples and positions each unit was measured on; 0 if the layer did not run, as in
    a branch that was not taken."""
    uses: int
    """How often a loop uses it; its numbers are means over these uses."""
    activation: str
    """What is applied to the pre-activations; "" if that is not one elementwise function."""
    role: str
    """'', 'branch end' (its output is added to a residual stream), 'sum' (added to something
    else), 'normalized' (its output is normalized) or 'last'."""

    weight_variance: float
    """The gain, fan_in E[W²]: the variance of pre-activations whose inputs have mean square 1."""
    bias_variance: float
    """The mean square of the biases."""
    input_square: float
    """The mean square of the inputs."""
    mean: float
    """The mean of the pre-activations, over units and samples."""
    stddev: float
    """The standard deviation of the pre-activations, over units and samples."""
    rms: float
    """The root mean square of the pre-activations; `predicted_rms` is what theory says."""
    unit_stddev: float
    """The standard deviation over samples, as root mean square over units."""
    dead: float
    """The part of the units that are flat on all samples."""
    saturated: float
    """The part of the pre-activations at which the activation is flat."""
    correlation: float
    """The mean cosine between the pre-activations of two examples."""
    rank: float
    """The effective number of different functions that the units compute."""
    gradient: float
    """The root mean square of the loss's gradient with respect to the pre-activations."""
    gradient_ratio: float
    """The squared norm of that gradient, divided by that of the layer that reads this one: a
    partial Jacobian norm. On a residual stream, by that of the next end of a branch."""
    gradient_rank: float
    """The effective rank of that gradient."""
    update_ratio: float
    """The standard deviation of the optimizer's first update, divided by that of the weights."""
    weight_rank: float
    """The effective rank of the weights."""

    predicted_rms: float
    """What theory predicts for `rms`."""
    predicted_range: tuple[float, float]
    """The range of `rms` for 95% of the networks of these widths."""
    rms_z: float
    """How many standard deviations, due to finite width, log(rms²) is off."""
    predicted_gradient_ratio: float
    """What theory predicts for `gradient_ratio`: chi_1."""
    predicted_correlation: float
    """What theory predicts for `correlation`."""
    predicted_dead: float
    """The part of dead units that chance alone explains."""
    predicted_saturated: float
    """The part of unit normal pre-activations at which the activation is flat."""
    unpredicted: Reason | str
    """Why predictions restart from this layer's measured input, such as 'batch' or 'sum', or the
    name of a JAX primitive; "" if its input follows from another layer's output."""

    histogram: tuple[float, ...]
    """Of the pre-activations, in root mean squares from -4 to 4: the parts in 41 bins. Empty if not
    measured."""
    gradient_histogram: tuple[float, ...]
    """The same of the gradients."""

    parameters: tuple[Parameter, ...]
    """The parameters that its kernel is made of."""
    source: int | None
    """The number of the layer whose output, through its activation, is this one's input; None where
    predictions restart."""
    logits: bool
    """Whether its output enters a softmax and a logarithm."""
    saturating: bool
    """Whether its activation is flat on both sides."""

    def __repr__(self) -> str:
        numbers = {"gain": self.weight_variance, "rms": self.rms, "gradient": self.gradient}
        measured = [
            f"{name} {value:.3g}" for name, value in numbers.items() if not math.isnan(value)
        ]
        what = [f"{self.kind} {self.shape}", self.activation or self.role]
        return f"<Layer {self.name}: {', '.join([*filter(None, what), *measured])}>"


@dataclasses.dataclass(frozen=True)
class JudgedLayer(Layer):
    """A layer with what only the judgment needs."""

    row: int
    """Its place among all layers, in the order of execution."""
    site: Site
    expression: Expression | None
    """Its activation."""
    depth: int
    """The number of layers before it in its chain."""
    weight_square: float
    """The mean square of the weights."""
    weight_least: float
    """That of the member that has the smallest."""
    weight_mean: float
    weight_zeros: float
    """The part of the weights that are zero."""
    input_largest: float
    """The largest absolute input."""
    feature_means: np.ndarray = dataclasses.field(compare=False)
    """The mean of every feature of an input that is made from the batch alone; else none."""
    feature_variances: np.ndarray = dataclasses.field(compare=False)
    log_gradient: float
    """The logarithm of the squared norm of the gradient with respect to the pre-activations."""
    log_typical: float
    """The same if all examples had the gradient of the median one: a few may be amplified."""

    @property
    def path(self) -> Path:
        return self.site.path

    @property
    def whole(self) -> bool:
        """Whether its weight is one parameter, as it is."""
        return len(self.site.sources) == 1 and all(s.how == "whole" for s in self.site.sources)

    @property
    def leaves(self) -> tuple[int, ...]:
        """The indices of the parameters that its weight is made of."""
        return tuple(parameter.index for parameter in self.parameters)


_PUBLIC = tuple(field.name for field in dataclasses.fields(Layer))


def public(layer: JudgedLayer) -> Layer:
    """The layer as users see it."""
    return Layer(**{name: getattr(layer, name) for name in _PUBLIC})


def that_ran(layers: Sequence[JudgedLayer]) -> tuple[JudgedLayer, ...]:
    """The layers that ran, with their sources numbered among them."""
    if all(layer.samples for layer in layers):
        return tuple(layers)
    ran = [layer for layer in layers if layer.samples]
    numbers = {layer.row: number for number, layer in enumerate(ran)}
    return tuple(
        dataclasses.replace(
            layer, source=None if layer.source is None else numbers.get(layer.source)
        )
        for layer in ran
    )
