"""What all initializers share: the type, the checks of their arguments, the repr.

Nothing here needs JAX. The initializers import it when they are called, so that a program can read
and check a specification in a few hundredths of a second, long before JAX is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import operator
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, dataclass_transform

import numpy as np

if TYPE_CHECKING:
    import jax

Axes: TypeAlias = int | Sequence[int]
"""One axis of a kernel, or several whose sizes are multiplied; negative ones count from the end."""


class Initializer(Protocol):
    """The type of every initializer: a pure function of `(key, shape, dtype)`, as in JAX.

    Args:
      key: a PRNG key, as from `jax.random.key`.
      shape: the shape of the array to draw.
      dtype: its dtype; None stands for the initializer's own, or else JAX's default float.
      out_sharding: how the array is sharded, as in `jax.random`.

    Returns:
      An array of that shape and dtype.
    """

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array: ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def initializer(cls: type) -> type:
    """Makes a class of initializers: a frozen dataclass that explains itself when given a key.

    `kernel_init=he_normal`, without its parentheses, has the maker called as `(key, shape, dtype)`;
    that is told instead of what else is wrong with such arguments.
    """

    cls = dataclasses.dataclass(frozen=True, repr=False)(cls)
    checked = cls.__init__

    @functools.wraps(checked)
    def __init__(self, *args, **kwargs):
        try:
            checked(self, *args, **kwargs)
        except (TypeError, ValueError):
            if not (args and is_key(args[0])):
                raise
            name = cls.__name__
            raise TypeError(
                f"{name}: {args[0]!r} is a PRNG key; {name} makes an initializer, which takes the"
                f" key: {name}(...)(key, shape); a layer is given kernel_init={name}(...)"
            ) from None

    called = cls.__call__

    @functools.wraps(called)
    def __call__(self, key, shape, dtype=None, out_sharding=None):
        return called(self, key, checked_shape(self, shape), dtype, out_sharding)

    cls.__init__, cls.__call__ = __init__, __call__
    return cls


def settle(self: Any, **checked: Any) -> None:
    """Sets fields of a new initializer, which is frozen, to what their check has made of them."""
    for name, value in checked.items():
        object.__setattr__(self, name, value)


def spec_repr(self: Any) -> str:
    """The repr of a dataclass as a call of its class."""
    return call_repr(self, type(self).__name__)


def call_repr(self: Any, name: str, fixed: Iterable[str] = ()) -> str:
    """A dataclass as a call: required fields by position, those that differ from defaults by name.

    Args:
      self: an instance of a dataclass.
      name: the name to call.
      fixed: the fields that the name already fixes.
    """
    arguments = []
    for field in dataclasses.fields(self):
        content = getattr(self, field.name)
        if field.name in fixed or content == field.default:
            continue
        required = field.default is dataclasses.MISSING
        arguments.append(repr(content) if required else f"{field.name}={content!r}")
    return f"{name}({', '.join(arguments)})"


def is_key(value: Any) -> bool:
    """Whether a value is a PRNG key, typed or raw: a sign of `he_normal` without its `()`."""
    dtype = getattr(value, "dtype", None)
    return str(dtype).startswith("key<") or (dtype == np.uint32 and np.shape(value)[-1:] == (2,))


def is_traced(value: Any) -> bool:
    """Whether a value is one of JAX's tracers: a number that is not known yet."""
    core = sys.modules.get("jax.core")  # there are none before it is imported
    return core is not None and isinstance(value, core.Tracer)


def checked_number(
    owner: str, name: str, value: Any, minimum: float = -math.inf, infinite: bool = False
) -> float:
    """The value as a float, if it is one real number that is not below the minimum, and finite."""
    if is_key(value):
        raise TypeError(
            f"{owner}: {name} is a PRNG key; {owner} makes an initializer, which takes the key:"
            f" {owner}(...)(key, shape); a layer is given kernel_init={owner}(...)"
        )
    if is_traced(value):
        raise TypeError(
            f"{owner}: {name} must be known when the initializer is made, but it is traced by"
            f" jax.jit, jax.vmap or jax.grad ({value}); multiply what is drawn instead, as in"
            f" factor * {owner}(...)(key, shape)"
        )
    dtype = getattr(value, "dtype", None)  # of a scalar array; "V" is bfloat16's and its kin's
    array = dtype is not None and np.ndim(value) == 0 and dtype.kind in "iufV"
    if isinstance(value, bool) or not (isinstance(value, numbers.Real) or array):
        raise TypeError(f"{owner}: {name} must be a real number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    allowed = not math.isnan(number) if infinite else math.isfinite(number)
    if not allowed or number < minimum:
        kind = "number" if infinite else "finite number"
        bound = "" if minimum == -math.inf else f" >= {minimum:g}"
        raise ValueError(f"{owner}: {name} must be a {kind}{bound}, got {value!r}")
    return number


def checked_positive(owner: str, name: str, value: Any) -> float:
    """The value as a float, if it is one finite number above zero."""
    number = checked_number(owner, name, value, minimum=0)
    if number == 0:
        raise ValueError(f"{owner}: {name} must be above 0, got {value!r}")
    return number


def checked_integer(owner: str, name: str, value: Any, minimum: int) -> int:
    """The value as an int, if it is a whole number that is not below the minimum."""
    number = checked_number(owner, name, value, minimum)
    if not number.is_integer():
        raise ValueError(f"{owner}: {name} must be an integer, got {value!r}")
    return int(number)


def checked_axes(owner: str, name: str, value: Any) -> int | tuple[int, ...]:
    """The value as an int or a tuple of ints, if it is an axis or a sequence of axes."""
    if is_key(value):
        raise TypeError(
            f"{owner}: {name} is a PRNG key; {owner} makes an initializer, which takes the key:"
            f" {owner}()(key, shape); a layer is given kernel_init={owner}()"
        )
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(axis, numbers.Integral) for axis in value):
            return tuple(int(axis) for axis in value)
    raise TypeError(f"{owner}: {name} must be an axis (int) or a tuple of axes, got {value!r}")


def checked_choice(owner: str, name: str, value: Any, choices: Iterable[str]) -> str:
    """The value, if it is one of the choices; else an error that names them, the nearest first."""
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(
        f"{owner}: {name} must be one of {', '.join(nearest_first(str(value), choices))};"
        f" got {value!r}"
    )


def checked_dtype(owner: str, value: Any, inexact: bool = False) -> str | None:
    """The name of a number's dtype, which can be hashed, pickled and written down.

    `float` stands for JAX's default float, like None.

    Args:
      owner: the initializer.
      value: the dtype, in any form.
      inexact: whether it must be floating or complex, as for random numbers.
    """
    if value is None or value is float:
        return None
    if is_key(value):
        raise TypeError(f"{owner}: dtype must be a dtype, got the PRNG key {value!r}")
    try:
        # Knows bfloat16 and the float8 by name, even before JAX (which needs it too) is imported.
        import ml_dtypes  # noqa: F401

        dtype = np.dtype(value)
    except TypeError as error:
        raise TypeError(f"{owner}: dtype must be a dtype, got {value!r}") from error
    # NumPy files the dtypes that are not its own, bfloat16 among them, under kind "V".
    if dtype.kind not in "biufcV" or dtype.type is np.void:
        raise TypeError(f"{owner}: dtype must be a number's, got {value!r}")
    if inexact and not dtype.name.startswith(("float", "bfloat", "complex")):
        raise TypeError(f"{owner}: dtype must be floating or complex, got {dtype.name}")
    return dtype.name


def checked_initializer(owner: str, name: str, value: Any) -> Any:
    """The value, if it is an initializer and not a maker of one, such as `he_normal` without ().

    It is told by its first two parameters, which no maker has both of without a default: a key and
    a shape.
    """
    no_function = not callable(value) or isinstance(value, type) or inspect.isbuiltin(value)
    if no_function or not _needs_key_and_shape(value):
        raise TypeError(
            f"{owner}: {name} must be an initializer, a function of (key, shape, dtype), such as"
            f" he_normal(), parentheses and all; got {value!r}"
        )
    return value


def _needs_key_and_shape(function: Any) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())[:2]
    except ValueError:  # a few callables do not tell
        return True
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    return [parameter.default for parameter in parameters] == [inspect.Parameter.empty] * 2


def resolved_dtype(asked: Any, default: Any) -> np.dtype:
    """The dtype that a call asks for, else the initializer's own, else JAX's default float."""
    import jax.numpy as jnp

    dtype = default if asked is None else asked
    return jnp.result_type(float if dtype is None else jnp.dtype(dtype))


def resharded(kernel: jax.Array, out_sharding: Any) -> jax.Array:
    """What was made whole, sharded as a call asks for."""
    import jax

    return kernel if out_sharding is None else jax.sharding.reshard(kernel, out_sharding)


def nearest_first(word: str, choices: Iterable[str]) -> list[str]:
    """The choices, the ones spelt most like the word before the others."""
    choices = list(choices)
    near = difflib.get_close_matches(word.lower(), choices, n=3, cutoff=0.5)
    return near + [choice for choice in choices if choice not in near]


def checked_shape(owner: Any, shape: Any) -> tuple[int, ...]:
    """The shape as a tuple of ints, if they are ints >= 0; as in JAX one int is a single axis."""
    try:
        axes = [shape] if hasattr(shape, "__index__") and np.ndim(shape) == 0 else shape
        sizes = tuple(operator.index(size) for size in axes)
    except TypeError:
        raise TypeError(f"{owner!r} needs a shape of integers, got {shape!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"{owner!r} needs a shape of integers >= 0, got {shape!r}")
    return sizes
