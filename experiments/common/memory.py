"""Memory: whether a network fits, before it is made, and one line if it turns out not to."""

import contextlib
import itertools
from collections.abc import Iterator

from experiments.common import description
from experiments.common.config import MODELS, OPTIMIZERS, Config, UsageError

# How many copies of the parameters an optimizer keeps.
_STATE = {"adam": 2, "momentum": 1, "sgd": 0}
assert _STATE.keys() == OPTIMIZERS.keys()

# Further copies at the peak, measured with 100 million parameters on a CPU: those to start from,
# those being trained, their gradients, and those being saved. An audit takes as many. On another
# device only the second and third are sure to be there.
_COPIES_ON_CPU, _COPIES = 4, 2

# Kernels of a hidden block, each as large as its inputs times its outputs.
_KERNELS = {"mlp": 1, "cnn": 9, "resnet": 18, "transformer": 12}
assert _KERNELS.keys() == MODELS.keys()


def check(config: Config) -> None:
    """Checks that this machine could hold the parameters of a network, without importing JAX.

    Nothing is known of a network of the user's own.

    Only those between hidden layers are counted, since the data are not read yet, and only once,
    since training may take place in another memory, that of a GPU.

    Raises:
      UsageError: it couldn't.
    """
    _check(config, config.hidden, 1, _available())


def check_devices(
    config: Config, features: tuple[int, ...], runs: float = 1, optimizer: bool = True
) -> None:
    """Checks that the local devices have the memory to train networks, or to audit one.

    Args:
      config: of the run.
      features: the sizes of the input, of every hidden layer, and of the output.
      runs: how many are trained at once; of one that is divided over devices of several hosts, the
        share that these hold.
      optimizer: whether there is the state of the optimizer.

    Raises:
      UsageError: it hasn't.
    """
    import jax

    devices = jax.local_devices()
    if devices[0].platform == "cpu":  # all share the memory of the machine
        memory, copies = _available(), _COPIES_ON_CPU
    else:
        stats = [device.memory_stats() or {} for device in devices]
        if not all("bytes_limit" in each for each in stats):
            return
        memory, copies = sum(each["bytes_limit"] for each in stats), _COPIES
    copies += _STATE[config.optimizer] if optimizer else 0
    _check(config, features, runs * copies, memory)


def check_metrics(config: Config, needed: int) -> None:
    """Checks that this machine can hold the metrics of all steps of a run.

    Args:
      config: of the run.
      needed: their size in bytes.

    Raises:
      UsageError: it can't.
    """
    if needed > (memory := _available()):
        length = "epochs" if config.steps is None else "steps"
        raise UsageError(
            f"--{length}={getattr(config, length)}: the metrics of all steps need {_size(needed)}"
            f" of memory, but {_size(memory)} are available"
        )


def parameters(features: tuple[int, ...], model: str = "mlp") -> int:
    """The number of parameters of a network, given the sizes of all its blocks: of an MLP exactly.

    Example:
      >>> parameters((784, 128, 64, 10))
      109386
    """
    kernels = _KERNELS[model]
    return sum(
        kernels * inputs * outputs + outputs for inputs, outputs in itertools.pairwise(features)
    )


def _check(config: Config, features: tuple[int, ...], copies: float, memory: int) -> None:
    if config.own:  # whose parameters aren't known by its sizes
        return
    number = parameters(features, config.model)
    needed = copies * number * (8 if config.dtype == "float64" else 4)
    if needed > memory:
        raise UsageError(
            f"a network of sizes {description.sizes(features)} has"
            f" {'' if config.model == 'mlp' else 'about '}{number:,} parameters and needs"
            f" {_size(needed)} of memory, but {_size(memory)} are available; make its hidden layers"
            " fewer or smaller"
        )


def _available() -> int:
    import psutil  # here, since it imports what only the system at hand has

    return psutil.virtual_memory().available


def _size(number: float) -> str:
    gigabytes = number / 1e9
    return f"{gigabytes:,.0f} GB" if gigabytes >= 10 else f"{gigabytes:.1f} GB"


def enough(config: Config) -> contextlib.AbstractContextManager[None]:
    """`enough_for` the network of a run and its batches."""
    return enough_for(
        f"a network with hidden layers {description.sizes(config.hidden) or 'none'} and"
        f" --batch_size={config.batch_size} needs more memory than is available; reduce one of them"
    )


@contextlib.contextmanager
def enough_for(otherwise: str) -> Iterator[None]:
    """Turns the error of a device or a machine without enough memory into a `UsageError`.

    Args:
      otherwise: its message.
    """
    import jax

    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        # A CPU says only that it is out of memory.
        signs = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in signs):
            raise
        raise UsageError(otherwise) from None
