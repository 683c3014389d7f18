"""`parametrize`: roles from two shapes, factors from a scheme."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from initjax._stacks import stacked_axes
from initjax._values import (
    Initializer,
    checked_choice,
    checked_initializer,
    checked_integer,
)
from initjax.parametrization._counterparts import kind
from initjax.parametrization._heads import HeadSizes, head_sizes
from initjax.parametrization._leaves import Grown, PlannedLeaf, Role
from initjax.parametrization._plan import Multiplier, Plan
from initjax.parametrization._program import Program, read_program
from initjax.parametrization._roles import TOLD, check_patterns, grown
from initjax.parametrization._schemes import (
    OPTIMIZERS,
    RULES,
    SCHEMES,
    Optimizer,
    Scheme,
    factors,
)
from initjax.scaling import lecun_normal, variance_scaling
from initjax.specs import get
from initjax.trees import fits

_QUERY = re.compile(r"query|(^|/)w?q(_proj)?(/|$)", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention|qkv", re.IGNORECASE)


def parametrize(
    params: Any,
    base_params: Any,
    scheme: Scheme = "mup",
    optimizer: Optimizer = "adam",
    *,
    roles: Mapping[str, Role] | None = None,
    depth: tuple[int, int] | None = None,
    head_size: tuple[int, int] | None = None,
    init: Mapping[str, Initializer | str | Mapping[str, Any]] | None = None,
    loss_fn: Callable[..., Any] | None = None,
    batch: tuple[Any, ...] = (),
) -> Plan:
    r"""Plans how to initialize and train a model, from a narrower base model that trains well.

    The axes of a parameter that differ between the two models tell its role: of an input kernel,
    fan_out grows; of an output kernel, fan_in; of a hidden kernel, both. The scheme says by which
    powers of that growth its standard deviation and its learning rate change. Everything is
    relative to the base model: with equal widths, the plan changes nothing.

    With :math:`m` the growth of fan_in and Adam, "mup" multiplies the standard deviation of hidden
    kernels by :math:`m^{-1/2}` and of output kernels by :math:`m^{-1}`, and the learning rates of
    both by :math:`m^{-1}`.

    Args:
      params: the model's parameters, a tree of arrays or shapes, as from `jax.eval_shape`.
      base_params: those of the base model. If they are arrays, `plan.rescale` compares both draws.
      scheme: "standard" (one learning rate for all), "ntk", "mup", "depth_mup", "completep",
        "u_mup" or "spectral". `plan.source` names where it is from; no scheme is best for all.
      optimizer: "sgd", "momentum", "adam", "adamw" (its decay is multiplied with the learning rate,
        as in Optax), "adamw_independent" (it isn't), "lion", or "muon" (`optax.contrib.muon`).
      roles: roles by pattern, as in `initialize`, for what shapes don't tell: "input", "embedding",
        "hidden", "output", "tied" (an embedding that is the output kernel, too), "vector" and
        "scalar".
      depth: how many blocks the base model has, and how many this one, if they differ. Stacked
        blocks are known by the size of their first axis.
      head_size: the features of a head of attention, in the base model and in this one, if they
        differ. With loss_fn, they are read if the shapes or a module tell those of the base model.
      init: initializers of the base model, or their specifications, by pattern; by default LeCun's
        for kernels.
      loss_fn: maps `(params, *batch)` to a number. If given, the model's own program tells along
        which axes kernels are summed over, whatever their layout. Else, they are taken to have
        the layouts of libraries; so are parameters that enter no product.
      batch: the tuple of loss_fn's other arguments, arrays or shapes.

    Returns:
      A `Plan`: print it, and use its `rules` or `rescale`, its `transform` and its `multipliers`.

    Raises:
      TypeError, ValueError: the two trees don't fit together, a role can't be told from the shapes,
        the scheme has no rules for the optimizer, or an argument is none of the above.

    Example:
      >>> import jax
      >>> def shapes(width):
      ...     sizes = {"in": (784, width), "hidden": (width, width), "out": (width, 10)}
      ...     return {name: jax.ShapeDtypeStruct(size, "float32") for name, size in sizes.items()}
      >>> plan = parametrize(shapes(1024), shapes(64))
      >>> [(leaf.path, leaf.role, leaf.learning_rate) for leaf in plan.leaves]
      [('hidden', 'hidden', 0.0625), ('in', 'input', 1.0), ('out', 'output', 0.0625)]

    Reference:
      Yang et al. 2022, "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot
      Hyperparameter Transfer", https://arxiv.org/abs/2203.03466; those of the other schemes are
      their `plan.source`.
    """
    checked_choice("parametrize", "scheme", scheme, SCHEMES)
    if hasattr(optimizer, "update"):
        raise TypeError(
            "parametrize: optimizer must be the name of a kind, such as 'adam'; give the optimizer"
            " itself to plan.transform"
        )
    checked_choice("parametrize", "optimizer", optimizer, OPTIMIZERS)
    rules = RULES[scheme]
    missing = {"sgd": rules.sgd, "momentum": rules.sgd, "muon": rules.muon}
    if missing.get(optimizer, rules.adam) is None:
        others = [
            name
            for name in SCHEMES
            if getattr(RULES[name], "muon" if optimizer == "muon" else "sgd") is not None
        ]
        raise ValueError(
            f"parametrize: {scheme} has no rules for {optimizer}; those that do are"
            f" {', '.join(others)}"
        )
    depth = _pair("depth", depth)
    sizes = _pair("head_size", head_size)
    if loss_fn is None and batch:
        raise ValueError("parametrize: batch is read with loss_fn, which is missing")
    program = None if loss_fn is None else read_program(loss_fn, params, batch)
    leaves = grown(params, base_params, {} if roles is None else roles, depth, program)
    init = {} if init is None else init
    paths = [leaf.path for leaf in leaves]
    check_patterns("init", init, paths, "initializers, as in {'*kernel': he_normal()}")
    given = {pattern: _initializer(pattern, each) for pattern, each in init.items()}
    defaults = [(leaf.path, made) for leaf in leaves if (made := _default(leaf)) is not None]
    stacks = stacked_axes({leaf.path: leaf.shape for leaf in leaves}, defaults)
    planned = tuple(
        _planned(leaf, scheme, optimizer, depth[1] / depth[0], given, stacks) for leaf in leaves
    )
    asked = _about_heads(planned) if head_size is None else ()
    heads = HeadSizes(sizes[1] / sizes[0], True, asked)
    if program is not None and loss_fn is not None:
        told = None if head_size is None else sizes
        heads = head_sizes(program, told, leaves, loss_fn, base_params, batch)
    growth = heads.growth if heads.scaled else 1.0
    multipliers = _multipliers(planned, scheme, growth, depth[1] / depth[0])
    notes = (*_notes(planned, scheme, depth), *(heads.notes if rules.attention else ()))
    unread = "" if program is None else _unread(leaves, program)
    return Plan(scheme, optimizer, planned, multipliers, (*notes, unread) if unread else notes)


def _initializer(pattern: str, given: Any) -> Initializer:
    try:
        given = get(given) if isinstance(given, str | Mapping) else given
    except (TypeError, ValueError) as error:
        raise type(error)(f"parametrize: init[{pattern!r}]: {error}") from None
    return checked_initializer("parametrize", f"init[{pattern!r}]", given)


def _pair(name: str, value: Any) -> tuple[int, int]:
    if value is None:
        return 1, 1
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"parametrize: {name} must be a pair (base, this model), got {value!r}")
    base, own = (checked_integer("parametrize", name, each, 1) for each in value)
    return base, own


def _planned(
    leaf: Grown,
    scheme: Scheme,
    optimizer: Optimizer,
    depth: float,
    given: Mapping[str, Initializer],
    stacks: Mapping[str, int],
) -> PlannedLeaf:
    found = factors(RULES[scheme], optimizer, leaf, depth)
    own = next((each for pattern, each in given.items() if fits(leaf.path, pattern)), None)
    growth = leaf.growth
    return PlannedLeaf(
        path=leaf.path,
        shape=leaf.shape,
        base_shape=leaf.base_shape,
        role=leaf.role,
        fans=leaf.fans,
        base_fans=leaf.base_fans,
        ratio=growth[0] if leaf.role in ("hidden", "output") else growth[1],
        stddev=found.stddev,
        multiplier=found.multiplier,
        learning_rate=found.learning_rate,
        epsilon=found.epsilon,
        weight_decay=found.weight_decay,
        in_block=leaf.in_block,
        why=leaf.reason,
        base_initializer=own or _default(leaf, stacks.get(leaf.path, 0)),
        given=own is not None,
        base_size=leaf.base_size,
    )


def _default(leaf: Grown, stack: int = 0) -> Initializer | None:
    """LeCun's initializer for a kernel, of so many stacked axes, and Flax's for an embedding."""
    if leaf.axes is None:
        return None
    inputs, outputs, members = leaf.axes
    separate = tuple(sorted({*range(max(leaf.stack, stack)), *members}))
    if leaf.embedding or leaf.role in ("embedding", "tied"):  # by the features of a row
        return variance_scaling(
            1.0, "fan_in", "normal", in_axis=outputs, out_axis=inputs, batch_axis=separate
        )
    return lecun_normal(in_axis=inputs, out_axis=outputs, batch_axis=separate)


def _multipliers(
    leaves: Sequence[PlannedLeaf], scheme: Scheme, heads: float, depth: float
) -> dict[str, Multiplier]:
    rules = RULES[scheme]
    found = {}
    for name, roles, line in (
        ("kernels", ("input", "embedding", "hidden"), "y = {} * (x @ kernel)  # {}"),
        ("logits", ("output", "tied"), "logits = {} * logits  # {}"),
    ):
        scaled: dict[float, list[str]] = {}
        for leaf in leaves:
            if leaf.role in roles and leaf.multiplier != 1:
                scaled.setdefault(leaf.multiplier, []).append(kind(leaf.path))
        lines = [
            line.format(f"{value:.6g}", ", ".join(dict.fromkeys(paths)))
            for value, paths in scaled.items()
        ]
        value = next(iter(scaled), 1.0) if len(scaled) < 2 else math.nan
        found[name] = Multiplier(value, "\n".join(lines))
    for name, value, line in (
        ("attention", heads**rules.attention, "scores = {} * (query @ key.T) / head_size**0.5"),
        ("residual", depth**rules.residual, "x = x + {} * block(x)"),
    ):
        found[name] = Multiplier(value, line.format(f"{value:.6g}") if value != 1 else "")
    return found


def _unread(leaves: Sequence[Grown], program: Program) -> str:
    """Says which kernels a program doesn't tell about; "" if there are none."""
    missed = [
        kind(leaf.path)
        for leaf in leaves
        if leaf.axes is not None
        and leaf.path in program.undecided
        and leaf.path not in program.uses
        and leaf.reason != TOLD
    ]
    if not missed:
        return ""
    return (
        f"The program doesn't tell the axes of {', '.join(dict.fromkeys(missed))}: they have the"
        " roles that their shapes tell."
    )


def _notes(leaves: Sequence[PlannedLeaf], scheme: Scheme, depth: tuple[int, int]) -> list[str]:
    """What shapes don't tell, and what is left to do."""
    notes, rules = [], RULES[scheme]
    if all(leaf.shape == leaf.base_shape for leaf in leaves) and depth[0] == depth[1]:
        notes.append("Both models have the same shapes: the plan changes nothing.")
    narrower = [leaf for leaf in leaves if leaf.ratio < 1]
    if narrower:
        notes.append(
            f"{narrower[0].path} is smaller than in the base model: check the order of params and"
            " base_params."
        )
    if depth[0] != depth[1] and not rules.has_depth:
        notes.append(
            f"{scheme} has no rule for depth: its factors are those of equal depth. depth_mup,"
            " completep and u_mup have one."
        )
    elif depth[0] != depth[1] and not any(leaf.in_block for leaf in leaves):
        notes.append(
            f"No parameter is in a block: none has {depth[0]} and {depth[1]} copies or axes."
        )
    embeddings = [leaf.path for leaf in leaves if leaf.role == "embedding"]
    if embeddings and not any(leaf.role in ("output", "tied") for leaf in leaves):
        notes.append(
            f"No parameter is an output. If {embeddings[0]} gives the logits, too, pass"
            f" roles={{{embeddings[0]!r}: 'tied'}}."
        )
    return notes


def _about_heads(leaves: Sequence[PlannedLeaf]) -> tuple[str, ...]:
    """What to pass as the size of heads; it is the last axis of Flax's queries."""
    kernels = [leaf for leaf in leaves if leaf.role not in ("vector", "scalar")]
    queries = [leaf for leaf in kernels if _QUERY.search(leaf.path)]
    attention = queries or [leaf for leaf in kernels if _ATTENTION.search(leaf.path)]
    if not attention:
        return ()
    path = kind(attention[0].path)
    sizes = {(leaf.base_shape[-1], leaf.shape[-1]) for leaf in queries if len(leaf.shape) == 3}
    if len(sizes) != 1:
        return (
            f"If the features of a head of attention grow ({path}), pass head_size=(base, this"
            " model): scores then fall as 1/head_size, and not as its root.",
        )
    ((base, own),) = sizes
    if base == own:
        return (
            f"Heads of attention keep {own} features, as {path} shows: scores stay as they are.",
        )
    return (
        f"Heads of attention grow from {base} features to {own}, as {path} shows. Pass"
        f" head_size=({base}, {own}): scores then fall as 1/head_size, and not as its root.",
    )
