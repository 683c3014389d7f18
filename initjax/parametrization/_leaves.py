"""A parameter of a model beside its counterpart in the base model, before a plan and in it."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

from initjax._values import Initializer

Role = Literal["input", "embedding", "hidden", "output", "tied", "vector", "scalar"]
ROLES: tuple[Role, ...] = get_args(Role)


class Axes(NamedTuple):
    """The axes of a kernel, counted from the first one."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    members: tuple[int, ...] = ()
    """Those that number separate kernels, as under vmap or in a scan."""


@dataclasses.dataclass(frozen=True)
class Grown:
    """A parameter of the model, beside its counterpart in the base model."""

    path: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    role: Role
    reason: str
    """Why it has this role."""
    axes: Axes | None
    """None if it has no inputs."""
    stack: int
    """How many leading axes number the blocks."""
    in_block: bool
    """Whether the model has more such parameters than the base model: one for each block."""
    base_size: float | None
    """The root mean square of the counterpart; None if it is only a shape."""
    embedding: bool = False
    """Whether its rows are looked up."""

    @property
    def growth(self) -> tuple[float, float]:
        """By which factors fan_in and fan_out have grown."""
        if 0 in (*self.shape, *self.base_shape):
            return 1.0, 1.0
        ratios = [size / base for size, base in zip(self.shape, self.base_shape, strict=True)]
        if self.axes is None:
            return 1.0, math.prod(ratios[self.stack :])
        inputs, outputs, members = self.axes
        parallel = [axis for axis in members if axis >= self.stack]
        spread = math.prod(ratios[axis] for axis in (*outputs, *parallel))
        return math.prod(ratios[axis] for axis in inputs), spread

    @property
    def fans(self) -> tuple[float, float]:
        """fan_in and fan_out."""
        return self._fans(self.shape)

    @property
    def base_fans(self) -> tuple[float, float]:
        """Those of the base model."""
        return self._fans(self.base_shape)

    def _fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        members = {*range(self.stack), *(self.axes.members if self.axes else ())}
        whole = math.prod(size for axis, size in enumerate(shape) if axis not in members)
        if self.axes is None:
            return 1.0, float(whole)
        inputs, outputs = (math.prod(shape[axis] for axis in axes) for axes in self.axes[:2])
        return whole / outputs, whole / inputs


@dataclasses.dataclass(frozen=True)
class PlannedLeaf:
    """What a parametrization says of one parameter. Factors are relative to the base model."""

    path: str
    """Its place in the tree, such as "params/Dense_0/kernel"."""
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    role: Role
    fans: tuple[float, float]
    """fan_in, the number of products that a unit sums, and fan_out; of a vector, 1 and its size."""
    base_fans: tuple[float, float]
    """Those of the base model."""
    ratio: float
    """The growth of fan_in; for vectors and inputs, of their outputs."""
    stddev: float
    """The factor of the standard deviation that it is drawn with."""
    multiplier: float
    """The factor of the product with it in the forward pass."""
    learning_rate: float
    """The factor of its learning rate."""
    epsilon: float
    """The factor of Adam's epsilon."""
    weight_decay: float
    """The factor of its weight decay."""
    in_block: bool
    """Whether it is in a block, of which the model has another number than the base model."""
    why: str
    """Why it has this role."""
    base_initializer: Initializer | None
    """What the base model draws it from: what `init` says, or else LeCun's initializer for kernels;
    None for other parameters."""
    given: bool
    """Whether `init` says so."""
    base_size: float | None
    """The root mean square of the base model's array; None if only its shape was given."""

    @property
    def fan_in(self) -> float:
        """How many products a unit sums; 1 for vectors."""
        return self.fans[0]

    @property
    def usual(self) -> dict[str, float]:
        """How much larger usual initializers draw it in the base model, by what they depend on."""
        (fan_in, fan_out), (base_in, base_out) = self.fans, self.base_fans
        if self.role in ("vector", "scalar"):
            return {"nothing": 1.0, "size": (fan_out / base_out) ** 0.5}
        return {
            "nothing": 1.0,
            "fan_in": (fan_in / base_in) ** 0.5,
            "fan_out": (fan_out / base_out) ** 0.5,
            "fan_avg": ((fan_in + fan_out) / (base_in + base_out)) ** 0.5,
            "longest": (max(self.fans) / max(self.base_fans)) ** 0.5,  # of orthogonal kernels
        }
