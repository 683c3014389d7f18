"""Models as pure functions of a tree of parameters, made from the networks of NNX.

The parameters have one leaf for each layer: `hidden/0/kernel`, ..., `output/bias`. In training they
are *packed*: consecutive blocks of one shape become one stack, over which the network is scanned.
So a network of 300 layers compiles as fast as one of three. Blocks that are few aren't packed.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import initjax
from experiments.common import networks, run_directory

_LEAST_STACK = 4  # blocks; fewer compile fast enough, and run faster, one after another


Init = tuple[tuple[str, initjax.Initializer], ...]
"""Initializers by pattern, of which the first that matches a path counts."""


class Multipliers(NamedTuple):
    """What a parametrization multiplies by in the forward pass. All are 1 without one."""

    scores: float = 1.0
    """Of attention, see `networks.Layers`."""
    branches: float = 1.0
    """Of residual blocks, see `networks.Layers`."""
    kernels: tuple[tuple[str, float], ...] = ()
    """By path, those of products with a kernel; others are 1."""


NO_MULTIPLIERS = Multipliers()
"""Of a network without a parametrization."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """Consecutive blocks of one shape."""

    first: int
    """Index of the first, under which the stack is found in packed parameters."""
    length: int

    @property
    def blocks(self) -> range:
        """The indices of the blocks."""
        return range(self.first, self.first + self.length)


@dataclasses.dataclass(frozen=True, eq=False)  # equal if identical, so that it can be hashed
class Model:
    """A model as pure parts."""

    apply: Callable[[Any, jax.typing.ArrayLike], jax.Array]
    """Maps (packed params, images) to logits. Equal models share one function, so jit caches it."""
    unrolled: Callable[[Any, jax.typing.ArrayLike], jax.Array]
    """The same of (params, images), block after block: for audits, which name each of them."""
    shapes: Any
    """The parameters as nested dicts of `jax.ShapeDtypeStruct`."""
    features: tuple[int, ...]
    """The sizes of the input, of every hidden layer, and of the output."""
    stacks: tuple[Stack, ...]
    """What `pack` stacks."""
    initial: Callable[[jax.Array], Any] | None = None
    """Draws all parameters from a key as the user's own module does; None for the networks here,
    whose parameters all have an initializer."""
    plan: Callable[..., initjax.Plan] | None = None
    """Its parametrization relative to a base network, as a function of that one's initializers,
    see `Init`; None without a scheme."""

    def pack(self, params: Any) -> Any:
        """Stacks the parameters of consecutive blocks of one shape, on the device they are on.

        Shapes, as `jax.ShapeDtypeStruct`, are packed, too.
        """
        return self._replaced(params, lambda hidden, stack: [_stacked(hidden, stack)])

    def unpack(self, packed: Any) -> Any:
        """Undoes `pack`."""

        def blocks(hidden: Any, stack: Stack) -> list[Any]:
            stacked = hidden[stack.first]
            return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(stack.length)]

        return self._replaced(packed, blocks)

    def _replaced(self, params: Any, replace: Callable[[Any, Stack], list[Any]]) -> Any:
        if not self.stacks:
            return params
        hidden = dict(params["hidden"])
        for stack in self.stacks:
            new = replace(hidden, stack)
            for index in stack.blocks:
                hidden.pop(index, None)
            hidden |= dict(zip(stack.blocks, new, strict=False))
        return {**params, "hidden": dict(sorted(hidden.items()))}


def _stacked(hidden: Any, stack: Stack) -> Any:
    def stacked(*leaves: Any) -> Any:
        if isinstance(leaves[0], jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)
        return (np if isinstance(leaves[0], np.ndarray) else jnp).stack(leaves)

    return jax.tree.map(stacked, *(hidden[index] for index in stack.blocks))


@functools.lru_cache
def network(
    features: tuple[int, ...],
    activation: str,
    dtype: str,
    pixels: tuple[float, float] = (0.0, 1.0),
    *,
    model: str,
    residual: bool = False,
    normalization: str = "none",
    tokens: int = 0,
    multipliers: Multipliers = NO_MULTIPLIERS,
) -> Model:
    """Makes a network without drawing any parameter.

    Args:
      features: the sizes of the input, of every hidden block, and of the output. For other networks
        than an MLP, the input is a patch.
      activation: the name of an elementwise function of `jax.nn`, one of `config.ACTIVATIONS`.
      dtype: the dtype of the computation; parameters are float32, or float64 if this is.
      pixels: the mean and the standard deviation that are taken out of the pixels, which are
        numbers between 0 and 1.
      model: one of `config.MODELS`.
      residual: whether an MLP is residual.
      normalization: one of `config.NORMALIZATIONS`.
      tokens: how many patches an image has, for a transformer.
      multipliers: of a parametrization.

    Returns:
      The model; the parameters of an MLP are `hidden/0/kernel`, `hidden/0/bias`, ...,
      `output/kernel`, `output/bias`.
    """
    inputs, *hidden, classes = features
    kinds: dict[str, Callable[..., networks.Network]] = {
        "mlp": networks.ResidualMLP if residual else networks.MLP,
        "cnn": networks.CNN,
        "resnet": networks.ResNet,
        "transformer": functools.partial(networks.Transformer, tokens=tokens),
    }

    def make(sizes: Sequence[int]) -> networks.Network:
        param_dtype = jnp.promote_types(dtype, jnp.float32)
        layers = networks.Layers(
            normalization,
            jnp.dtype(dtype),
            param_dtype,
            nnx.Rngs(0),
            multipliers.scores,
            multipliers.branches,
        )
        return kinds[model]((inputs, *sizes, classes), getattr(jax.nn, activation), layers)

    return _model(make, features, hidden, dtype, pixels, dict(multipliers.kernels))


mlp = functools.partial(network, model="mlp")


def _model(
    make: Callable[[Sequence[int]], Any],
    features: tuple[int, ...],
    hidden: Sequence[int],
    dtype: str,
    pixels: tuple[float, float],
    kernels: Mapping[str, float],
) -> Model:
    """The pure parts of a network.

    Args:
      make: makes the network of given sizes of hidden blocks. A block may depend on its own size
        and on that of the block before it.
      features: as in `Model`.
      hidden: the sizes of its hidden blocks.
      dtype: as for `network`.
      pixels: as for `network`.
      kernels: as in `Multipliers`.
    """
    # Blocks that are equal are made only once: NNX takes seconds for hundreds.
    pairs = list(itertools.pairwise([None, *hidden]))
    kept = [i for i, pair in enumerate(pairs) if i == 0 or pair != pairs[i - 1]]
    network = nnx.eval_shape(lambda: make([hidden[i] for i in kept]))
    parts = [nnx.split(block) for block in network.hidden]
    network.hidden = nnx.List([])
    rest, state = nnx.split(network)
    shapes = nnx.to_pure_dict(state)
    graphs: list[nnx.GraphDef] = []
    stacks: list[Stack] = []
    for (graph, state), (first, end) in zip(
        parts, itertools.pairwise([*kept, len(hidden)]), strict=True
    ):
        if end - first >= _LEAST_STACK:
            stacks.append(Stack(first, end - first))
        for index in range(first, end):
            graphs.append(graph)
            shapes.setdefault("hidden", {})[index] = nnx.to_pure_dict(state)

    def embed(params: Any, images: jax.typing.ArrayLike) -> tuple[Any, jax.Array]:
        others = {name: value for name, value in params.items() if name != "hidden"}
        network = nnx.merge(rest, nnx.State(others))
        x = jnp.asarray(images).astype(dtype) / 255
        mean, stddev = pixels
        return network, network.embed(x if pixels == (0, 1) else (x - mean) / stddev)

    def block(network: Any, index: int, params: Any, x: jax.Array) -> jax.Array:
        return network.step(nnx.merge(graphs[index], nnx.State(params)), x)

    def multiplied(params: Any) -> Any:
        if not kernels:
            return params
        # The blocks of a stack have the multipliers of its first one.
        leaves = run_directory.flatten(params)
        return run_directory.nested(
            {path: networks.times(kernels.get(path, 1), leaf) for path, leaf in leaves}
        )

    def unrolled(params: Any, images: jax.typing.ArrayLike) -> jax.Array:
        params = multiplied(params)
        network, x = embed(params, images)
        for index in range(len(hidden)):
            x = block(network, index, params["hidden"][index], x)
        return network.readout(x)

    stacked = {stack.first for stack in stacks}

    def apply(packed: Any, images: jax.typing.ArrayLike) -> jax.Array:
        packed = multiplied(packed)
        network, x = embed(packed, images)
        for index, params in sorted(packed["hidden"].items()):
            if index in stacked:
                step = functools.partial(block, network, index)
                x, _ = jax.lax.scan(lambda x, one, step=step: (step(one, x), None), x, params)
            else:
                x = block(network, index, params, x)
        return network.readout(x)

    return Model(apply if stacks else unrolled, unrolled, shapes, features, tuple(stacks))
