"""What all initializers share: their type, argument checks, and repr.

Nothing here needs JAX. The initializers import it when they are called, so that a program can read
and check a specification in a few hundredths of a second, long before JAX is loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    dataclass_transform,
    runtime_checkable,
)

import numpy as np

if TYPE_CHECKING:
    import jax

P = ParamSpec("P")
T = TypeVar("T")
_MISSING: Any = object()  # an argument that wasn't given

Axes: TypeAlias = int | Sequence[int]
"""One axis of a kernel, or several whose sizes are multiplied; negative ones count from the end."""


@runtime_checkable
class Initializer(Protocol):
    """The type of every initializer: a pure function of `(key, shape, dtype)`, as in JAX.

    As with JAX's type of this name, `isinstance` is true of anything that can be called.

    Args:
      key: a PRNG key, as from `jax.random.key`.
      shape: the shape of the array to draw.
      dtype: its dtype; None means the initializer's own, or else JAX's default float.
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

    Its repr is a specification, unless the class defines another.

    With `kernel_init=he_normal`, without parentheses, a layer calls the factory as
    `(key, shape, dtype)`. The error explains that mistake.
    """

    cls = dataclasses.dataclass(frozen=True, repr=False)(cls)
    checked = cls.__init__

    @functools.wraps(checked)
    def __init__(self, *args, **kwargs):
        with _explained_keys(cls.__name__, args):
            checked(self, *args, **kwargs)

    called = cls.__call__

    @functools.wraps(called)
    def __call__(self, key=_MISSING, shape=_MISSING, dtype=None, out_sharding=None):
        if shape is _MISSING or key is _MISSING:
            name = shown(self)
            use = f"call it as {name}(key, shape, dtype), or write {name} where a layer takes it"
            raise TypeError(f"{name} is an initializer already: {use}")
        if is_key(shape) and not (key is None or is_key(key)):
            raise TypeError(
                f"{shown(self)} needs key and shape in this order, got the shape {key!r} first;"
                " call it as (key, shape, dtype)"
            )
        _refuse_unsigned(self, dtype)
        return called(self, key, checked_shape(self, shape), dtype, out_sharding)

    cls.__init__, cls.__call__ = __init__, __call__
    if "__repr__" not in vars(cls):
        setattr(cls, "__repr__", lambda self: call_repr(self, cls.__name__))  # noqa: B010
    return cls


def factory(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function that returns an initializer explain itself when it is given a key."""

    @functools.wraps(function)
    def explained(*args: P.args, **kwargs: P.kwargs) -> T:
        with _explained_keys(function.__name__, args):
            return function(*args, **kwargs)

    return explained


@contextlib.contextmanager
def _explained_keys(name: str, args: Sequence[Any]) -> Iterator[None]:
    """Explains an error that a key as the first argument leads to."""
    try:
        yield
    except (TypeError, ValueError):
        if not (args and is_key(args[0])):
            raise
        raise TypeError(
            f"{name}: the first argument is a PRNG key; {name}(...) makes an initializer, which"
            f" takes the key: {name}(...)(key, shape); in a layer use kernel_init={name}(...)"
        ) from None


def _refuse_unsigned(initializer: Any, dtype: Any) -> None:
    """Refuses the dtype that has neither sign nor zero, for all but positive constants."""
    dtype = getattr(initializer, "dtype", None) if dtype is None else dtype
    if (
        "e8m0" in str(getattr(dtype, "__name__", dtype))
        and type(initializer).__name__ != "constant"
    ):
        raise ValueError(f"{shown(initializer)}: float8_e8m0fnu has no sign and no zero")


def shown(initializer: Any) -> str:
    """What messages call an initializer: its repr, unless another function made it for a user."""
    return getattr(initializer, "_called", None) or repr(initializer)


def called_as(name: str, initializer: Any) -> Any:
    """The initializer, so that messages call it by this name; it is equal to what it was."""
    settle(initializer, _called=name)
    return initializer


def settle(self: Any, **checked: Any) -> None:
    """Sets fields of a new, frozen initializer to their checked values."""
    for name, value in checked.items():
        object.__setattr__(self, name, value)


def call_repr(self: Any, name: str, fixed: Iterable[str] = ()) -> str:
    """A dataclass as a call, without arguments that have their default value.

    Args:
      self: an instance of a dataclass.
      name: the name to call.
      fixed: fields that the name already fixes.
    """
    arguments = []
    for field in dataclasses.fields(self):
        content = getattr(self, field.name)
        if not field.init or field.name in fixed or content == field.default:
            continue
        required = field.default is dataclasses.MISSING
        arguments.append(repr(content) if required else f"{field.name}={content!r}")
    return f"{name}({', '.join(arguments)})"


def is_key(value: Any) -> bool:
    """Whether a value is a PRNG key, typed or raw: a sign of `he_normal` without `()`."""
    dtype = getattr(value, "dtype", None)
    # Raw keys of threefry and of rbg.
    raw = dtype == np.uint32 and np.shape(value)[-1:] in ((2,), (4,))
    return raw or str(dtype).startswith("key<")


def is_dtype(value: Any) -> bool:
    """Whether a value is a dtype: `jnp.float32`, `np.dtype("float32")`, "float32"."""
    if isinstance(value, np.dtype):
        return True
    if isinstance(value, str):
        return value.startswith(("float", "bfloat", "complex", "int", "uint"))
    # NumPy's types, JAX's, and those of ml_dtypes have a dtype before they are called.
    numpy = isinstance(value, type) and issubclass(value, np.generic)
    return numpy or (isinstance(getattr(value, "dtype", None), np.dtype) and callable(value))


def _if_dtype(owner: str, value: Any) -> str:
    """What to write instead, if the value is a dtype in a wrong place."""
    if not is_dtype(value):
        return ""
    name = value if isinstance(value, str) else np.dtype(value).name
    return f"; give a dtype by name: {owner}(..., dtype={name!r})"


def is_traced(value: Any) -> bool:
    """Whether a value is a JAX tracer: a number that isn't known yet."""
    core = sys.modules.get("jax.core")  # no tracers exist before JAX is imported
    return core is not None and isinstance(value, core.Tracer)


def checked_number(
    owner: str, name: str, value: Any, minimum: float = -math.inf, infinite: bool = False
) -> float:
    """The value as a float, if it is a finite real number of at least the minimum."""
    if is_traced(value):
        raise TypeError(
            f"{owner}: {name} must be known in advance, but it is traced by jax.jit, jax.vmap"
            f" or jax.grad ({value}); to scale what an initializer draws, multiply the array"
        )
    # "V" is bfloat16 and similar dtypes; keys have a dtype without a kind.
    kind = getattr(getattr(value, "dtype", None), "kind", None) or "none"
    array = kind in "iufV" and np.ndim(value) == 0 and not is_dtype(value)
    if isinstance(value, bool) or not (isinstance(value, numbers.Real) or array):
        hint = _if_dtype(owner, value)
        raise TypeError(f"{owner}: {name} must be a real number, got {value!r}{hint}")
    try:
        number = float(value)
    except OverflowError:  # an integer larger than any float
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
    """The value as an int, if it is a whole number of at least the minimum."""
    number = checked_number(owner, name, value, minimum)
    if not number.is_integer():
        raise ValueError(f"{owner}: {name} must be an integer, got {value!r}")
    return int(number)


def checked_axes(owner: str, name: str, value: Any) -> int | tuple[int, ...]:
    """The value as an int or a tuple of ints, if it is an axis or a sequence of axes."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(axis, numbers.Integral) for axis in value):
            return tuple(int(axis) for axis in value)
    hint = _if_dtype(owner, value)
    raise TypeError(
        f"{owner}: {name} must be an axis (int) or a tuple of axes, got {value!r}{hint}"
    )


def checked_choice(
    owner: str, name: str, value: Any, choices: Iterable[str], jax_says: str = ""
) -> str:
    """The value, if it is one of the choices; otherwise an error that lists them, closest first.

    Args:
      owner: the function.
      name: the argument.
      value: its value.
      choices: the valid ones.
      jax_says: how JAX's error about it begins, if it has one.
    """
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return value
    begin = f"{jax_says}; " if jax_says else ""
    raise ValueError(
        f"{begin}{owner}: {name} must be one of {', '.join(nearest_first(str(value), choices))};"
        f" got {value!r}{_if_dtype(owner, value)}"
    )


def checked_dtype(owner: str, value: Any, inexact: bool = False) -> str | None:
    """The name of a numeric dtype, which can be hashed, pickled and written to a file.

    `float` means JAX's default float, like None.

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
        # Registers bfloat16 and the float8 dtypes, even before JAX is imported.
        import ml_dtypes  # noqa: F401

        dtype = np.dtype(value)
    except TypeError as error:
        raise TypeError(f"{owner}: dtype must be a dtype, got {value!r}") from error
    # NumPy lists dtypes from other packages, such as bfloat16, under kind "V".
    if dtype.kind not in "biufcV" or dtype.type is np.void:
        raise TypeError(f"{owner}: dtype must be numeric, got {value!r}")
    if inexact and not dtype.name.startswith(("float", "bfloat", "complex")):
        raise TypeError(f"{owner}: dtype must be floating or complex, got {dtype.name}")
    return dtype.name


def checked_initializer(owner: str, name: str, value: Any) -> Any:
    """The value, if it is an initializer and not a factory, such as `he_normal` without ().

    An initializer's first two parameters, key and shape, have no default. No factory has two such
    parameters.
    """
    no_function = not callable(value) or isinstance(value, type) or inspect.isbuiltin(value)
    if no_function or not _needs_key_and_shape(value):
        raise TypeError(
            f"{owner}: {name} must be an initializer, a function of (key, shape, dtype), such as"
            f" he_normal() with its parentheses; got {value!r}"
        )
    return value


def _needs_key_and_shape(function: Any) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())[:2]
    except ValueError:  # a few callables have no signature
        return True
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    return [parameter.default for parameter in parameters] == [inspect.Parameter.empty] * 2


def resolved_dtype(asked: Any, default: Any, owner: str = "a draw") -> np.dtype:
    """The requested dtype, or else the default one, or else JAX's default float."""
    import jax.numpy as jnp

    dtype = default if asked is None else asked
    try:
        return jnp.result_type(float if dtype is None else jnp.dtype(dtype))
    except TypeError:
        raise TypeError(f"{owner} needs a dtype, such as 'float32', got {dtype!r}") from None


def resharded(kernel: jax.Array, out_sharding: Any) -> jax.Array:
    """The kernel, sharded as requested."""
    import jax

    return kernel if out_sharding is None else jax.sharding.reshard(kernel, out_sharding)


def nearest_first(word: str, choices: Iterable[str]) -> list[str]:
    """The choices, with the closest spellings first."""
    choices = list(choices)
    near = difflib.get_close_matches(word.lower(), choices, n=3, cutoff=0.5)
    return near + [choice for choice in choices if choice not in near]


def checked_shape(owner: Any, shape: Any) -> tuple[int, ...]:
    """The shape as a tuple of ints >= 0. As in JAX, a single int is one axis."""
    try:
        axes = [shape] if hasattr(shape, "__index__") and np.ndim(shape) == 0 else shape
        sizes = tuple(operator.index(size) for size in axes)
    except TypeError:
        hint = "; call it as (key, shape, dtype)" if is_dtype(shape) else ""
        raise TypeError(f"{shown(owner)} needs a shape of integers, got {shape!r}{hint}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"{shown(owner)} needs a shape of integers >= 0, got {shape!r}")
    return sizes
