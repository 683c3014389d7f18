"""What a run is: the configuration that determines it, to the bit, and what it starts from."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import initjax
from experiments.common import choices

# JAX, and what imports it, is imported in the functions: a mistake in a flag is told before.
if TYPE_CHECKING:
    import jax

    from experiments.common import models


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run, to the bit; checked when it is made."""

    init: str = "glorot_uniform"
    output_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    seed: int = 0
    hidden: tuple[int, ...] = (128, 64)
    activation: str = "relu"
    dtype: str = "float32"
    optimizer: str = "adam"
    learning_rate: float | None = None  # None is replaced by the optimizer's own
    epochs: int = 5
    batch_size: int = 128
    dataset: str | None = None  # None is MNIST, or what data_dir holds
    data_dir: str | None = None

    def __post_init__(self):
        for name in ("init", "output_init", "bias_init"):
            try:
                initjax.parse(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"--{name}: {error}") from None
        choices.check("activation", self.activation, choices.ACTIVATIONS)
        choices.check("optimizer", self.optimizer, choices.OPTIMIZERS)
        choices.check("dtype", self.dtype, choices.DTYPES)
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if not least <= getattr(self, name) < 2**32:
                raise ValueError(
                    f"--{name} must be at least {least} and below 2**32, got {getattr(self, name)}"
                )
        if not all(1 <= size < 2**31 for size in self.hidden):
            raise ValueError(f"--hidden: sizes must be at least 1, got {self.hidden}")
        object.__setattr__(self, "hidden", tuple(self.hidden))  # JSON has but lists
        rate = self.learning_rate
        if rate is None:
            rate = choices.OPTIMIZERS[self.optimizer]
            object.__setattr__(self, "learning_rate", rate)
        if not 0 < rate < math.inf:
            raise ValueError(f"--learning_rate must be a number above 0, got {rate}")


def arguments(config: Config, batch_size: int = Config.batch_size) -> list[str]:
    """The flags of a program that make a configuration: the initializer, the seed, and all else
    that is not the default.

    Args:
      config: the configuration.
      batch_size: the program's default.
    """
    found = [f"--init={config.init}", f"--seed={config.seed}"]
    defaults = {field.name: field.default for field in dataclasses.fields(config)} | {
        "learning_rate": choices.OPTIMIZERS[config.optimizer],
        "batch_size": batch_size,
    }
    for name, default in defaults.items():
        value = getattr(config, name)
        if name not in ("init", "seed") and value != default:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            found.append(f"--{name}={text}")
    return found


def canonical(spec: str) -> str:
    """The one specification for what many describe: `he_normal` for `kaiming_normal()` too."""
    return repr(initjax.parse(spec)).removesuffix("()")


def identity(config: Config, digest: str) -> str:
    """What identifies a run: the same for configurations that give the same bits.

    Args:
      config: the configuration.
      digest: that of the data, which may be called otherwise or lie elsewhere.
    """
    fields = {
        name: canonical(value) if name.endswith("init") else value
        for name, value in dataclasses.asdict(config).items()
        if name not in ("dataset", "data_dir")
    }
    text = json.dumps({**fields, "data": digest}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def environment() -> dict[str, dict[str, Any]]:
    """Where a run takes place: the device, and the versions of what has a part in its bits."""
    import jax

    packages = "initjax jax jaxlib flax optax numpy".split()
    return {
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "host": platform.node(),
            "cores": os.cpu_count(),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }


def root_key(seed: int) -> "jax.Array":
    """The key of a run, from which everything random in it is derived by name."""
    import jax

    # Named, so that no environment variable makes another run of the same configuration.
    return jax.random.key(seed, impl="threefry2x32")


def order_key(key: "jax.Array") -> "jax.Array":
    """The key that determines the order of a run's examples."""
    return initjax.named_key(key, "batch order")


def draw_params(config: Config, key: "jax.Array", model: "models.Model") -> Any:
    """Draws the parameters of a model, each from a key of its own, folded from its path."""
    draw = _drawer(config.init, config.output_init, config.bias_init, model)
    return draw(initjax.named_key(key, "weights"))


@functools.lru_cache
def _drawer(init: str, output_init: str, bias_init: str, model: "models.Model") -> Callable:
    """The program that draws all parameters: compiled once, whatever the number of seeds."""
    import jax

    rules = {"*bias": bias_init, "output/*": output_init, "*": init}
    rules = {pattern: initjax.parse(spec) for pattern, spec in rules.items()}
    return jax.jit(lambda key: initjax.initialize(model.shapes, key, rules))
