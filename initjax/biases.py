"""Initializers of biases that encode what is known before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._fitting import check_held
from initjax._values import (
    checked_dtype,
    checked_integer,
    checked_number,
    factory,
    initializer,
    resharded,
    resolved_dtype,
    settle,
)
from initjax.constants import constant

if TYPE_CHECKING:
    import jax


@factory
def prior_bias(probability: Any, dtype: Any = None) -> constant:
    r"""Fills the bias before a sigmoid with :math:`-\log((1 - \pi)/\pi)`: it then predicts `pi`.

    With rare positives this keeps the loss of the many negatives from dominating the first steps.
    Equals `constant(log(probability / (1 - probability)))`.

    Args:
      probability: `pi`, between 0 and 1; or one for each output.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: a probability is not a number between 0 and 1, both excluded.

    Example:
      >>> import jax
      >>> bias = prior_bias(0.01)(jax.random.key(0), (3,))
      >>> [round(float(p), 4) for p in jax.nn.sigmoid(bias)]
      [0.01, 0.01, 0.01]

    Reference:
      Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1 (pi = 0.01),
      https://arxiv.org/abs/1708.02002
    """
    values = _numbers("prior_bias", "probability", probability)
    if not ((values > 0) & (values < 1)).all():
        raise ValueError(
            f"prior_bias: probability must be above 0 and below 1, got {probability!r}"
        )
    return constant(np.log(values) - np.log1p(-values), dtype)


@factory
def class_frequency_bias(counts: Sequence[float] | np.ndarray, dtype: Any = None) -> constant:
    r"""Fills the bias before a softmax with the logarithms of the classes' frequencies.

    With zero or small kernels, the model then starts from the frequencies as its predictions, and
    the loss from their entropy. Equals `constant(log(counts / sum(counts)))`.

    Args:
      counts: the number of examples in each class, or their frequencies, all above 0. (Add one to
        counts of which some are 0.)
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Returns:
      An initializer of arrays whose last axis has one number for each class.

    Raises:
      TypeError, ValueError: counts is not a sequence of finite numbers above 0.

    Example:
      >>> import jax
      >>> bias = class_frequency_bias([10, 30, 60])(jax.random.key(0), (3,))
      >>> [round(float(p), 4) for p in jax.nn.softmax(bias)]
      [0.1, 0.3, 0.6]

    Reference:
      Karpathy 2019, "A Recipe for Training Neural Networks",
      https://karpathy.github.io/2019/04/25/recipe/
    """
    values = _numbers("class_frequency_bias", "counts", counts)
    if values.ndim != 1 or not values.size or not (values > 0).all():
        raise ValueError(
            "class_frequency_bias: counts must be a sequence of numbers above 0, one for each class"
            f" (add one to counts of which some are 0), got {counts!r}"
        )
    largest = values.max()  # so that the sum doesn't overflow
    total = np.log(largest) + np.log((values / largest).sum())
    return constant(np.log(values) - total, dtype)


@initializer
class forget_gate_bias:
    """Fills the bias of a recurrent layer with zeros, and the part of its forget gate with `value`.

    It is for layers that keep the biases of all gates in one array. Where each gate has its own, as
    in Flax's `LSTMCell`, the rule `{"*/hf/bias": ones}` does the same.

    Args:
      value: the bias of the forget gate.
      gate: the place of the forget gate among the gates: 1 in the order i, f, g, o of Flax, Keras
        and PyTorch.
      gates: the number of gates.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: value is not a finite number, gates is not an integer above 0, or gate
        isn't one of them, counted from 0; when called, the last axis isn't a multiple of gates, or
        the dtype can't hold the value.

    Example:
      >>> import jax
      >>> forget_gate_bias()(jax.random.key(0), (8,)).tolist()
      [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    Reference:
      Gers, Schmidhuber and Cummins 2000, "Learning to Forget"; Jozefowicz, Zaremba and Sutskever
      2015, "An Empirical Exploration of Recurrent Network Architectures",
      https://proceedings.mlr.press/v37/jozefowicz15.html; `unit_forget_bias` in Keras.
    """

    value: float = 1.0
    gate: int = 1
    gates: int = 4
    dtype: Any = None

    def __post_init__(self) -> None:
        gates = checked_integer("forget_gate_bias", "gates", self.gates, 1)
        gate = checked_integer("forget_gate_bias", "gate", self.gate, 0)
        if gate >= gates:
            raise ValueError(f"forget_gate_bias: gate must be below gates={gates}, got {gate}")
        settle(
            self,
            value=checked_number("forget_gate_bias", "value", self.value),
            gate=gate,
            gates=gates,
            dtype=checked_dtype("forget_gate_bias", self.dtype),
        )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        shape = tuple(shape)
        if not shape or shape[-1] % self.gates:
            raise ValueError(
                f"{self!r} needs a shape whose last axis is a multiple of {self.gates}, got {shape}"
            )
        values = np.repeat(np.eye(self.gates)[self.gate], shape[-1] // self.gates) * self.value
        dtype = resolved_dtype(dtype, self.dtype, repr(self))
        check_held(self, dtype, [0.0, self.value])
        values = jnp.asarray(values, dtype)
        return resharded(jnp.broadcast_to(values, shape), out_sharding)


def _numbers(owner: str, name: str, value: Any) -> np.ndarray:
    """A number or a sequence of numbers, all finite, in float64."""
    try:
        several = list(np.ravel(value))
    except (TypeError, ValueError):
        several = [value]
    for number in several:
        checked_number(owner, name, number)
    return np.asarray(value, np.float64)
