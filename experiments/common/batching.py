"""The order of the examples: which of them each batch holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def batch_sizes(
    examples: int, batch_size: int, steps: int | None = None, full: bool = False
) -> np.ndarray:
    """The number of examples in each batch: only the last of each pass over them may hold fewer.

    Args:
      examples: the number of training examples.
      batch_size: examples per batch.
      steps: how many batches; None means one pass over the examples.
      full: as for `batch_order`: all batches hold the same number.
    """
    if full:
        return np.full(steps or examples // batch_size, batch_size)
    once = np.diff(np.append(np.arange(0, examples, batch_size), examples))
    return np.resize(once, len(once) if steps is None else steps)


def batch_order(
    key: jax.Array,
    epoch: jax.typing.ArrayLike,
    examples: int,
    batch_size: int,
    steps: int,
    full: bool = False,
) -> jax.Array:
    """The batches of an epoch, whose steps may be fewer or more than a pass over the examples.

    Args:
      key: the key of the order; that of each pass is folded from it.
      epoch: its number, 1 for the first. There is only one if it is not one pass.
      examples: as for `shuffled_batches`.
      batch_size: as for `shuffled_batches`.
      steps: the number of batches.
      full: whether the passes follow one another without padding, so that a batch may hold the end
        of one and the beginning of the next.
    """
    if full:
        passes = -(-steps * batch_size // examples)
        orders = jax.lax.map(lambda key: _shuffled(key, examples), _pass_keys(key, epoch, passes))
        return orders.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)
    passes = -(-steps // -(-examples // batch_size))
    if passes == 1:
        return shuffled_batches(jax.random.fold_in(key, epoch), examples, batch_size)[:steps]
    batches = jax.lax.map(
        lambda key: shuffled_batches(key, examples, batch_size), _pass_keys(key, epoch, passes)
    )
    return batches.reshape(-1, batch_size)[:steps]


@functools.partial(jax.jit, static_argnames=("examples", "batch_size"))
def shuffled_batches(key: jax.Array, examples: int, batch_size: int) -> jax.Array:
    """Draws the order of an epoch.

    Args:
      key: the epoch's own key.
      examples: the number of examples; each appears exactly once.
      batch_size: examples per batch; the last batch may hold fewer.

    Returns:
      Indices int32 (batches, batch_size). The last batch is padded with the index `examples`,
      which means no example.
    """
    return in_batches(_shuffled(key, examples), batch_size)


def in_batches(order: jax.Array, batch_size: int) -> jax.Array:
    padding = -len(order) % batch_size
    order = jnp.pad(order, (0, padding), constant_values=len(order))
    return order.reshape(-1, batch_size)


def _pass_keys(key: jax.Array, epoch: jax.typing.ArrayLike, passes: int) -> jax.Array:
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(epoch + jnp.arange(passes))


def _shuffled(key: jax.Array, examples: int) -> jax.Array:
    # Sorting by random words gives a permutation. On a CPU, XLA sorts single words five times as
    # fast as pairs of word and index, so each word holds both: the index in its low bits, random
    # bits above. That leaves few random bits (16 for 60,000 examples), and words with equal random
    # bits keep their order, so sorting is repeated until 32 random bits are used.
    # jax.random.permutation sorts pairs, twice, which takes a sixth of the time of an epoch.
    index_bits = max(1, (examples - 1).bit_length())
    mask = jnp.uint32(2**index_bits - 1)
    positions = jnp.arange(examples, dtype=jnp.uint32)
    order = positions
    for round_key in jax.random.split(key, -(-32 // (32 - index_bits))):
        words = jax.random.bits(round_key, (examples,), jnp.uint32)
        order = order[jnp.sort((words & ~mask) | positions) & mask]
    return order.astype(jnp.int32)
