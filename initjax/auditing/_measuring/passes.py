"""One forward and one backward pass, with the statistics of every site on the way.

Nothing is kept of activations or gradients but what stands in the result. What a pass back finds at
a site comes out as the "gradient" of a slot: a dummy argument of an identity function whose rule
of differentiation gives statistics of the cotangent.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.auditing._activations import FLAT, steepest
from initjax.auditing._measuring.explicit_sharding import automatic
from initjax.auditing._measuring.jacobian import jacobian_measurer
from initjax.auditing._measuring.optimizers import first_update
from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._measuring.statistics import described
from initjax.auditing._reading.expressions import IDENTITY, Path
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced, output_aval

if TYPE_CHECKING:
    import jax

_SAMPLE = 64  # rows, and columns, of what a rank and a histogram are taken of
_PRINT = 4096  # numbers of a parameter that are compared with another's


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What one forward and one backward pass found, as NumPy arrays."""

    loss: float
    forward: dict[Path, dict[str, np.ndarray]]
    """By site; with the lengths of the loops around it as leading axes."""
    backward: dict[Path, dict[str, np.ndarray]]
    parameters: list[dict[str, float]]
    """By parameter; empty for integers."""
    prints: list[np.ndarray]
    """The first numbers of every parameter, of every slice of a stacked one: (slices, numbers)."""
    jacobian: tuple[float, float] | None
    """The mean square of the singular values of the last site's output by the first's, and the
    condition of their Gram matrix in random directions; None where it was not taken."""


def measurer(
    traced: Traced, optimizer: Any = None
) -> Callable[[Any, tuple[Any, ...]], Measurements]:
    """Makes the function that measures: compiled at its first call.

    Args:
      traced: the program.
      optimizer: an Optax transformation whose first update is measured too.

    Returns:
      A function of parameters and the batch.
    """
    import jax

    sites = traced.anatomy.sites
    hooks = _hooks(sites)
    slots = {path: _slot(traced, site) for path, site in sites.items() if site.differentiable}
    by_output = {sites[path].output: slot for path, slot in slots.items()}

    def passes(leaves: list[Any], batch: list[Any], constants: list[Any]) -> Any:
        inexact = {index: leaves[index] for index in traced.inexact}

        def objective(inexact: dict[int, Any], slots: Any) -> Any:
            arguments = [inexact.get(index, leaf) for index, leaf in enumerate(leaves)]
            (loss,), records = rerun(traced.jaxpr, constants, [*arguments, *batch], hooks, slots)
            return loss, records

        (loss, records), (gradients, backward) = jax.value_and_grad(
            objective, (0, 1), has_aux=True
        )(inexact, by_output)
        return (
            loss,
            _merged(records, sites),
            {path: backward[sites[path].output] for path in slots},
            _parameters(
                traced,
                leaves,
                gradients,
                loss,
                lambda inexact: objective(inexact, by_output)[0],
                optimizer,
            ),
            [_print(leaf, stacked) for leaf, stacked in zip(leaves, _depths(traced), strict=True)],
        )

    compiled = jax.jit(passes)
    jacobian = jacobian_measurer(traced)

    def measure(params: Any, batch: tuple[Any, ...]) -> Measurements:
        leaves, inputs = jax.tree.leaves(params), jax.tree.leaves(batch)
        results = compiled(leaves, inputs, traced.constants)
        loss, forward, backward, parameters, prints = jax.tree.map(np.asarray, results)
        return Measurements(
            float(loss),
            {path: described(record) for path, record in forward.items()},
            {path: described(record) for path, record in backward.items()},
            [{name: float(value) for name, value in found.items()} for found in parameters],
            prints,
            jacobian and jacobian(leaves, inputs),
        )

    return measure


def _hooks(sites: dict[Path, Site]) -> dict[Path, Callable]:
    hooks: dict[Path, Callable] = {}
    for path, site in sites.items():
        if site.output == path:
            hooks[path] = functools.partial(_product_and_output, site)
        else:
            hooks[path] = functools.partial(_product, site)
            hooks[site.output] = functools.partial(_output, site)
    return hooks


def _product_and_output(site: Site, operands: list, results: list, slot: Any) -> tuple[list, Any]:
    _, record = _product(site, operands, results, None)
    results, more = _output(site, operands, results, slot)
    return results, {**record, **more}


def _product(site: Site, operands: list, results: list, slot: Any) -> tuple[list, Any]:
    """Measures a weight and what it is applied to."""
    measured = automatic(functools.partial(_of_operands, site))
    return results, measured(operands[site.weight], operands[1 - site.weight])


def _of_operands(site: Site, weight: jax.Array, inputs: jax.Array) -> dict[str, jax.Array]:
    import jax.numpy as jnp

    weight = weight.astype(jnp.float32)
    members = _by_member(weight, site.weight_units, site.members)
    record = {
        "weight_square": jnp.square(weight).mean(),
        "members": jnp.float32(len(members)),
        "weight_least": jnp.square(members).mean((1, 2)).min(),
        "weight_mean": weight.mean(),
        "weight_zeros": (weight == 0).mean(dtype=jnp.float32),
        "weight_sample": _sketch(members),
    }
    if site.kind == "embedding":
        record["input_square"] = record["input_largest"] = jnp.float32(1)
    else:
        inputs = inputs.astype(jnp.float32)
        record["input_square"] = jnp.square(inputs / _whole(inputs)).mean()
        record["input_largest"] = jnp.abs(inputs).max(initial=0)
    return record


def _output(site: Site, operands: list, results: list, slot: Any) -> tuple[list, Any]:
    """Measures a pre-activation, and in the pass back its gradient."""
    import jax

    output, *others = results
    bias = [] if site.bias is None else [operands[site.bias]]
    record = automatic(functools.partial(_of_output, site))(output, *bias)
    if slot is not None:
        output = _probe(site, output, slot)
    return [output, *others], jax.lax.stop_gradient(record)


def _of_output(site: Site, output: jax.Array, *bias: jax.Array) -> dict[str, jax.Array]:
    import jax
    import jax.numpy as jnp

    z = output.astype(jnp.float32)
    whole = _whole(z)
    matrix = _units_last(z / whole, site.output_axes)  # squares stay within float32
    record = {
        "whole": whole,
        "mean": matrix.mean(),
        "square": jnp.square(matrix).mean(),
        "unit_variance": matrix.var(axis=0).mean(),
        "correlation": _correlation(z / whole, site.output_axes),
        "sample": _sample(_by_member(z / whole, site.output_axes, _members(site))),
        "samples": jnp.float32(matrix.shape[0]),
        "units": jnp.float32(matrix.shape[1]),
        "bias_square": jnp.float32(0),
    }
    if bias:
        record["bias_square"] = jnp.square(bias[0].astype(jnp.float32)).mean()
    if site.activation is not None and site.activation != IDENTITY:
        matrix = _units_last(z, site.output_axes)
        _, slope = jax.jvp(site.activation, (matrix,), (jnp.ones_like(matrix),))
        flat = jnp.abs(slope) < FLAT * steepest(site.activation)
        record["flat"] = flat.mean(dtype=jnp.float32)
        record["dead"] = flat.all(axis=0).mean(dtype=jnp.float32)
    return record


def _probe(site: Site, z: jax.Array, slot: Any) -> jax.Array:
    """z itself; in the pass back, statistics of its cotangent are the gradient of the slot."""
    import jax

    @jax.custom_vjp
    def probe(z: jax.Array, slot: Any) -> jax.Array:
        return z

    def forward(z: jax.Array, slot: Any) -> Any:
        return z, None

    def backward(_: None, cotangent: jax.Array) -> Any:
        return cotangent, automatic(functools.partial(_gradient, site))(cotangent)

    probe.defvjp(forward, backward)
    return probe(z, slot)


def _gradient(site: Site, cotangent: jax.Array) -> dict[str, jax.Array]:
    import jax.numpy as jnp

    gradient = cotangent.astype(jnp.float32)
    # A gradient of a mean over many examples may have squares that float32 cannot hold.
    largest = jnp.abs(gradient).max(initial=0)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    square = jnp.square(scaled).sum()
    return {
        "called": jnp.float32(1),
        "log_square": jnp.log(square) + 2 * jnp.log(largest),
        "sample": _sample(_by_member(scaled, site.output_axes, _members(site))),
    }


def _slot(traced: Traced, site: Site) -> dict[str, np.ndarray]:
    """Zeros of the shapes of what `_gradient` gives, for every turn of the loops around a site.

    They are what comes out where no gradient comes to a site: then it is not `called`.
    """
    lengths = tuple(length or 0 for _, length in site.loops)
    output = output_aval(traced, site)
    members, units = (
        math.prod(output.shape[axis] for axis in axes)
        for axes in (site.output_axes[: _members(site)], site.output_axes[_members(site) :])
    )
    sizes = (members, output.size // max(1, members * units), units)
    sample = [len(range(0, size, _stride(size))) for size in sizes]
    shapes = {"called": (), "log_square": (), "sample": sample}
    return {name: np.zeros((*lengths, *shape), np.float32) for name, shape in shapes.items()}


def _units_last(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """An array as a matrix of (samples, units)."""
    import jax.numpy as jnp

    others = [axis for axis in range(array.ndim) if axis not in axes]
    units = int(np.prod([array.shape[axis] for axis in axes], initial=1))
    return jnp.transpose(array, (*others, *axes)).reshape(-1, units)


def _by_member(array: jax.Array, axes: tuple[int, ...], members: int) -> jax.Array:
    """An array as matrices of (members, samples, units); the first axes are those of members."""
    import jax.numpy as jnp

    matrix = _units_last(array, axes)
    count = int(np.prod([array.shape[axis] for axis in axes[:members]], initial=1))
    shape = (matrix.shape[0], count, matrix.shape[1] // max(1, count))
    return jnp.swapaxes(matrix.reshape(shape), 0, 1)


def _members(site: Site) -> int:
    """The axes of members in a site's output, as long as it has those of the product."""
    return site.members if len(site.output_axes) == len(site.unit_axes) else 0


def _stride(size: int) -> int:
    return max(1, -(-size // _SAMPLE))


def _sample(matrices: jax.Array) -> jax.Array:
    """At most 64 along each axis, evenly spread."""
    members, rows, columns = map(_stride, matrices.shape)
    return matrices[::members, ::rows, ::columns]


def _sketch(matrices: jax.Array) -> jax.Array:
    """All rows in 64 sums of random signs, which keep the rank: the rows of a kernel may be zero
    but for a few, which a sample would miss."""
    import jax.numpy as jnp

    members, rows, columns = matrices.shape
    taken = matrices[:: _stride(members), :, :: _stride(columns)]
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (1, rows, 1))
    signed = jnp.pad(taken * signs, ((0, 0), (0, -rows % _SAMPLE), (0, 0)))
    return signed.reshape(len(taken), -1, _SAMPLE, taken.shape[2]).sum(axis=1)


def _correlation(z: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The mean cosine of the pre-activations of one example and the next."""
    import jax.numpy as jnp

    others = [axis for axis in range(z.ndim) if axis not in axes and z.shape[axis] > 1]
    if not others:
        return jnp.float32(jnp.nan)
    moved = jnp.moveaxis(z, others[0], 0)
    kept = tuple(axis + (axis < others[0]) for axis in axes)
    one, next_one = moved[:-1], moved[1:]
    squares = jnp.square(moved).sum(kept)
    norms = jnp.sqrt(squares[:-1] * squares[1:])
    products = (one * next_one).sum(kept)
    counted = norms > 0
    cosines = jnp.where(counted, products / jnp.where(counted, norms, 1), 0)
    count = counted.sum(dtype=jnp.float32)
    return jnp.where(count > 0, cosines.sum() / jnp.maximum(count, 1), jnp.nan)


def _merged(records: dict[Path, Any], sites: dict[Path, Site]) -> dict[Path, Any]:
    """The records of a site's product and of its output as one."""
    merged = {}
    for path, site in sites.items():
        merged[path] = {**records.get(path, {}), **records.get(site.output, {})}
    return merged


def _parameters(
    traced: Traced,
    leaves: list[Any],
    gradients: dict[int, Any],
    loss: Any,
    loss_fn: Callable[[dict[int, Any]], Any],
    optimizer: Any,
) -> list[dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    updates: list[Any] = [None] * len(leaves)
    if optimizer is not None:
        # Keys and counts are nothing that an optimizer can calculate with.
        params, tree = (
            jax.tree.unflatten(
                traced.structure,
                [floats.get(index, jnp.zeros(())) for index in range(len(leaves))],
            )
            for floats in ({index: leaves[index] for index in gradients}, gradients)
        )

        def loss_of(tree: Any) -> Any:
            floats = jax.tree.leaves(tree)
            return loss_fn({index: floats[index] for index in gradients})

        updates = jax.tree.leaves(first_update(optimizer, tree, params, loss, loss_of))

    def describe(index: int) -> dict[str, Any]:
        if index not in gradients:
            return {}
        leaf, learning = wide(leaves[index]), gradients[index] != 0
        found = {
            "stddev": leaf.std(),
            # An infinite number without a gradient may be meant, as in a mask.
            "broken": (jnp.isnan(leaf) | (jnp.isinf(leaf) & learning)).any().astype(jnp.float32),
            "learning": learning.any().astype(jnp.float32),
        }
        if updates[index] is not None:
            found["update"] = wide(updates[index]).std()
        return found

    def wide(array: Any) -> Any:
        array = jnp.asarray(array)
        return array if jnp.iscomplexobj(array) else array.astype(jnp.float32)

    return [describe(index) for index in range(len(leaves))]


def _whole(array: jax.Array) -> jax.Array:
    """The largest absolute number, or 1."""
    import jax.numpy as jnp

    largest = jnp.abs(array).max(initial=0)
    return jnp.where(largest > 0, largest, 1)


def _depths(traced: Traced) -> list[int]:
    """How many leading axes of every parameter number weights of their own."""
    depths = [0] * len(traced.names)
    for site in traced.anatomy.sites.values():
        for source in site.sources:
            depths[source.leaf] = max(depths[source.leaf], site.slices(source))
    return depths


def _print(leaf: Any, stacked: int) -> Any:
    import jax.numpy as jnp

    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.ndim - stacked < 2:
        return jnp.zeros((0, 0), jnp.float32)

    def first(leaf: jax.Array) -> jax.Array:
        slices = leaf.reshape(int(np.prod(leaf.shape[:stacked], initial=1)), -1)
        return slices[:, :_PRINT].astype(jnp.float32)

    return automatic(first)(leaf)
