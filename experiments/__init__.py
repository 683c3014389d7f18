"""Programs that give the evidence: each runs as `python -m experiments.NAME`."""

import importlib.util
import signal
import sys

# What the extra `experiments` in pyproject.toml installs, by import name. This file runs before
# every program, so that each of them reports a missing package in the same way.
_PACKAGES = (
    "absl",
    "altair",
    "filelock",
    "flax",
    "jax",
    "jinja2",
    "matplotlib",
    "optax",
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
if _started_as_program and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    # Ctrl-C while a program imports what it needs shows no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
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
