"""Programs that give the evidence: each runs as `python -m experiments.NAME`.

`experiments.compare` does the same in Python for a network of one's own.
"""

import importlib.util
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.common.own_comparison import Result, compare

__all__ = ["Result", "compare"]

# What the extra `experiments` in pyproject.toml installs, by import name. This file runs before
# every program, so that each of them reports a missing package in the same way.
_PACKAGES = (
    "absl",
    "altair",
    "flax",
    "jax",
    "jinja2",
    "matplotlib",
    "optax",
    "orbax",
    "PIL",
    "platformdirs",
    "psutil",
    "pyarrow",
    "safetensors",
    "tensorboardX",
    "tensorflow_datasets",
    "vl_convert",
)
_started_as_program = sys.argv[:1] == ["-m"]  # what `python -m` sets while it looks for one
if _started_as_program:
    # A signal while a program imports what it needs shows no traceback. From `console.run_program`
    # on, which also explains the exit code, signals are handled there.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for _name in ("SIGTERM", "SIGUSR1"):
        _number = getattr(signal, _name, None)  # Windows lacks the second
        if _number and signal.getsignal(_number) == signal.SIG_DFL:
            signal.signal(_number, lambda number, frame: os._exit(75))
_missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
if _missing:
    _message = (
        f"experiments needs packages that are not installed ({', '.join(_missing)});"
        " in a clone of the repository: pip install -e '.[experiments]'"
    )
    if _started_as_program:
        print(_message, file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(_message)


def __getattr__(name: str) -> Any:
    # At their first use, since a program that doesn't need them shall not import JAX.
    if name in __all__:
        from experiments.common import own_comparison

        return getattr(own_comparison, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
