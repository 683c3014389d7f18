"""Arrays that are sharded by type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from initjax.auditing._reading.trace import Traced


def as_taken(traced: Traced, arrays: Any) -> Any:
    """A tree of arrays as a program takes them.

    A program that was written for shards takes whole arrays, whose types don't say how they are
    sharded. They are put on one device: a mesh would remain a part of their types.
    """
    import jax
    from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding

    def whole(array: Any) -> Any:
        sharding = getattr(array, "sharding", None)
        if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
            return array
        if AxisType.Explicit not in sharding.mesh.axis_types:
            return array
        return jax.device_put(array, SingleDeviceSharding(sharding.mesh.devices.flat[0]))

    shardings = [getattr(var.aval, "sharding", None) for var in traced.jaxpr.invars]
    if any(each is not None and AxisType.Explicit in each.mesh.axis_types for each in shardings):
        return arrays
    return jax.tree.map(whole, arrays)


def automatic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a function of arrays take those that a mesh with explicit axes shards.

    Inside, XLA chooses the shardings, so reshapes and products need no annotations.

    Args:
      function: maps arrays to a tree of arrays.

    Returns:
      The function; with such arrays its results are not sharded.
    """
    import jax
    from jax.sharding import AxisType

    def called(*arrays: Any) -> Any:
        meshes = [jax.typeof(array).sharding.mesh for array in arrays]
        meshes = [mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types]
        if not meshes:
            return function(*arrays)
        whole = jax.sharding.PartitionSpec()
        with jax.sharding.use_abstract_mesh(meshes[0]):
            return jax.sharding.auto_axes(function, out_sharding=whole)(*arrays)

    return called
