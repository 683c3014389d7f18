"""The configuration of a run: everything that determines it, bit for bit.

Free of JAX, so that programs report a wrong flag before they spend time on importing it.
"""

import dataclasses
import difflib
import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import initjax

ACTIVATIONS = (
    "celu elu gelu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu log_sigmoid mish"
    " relu relu6 selu sigmoid silu soft_sign softplus sparse_plus sparse_sigmoid squareplus swish"
    " tanh"
).split()
"""The elementwise activations of `jax.nn`, each with its default parameters."""

OPTIMIZERS = {"adam": 1e-3, "momentum": 1e-2, "sgd": 1e-2}
"""The optimizers and their default learning rates, which are those of Keras."""

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""The dtypes to compute in."""

MODELS = {"mlp": (128, 64), "cnn": (32,) * 4, "resnet": (16,) * 3, "transformer": (32,) * 2}
"""The networks, see `experiments.common.networks`, and their default hidden sizes."""

NORMALIZATIONS = ("none", "layer")
"""What may normalize the features of a network."""

NORMALIZED = ("resnet", "transformer")
"""The networks whose default is layer normalization."""

PATCH = 4
"""All networks but MLPs read patches of so many rows and columns of pixels."""

HEADS = 4
"""The heads of a transformer's attention."""

_OWN = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(@sha256:[0-9a-f]{6,64})?"

SCHEMES = ("standard", "ntk", "mup", "depth_mup", "completep", "u_mup", "spectral")
"""The parametrizations of `initjax.parametrize`."""

WITHOUT_SGD = ("completep", "u_mup")
"""Those whose sources have rules for Adam alone."""

INPUTS = ("unit", "standardized")
"""What a network takes for a pixel: a number between 0 and 1; or that without the mean of all
training pixels, divided by their standard deviation."""

INITIALIZERS = ("init", "output_init", "bias_init")
"""The fields of `Config` that hold specifications of initializers."""


class UsageError(ValueError):
    """What the user asked for can't be done: a program shows it in one line, without a traceback.

    Any other error, a plain ValueError too, is the program's own fault.
    """


MOST_LAYERS = 1000
"""The maximum number of hidden layers. Where sizes differ, each is compiled by itself, which takes
minutes from some hundred on."""

_MOST_WRITTEN_OUT = 3  # equal sizes in a row; more are written as 50x128

LARGEST_LAYER = 2**31 - 1
"""The maximum size of a layer, which is XLA's for an axis."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run; checked on construction.

    Raises:
      UsageError: a value is invalid; the message names the flag and the valid values.
    """

    init: str = "glorot_uniform"
    output_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    seed: int = 0
    model: str = "mlp"
    # None becomes the model's default.
    hidden: tuple[int, ...] = None  # pyright: ignore[reportAssignmentType]
    residual: bool = False  # of an MLP
    normalization: str = None  # pyright: ignore[reportAssignmentType]
    activation: str = "relu"
    inputs: str = "unit"
    dtype: str = "float32"
    optimizer: str = "adam"
    learning_rate: float | None = None  # None becomes the optimizer's default
    epochs: int = 5
    steps: int | None = None  # instead of epochs; then epochs is 1
    batch_size: int = 128
    dataset: str | None = None  # None is MNIST, or the dataset in data_dir
    data_dir: str | None = None
    params: str | None = None  # a file to start from instead of drawing: FILE[@sha256:DIGITS]
    scheme: str | None = None  # None: initializers and learning rate as they are at this size
    base: tuple[int, ...] | None = None  # hidden sizes at which they are as they are, for a scheme

    def __post_init__(self):
        for name in INITIALIZERS:
            try:
                canonical(getattr(self, name))
            except ValueError as error:
                raise UsageError(f"--{name}: {error}") from None
        if not self.own:
            _check_choice("model", self.model, (*MODELS, "package.module:function"))
        elif not re.fullmatch(_OWN, self.model):
            raise UsageError(
                f"--model={self.model}: the network of your own must be named as"
                " package.module:function"
            )
        for name, default in model_defaults(self.model).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        _check_choice("normalization", self.normalization, NORMALIZATIONS)
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("inputs", self.inputs, INPUTS)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("dtype", self.dtype, DTYPES)
        if self.steps is not None:
            if self.epochs not in (1, Config.epochs):
                raise UsageError(f"give either --steps or --epochs={self.epochs}, not both")
            object.__setattr__(self, "epochs", 1)
        for name, least in (("epochs", 1), ("steps", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < 2**32:
                raise UsageError(f"--{name}={value}: must be at least {least} and below 2**32")
        if len(self.hidden) > MOST_LAYERS:
            raise UsageError(
                f"{len(self.hidden):,} hidden layers: at most {MOST_LAYERS:,} are possible"
            )
        for name in ("hidden", "base"):
            sizes = getattr(self, name)
            if sizes is None:
                continue
            if not all(1 <= size <= LARGEST_LAYER for size in sizes):
                raise UsageError(
                    f"--{name}={','.join(map(str, sizes))}: every size must be at least 1 and at"
                    f" most {LARGEST_LAYER:,}"
                )
            object.__setattr__(self, name, tuple(sizes))  # JSON has only lists
        self._check_blocks("hidden", self.hidden)
        self._check_scheme()
        rate = self.learning_rate
        if rate is None:
            rate = OPTIMIZERS[self.optimizer]
            object.__setattr__(self, "learning_rate", rate)
        if not 0 < rate < math.inf:
            raise UsageError(f"--learning_rate={rate:g}: must be a finite number above 0")
        for name in INITIALIZERS:
            if self.params is not None and getattr(self, name) != getattr(Config, name):
                raise UsageError(
                    f"give either --params or --{name}: with --params={self.params}, all parameters"
                    " come from that file"
                )

    @property
    def own(self) -> bool:
        """Whether the model is the user's own, named as package.module:function."""
        return ":" in self.model

    @property
    def alike(self) -> bool:
        """Whether the hidden blocks are added to one another, so that all have the same size."""
        return self.residual or self.model in NORMALIZED

    def _check_blocks(self, flag: str, sizes: tuple[int, ...]) -> None:
        """Checks that hidden blocks of these sizes, which a flag gives, can form the model."""
        if self.own:
            for name in ("residual", "normalization"):
                if getattr(self, name) != dict(_UNNAMED)[name]:
                    raise UsageError(f"--{name} is not for a network of your own")
            return
        if self.residual and self.model != "mlp":
            instead = "has residual blocks anyway"
            if self.model == "cnn":
                instead = "with residual blocks is --model=resnet"
            raise UsageError(f"--residual is for --model=mlp; --model={self.model} {instead}")
        model = f"--model={self.model}{' --residual' if self.residual else ''}"
        given = f"--{flag}={','.join(grouped(sizes))}"
        if model != "--model=mlp" and not sizes:
            raise UsageError(f"{given}: {model} needs at least one hidden block")
        if self.alike and len(set(sizes)) > 1:
            raise UsageError(
                f"{given}: {model} adds blocks to one another, so all need the same size, as in"
                f" --{flag}={len(sizes)}x{sizes[0]}"
            )
        if self.model == "transformer" and sizes[0] % HEADS:
            raise UsageError(
                f"{given}: {model} needs a size that can be divided among its {HEADS} heads"
            )

    def _check_scheme(self) -> None:
        """Checks the parametrization and the sizes of its base network."""
        if self.scheme is None:
            if self.base is not None:
                base = ",".join(grouped(self.base))
                raise UsageError(f"--base={base} needs --scheme: one of {', '.join(SCHEMES)}")
            return
        _check_choice("scheme", self.scheme, SCHEMES)
        if self.own:
            raise UsageError(
                f"--scheme={self.scheme} is not for a network of your own, whose forward pass would"
                " have to multiply by the plan's multipliers; see initjax.parametrize"
            )
        if self.base is None:
            raise UsageError(
                f"--scheme={self.scheme} needs --base, the hidden sizes of the network whose"
                " initializers and learning rate the flags name, such as"
                f" --base={','.join(grouped(self.hidden))}"
            )
        if self.scheme in WITHOUT_SGD and self.optimizer != "adam":
            raise UsageError(
                f"--scheme={self.scheme} has no rules for --optimizer={self.optimizer}; use adam"
            )
        self._check_blocks("base", self.base)
        if not self.alike and len(self.base) != len(self.hidden):
            raise UsageError(
                f"--base={','.join(grouped(self.base))} has {len(self.base)} hidden layers, but"
                f" --hidden={','.join(grouped(self.hidden))} has {len(self.hidden)}; only networks"
                " with residual blocks can differ in depth"
            )

    def arguments(self, batch_size: int | None = None) -> list[str]:
        """The flags that give this configuration: all that differ from the default, after the
        initializer, or the file of parameters, and the seed.

        Args:
          batch_size: the program's default for that flag; None means that of `Config`.
        """
        origin = f"--init={self.init}" if self.params is None else f"--params={self.params}"
        found = [origin, f"--seed={self.seed}"]
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {
            "learning_rate": OPTIMIZERS[self.optimizer],
            "batch_size": batch_size or Config.batch_size,
            "epochs": Config.epochs if self.steps is None else 1,
            **model_defaults(self.model),
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            if name not in ("init", "params", "seed") and value != default:
                text = ",".join(grouped(value)) if isinstance(value, tuple) else value
                found.append(f"--{name}" if value is True else f"--{name}={text}")
        return found

    def identity(self, digest: str) -> str:
        """The key of a run: equal for configurations that give the same bits.

        Args:
          digest: of the data, whose name and directory may differ between machines.
        """
        fields = {
            name: canonical(value) if name in INITIALIZERS else value
            for name, value in vars(self).items()
            if name not in ("dataset", "data_dir") and (name, value) not in _UNNAMED
        }
        text = json.dumps({**fields, "data": digest}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


# Fields that are younger than the runs in some directories, with the values that those have.
_UNNAMED = (
    ("params", None),
    ("model", "mlp"),
    ("residual", False),
    ("normalization", "none"),
    ("inputs", "unit"),
    ("steps", None),
    ("scheme", None),
    ("base", None),
)


def model_defaults(model: str) -> dict[str, Any]:
    """The fields of `Config` whose defaults depend on the model, with these defaults."""
    return {
        "hidden": MODELS.get(model, MODELS["mlp"]),
        "normalization": "layer" if model in NORMALIZED else "none",
    }


def grouped(sizes: Iterable[int]) -> list[str]:
    """The sizes of layers as `--hidden` takes them, with more than three equal ones as one part.

    Example:
      >>> grouped((128, 64, 64)), grouped((784, *[128] * 50))
      (['128', '64', '64'], ['784', '50x128'])
    """
    parts = []
    for size, alike in itertools.groupby(sizes):
        count = len(list(alike))
        parts += [f"{count}x{size}"] if count > _MOST_WRITTEN_OUT else [str(size)] * count
    return parts


@functools.lru_cache  # since a sweep has thousands of runs, and few initializers
def canonical(spec: str) -> str:
    """The one spelling of a specification: `he_normal` for `kaiming_normal()`, too."""
    return repr(initjax.get(spec)).removesuffix("()")


def choices(wrong: str, valid: Iterable[str], heading: str, prefix: str = "") -> str:
    """What is valid, after what the user may have meant, if anything valid is spelled like it.

    Args:
      wrong: what the user wrote.
      valid: the valid choices.
      heading: of the list of them.
      prefix: with which each is written.

    Example:
      >>> choices("rleu", ["tanh", "relu"], "must be one of ")
      'did you mean relu? Must be one of tanh, relu'
      >>> choices("lr", ["seed", "learning_rate"], "valid flags: ", "--")
      'did you mean --learning_rate? Valid flags: --seed, --learning_rate'
      >>> choices("abc", ["tanh", "relu"], "must be one of ")
      'must be one of tanh, relu'
    """
    valid = list(valid)
    word = wrong.lower()
    initials = {choice: "".join(part[:1] for part in choice.split("_")) for choice in valid}
    short = [name for name in valid if word and (name.startswith(word) or initials[name] == word)]
    near = short or difflib.get_close_matches(word, valid, n=1)
    listed = heading + ", ".join(prefix + choice for choice in valid)
    return f"did you mean {prefix}{near[0]}? {listed[0].upper()}{listed[1:]}" if near else listed


def _check_choice(flag: str, value: str, valid: Iterable[str]) -> None:
    if value not in valid:
        raise UsageError(f"--{flag}={value}: {choices(value, valid, 'must be one of ')}")
