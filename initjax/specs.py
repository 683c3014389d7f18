"""Specifications: the text form of an initializer, used by flags, files and `repr`.

A specification is a name, or a call with literal arguments: `he_normal`,
`random_uniform(-0.1, 0.1)`, `orthogonal(2**0.5)`. It is parsed, never evaluated: the
only valid arguments are literals, other specifications, and products and powers of numbers.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import operator
from collections.abc import Mapping
from typing import Any

from initjax import (
    biases,
    constants,
    kan,
    pytorch,
    sampling,
    scaling,
    state_space,
    structured,
    transformers,
)
from initjax._keras import from_keras, is_keras_class
from initjax._values import Initializer, checked_initializer, nearest_first
from initjax.orthogonal import delta_orthogonal, orthogonal, scaled_orthogonal

NAMES: dict[str, Any] = {
    "zeros": constants.zeros,
    "ones": constants.ones,
    "constant": constants.constant,
    "uniform": sampling.uniform,
    "normal": sampling.normal,
    "truncated_normal": sampling.truncated_normal,
    "random_uniform": sampling.random_uniform,
    "random_normal": sampling.random_normal,
    "random_truncated_normal": sampling.random_truncated_normal,
    "bounded_normal": sampling.bounded_normal,
    "in_blocks": sampling.in_blocks,
    "variance_scaling": scaling.variance_scaling,
    "glorot_uniform": scaling.glorot_uniform,
    "glorot_normal": scaling.glorot_normal,
    "he_uniform": scaling.he_uniform,
    "he_normal": scaling.he_normal,
    "lecun_uniform": scaling.lecun_uniform,
    "lecun_normal": scaling.lecun_normal,
    "orthogonal": orthogonal,
    "delta_orthogonal": delta_orthogonal,
    "scaled_orthogonal": scaled_orthogonal,
    "identity": constants.identity,
    "dirac": constants.dirac,
    "hadamard_identity": constants.hadamard_identity,
    "stft": constants.stft,
    "sparse": structured.sparse,
    "siren": structured.siren,
    "random_walk": structured.random_walk,
    "mup_output": structured.mup_output,
    "icnr": structured.icnr,
    "log_uniform": state_space.log_uniform,
    "inverse_softplus": state_space.inverse_softplus,
    "logarithm": state_space.logarithm,
    "s4d": state_space.s4d,
    "hippo": state_space.hippo,
    "small_init": transformers.small_init,
    "wang_init": transformers.wang_init,
    "layer_scale": transformers.layer_scale,
    "spectral": transformers.spectral,
    "unit_norm": transformers.unit_norm,
    "kan_spline": kan.kan_spline,
    "prior_bias": biases.prior_bias,
    "class_frequency_bias": biases.class_frequency_bias,
    "forget_gate_bias": biases.forget_gate_bias,
    "torch_kaiming_uniform": pytorch.torch_kaiming_uniform,
    "torch_kaiming_normal": pytorch.torch_kaiming_normal,
    "torch_bias": pytorch.torch_bias,
    "xavier_uniform": scaling.xavier_uniform,
    "xavier_normal": scaling.xavier_normal,
    "kaiming_uniform": scaling.kaiming_uniform,
    "kaiming_normal": scaling.kaiming_normal,
}
"""Every name a specification may start with, and its initializer or factory."""

# Arithmetic that a specification may contain: 2**0.5, 1/3.
_ARITHMETIC = {ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow}

_LONGEST = 10_000  # characters; more than any initializer needs, and safe for the parser


def parse(spec: str) -> Initializer:
    """Makes the initializer that a specification describes.

    `parse(repr(x)) == x` for every initializer `x` of this library, except a `constant` that is
    traced or has more than a hundred numbers.

    Args:
      spec: a name, or a name with literal arguments in parentheses.

    Returns:
      The initializer.

    Raises:
      ValueError: the text isn't a specification, or its name, a parameter or a value isn't valid;
        the message is one line that says what is valid.
      TypeError: spec isn't a string.

    Example:
      >>> parse("random_uniform(-0.1, 0.1)")
      random_uniform(minval=-0.1, maxval=0.1)
      >>> parse("xavier_uniform") == parse("glorot_uniform()")
      True
    """
    name, args, kwargs = _split(spec)
    if name not in NAMES:
        raise ValueError(f"unknown initializer {name!r}; {_valid_names(name)}")
    made = NAMES[name]
    if not isinstance(made, type) and not inspect.isfunction(made):  # zeros and ones
        if args or kwargs:
            raise ValueError(f"{name} takes no arguments, got {spec!r}")
        return made
    parameters = inspect.signature(made).parameters
    for unknown in kwargs.keys() - parameters.keys():
        valid = ", ".join(nearest_first(unknown, parameters))
        raise ValueError(f"{name} has no parameter {unknown!r}; valid parameters: {valid}")
    try:
        inspect.signature(made).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; parameters: {', '.join(parameters)}") from None
    try:
        return made(*args, **kwargs)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _valid_names(name: str) -> str:
    """What an error says after a name that isn't valid."""
    meant = _meant(name, 0.5)
    guess = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"{guess}valid names: {', '.join(nearest_first(name, NAMES))}"


def _meant(name: str, cutoff: float) -> list[str]:
    """The initializers whose names begin with this word, such as he, or else the nearest name."""
    family = [known for known in NAMES if known.startswith(f"{name.lower()}_")]
    return family or difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=cutoff)


def get(identifier: str | Initializer | Mapping[str, Any]) -> Initializer:
    """Makes an initializer from a specification, an initializer, or a Keras configuration.

    Args:
      identifier: a specification, as for `parse`, or the name of a Keras class; an initializer,
        which is returned; a factory in `NAMES`, such as `he_normal` without its parentheses; or a
        Keras initializer, its class or its configuration, as from `keras.initializers.serialize`
        (a dictionary or JSON text), with its meaning in Keras.

    Returns:
      The initializer.

    Raises:
      TypeError: the identifier isn't one of these.
      ValueError: as `parse`; or a configuration's class has no counterpart.

    Example:
      >>> get("he_normal") == get(get("he_normal"))
      True
      >>> get({"class_name": "TruncatedNormal", "config": {"mean": 0.0, "stddev": 0.1, "seed": 3}})
      random_truncated_normal(stddev=0.1)

    Reference:
      `keras.initializers.get`. Seeds are ignored: here the key is an argument of the call.
    """
    if isinstance(identifier, str):
        if identifier.lstrip().startswith("{"):
            return get(_json(identifier))
        known = is_keras_class(identifier)
        return _made_as_in_keras(identifier, {}) if known else parse(identifier)
    if isinstance(identifier, Mapping):
        return _made_as_in_keras(identifier.get("class_name"), identifier.get("config"))
    for name, made in NAMES.items():
        if made is identifier:
            return parse(name)
    if hasattr(identifier, "get_config"):
        if isinstance(identifier, type):
            return _made_as_in_keras(identifier.__name__, {})
        config = identifier.get_config()  # pyright: ignore
        if hasattr(identifier, "gain"):  # Keras 3.15 omits it from the configuration of Identity
            config = {**config, "gain": identifier.gain}  # pyright: ignore
        return _made_as_in_keras(type(identifier).__name__, config)
    return checked_initializer("get", "identifier", identifier)


def _json(text: str) -> Mapping[str, Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"get: cannot read {text[:80]!r} as JSON") from None


def _made_as_in_keras(class_name: Any, config: Any) -> Initializer:
    name, arguments = from_keras(class_name, config)
    if name in ("zeros", "ones"):
        return NAMES[name]
    unknown = arguments.keys() - inspect.signature(NAMES[name]).parameters.keys()
    if unknown:
        raise ValueError(f"get: {class_name} has no parameter {sorted(unknown)[0]!r}")
    try:
        return NAMES[name](**arguments)
    except TypeError as error:
        raise ValueError(f"get: {class_name}: {error}") from None


class _InsideError(ValueError):
    """An error in a nested specification."""


def _split(spec: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The name, positional arguments and keyword arguments of a specification."""
    form = "a specification is a name or a name with literal arguments, as in he_normal or"
    wrong = ValueError(f"cannot read {str(spec)[:80]!r}: {form} random_uniform(-0.1, 0.1)")
    if not isinstance(spec, str):
        raise TypeError(f"a specification must be a string, got {spec!r}")
    if len(spec) > _LONGEST:
        raise wrong
    try:
        node = ast.parse(spec.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise wrong
        args = [_literal(argument) for argument in node.args]
        kwargs = {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    except _InsideError as error:
        raise ValueError(f"in {spec[:80]!r}: {error}") from None
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        raise wrong from None
    if "None" in kwargs or len(kwargs) < len(node.keywords):  # **mapping, or a repeated name
        raise wrong
    return node.func.id, args, kwargs


def _literal(node: ast.expr) -> Any:
    """The value of an argument: a literal, complex(1.0, inf), a product, or an initializer."""
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(map(_literal, node.elts))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        operands = [_literal(operand) for operand in (node.left, node.right)]
        if not all(isinstance(operand, int | float) for operand in operands):
            raise ValueError
        # As floats, so that no power takes long.
        return _ARITHMETIC[type(node.op)](*map(float, operands))
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "complex":
        return complex(*map(_literal, node.args))
    if isinstance(node, ast.Name | ast.Call):
        try:
            return parse(ast.unparse(node))
        except ValueError as error:
            message: object = error
            if isinstance(node, ast.Name) and not _meant(node.id, 0.75):  # such as fan_in
                message = f'{node.id} is not an initializer; write text in quotes: "{node.id}"'
            raise _InsideError(message) from None
    return ast.literal_eval(node)
