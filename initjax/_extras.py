"""What only some users install: checked where it is needed, so that the error names the extra."""

import importlib.util


def require_matplotlib(caller: str) -> None:
    """Checks that Matplotlib is installed.

    Args:
      caller: what needs it.

    Raises:
      ImportError: it is missing; the message says how to install it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            f"{caller} needs Matplotlib: pip install 'initjax[plot]'", name="matplotlib"
        )
