"""What can be chosen by name, kept free of JAX so that flags are checked before it is imported."""

from collections.abc import Iterable

from initjax.specs import nearest_first

ACTIVATIONS = (
    "celu elu gelu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu log_sigmoid mish"
    " relu relu6 selu sigmoid silu soft_sign softplus sparse_plus sparse_sigmoid squareplus swish"
    " tanh"
).split()
"""The elementwise activations of `jax.nn`, each with its default parameters."""

OPTIMIZERS = {"adam": 1e-3, "momentum": 1e-2, "sgd": 1e-2}
"""The optimizers and their default learning rates, which are Keras's."""

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""The dtypes to compute in."""


def check(flag: str, value: str, valid: Iterable[str]) -> None:
    """Checks that the value of a flag is one of those that are valid.

    Raises:
      ValueError: it is not; the message is one line that names them, the nearest first.
    """
    if value not in valid:
        choices = ", ".join(nearest_first(value, valid))
        raise ValueError(f"--{flag}={value}: valid are {choices}")
