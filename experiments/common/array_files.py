"""The content of files of named arrays, with text about them: safetensors, which hold no code."""

import json
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy


class Damaged(ValueError):
    """The content isn't that of such a file."""


def encoded(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> bytes:
    """The content of a file with these arrays, of any dtype that JAX computes in."""
    rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return safetensors.numpy.save(rows, metadata=dict(about))


def decoded(content: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The text and the arrays in the content of a file.

    Raises:
      Damaged: it isn't one.
    """
    import ml_dtypes  # of JAX, which is loaded by now

    size = int.from_bytes(content[:8], "little")
    try:
        about = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        arrays = {}
        for name, tensor in safetensors.deserialize(content):  # safetensors.numpy has no bfloat16
            kind = tensor["dtype"]
            dtype = ml_dtypes.bfloat16 if kind == "BF16" else _DTYPES[kind]
            arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(str(error)) from None
    return about, arrays


_DTYPES = {"BOOL": "bool"} | {
    f"{kind}{bits}": f"{name}{bits}"
    for kind, name, sizes in (
        ("F", "float", (16, 32, 64)),
        ("I", "int", (8, 16, 32, 64)),
        ("U", "uint", (8, 16, 32, 64)),
    )
    for bits in sizes
}
