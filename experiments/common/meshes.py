"""The devices that train one network together, and which part of each array a device holds.

`--mesh=data:2,model:4` arranges eight devices. Each batch is divided over `data`; the kernels and
what the optimizer keeps of them are divided over `model`. Several processes make one mesh of all
their devices, and each of them reads only the rows of its own devices.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.common import description, processes
from experiments.common.config import UsageError

# JAX is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    import jax

_MOST = 10**6  # devices along an axis; Python reads no integers of many thousand digits
_UNDIVIDED = ("bias", "scale")  # of a layer, by name: vectors, though in a stack they have two axes


class Sizes(NamedTuple):
    """How many devices there are along each axis of a mesh."""

    data: int = 1
    model: int = 1

    def __str__(self) -> str:
        return ",".join(f"{name}:{size}" for name, size in self._asdict().items() if size > 1) or (
            "data:1"
        )


def parse(text: str) -> Sizes:
    """The mesh that `--mesh` describes.

    Raises:
      UsageError: it is not valid.

    Example:
      >>> parse("data:2,model:4"), str(parse("data:8"))
      (Sizes(data=2, model=4), 'data:8')
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(data|model):(\d{1,7})\s*", part)
        if not match or not 1 <= int(match[2]) <= _MOST:
            raise UsageError(
                f"--mesh={text}: expected NAME:SIZE, with the names data and model and sizes from"
                " 1 on, such as data:8 or data:2,model:4"
            )
        if match[1] in found:
            raise UsageError(f"--mesh={text}: {match[1]} is given twice")
        found[match[1]] = int(match[2])
    return Sizes(**found)


def placement(sizes: Sizes | None) -> "Placement | None":
    """The mesh of all devices of the job; starts JAX.

    Args:
      sizes: of the mesh; None is one device, or in a job (see `processes.joined`) all devices,
        each with a part of every batch.

    Returns:
      The mesh; None for one device.

    Raises:
      UsageError: there are more or fewer devices.
    """
    import jax

    if sizes is None and not processes.is_joined():
        return None
    sizes = sizes or Sizes(data=jax.device_count())
    if (needed := math.prod(sizes)) != jax.device_count():
        where = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
        advice = ""
        simulated = jax.default_backend() == "cpu" and needed % jax.process_count() == 0
        if simulated and needed > jax.device_count():
            number = needed // jax.process_count()
            advice = f"; to simulate them on a CPU, set JAX_NUM_CPU_DEVICES={number}"
            advice += " for each process" if where else ""
        raise UsageError(
            f"--mesh={sizes} is for {description.count(needed, 'device')}, but there"
            f" {'is' if jax.device_count() == 1 else 'are'} {jax.device_count()}"
            f" ({jax.default_backend()}){where}{advice}"
        )
    # XLA divides what is computed inside a program ("Auto"). With explicit types, each reshape and
    # gather of a divided array has to name the sharding of its result, which neither the networks
    # here, nor the losses of Optax, nor a user's own network do: a ShardingTypeError.
    auto = jax.sharding.AxisType.Auto
    return Placement(jax.make_mesh(sizes, Sizes._fields, (auto, auto)))


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the arrays of a run are. Equal ones are placed alike, so that jit caches by them."""

    mesh: "jax.sharding.Mesh"

    @property
    def sizes(self) -> Sizes:
        """The sizes of its axes."""
        return Sizes(*self.mesh.axis_sizes)

    @property
    def whole(self) -> "jax.NamedSharding":
        """Of what every device has a copy of."""
        return self._sharding()

    def _sharding(self, *axes: str | None) -> "jax.NamedSharding":
        import jax

        return jax.NamedSharding(self.mesh, jax.P(*axes))

    def state(self, shapes: Any) -> Any:
        """How parameters, or a state of training, are divided.

        Kernels are divided over `model` along their outputs, the last axis; along their inputs if
        that isn't divisible; else not at all. What an optimizer keeps of a kernel has its shape and
        name, and so is divided like it.

        Args:
          shapes: a tree of arrays or of `jax.ShapeDtypeStruct`.

        Returns:
          A tree of shardings.
        """
        import jax

        def of(path: Any, leaf: Any) -> jax.NamedSharding:
            name = getattr(path[-1], "key", None) if path else None
            if len(leaf.shape) >= 2 and name not in _UNDIVIDED:
                for axis in (-1, -2):
                    if leaf.shape[axis] % self.sizes.model == 0:
                        before: list[None] = [None] * (len(leaf.shape) + axis)
                        return self._sharding(*before, "model")
            return self.whole

        return jax.tree_util.tree_map_with_path(of, shapes)

    def put(self, arrays: Any) -> Any:
        """Parameters that every process has on its host: each device gets its own part of them."""
        import jax

        return jax.tree.map(
            lambda leaf, sharding: jax.make_array_from_callback(
                leaf.shape, sharding, lambda index: leaf[index]
            ),
            arrays,
            self.state(arrays),
        )

    def host(self, arrays: Any) -> Any:
        """Undoes `put`, in process 0; in others the arrays are empty.

        All processes have to call it, since each has a part. What is nowhere whole is put together
        array by array, so a device needs memory for the largest one.
        """
        import jax

        def whole(leaf: jax.Array) -> np.ndarray:
            if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
                leaf = jax.block_until_ready(_copied(self)(leaf))
            return np.asarray(leaf) if jax.process_index() == 0 else np.empty(0, leaf.dtype)

        return jax.tree.map(whole, arrays)

    def rows(self, data: tuple[Any, ...], order: np.ndarray) -> tuple[Any, "jax.Array"]:
        """Batches, divided over `data`; each process reads the rows of its own devices.

        Args:
          data: trees of arrays with a leading axis of examples, on the host.
          order: the batches as indices, int (batches, batch size); n means no example.

        Returns:
          The trees with leading axes (batches, batch size), and which rows are real. The batch size
          is rounded up to a multiple of the devices, with rows that aren't.
        """
        import jax

        examples = len(jax.tree.leaves(data)[0])
        order = np.pad(
            order,
            ((0, 0), (0, -order.shape[1] % self.sizes.data)),
            constant_values=examples,
        )
        sharding = self._sharding(None, "data")

        def placed(source: np.ndarray, of: np.ndarray) -> jax.Array:
            @functools.cache  # devices along `model` have the same rows
            def read(first: int | None, last: int | None) -> np.ndarray:
                return source[of[:, first:last]]

            def part(index: Any) -> np.ndarray:
                return read(index[1].start, index[1].stop)

            shape = (*order.shape, *source.shape[1:])
            return jax.make_array_from_callback(shape, sharding, part)

        found = np.minimum(order, examples - 1)
        real = placed(np.array([False, True]), (order < examples).astype(int))
        return jax.tree.map(lambda leaf: placed(np.asarray(leaf), found), data), real

    def describe(self, shapes: Mapping[Any, Any]) -> str:
        """Says what the mesh is, and how much of the parameters a device holds."""
        import jax

        axes = " x ".join(
            f"{name} {size}"
            for name, size in self.sizes._asdict().items()
            if size > 1 or name == "data"
        )
        leaves = jax.tree.leaves(shapes)
        shardings = jax.tree.leaves(self.state(shapes))
        shares = [one.shard_shape(leaf.shape) for leaf, one in zip(leaves, shardings, strict=True)]
        size = leaves[0].dtype.itemsize
        own, all = (
            sum(math.prod(shape) for shape in kept) * size / 1e6
            for kept in (shares, [leaf.shape for leaf in leaves])
        )
        many = jax.process_count()
        where = f" in {many} processes" if many > 1 else ""
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}{where}"
        return f"{axes}, {devices}; {own:,.2f} of {all:,.2f} MB of parameters per device"


@functools.lru_cache
def _copied(placement: Placement) -> Any:
    """A function that gives each device a copy of an array."""
    import jax

    return jax.jit(lambda array: array, out_shardings=placement.whole)
