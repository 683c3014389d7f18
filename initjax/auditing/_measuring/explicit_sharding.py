"""Statistics of arrays that are sharded by type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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
