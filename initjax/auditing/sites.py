"""Where parameters enter a computation: the layers of any JAX function, read from its jaxpr.

A site is a matrix product, convolution or embedding of which one operand is made of parameters and
the other of data. Nothing is computed here: an abstract value, a `Tag`, is carried along the
equations, into nested programs and around loops.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from initjax.auditing.signals import (
    IDENTITY,
    Expression,
    Path,
    Signal,
    Source,
    Tag,
    applied,
    join,
    number,
    reason,
)

ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp"
    " convert_element_type cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt"
    " integer_pow is_finite le lgamma log log1p log2 logistic lt max min mul ne neg nextafter not"
    " one_minus_square or pow reciprocal reduce_precision rem round rsqrt select_n sign sin sinh"
    " sqrt square stop_gradient sub tan tanh xor".split()
)
_LINEAR = frozenset("convert_element_type reduce_precision neg stop_gradient".split())
_LAYOUT = frozenset(
    "broadcast_in_dim broadcast_to dynamic_slice expand_dims reshape rev slice split squeeze tile"
    " transpose unstack".split()
)
# Equations that give what they take.
_SAME = frozenset(
    "copy copy_p device_put layout_constraint mesh_cast name optimization_barrier pcast pvary"
    " reshard sharding_constraint with_memory_space_constraint".split()
)
_REDUCTIONS = frozenset(
    "argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_and reduce_max reduce_min"
    " reduce_or reduce_prod reduce_sum reduce_precision_sum".split()
)
_PRODUCTS = frozenset(["dot_general", "conv_general_dilated"])
_STATISTICS = frozenset("reduce_sum reduce_max reduce_min reduce_prod".split())
_POOLING = frozenset("reduce_window reduce_window_max reduce_window_sum reduce_window_min".split())


@dataclasses.dataclass
class Site:
    """One place where parameters enter."""

    path: Path
    kind: str
    """'dense', 'convolution' or 'embedding'."""
    weight: int
    """Which operand is the weight."""
    sources: frozenset[Source]
    unit_axes: tuple[int, ...]
    """The axes of the output along which the units are."""
    weight_units: tuple[int, ...]
    """The axes of the weight along which the units are."""
    fan_in: float
    """How many products a unit sums, on average over positions: padding does not count."""
    fan_out: float
    """How many products an input enters, on average."""
    loops: tuple[tuple[Path, int | None], ...]
    """The loops around it, outermost first, with their lengths; None for a while loop."""
    backward: frozenset[Path]
    """Those of them that take the last slice first."""
    scopes: tuple[Path, ...]
    """The loops, branches and recomputed parts around it, outermost first."""
    inputs: list[Tag]
    """What is known of the data it takes: in the first turn of a loop, and in later ones."""
    size: int
    """How many numbers its output has."""
    output: Path
    """The equation whose result is the pre-activation: the last that adds a bias or multiplies
    by a number."""
    output_axes: tuple[int, ...] = ()
    ruled: bool = False
    """Whether its output is inside of a function with a rule of differentiation of its own."""
    scale: float = 1.0
    """The number by which the product is multiplied."""
    bias: int | None = None
    """Which operand of that equation is the bias, if it adds one."""
    bias_sources: frozenset[Source] = frozenset()
    added: bool = False
    """Whether its output is added to other data, as at the end of a residual branch."""
    residual: bool = False
    """Whether what it is added to is upstream of its own input."""
    normalised: bool = False
    """Whether its output is normalised, so that its scale does not count."""
    softmax: bool = False
    """Whether its output enters a softmax and a logarithm: it gives logits."""
    activation: Expression | None = None
    """What is applied to the pre-activation where another site reads it."""
    readers: set[Path] = dataclasses.field(default_factory=set)
    """The sites that read it through an activation."""

    def copy(self) -> Site:
        return dataclasses.replace(self, inputs=list(self.inputs), readers=set(self.readers))

    @property
    def stacked(self) -> frozenset[Path]:
        """The loops that give it a weight of its own in every turn."""
        return frozenset(loop for source in self.sources for loop in source.stacked)

    @property
    def differentiable(self) -> bool:
        """Whether the gradient with respect to its output is one of the loss's own."""
        return not self.ruled and all(length is not None for _, length in self.loops)


@dataclasses.dataclass
class Anatomy:
    """What reading a computation found."""

    sites: dict[Path, Site]
    """In the order of execution."""
    unread: dict[str, frozenset[int]]
    """What could not be read, as a text, and the parameters that enter there."""
    leaves: frozenset[int]
    """The parameters that the results depend on."""
    outputs: list[Tag]


def find(jaxpr: Any, num_parameters: int) -> Anatomy:
    """Finds the sites of a computation.

    Args:
      jaxpr: a closed jaxpr.
      num_parameters: how many of its first inputs are parameters; the others are data.

    Returns:
      The anatomy.
    """
    tags = [
        Tag(leaves=frozenset([index]), sources=frozenset([Source(index)]), lost="a parameter")
        if index < num_parameters
        else Tag(data=True, batch=frozenset([index]), near=frozenset([None]), lost="the batch")
        for index in range(len(jaxpr.jaxpr.invars))
    ]
    # Arrays that a function closes over or makes are data too if no others meet the parameters.
    without_batch = num_parameters == len(jaxpr.jaxpr.invars)
    for array in (_CLOSED_OVER if without_batch else _ARRAY, _CLOSED_OVER):
        walk = _Walk(array)
        outputs = walk.program(jaxpr.jaxpr, walk.constants(jaxpr), tags, ())
        if walk.sites:
            break
    for site in walk.sites.values():
        site.ruled = any(site.output[: len(path)] == path for path in walk.ruled)
    leaves = frozenset().union(*(tag.leaves for tag in outputs))
    return Anatomy(dict(sorted(walk.sites.items())), walk.unread, leaves, outputs)


_ARRAY = Tag(lost="an array enters")
_CLOSED_OVER = Tag(data=True, batch=frozenset([-1]), near=frozenset([None]), lost="the batch")


def inner_programs(eqn: Any) -> list[Any]:
    """The nested programs of an equation that calls, loops or branches, as closed jaxprs.

    Args:
      eqn: an equation.

    Returns:
      The programs in the order in which paths count them; none for any other equation.
    """
    params, name = eqn.params, eqn.primitive.name
    if name in _CALLS:
        inner = next(params[key] for key in _INNER if key in params)
        return [_closed(inner)]
    if name == "scan":
        return [_closed(params["jaxpr"])]
    if name == "while":
        return [params["cond_jaxpr"], params["body_jaxpr"]]
    if name == "cond":
        return list(params["branches"])
    return []


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many it carries."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # from JAX 0.12 on
    return len(list(constants)), len(list(carry))


def _closed(jaxpr: Any) -> Any:
    from jax.extend import core

    return jaxpr if hasattr(jaxpr, "consts") else core.ClosedJaxpr(jaxpr, ())


_CALLS = frozenset(
    "jit pjit closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr"
    " custom_vmap_call remat remat2 checkpoint custom_lin".split()
)
RECOMPUTED = frozenset("remat remat2 checkpoint".split())
RULED = frozenset("custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr".split())
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")


class _Walk:
    """The state of one reading."""

    def __init__(self, array: Tag) -> None:
        self.array = array
        """What is known of an array that is neither a parameter nor of the batch."""
        self.sites: dict[Path, Site] = {}
        self.unread: dict[str, frozenset[int]] = {}
        self.loops: list[tuple[Path, int | None]] = []
        self.scopes: list[Path] = []
        self.backward: set[Path] = set()
        self.ruled: set[Path] = set()

    def program(
        self, jaxpr: Any, constants: Sequence[Tag], arguments: Sequence[Tag], path: Path
    ) -> list[Tag]:
        """Carries tags through a program."""
        from jax.extend.core import Literal

        uses = collections.Counter(
            var for eqn in jaxpr.eqns for var in eqn.invars if not isinstance(var, Literal)
        )
        uses.update(var for var in jaxpr.outvars if not isinstance(var, Literal))
        env: dict[Any, Tag] = {}

        def write(variables: Sequence[Any], tags: Sequence[Tag], inherited: bool) -> None:
            for var, tag in zip(variables, tags, strict=True):
                once = uses[var] <= 1 and (tag.once or not inherited)
                env[var] = dataclasses.replace(tag, once=once)

        def read(var: Any) -> Tag:
            return self.constant(var.val) if isinstance(var, Literal) else env[var]

        write(jaxpr.constvars, constants, True)
        write(jaxpr.invars, arguments, True)
        for index, eqn in enumerate(jaxpr.eqns):
            tags = list(map(read, eqn.invars))
            write(eqn.outvars, self.equation(eqn, tags, (*path, index)), False)
        return list(map(read, jaxpr.outvars))

    def constants(self, program: Any) -> list[Tag]:
        return list(map(self.constant, program.consts))

    def constant(self, value: Any) -> Tag:
        known = number(value) if np.size(value) == 1 else None
        return self.array if known is None else Tag(signal=Signal(None, known))

    def equation(self, eqn: Any, tags: list[Tag], path: Path) -> list[Tag]:
        name = eqn.primitive.name
        if name in _CALLS:
            (inner,) = inner_programs(eqn)
            if name in RULED:
                self.ruled.add(path)
            with self.scope(path, name in RECOMPUTED):
                return self.program(inner.jaxpr, self.constants(inner), tags, (*path, 0))
        if name == "scan":
            return self.scan(eqn, tags, path)
        if name == "while":
            return self.while_loop(eqn, tags, path)
        if name == "cond":
            branches = []
            for number, inner in enumerate(inner_programs(eqn)):
                with self.scope((*path, number)):
                    branches.append(
                        self.program(inner.jaxpr, self.constants(inner), tags[1:], (*path, number))
                    )
            return [_either(list(outs), tags[0]) for outs in zip(*branches, strict=True)]
        weights = [tag for tag in tags if tag.pure and tag.sources]
        if name == "dot_general" and len(weights) == 1 and any(tag.data for tag in tags):
            return [self.product(eqn, tags, path)]
        if name == "conv_general_dilated" and tags[1].pure and tags[0].data:
            if eqn.params["batch_group_count"] == 1:
                return [self.convolution(eqn, tags, path)]
        if name == "gather" and tags[0].pure and tags[1].data:
            return [self.embedding(eqn, tags, path)]
        if name == "dynamic_slice" and tags[0].pure and any(tag.data for tag in tags):
            return [self.single_embedding(eqn, tags, path)]
        if name in _SAME:
            return tags
        tag = self.plain(eqn, tags, path)
        if len(eqn.outvars) == 1:
            return [tag]
        return [_part(tag, (*path, number)) for number in range(len(eqn.outvars))]

    @contextlib.contextmanager
    def scope(self, path: Path, entered: bool = True) -> Iterator[None]:
        if entered:
            self.scopes.append(path)
        yield
        if entered:
            self.scopes.pop()

    # Sites

    def product(self, eqn: Any, tags: list[Tag], path: Path) -> Tag:
        (contracting, batch), weight = eqn.params["dimension_numbers"], int(tags[1].pure)
        shape, rank = eqn.invars[weight].aval.shape, len(eqn.outvars[0].aval.shape)
        taken = (*contracting[weight], *batch[weight])
        free = len(shape) - len(taken)
        first = len(batch[0]) + (0 if weight == 0 else rank - len(batch[0]) - free)
        units = (*range(len(batch[0])), *range(first, first + free))
        weight_units = [*batch[weight], *(axis for axis in range(len(shape)) if axis not in taken)]
        fan_in = math.prod(shape[axis] for axis in contracting[weight])
        return self.site(eqn, tags, path, "dense", weight, units, tuple(weight_units), fan_in)

    def convolution(self, eqn: Any, tags: list[Tag], path: Path) -> Tag:
        numbers = eqn.params["dimension_numbers"]
        kernel, image = eqn.invars[1].aval.shape, eqn.invars[0].aval.shape
        fan_in = kernel[numbers.rhs_spec[1]] * math.prod(
            _mean_taps(
                image[numbers.lhs_spec[2 + axis]],
                kernel[numbers.rhs_spec[2 + axis]],
                *(eqn.params[key][axis] for key in _GEOMETRY),
            )
            for axis in range(len(image) - 2)
        )
        units = (numbers.out_spec[1],)
        weight_units = (numbers.rhs_spec[0],)
        return self.site(eqn, tags, path, "convolution", 1, units, weight_units, fan_in)

    def embedding(self, eqn: Any, tags: list[Tag], path: Path) -> Tag:
        numbers = eqn.params["dimension_numbers"]
        rows = [
            axis
            for axis in range(len(eqn.invars[0].aval.shape))
            if axis not in numbers.collapsed_slice_dims
        ]
        offsets = list(map(int, numbers.offset_dims))
        rest = [axis for axis in range(len(eqn.outvars[0].aval.shape)) if axis not in offsets]
        members = [rest[axis] for axis in numbers.start_indices_batching_dims]
        units = (*members, *offsets)
        return self.site(eqn, tags, path, "embedding", 0, units, tuple(rows), 1)

    def single_embedding(self, eqn: Any, tags: list[Tag], path: Path) -> Tag:
        whole, part = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        rows = tuple(axis for axis in range(len(whole)) if whole[axis] == part[axis])
        tags = [tags[0], join(tags[1:])]
        return self.site(eqn, tags, path, "embedding", 0, rows, rows, 1)

    def site(
        self,
        eqn: Any,
        tags: list[Tag],
        path: Path,
        kind: str,
        weight: int,
        unit_axes: tuple[int, ...],
        weight_units: tuple[int, ...],
        fan_in: float,
    ) -> Tag:
        data = tags[1 - weight]
        found = self.sites.get(path)
        entering, leaving = eqn.invars[1 - weight].aval.size, eqn.outvars[0].aval.size
        if found is None:
            self.sites[path] = found = Site(
                path=path,
                kind=kind,
                weight=weight,
                sources=tags[weight].sources,
                unit_axes=unit_axes,
                weight_units=weight_units,
                fan_in=fan_in,
                fan_out=fan_in * leaving / max(1, entering),
                loops=tuple(self.loops),
                backward=frozenset(loop for loop, _ in self.loops if loop in self.backward),
                scopes=tuple(self.scopes),
                inputs=[],
                size=leaving,
                output=path,
                output_axes=unit_axes,
            )
        # Another turn of a loop reads the same equations again.
        found.output, found.output_axes, found.scale, found.bias = path, unit_axes, 1.0, None
        known = dataclasses.replace(data, leaves=frozenset(), once=True)
        if known not in found.inputs:
            found.inputs.append(known)
        self.read(data, path)
        return Tag(
            leaves=tags[0].leaves | tags[1].leaves,
            data=True,
            batch=data.batch,
            signal=Signal(path, IDENTITY, axes=unit_axes),
            sites=data.sites | {path},
            near=frozenset([path]),
        )

    def read(self, tag: Tag, path: Path) -> None:
        """Notes that a site reads a value."""
        signal = tag.signal
        if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
            return
        source = self.sites[signal.site]
        source.readers.add(path)
        if source.activation is None or source.activation == IDENTITY:
            source.activation = signal.expression

    # Everything else

    def plain(self, eqn: Any, tags: list[Tag], path: Path) -> Tag:
        """The tag of the results of an equation that is no site and calls nothing that is read."""
        name = eqn.primitive.name
        if not tags:
            return self.array
        together = join(tags) if len(tags) > 1 else tags[0]
        if len(tags) > 1 and all(tag == tags[0] for tag in tags):
            together = dataclasses.replace(tags[0], signal=None)
        tag = dataclasses.replace(
            together,
            signal=None,
            sources=self.made_of(eqn, tags) if together.pure else frozenset(),
            once=True,
        )
        if name in _LAYOUT:
            return self.laid_out(eqn, tags, tag, path)
        if name in ELEMENTWISE:
            return self.elementwise(eqn, tags, tag, path)
        if name in _REDUCTIONS:
            statistic = name in _STATISTICS and together.data
            return dataclasses.replace(
                tag, lost="a sum or mean", linear=False, statistic=statistic, root=False
            )
        tag = dataclasses.replace(tag, linear=False, statistic=False, root=False)
        if name in _POOLING:
            return dataclasses.replace(tag, lost="pooling")
        missed = [operand.leaves for operand in tags if operand.pure]
        if name in _PRODUCTS and together.data and missed:
            self.unread[name] = self.unread.get(name, frozenset()).union(*missed)
        if name == "dot_general" and together.data:
            return dataclasses.replace(tag, lost="attention or another product of activations")
        if name in ("concatenate", "pad", "stack"):
            return dataclasses.replace(tag, lost="layers joined or padded")
        if name not in _UNDERSTOOD:
            entering = frozenset().union(*(operand.leaves for operand in tags if operand.pure))
            opaque = any(_is_program(value) for value in eqn.params.values())
            if together.data and (entering or (opaque and together.leaves)):
                label = str(eqn.params.get("name") or eqn.params.get("name_and_src_info") or "")
                text = f"{name} ({label[:60]})" if label else name
                self.unread[text] = self.unread.get(text, frozenset()) | entering
            return dataclasses.replace(tag, lost=name)
        return dataclasses.replace(tag, lost=tag.lost or name)

    def made_of(self, eqn: Any, tags: list[Tag]) -> frozenset[Source]:
        """How a value of parameters alone comes from them."""
        sources = frozenset().union(*(tag.sources for tag in tags))
        name = eqn.primitive.name
        if name in _LINEAR or name == "rev":
            return sources
        if name in _LAYOUT and name not in _CUTS:
            return frozenset(source._replace(laid_out=True) for source in sources)
        if name in ("mul", "div") and sum(bool(tag.leaves) for tag in tags) == 1:
            divided = name == "div" and tags[1].leaves
            if not divided:
                return sources
        how = "part" if name in _CUTS else "nonlinear"
        return frozenset(source._replace(how=how) for source in sources)

    def laid_out(self, eqn: Any, tags: list[Tag], tag: Tag, path: Path) -> Tag:
        signal = tags[0].signal
        others_known = all(not operand.data for operand in tags[1:])
        tag = dataclasses.replace(
            tag,
            lost=tags[0].lost,
            linear=tags[0].linear,
            statistic=tags[0].statistic,
            root=tags[0].root,
            near=tags[0].near,
        )
        if signal is None or not others_known:
            return dataclasses.replace(tag, lost=tag.lost or "a choice by data")
        if signal.site is None:
            return dataclasses.replace(tag, signal=signal)
        layout = (*signal.layout, path)
        moved = dataclasses.replace(signal, axes=_moved(eqn, signal.axes), layout=layout)
        return dataclasses.replace(tag, signal=moved)

    def elementwise(self, eqn: Any, tags: list[Tag], tag: Tag, path: Path) -> Tag:
        name = eqn.primitive.name
        pre_activation = self.pre_activation(eqn, tags, path)
        if pre_activation is not None:
            return dataclasses.replace(tag, signal=pre_activation, lost="", linear=True)
        signal = applied(eqn, tags)
        varying = [operand for operand in tags if not operand.number]
        proportional = name in _LINEAR or (
            name in ("mul", "div", "add", "sub", "add_any")
            and all(operand.linear or operand.statistic for operand in varying)
        )
        if name in ("mul", "div") and sum(operand.data for operand in varying) > 1:
            proportional = False
        data = [operand for operand in tags if operand.data]
        roots = name in ("sqrt", "rsqrt") or (
            name in ("pow", "integer_pow") and eqn.params.get("y", -0.5) == -0.5
        )
        tag = dataclasses.replace(
            tag,
            linear=proportional,
            # A value that a statistic is taken from, and combined with, is no statistic itself.
            statistic=bool(data) and all(operand.statistic for operand in data),
            root=(roots and tag.statistic) or (tag.root and all(o.statistic for o in data)),
        )
        if name == "log" and (tags[0].statistic or tags[0].lost == "normalisation"):
            for site in tags[0].near:
                if site is not None:
                    self.sites[site].softmax = True
        if len(data) == 2:
            self.meet(name, data, path)
            if any(operand.statistic for operand in data) and not tag.statistic:
                lost = "normalisation" if name in ("mul", "div") else "centring"
                normalised = any(operand.root for operand in data)
                lost = "normalisation" if normalised else lost
                return dataclasses.replace(tag, lost=lost)
            if name in ("add", "add_any", "sub") and isinstance(signal, str):
                return dataclasses.replace(tag, lost="a sum of layers")
            if name in ("mul", "div") and isinstance(signal, str):
                return dataclasses.replace(tag, lost="a product of layers")
        if isinstance(signal, str):
            return dataclasses.replace(tag, lost=reason(data) or signal)
        return dataclasses.replace(tag, signal=signal, lost="")

    def pre_activation(self, eqn: Any, tags: list[Tag], path: Path) -> Signal | None:
        """The signal, if this equation adds a bias to a product or multiplies it by a number.

        The result is then what counts as the site's output.
        """
        name = eqn.primitive.name
        if name not in ("add", "add_any", "mul", "div", "sub") or len(tags) != 2:
            return None
        for position, (tag, other) in enumerate(zip(tags, reversed(tags), strict=True)):
            signal = tag.signal
            if signal is None or signal.site is None or not tag.once:
                continue
            site = self.sites[signal.site]
            shape, mine = eqn.outvars[0].aval.shape, eqn.invars[position].aval.shape
            if (
                signal.expression != IDENTITY
                or signal.through_bias
                or signal.earlier
                or signal.axes is None
                or site.scopes != tuple(self.scopes)
                or shape != mine
                or math.prod(shape) != site.size  # a part of it
            ):
                continue
            if other.pure and (name in ("add", "add_any") or (name == "sub" and position == 0)):
                site.bias, site.bias_sources = 1 - position, other.sources
                site.output, site.output_axes = path, signal.axes
                return dataclasses.replace(signal, through_bias=True)
            if other.number and (name == "mul" or (name == "div" and position == 0)):
                number = other.signal and other.signal.expression
                if not isinstance(number, np.generic) or not float(number):
                    continue
                if site.output != path:
                    site.scale *= float(number) if name == "mul" else 1 / float(number)
                site.output, site.output_axes = path, signal.axes
                return signal
        return None

    def meet(self, name: str, data: list[Tag], path: Path) -> None:
        """Notes where the output of a site meets other data: a sum, or a norm of its own."""
        for tag, other in ((data[0], data[1]), (data[1], data[0])):
            signal = tag.signal
            if name in ("add", "add_any", "sub") and signal is not None and signal.site is not None:
                site = self.sites[signal.site]
                entered = site.inputs[-1]
                # What comes from the batch past all layers, as running statistics do, is no stream.
                stream = bool(other.batch & entered.batch) or bool(other.near - {None})
                mixed = other.near - {signal.site}
                if signal.expression == IDENTITY and mixed and stream and not other.statistic:
                    site.added = True
                    bare = other.signal is not None and other.signal.expression == IDENTITY
                    own = other.signal.site if bare and other.signal else None
                    upstream = entered.sites
                    enters = bool(other.near & {None, *upstream})
                    if signal.site not in other.sites and enters and (own in (None, *upstream)):
                        site.residual = True
            if name in ("mul", "div") and other.root and tag.linear and tag.near == other.near:
                if len(tag.near) == 1 and None not in tag.near:
                    (near,) = tag.near
                    if near is not None:
                        self.sites[near].normalised = True

    # Loops

    def scan(self, eqn: Any, tags: list[Tag], path: Path) -> list[Tag]:
        params = eqn.params
        (inner,) = inner_programs(eqn)
        num_consts, num_carry = scan_counts(params)
        constants, carry, slices = (
            tags[:num_consts],
            tags[num_consts : num_consts + num_carry],
            tags[num_consts + num_carry :],
        )
        slices = [_sliced(tag, path) for tag in slices]

        def turn(carry: list[Tag]) -> list[Tag]:
            arguments = [*constants, *carry, *slices]
            return self.program(inner.jaxpr, self.constants(inner), arguments, (*path, 0))

        forward = not params["reverse"]
        if not forward:
            self.backward.add(path)
        outs = self.turns(turn, carry, path, params["length"], num_carry, forward)
        stacked = [_stacked(tag, path) for tag in outs[num_carry:]]
        return [*outs[:num_carry], *stacked]

    def while_loop(self, eqn: Any, tags: list[Tag], path: Path) -> list[Tag]:
        params = eqn.params
        test, body = inner_programs(eqn)
        num_test, num_body = params["cond_nconsts"], params["body_nconsts"]
        carry = tags[num_test + num_body :]

        def turn(carry: list[Tag]) -> list[Tag]:
            arguments = [*tags[num_test : num_test + num_body], *carry]
            return self.program(body.jaxpr, self.constants(body), arguments, (*path, 1))

        outs = self.turns(turn, carry, path, None, len(carry), True)
        arguments = [*tags[:num_test], *outs]
        tested = self.program(test.jaxpr, self.constants(test), arguments, (*path, 0))
        (going,) = tested
        return [
            dataclasses.replace(tag, data=tag.data or going.data, batch=tag.batch | going.batch)
            for tag in outs
        ]

    def turns(
        self,
        turn: Any,
        carry: list[Tag],
        path: Path,
        length: int | None,
        num_carry: int,
        forward: bool,
    ) -> list[Tag]:
        """The tags after a loop: as after the first turn, and as after those that follow it."""
        self.loops.append((path, length))
        self.scopes.append(path)
        start, outs, before_loop = carry, [], dict(self.sites)
        for _ in range(len(carry) + 2):  # until dependencies have gone round
            self.sites = {key: site.copy() for key, site in before_loop.items()}
            outs = turn(carry)
            joined = [
                _joined(before, after)
                for before, after in zip(carry, outs[:num_carry], strict=True)
            ]
            if joined == carry:
                break
            carry = joined
        if length != 1:
            later = [
                dataclasses.replace(
                    after,
                    leaves=before.leaves,
                    data=before.data,
                    batch=before.batch,
                    sources=before.sources,
                    signal=_earlier(after.signal, path) if forward else None,
                    lost=after.lost or "a loop",
                    sites=first.sites,
                )
                for first, before, after in zip(start, carry, outs[:num_carry], strict=True)
            ]
            outs = turn(
                [
                    before if before == after or before.number else new
                    for before, after, new in zip(carry, outs[:num_carry], later, strict=True)
                ]
            )
        self.loops.pop()
        self.scopes.pop()
        return outs


def _either(outs: list[Tag], choice: Tag) -> Tag:
    """What is known of what one of several branches gives."""
    tag = join(outs)
    differ = len({(out.signal, out.lost) for out in outs}) > 1
    lost = "a choice of branches" if differ else tag.lost
    return dataclasses.replace(
        tag, data=tag.data or choice.data, batch=tag.batch | choice.batch, lost=lost
    )


def _joined(before: Tag, after: Tag) -> Tag:
    """What is known of what a loop carries: whatever any turn depends on."""
    data = before.data or after.data
    changed = before.number and (data or after.signal != before.signal)
    return dataclasses.replace(
        before,
        leaves=before.leaves | after.leaves,
        data=data,
        batch=before.batch | after.batch,
        sources=before.sources if after.sources == before.sources else frozenset(),
        signal=None if changed else before.signal,
        lost="a loop" if changed else before.lost,
    )


def _earlier(signal: Signal | None, loop: Path) -> Signal | None:
    """What a turn of a loop knows of the signal that the one before has given."""
    if signal is None or signal.site is None:
        return signal
    if signal.site[: len(loop)] != loop:  # another function of it in every turn
        return None
    return dataclasses.replace(signal, earlier=True)


def _sliced(tag: Tag, path: Path) -> Tag:
    """What is known of a slice along the first axis, one for every turn of a loop."""
    sources = frozenset(source._replace(stacked=(*source.stacked, path)) for source in tag.sources)
    return dataclasses.replace(tag, sources=sources, signal=_shifted(tag.signal, path, -1))


def _stacked(tag: Tag, path: Path) -> Tag:
    """What is known of what all turns of a loop have given, one upon another."""
    return dataclasses.replace(
        tag, sources=frozenset(), signal=_shifted(tag.signal, path, 1), once=True
    )


def _part(tag: Tag, path: Path) -> Tag:
    """What is known of one of several results: it is laid out otherwise than the others."""
    if tag.signal is None or tag.signal.site is None:
        return tag
    signal = dataclasses.replace(tag.signal, layout=(*tag.signal.layout, path))
    return dataclasses.replace(tag, signal=signal)


def _shifted(signal: Signal | None, path: Path, step: int) -> Signal | None:
    if signal is None or signal.site is None:
        return signal
    axes = signal.axes
    if axes is not None:
        axes = None if step < 0 and 0 in axes else tuple(axis + step for axis in axes)
    return dataclasses.replace(signal, axes=axes, layout=(*signal.layout, path))


_CUTS = frozenset(
    "concatenate dynamic_slice dynamic_update_slice gather pad slice split stack unstack".split()
)
_GEOMETRY = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
# Equations without a layer in them, whose results theory does not follow.
_UNDERSTOOD = (
    ELEMENTWISE
    | _LAYOUT
    | _REDUCTIONS
    | _POOLING
    | frozenset(
        "concatenate conv_general_dilated dot_general dynamic_update_slice gather iota pad psum"
        " random_bits random_fold_in random_seed random_split random_unwrap random_wrap"
        " scatter scatter_add scatter-add select_and_gather_add select_and_scatter_add sort stack"
        " threefry2x32 top_k bitcast_convert_type real imag complex conj fft shift_left"
        " shift_right_logical shift_right_arithmetic population_count reduce_xor create_token"
        " debug_callback debug_print random_gamma approx_top_k".split()
    )
)


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _mean_taps(
    image: int, kernel: int, stride: int, padding: tuple[int, int], spread: int, dilation: int
) -> float:
    """The taps of a kernel that fall on an input and not on padding, a mean over the outputs."""
    length = (image - 1) * spread + 1
    outputs = (sum(padding) + length - (kernel - 1) * dilation - 1) // stride + 1
    positions = (
        np.arange(max(outputs, 1))[:, None] * stride
        - padding[0]
        + np.arange(kernel)[None, :] * dilation
    )
    hits = (positions >= 0) & (positions < length) & (positions % spread == 0)
    return float(hits.sum(axis=1).mean())


def _moved(eqn: Any, axes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Where axes are after an equation that lays an array out anew; None if they are cut up."""
    name, params = eqn.primitive.name, eqn.params
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if axes is None or name in ("rev", "slice", "dynamic_slice", "split"):
        return axes
    if name == "transpose":
        return tuple(params["permutation"].index(axis) for axis in axes)
    if name == "broadcast_in_dim":
        return tuple(int(params["broadcast_dimensions"][axis]) for axis in axes)
    if name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(before, after, axes)
    return None


def _reshaped(
    before: tuple[int, ...], after: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The axes that hold the same numbers after a reshape as `axes` do before; None if none do."""
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        olds, news = [i], [j]
        left = before[i] if i < len(before) else 1
        right = after[j] if j < len(after) else 1
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                if i >= len(before):
                    return None
                left, olds, i = left * before[i], [*olds, i], i + 1
            else:
                if j >= len(after):
                    return None
                right, news, j = right * after[j], [*news, j], j + 1
        groups.append(([o for o in olds if o < len(before)], [n for n in news if n < len(after)]))
    wanted = {axis for axis in axes if before[axis] != 1}
    found: list[int] = []
    for olds, news in groups:
        mine = {axis for axis in olds if before[axis] != 1}
        if mine & wanted:
            if not mine <= wanted:
                return None
            found += [axis for axis in news if after[axis] != 1]
    return tuple(found)
