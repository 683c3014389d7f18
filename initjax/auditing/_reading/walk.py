"""Finds the layers of any JAX function by reading its jaxpr.

Nothing is computed here: an abstract value, a `Tag`, is carried along the equations, into nested
programs and around loops.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from initjax.auditing._activations import outgrows_lines
from initjax.auditing._reading.control_flow import (
    after_a_turn,
    either,
    of_the_turn_before,
    one_of_several,
    sliced,
    stacked_up,
)
from initjax.auditing._reading.elementwise import masked, meet, pre_activation
from initjax.auditing._reading.expressions import (
    IDENTITY,
    Expression,
    Path,
    Signal,
    bare,
    floating,
    number,
)
from initjax.auditing._reading.layout import moved_axes
from initjax.auditing._reading.primitives import (
    CALLS,
    CUTS,
    ELEMENTWISE,
    LAYOUT,
    LINEAR,
    POOLING,
    PRODUCTS,
    RECOMPUTED,
    REDUCTIONS,
    RULED,
    SAME,
    STATISTICS,
    UNDERSTOOD,
    inner_programs,
    is_program,
    scan_counts,
)
from initjax.auditing._reading.products import Product, product_of
from initjax.auditing._reading.sites import Anatomy, Site
from initjax.auditing._reading.softmax import softmax_after
from initjax.auditing._reading.tags import Source, Tag, applied, join, reason


def find(jaxpr: Any, num_parameters: int, fixed: Collection[int] = ()) -> Anatomy:
    """Finds the sites of a computation.

    Args:
      jaxpr: a closed jaxpr.
      num_parameters: how many of its first inputs are parameters; the others are data.
      fixed: those of the parameters that are data too, as running statistics and counts.

    Returns:
      The anatomy.
    """
    tags = [
        Tag(leaves=frozenset([index]), sources=frozenset([Source(index)]), lost="parameter")
        if index < num_parameters and index not in fixed
        else Tag(data=True, batch=frozenset([index]), near=frozenset([None]), lost="batch")
        for index in range(len(jaxpr.jaxpr.invars))
    ]

    def read(matrix: Tag, array: Tag) -> _Walk:
        walk = _Walk(matrix, array, [var.aval.size for var in jaxpr.jaxpr.invars])
        outputs = walk.program(jaxpr.jaxpr, walk.constants(jaxpr), tags, ())
        walk.leaves = frozenset().union(*(tag.leaves for tag in outputs))
        for path in walk.inside:
            walk.sites.pop(path, None)
        return walk

    # Arrays that a function closes over or makes are data too if no others meet the parameters.
    if num_parameters == len(jaxpr.jaxpr.invars):
        walk = read(_CLOSED_OVER, _CLOSED_OVER)
    else:
        walk = read(_ARRAY, _ARRAY)
        if walk.missed:
            walk = max(walk, read(_CLOSED_OVER, _ARRAY), key=lambda walk: len(walk.sites))
        if not walk.sites:
            walk = read(_CLOSED_OVER, _CLOSED_OVER)
    entering = [tag for site in walk.sites.values() for tag in site.inputs]
    upstream = frozenset().union(*(tag.sites | tag.near for tag in entering))
    for path, site in walk.sites.items():
        site.ruled = any(site.output[: len(outer)] == outer for outer in walk.ruled)
        if path not in upstream and not site.streams:  # what it meets is a target
            site.added = site.residual = False
        if path in upstream and site.activation is None:
            site.activation = _lost_activation(site)
    return Anatomy(dict(sorted(walk.sites.items())), walk.unread, walk.leaves)


_ARRAY = Tag(lost="array")
_CLOSED_OVER = Tag(data=True, batch=frozenset([-1]), near=frozenset([None]), lost="batch")


def _lost_activation(site: Site) -> Expression | None:
    """What is applied to a site that no other reads directly, if it is one function everywhere.

    A scale of its own, as an exponential makes, is no activation that has a flat part.
    """
    ends = {end and bare(end) for end in site.mixed or site.reduced}
    (end,) = ends if len(ends) == 1 else (None,)
    return None if end is None or end == IDENTITY or outgrows_lines(end) else end


class _Walk:
    """The state of one reading."""

    def __init__(self, matrix: Tag, array: Tag, sizes: list[int]) -> None:
        self.matrix = matrix
        """What is known of a matrix, or an array of more axes, that the function closes over."""
        self.array = array
        """What is known of any other array that is neither a parameter nor of the batch."""
        self.sizes = sizes
        """How many numbers the parameters have."""
        self.leaves: frozenset[int] = frozenset()
        """The parameters that the results depend on."""
        self.missed = False
        """Whether parameters meet arrays in products that would be sites if these were data."""
        self.inside: set[Path] = set()
        """Sites that are but a step on the way to a weight, as those that find its norm."""
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
        if known is not None:
            return Tag(signal=Signal(None, known))
        return self.matrix if np.ndim(value) > 1 and floating(value.dtype) else self.array

    def equation(self, eqn: Any, tags: list[Tag], path: Path) -> list[Tag]:
        name = eqn.primitive.name
        if name in CALLS:
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
            return [either(list(outs), tags[0]) for outs in zip(*branches, strict=True)]
        product = product_of(eqn, tags)
        if product is not None:
            return [self.site(eqn, tags, path, product)]
        if name in SAME:
            return tags
        if name == "log" and tags[0].softmax and tags[0].softmax.stage == "sum":
            for site in tags[0].softmax.sites:
                self.sites[site].classes = tags[0].softmax.classes
        tag = dataclasses.replace(self.plain(eqn, tags, path), softmax=softmax_after(eqn, tags))
        if tag.signal is None:
            self.lose(eqn, tags)
        if len(eqn.outvars) == 1:
            return [tag]
        return [one_of_several(tag, (*path, number)) for number in range(len(eqn.outvars))]

    @contextlib.contextmanager
    def scope(self, path: Path, entered: bool = True) -> Iterator[None]:
        if entered:
            self.scopes.append(path)
        yield
        if entered:
            self.scopes.pop()

    # Sites

    def site(self, eqn: Any, tags: list[Tag], path: Path, product: Product) -> Tag:
        weight = product.weight
        data = tags[1 - weight] if len(tags) == 2 else join(tags[1:])
        found = self.sites.get(path)
        entering, leaving = eqn.invars[1 - weight].aval.size, eqn.outvars[0].aval.size
        if found is None:
            self.sites[path] = found = Site(
                path=path,
                **product._asdict(),
                sources=tags[weight].sources,
                fan_out=product.fan_in * leaving / max(1, entering),
                loops=tuple(self.loops),
                backward=frozenset(loop for loop, _ in self.loops if loop in self.backward),
                scopes=tuple(self.scopes),
                inputs=[],
                size=leaving,
                output=path,
                output_axes=product.unit_axes,
            )
        # Another turn of a loop reads the same equations again.
        found.output, found.output_axes, found.scale, found.bias = (
            path,
            product.unit_axes,
            1.0,
            None,
        )
        known = dataclasses.replace(data, leaves=frozenset(), once=True)
        if known not in found.inputs:
            found.inputs.append(known)
        self.inside |= tags[weight].sites
        self.read(data, path)
        return Tag(
            leaves=tags[weight].leaves | data.leaves,
            data=True,
            batch=data.batch,
            signal=Signal(path, IDENTITY, axes=product.unit_axes),
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

    def lose(self, eqn: Any, tags: list[Tag]) -> None:
        """Notes what has been applied to sites whose signals end at an equation."""
        name = eqn.primitive.name
        for position, (var, tag) in enumerate(zip(eqn.invars, tags, strict=True)):
            signal = tag.signal
            if signal is None or signal.site is None or not floating(var.aval.dtype):
                continue
            if not isinstance(signal.expression, Expression):
                continue
            others = [other for number, other in enumerate(tags) if number != position]
            # A gate may be saturated on purpose.
            gated = name in ("mul", "div") and any(
                other.near - {None} and not other.statistic for other in others
            )
            site = self.sites[signal.site]
            whole = var.aval.size >= site.size and not gated
            ends = site.reduced if name in REDUCTIONS else site.mixed
            ends.add(signal.expression if whole else None)

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
            masked=None,
            sources=self.made_of(eqn, tags)
            if together.pure or self.makes_weight(eqn, tags)
            else frozenset(),
            once=True,
        )
        if name in LAYOUT:
            return self.laid_out(eqn, tags, tag, path)
        if name in ELEMENTWISE:
            return self.elementwise(eqn, tags, tag, path)
        if name in REDUCTIONS:
            statistic = name in STATISTICS and together.data
            return dataclasses.replace(
                tag, lost="reduction", linear=False, statistic=statistic, root=False
            )
        tag = dataclasses.replace(tag, linear=False, statistic=False, root=False)
        if name in POOLING:
            return dataclasses.replace(tag, lost="pooling")
        missed = [operand.leaves for operand in tags if operand.leaves and not operand.sites]
        if name in PRODUCTS and together.pure and not all(operand.leaves for operand in tags):
            self.missed = True
        if name in PRODUCTS and together.data and missed:
            self.unread[name] = self.unread.get(name, frozenset()).union(*missed)
        if name == "dot_general" and together.data:
            return dataclasses.replace(tag, lost="attention")
        if name in ("concatenate", "pad", "stack"):
            return dataclasses.replace(tag, lost="join")
        if name not in UNDERSTOOD:
            entering = frozenset().union(*(operand.leaves for operand in tags if operand.pure))
            opaque = any(is_program(value) for value in eqn.params.values())
            if together.data and (entering or (opaque and together.leaves)):
                label = str(eqn.params.get("name") or eqn.params.get("name_and_src_info") or "")
                text = f"{name} ({label[:60]})" if label else name
                self.unread[text] = self.unread.get(text, frozenset()) | entering
            return dataclasses.replace(tag, lost=name)
        return dataclasses.replace(tag, lost=tag.lost or name)

    def makes_weight(self, eqn: Any, tags: list[Tag]) -> bool:
        """Whether a value of parameters and data is a weight: see `Tag.sources`."""
        name = eqn.primitive.name
        leaves = {source.leaf for tag in tags for source in tag.sources}
        largest = max((self.sizes[leaf] for leaf in leaves), default=0)
        if not leaves or eqn.outvars[0].aval.size > largest:
            return False
        if name in LINEAR or (name in LAYOUT and name not in CUTS):
            return True
        combined = name in ("add", "add_any", "sub", "mul", "div", "select_n")
        divides = name == "div" and bool(tags[1].sources)
        return combined and not divides and all(tag.sources or tag.leaves <= leaves for tag in tags)

    def made_of(self, eqn: Any, tags: list[Tag]) -> frozenset[Source]:
        """How a value of parameters alone comes from them."""
        sources = frozenset().union(*(tag.sources for tag in tags))
        name = eqn.primitive.name
        if name in LINEAR or name == "rev":
            return sources
        if name in LAYOUT and name not in CUTS:
            return frozenset(source._replace(laid_out=True) for source in sources)
        alone = sum(tag.data or bool(tag.leaves) for tag in tags) == 1
        if name in ("mul", "div") and alone:
            divided = name == "div" and tags[1].leaves
            if not divided:
                return sources
        how = "part" if name in CUTS else "nonlinear"
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
            masked=tags[0].masked,
        )
        if signal is None or not others_known:
            return dataclasses.replace(tag, lost=tag.lost or "choice")
        if signal.site is None:
            return dataclasses.replace(tag, signal=signal)
        layout = (*signal.layout, path)
        moved = dataclasses.replace(signal, axes=moved_axes(eqn, signal.axes), layout=layout)
        return dataclasses.replace(tag, signal=moved)

    def elementwise(self, eqn: Any, tags: list[Tag], tag: Tag, path: Path) -> Tag:
        name = eqn.primitive.name
        output = pre_activation(self.sites, tuple(self.scopes), eqn, tags, path)
        if output is not None:
            return dataclasses.replace(tag, signal=output, lost="", linear=True)
        signal = applied(eqn, tags)
        mask = masked(name, tags)
        if name in LINEAR:
            mask = tags[0].masked
        varying = [operand for operand in tags if not operand.number]
        proportional = name in LINEAR or (
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
            masked=mask,
            # A value that a statistic is taken from, and combined with, is no statistic itself.
            statistic=bool(data) and all(operand.statistic for operand in data),
            root=(roots and tag.statistic) or (tag.root and all(o.statistic for o in data)),
        )
        if len(data) == 2:
            meet(self.sites, name, data)
            if any(operand.statistic for operand in data) and not tag.statistic:
                lost = "normalization" if name in ("mul", "div") else "centering"
                normalised = any(operand.root for operand in data)
                lost = "normalization" if normalised else lost
                return dataclasses.replace(tag, lost=lost)
            if name in ("add", "add_any", "sub") and isinstance(signal, str):
                return dataclasses.replace(tag, lost="sum")
            if name in ("mul", "div") and isinstance(signal, str) and not mask:
                return dataclasses.replace(tag, lost="product")
        if isinstance(signal, str):
            dropped = mask is not None and (name == "select_n" or len(data) == 2)
            lost = "mask" if dropped else reason(data) or signal
            return dataclasses.replace(tag, lost=lost)
        return dataclasses.replace(tag, signal=signal, lost="")

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
        slices = [sliced(tag, path) for tag in slices]

        def turn(carry: list[Tag]) -> list[Tag]:
            arguments = [*constants, *carry, *slices]
            return self.program(inner.jaxpr, self.constants(inner), arguments, (*path, 0))

        forward = not params["reverse"]
        if not forward:
            self.backward.add(path)
        outs = self.turns(turn, carry, path, params["length"], num_carry, forward)
        stacked = [stacked_up(tag, path) for tag in outs[num_carry:]]
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
                after_a_turn(before, after)
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
                    signal=of_the_turn_before(after.signal, path) if forward else None,
                    lost=after.lost or "loop",
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
