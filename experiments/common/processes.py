"""The processes of one job, on one host or many, that train one network together."""

import numpy as np


def is_main() -> bool:
    """Whether this is the process that prints and writes; starts JAX."""
    import jax

    return jax.process_index() == 0


def least(number: int) -> int:
    """The smallest of the numbers of all processes, each of which has to call it."""
    import jax

    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(np.min(multihost_utils.process_allgather(np.int32(number))))
