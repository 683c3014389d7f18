"""Specifications: the text form of an initializer, shared by flags, files and `repr`.

A specification is a name, or a call with literal arguments: `he_normal`,
`random_uniform(-0.1, 0.1)`, `orthogonal(2**0.5)`. It is parsed, never evaluated: what is not a
known name with literals, or products and powers of numbers, in its parentheses is an error.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Mapping
from typing import Any

from initjax import constants, sampling, scaling, structured
from initjax._values import Initializer, nearest_first
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
    "torch_kaiming_uniform": structured.torch_kaiming_uniform,
    "torch_kaiming_normal": structured.torch_kaiming_normal,
    "torch_bias": structured.torch_bias,
    "xavier_uniform": scaling.xavier_uniform,
    "xavier_normal": scaling.xavier_normal,
    "kaiming_uniform": scaling.kaiming_uniform,
    "kaiming_normal": scaling.kaiming_normal,
}
"""Every name a specification may start with, and the initializer, or maker of one, behind it."""

# What a class of Keras is called here, and what its parameters are called where names differ.
_KERAS: dict[str, tuple[str, dict[str, str]]] = {
    "Zeros": ("zeros", {}),
    "Ones": ("ones", {}),
    "Constant": ("constant", {}),
    "Identity": ("identity", {}),
    "STFT": ("stft", {}),
    "RandomNormal": ("random_normal", {}),
    "RandomUniform": ("random_uniform", {}),
    "TruncatedNormal": ("random_truncated_normal", {}),
    "Orthogonal": ("orthogonal", {"gain": "scale"}),
    "VarianceScaling": ("variance_scaling", {}),
    **{
        f"{word}{kind}": (f"{word.lower()}_{kind.lower()}", {})
        for word in ("Glorot", "He", "Lecun")
        for kind in ("Normal", "Uniform")
    },
}
_KERAS_AXES = {"input_axes": "in_axis", "output_axes": "out_axis"}
_KERAS_DISTRIBUTIONS = {"normal": "truncated_normal", "untruncated_normal": "normal"}

# What a number in a specification may be made of: 2**0.5, 1/3.
_ARITHMETIC = {ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow}

_LONGEST = 1000  # characters; far more than any initializer needs, far less than hurts a parser


def parse(spec: str) -> Initializer:
    """Makes the initializer that a specification describes.

    `parse(repr(x)) == x` for every initializer `x` of this library.

    Args:
      spec: a name, or a name with literal arguments in parentheses.

    Returns:
      The initializer.

    Raises:
      ValueError: the text is no specification, or its name, a parameter or a value is not valid;
        the message is one line that says what would be.
      TypeError: it is no text.

    Example:
      >>> parse("random_uniform(-0.1, 0.1)")
      random_uniform(minval=-0.1, maxval=0.1)
      >>> parse("xavier_uniform") == parse("glorot_uniform()")
      True
    """
    name, args, kwargs = _split(spec)
    if name not in NAMES:
        names = ", ".join(nearest_first(name, NAMES))
        raise ValueError(f"unknown initializer {name!r}; valid names: {names}")
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


def get(identifier: str | Initializer | Mapping[str, Any]) -> Initializer:
    """Makes an initializer of whatever names one.

    Args:
      identifier: a specification, as for `parse`; an initializer, which is returned; a maker of
        one, such as `he_normal` without its parentheses; or the configuration of one of Keras's, as
        `keras.initializers.serialize` gives and a saved model holds, by Keras's meaning of it.

    Returns:
      The initializer.

    Raises:
      TypeError: the identifier is none of these.
      ValueError: as `parse`; or a configuration's class has no counterpart.

    Example:
      >>> get("he_normal") == get(get("he_normal"))
      True
      >>> get({"class_name": "TruncatedNormal", "config": {"mean": 0.0, "stddev": 0.1, "seed": 3}})
      random_truncated_normal(stddev=0.1)

    Reference:
      `keras.initializers.get`. A seed is no part of an initializer here, but the key of a call.
    """
    if isinstance(identifier, str):
        return parse(identifier)
    if isinstance(identifier, Mapping):
        return _from_keras(identifier)
    if not callable(identifier):
        raise TypeError(
            "get: an identifier is a specification, an initializer or a configuration of Keras's,"
            f" got {identifier!r}"
        )
    maker = isinstance(identifier, type) or identifier in NAMES.values()
    if maker and identifier not in (constants.zeros, constants.ones):
        return identifier()  # pyright: ignore
    return identifier


def _from_keras(configuration: Mapping[str, Any]) -> Initializer:
    wanted, config = configuration.get("class_name"), configuration.get("config", {})
    if wanted not in _KERAS:
        raise ValueError(
            f"get: class_name must be one of {', '.join(nearest_first(str(wanted), _KERAS))}; got"
            f" {wanted!r}"
        )
    name, renamed = _KERAS[wanted]
    renamed = {**renamed, **_KERAS_AXES}
    arguments: dict[str, Any] = {
        renamed[parameter] if parameter in renamed else parameter: value
        for parameter, value in config.items()
        if parameter != "seed" and not (parameter in _KERAS_AXES and value is None)
    }
    if name in ("zeros", "ones"):
        return NAMES[name]
    if "distribution" in arguments:
        distribution = arguments["distribution"]
        arguments["distribution"] = _KERAS_DISTRIBUTIONS.get(distribution, distribution)
    try:
        return NAMES[name](**arguments)
    except TypeError as error:
        raise ValueError(f"get: {wanted}: {error}") from None


def _split(spec: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The name, the positional and the named arguments of a specification."""
    form = "a specification is a name or a name with literal arguments, as in he_normal or"
    wrong = ValueError(f"cannot read {str(spec)[:80]!r}: {form} random_uniform(-0.1, 0.1)")
    if not isinstance(spec, str):
        raise TypeError(f"a specification is text, got {spec!r}")
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
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        raise wrong from None
    if "None" in kwargs or len(kwargs) < len(node.keywords):  # **mapping, or a name given twice
        raise wrong
    return node.func.id, args, kwargs


def _literal(node: ast.expr) -> Any:
    """The value of an argument: a literal, a product or power, inf or nan, or an initializer."""
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(map(_literal, node.elts))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        operands = [_literal(operand) for operand in (node.left, node.right)]
        if not all(isinstance(operand, int | float) for operand in operands):
            raise ValueError
        # In floats, so that no power takes long.
        return _ARITHMETIC[type(node.op)](*map(float, operands))
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    if isinstance(node, ast.Name | ast.Call):
        return parse(ast.unparse(node))
    return ast.literal_eval(node)
