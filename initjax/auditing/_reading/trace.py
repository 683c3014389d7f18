"""Traces a loss function: its jaxpr, the names of its parameters, and its anatomy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from initjax._flattening import Structure, described, flatten, no_parameters
from initjax._statistics import statistic_leaves
from initjax.auditing._reading.attention import attentions
from initjax.auditing._reading.attention_watch import watch_of
from initjax.auditing._reading.blocks import tokens_of
from initjax.auditing._reading.cuts import cuts_of
from initjax.auditing._reading.examples import Ends, ends_of
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import inlined
from initjax.auditing._reading.losses import read_losses
from initjax.auditing._reading.multipliers import multipliers_of
from initjax.auditing._reading.primitives import program_at
from initjax.auditing._reading.shards import without_shards
from initjax.auditing._reading.sites import Anatomy, Site
from initjax.auditing._reading.spares import spare_leaves
from initjax.auditing._reading.squeezes import Squeeze, squeezes_of
from initjax.auditing._reading.walk import find


@dataclasses.dataclass(frozen=True)
class Traced:
    """A loss function, traced for parameters and a batch of given shapes."""

    jaxpr: Any
    constants: list[Any]
    """The arrays that the jaxpr closes over."""
    structure: Any
    """The structure of a plain tree of the parameters, as an optimizer gets it."""
    whole: Structure
    """The tree that the user gave, without its arrays."""
    names: list[str]
    """The paths of the parameters; "params" for a tree that is one array."""
    shapes: list[Any]
    """The parameters' shapes and dtypes."""
    anatomy: Anatomy
    ends: Ends
    """What the loss does with the examples of the batch."""
    squeezes: tuple[Squeeze, ...]
    """Softmaxes between layers."""
    multipliers: dict[Path, float]
    """The numbers that multiply logits after their layer, if they aren't 1."""
    spare: frozenset[int]
    """The parameters that the last of several blocks leaves unused by design."""
    cuts: dict[int, tuple[str, ...]]
    """The parameters that get no gradient, with the primitives that cut it."""
    has_batch: bool

    @property
    def inexact(self) -> list[int]:
        """The parameters that have a gradient."""
        import jax.numpy as jnp

        return [
            index
            for index, shape in enumerate(self.shapes)
            if jnp.issubdtype(shape.dtype, jnp.inexact)
        ]


def trace(
    owner: str, loss_fn: Callable, params: Any, batch: tuple[Any, ...], has_aux: bool
) -> Traced:
    """Traces a loss function and finds its layers.

    Args:
      owner: the public function that error messages name.
      loss_fn: maps `(params, *batch)` to a scalar, or to a scalar and anything else if has_aux.
      params: a tree. What isn't an array is passed on as it is.
      batch: other such trees.
      has_aux: whether loss_fn returns `(loss, anything)`.

    Returns:
      The traced function.

    Raises:
      TypeError: loss_fn is not callable or can't be traced, or params is a model and not its
        parameters.
      ValueError: there are no floating parameters, loss_fn does not return one floating number, or
        the output of a layer is empty.
    """
    import jax.numpy as jnp

    program = closed_program(owner, loss_fn, params, batch, has_aux)
    closed, arrays, whole = program.closed, program.arrays, program.whole
    names, shapes = program.names, program.shapes
    statistics = statistic_leaves(whole.arrays.unflatten(arrays))
    fixed = [  # statistics, counts and keys are data
        index
        for index, (shape, statistic) in enumerate(zip(shapes, statistics, strict=True))
        if statistic or not jnp.issubdtype(shape.dtype, jnp.inexact)
    ]
    anatomy = find(closed, len(arrays), fixed)
    graph = inlined(closed, len(arrays), fixed)
    losses, watches = read_losses(graph, anatomy.sites)
    found = attentions(graph, anatomy.sites)
    blocks, streams = tokens_of(graph, anatomy.sites, found)
    attended = [(each.site, watch_of(each, streams.get(each.site.path))) for each in found]
    anatomy = dataclasses.replace(
        anatomy,
        losses=losses,
        attentions=tuple(site for site, watch in attended if watch is not None),
        blocks=blocks,
        watches={**watches, **{site.path: watch for site, watch in attended if watch is not None}},
    )
    for site in anatomy.sites.values():
        if not site.size:
            name = " and ".join(names[source.leaf] for source in sorted(site.sources))
            raise ValueError(
                f"{owner}: the layer of {name} has an empty output; pass a batch of at least 64"
                " examples, and give every layer at least one unit"
            )
    traced = Traced(
        jaxpr=closed.jaxpr,
        constants=list(closed.consts),
        structure=whole.arrays,
        whole=whole,
        names=names,
        shapes=shapes,
        anatomy=anatomy,
        ends=ends_of(graph, len(arrays)),
        squeezes=squeezes_of(graph, anatomy.sites),
        multipliers=multipliers_of(graph, anatomy.sites),
        spare=spare_leaves(graph, set(range(len(arrays))) - anatomy.leaves),
        cuts=cuts_of(graph, len(arrays)),
        has_batch=program.has_batch,
    )
    return dataclasses.replace(traced, anatomy=_of_measurable_sites(traced))


class ClosedProgram(NamedTuple):
    """The jaxpr of a loss function, and what it was made for."""

    closed: Any
    """With the arrays that it closes over."""
    arrays: list[Any]
    """Those of the parameters."""
    whole: Structure
    names: list[str]
    shapes: list[Any]
    has_batch: bool


def closed_program(
    owner: str, loss_fn: Callable, params: Any, batch: tuple[Any, ...], has_aux: bool
) -> ClosedProgram:
    """Makes the jaxpr of a loss function without reading it; arguments and errors as `trace`."""
    import jax
    import jax.numpy as jnp

    if not callable(loss_fn):
        raise TypeError(
            f"{owner}: loss_fn must be a function of (params, *batch), got"
            f" {described(loss_fn)}; call {owner}(loss_fn, params, *batch)"
        )
    arrays, whole = flatten(params)
    inputs, whole_batch = flatten(batch)
    names = [path or "params" for path in whole.names]
    shapes = [jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in arrays]
    if not any(jnp.issubdtype(shape.dtype, jnp.inexact) for shape in shapes):
        error = no_parameters(owner, params)
        raise type(error)(f"{error}; call {owner}(loss_fn, params, *batch)")

    def flat(arrays: list[Any], inputs: list[Any]) -> Any:
        result = loss_fn(whole.unflatten(arrays), *whole_batch.unflatten(inputs))
        if has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise ValueError(f"{owner}: with has_aux, loss_fn must return (loss, anything)")
            result, _ = result
        if isinstance(result, tuple | list | dict):
            given = jax.tree.map(np.shape, result)
            raise ValueError(
                f"{owner}: loss_fn must return one number, got {given}; if it returns (loss,"
                " anything), set has_aux=True"
            )
        if not isinstance(result, int | float | complex) and not hasattr(result, "dtype"):
            raise ValueError(f"{owner}: loss_fn must return one number, got {result!r}")
        if jnp.shape(result) != ():
            raise ValueError(
                f"{owner}: loss_fn must return one number, got an array of shape"
                f" {jnp.shape(result)}; take its mean"
            )
        if not jnp.issubdtype(jnp.result_type(result), jnp.floating):
            raise ValueError(
                f"{owner}: loss_fn must return a floating number, got {jnp.result_type(result)}"
            )
        return result

    try:
        closed = without_shards(jax.make_jaxpr(flat)(arrays, inputs))
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.TracerArrayConversionError,
    ) as error:
        raise TypeError(
            f"{owner}: loss_fn needs the value of a number or an array while it is traced, as for"
            " range() or an if; don't pass such a value, but close over it:"
            f" {owner}(lambda params, x: loss_fn(params, x, 3), params, x)"
        ) from error
    return ClosedProgram(closed, arrays, whole, names, shapes, bool(inputs))


def without_constants(traced: Traced) -> Traced:
    """The same program, without the arrays that the function closes over."""
    jaxpr = traced.jaxpr
    if hasattr(jaxpr, "with_consts"):  # from JAX 0.12 on, a jaxpr holds them itself
        jaxpr = jaxpr.with_consts([None] * len(traced.constants))
    return dataclasses.replace(traced, jaxpr=jaxpr, constants=[])


def _of_measurable_sites(traced: Traced) -> Anatomy:
    """The anatomy without sites that have no weights or never run, as in a loop of length zero, and
    without those whose outputs are complex: there is no theory for them."""
    import jax.numpy as jnp

    anatomy = traced.anatomy
    sites = {
        path: site
        for path, site in anatomy.sites.items()
        if site.fan_in and all(length != 0 for _, length in site.loops)
    }
    complex_sites = [
        path
        for path, site in sites.items()
        if jnp.issubdtype(output_aval(traced, site).dtype, jnp.complexfloating)
    ]
    unread = anatomy.unread
    if complex_sites:
        entering = [source.leaf for path in complex_sites for source in sites.pop(path).sources]
        unread = {**unread, "complex numbers": frozenset(entering)}
    return dataclasses.replace(anatomy, sites=sites, unread=unread)


def output_aval(traced: Traced, site: Site) -> Any:
    """The shape and dtype of a site's pre-activation."""
    program = program_at(traced.jaxpr, site.output)
    return program.eqns[site.output[-1]].outvars[0].aval
