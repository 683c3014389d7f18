"""The coordinate check: trains a model at several widths for a few steps, and compares."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from initjax._flattening import described, flatten, is_parameter, no_parameters
from initjax._keys import checked_key
from initjax._values import checked_integer
from initjax.auditing._measuring.jobs import unchecked
from initjax.auditing._measuring.optimizers import check_optimizer
from initjax.auditing._reading.fingerprint import fingerprint
from initjax.auditing._reading.trace import closed_program, trace
from initjax.coordinates._coordinate import Coordinate, Verdict
from initjax.coordinates._judging import Judged, judge
from initjax.coordinates._matching import Place, matched, unread
from initjax.coordinates._program import Program, Step, program
from initjax.coordinates._result import CoordinateCheck

_OWNER = "coordinate_check"


def coordinate_check(
    make: Callable[..., tuple[Callable[..., Any], Any, Any]],
    widths: Sequence[int],
    optimizer: Any,
    *,
    steps: int = 4,
    seeds: int = 3,
    key: Any = None,
    has_aux: bool = False,
) -> CoordinateCheck:
    r"""Checks whether a model trains alike at every width, and names the layers that don't.

    For each width, your optimizer takes a few steps on one batch. With a right parametrization, the
    pre-activations of every layer and their changes have the same size at every width; then the
    best learning rate of a narrow model is that of a wide one, too. Works with any JAX loss
    function, without changes: layers are read from its jaxpr, as `initjax.audit` does.

    Of each layer, width, seed and step :math:`t`, with pre-activations :math:`z_t`, weights
    :math:`W_t` and inputs :math:`x_t`:

    - *size*: the root mean square of :math:`z_t`.
    - *change*: that of :math:`z_t - z_0`.
    - *own*: that of :math:`(W_t - W_0) x_t`, the change that is this layer's own doing.

    Each is fitted as a power of width. Size, change and own should be width^0; logits may be
    smaller at the start. What grows or shrinks by more than width^(1/4) is not stable, since theory
    knows only multiples of 1/2. What the layer makes of its input at the start, and its own change,
    name the layers at fault; other layers are affected by them.

    Args:
      make: maps a width and a PRNG key to `(loss_fn, params, batch)`; `batch` is the tuple of what
        `loss_fn(params, *batch)` takes besides. A function of the width alone is called once; then
        there are no intervals over seeds.
      widths: increasing, at least two. Factors of 8 or more between the first and the last tell
        powers apart.
      optimizer: an Optax transformation, or a function of the width that returns one.
      steps: how many updates.
      seeds: how many keys `make` is called with.
      key: where these keys come from; None means `jax.random.key(0)`.
      has_aux: whether loss_fn returns `(loss, anything)`, as for `jax.grad`.

    Returns:
      A `CoordinateCheck`. Print it, plot it with `result.plot()`, or call `result.assert_stable()`
      in a test.

    Raises:
      TypeError: make, loss_fn or optimizer is of the wrong kind.
      ValueError: widths aren't increasing, make gives other layers at another width, no layer
        grows, or training changes none.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from initjax import coordinate_check, he_normal, normal
      >>> def loss_fn(params, x, y):
      ...     return jnp.square(jax.nn.relu(x @ params["in"]) @ params["out"] - y).mean()
      >>> def make(width, key):
      ...     keys = jax.random.split(key, 3)
      ...     params = {"in": he_normal()(keys[0], (16, width)),
      ...               "out": normal(1 / width)(keys[1], (width, 1))}
      ...     return loss_fn, params, (jax.random.normal(keys[2], (64, 16)), jnp.ones((64, 1)))
      >>> result = coordinate_check(make, [32, 64, 128], optax.adam(1e-3), steps=1, seeds=2)
      >>> [(one.name, fault.cause) for one in result.coordinates for fault in one.faults]
      [('out', 'learning_rate')]

    Reference:
      Yang et al. 2022, "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot
      Hyperparameter Transfer", https://arxiv.org/abs/2203.03466, section F.1 (coordinate checks);
      Everett et al. 2024, "Scaling Exponents Across Parameterizations and Optimizers",
      https://arxiv.org/abs/2407.05872.
    """
    import jax

    sizes = _checked_widths(widths)
    steps = checked_integer(_OWNER, "steps", steps, 1)
    seeds = checked_integer(_OWNER, "seeds", seeds, 1)
    makes, seeds = _maker(make, seeds)
    of_width = _optimizers(optimizer)
    call = "call coordinate_check(make, widths, optimizer, key=key)"
    root = jax.random.key(0) if key is None else checked_key(_OWNER, key, call)
    keys = jax.random.split(root, seeds)
    optimizers = [of_width(width) for width in sizes]
    with unchecked():
        # All programs are read before the first is trained: what doesn't fit is said at once.
        models = [
            _model(functools.partial(makes, width), keys, width, chosen, has_aux)
            for width, chosen in zip(sizes, optimizers, strict=True)
        ]
        programs = [model.program for model in models]
        places = matched(sizes, programs)
        runs = [_trained(model, keys, steps) for model in models]
        linear = programs[0].is_linear(models[0].made[1])
    arrays = [_arrays(place, runs) for place in places]
    judged = judge(sizes, places, arrays, linear)
    if all(one.step is None for one in judged):
        raise ValueError(
            f"{_OWNER}: no layer is changed by training in every run, so nothing can be compared;"
            " raise the learning rate above 0, and let the loss depend on the parameters"
        )
    loss = np.array([[[step.loss for step in one] for one in run] for run in runs])
    coordinates = tuple(
        _coordinate(sizes, *each) for each in zip(places, arrays, judged, strict=True)
    )
    return CoordinateCheck(sizes, coordinates, loss, tuple(_notes(coordinates, programs)))


class _Model(NamedTuple):
    """A model at one width."""

    width: int
    make: Callable[[Any], Any]
    """Maps a key to what `make` returns at this width."""
    made: tuple[Callable[..., Any], Any, tuple[Any, ...]]
    """What it returned for the first key."""
    program: Program
    has_aux: bool


_Run = list[list[Step]]
"""What was measured at one width, by seed."""


def _model(
    make: Callable[[Any], Any], keys: Any, width: int, optimizer: Any, has_aux: bool
) -> _Model:
    """Makes and reads a model."""
    made = _made(make(keys[0]), width)
    traced = trace(_OWNER, *made, has_aux)
    return _Model(width, make, made, program(traced, made[1], optimizer), has_aux)


def _trained(model: _Model, keys: Any, steps: int) -> _Run:
    """Trains a model with every key: one compiled program."""
    traced, found = model.program.traced, []
    for seed, key in enumerate(keys):
        made = _made(model.make(key), model.width) if seed else model.made
        constants = traced.constants
        if made[0] is not model.made[0]:  # a new function may close over other arrays
            again = closed_program(_OWNER, *made, model.has_aux).closed
            constants = list(again.consts)
            if fingerprint(again.jaxpr, ()) != fingerprint(traced.jaxpr, ()):
                raise ValueError(
                    f"{_OWNER}: make gives another program with another key at width"
                    f" {model.width}; let the key change only the numbers in params and batch"
                )
        found.append(_padded(model.program.train(*made[1:], constants, steps), steps))
    return found


def _padded(found: Iterator[Step], steps: int) -> list[Step]:
    """The steps of a run, which ends where its loss isn't finite."""
    taken: list[Step] = []
    for step in found:
        taken.append(step)
        if not math.isfinite(step.loss):
            break
    broken = Step(math.nan, {}, {})
    return [*taken, *[broken] * (steps + 1 - len(taken))]


def _arrays(place: Place, runs: Sequence[_Run]) -> dict[str, np.ndarray]:
    """What was measured of a layer: (widths, seeds, steps) by name."""

    def records(number: int, run: _Run) -> list[list[dict[str, float]]]:
        if place.leaf is None:
            path = place.paths[number]
            return [[step.measured.get(path, {}) for step in steps] for steps in run]
        return [[step.leaves.get(place.leaf, {}) for step in steps] for steps in run]

    found = [records(number, run) for number, run in enumerate(runs)]
    arrays = {
        name: np.array([[[r.get(name, math.nan) for r in one] for one in run] for run in found])
        for name in found[0][0][0]
    }
    if place.leaf is not None:  # its change is its own, and there is no input
        arrays |= dict.fromkeys(("own", "aligned"), arrays["change"])
        arrays["input"] = np.ones_like(arrays["change"])
    return arrays


def _coordinate(
    widths: tuple[int, ...], place: Place, arrays: dict[str, np.ndarray], judged: Judged
) -> Coordinate:
    verdict: Verdict = "stable"
    if judged.moves is not None:
        verdict = "grows" if judged.moves.mean > 0 else "shrinks"
    elif judged.step is None:
        verdict = "not trained"
    nothing = np.full_like(arrays["change"], math.nan)
    return Coordinate(
        name=place.name,
        kind=place.kind,
        role=place.role,
        fan_in=place.fan_in,
        widths=widths,
        size=arrays.get("size", nothing),
        change=_from_zero(arrays["change"]),
        own=_from_zero(arrays.get("own", nothing)),
        verdict=verdict,
        changes_at=judged.step,
        faults=judged.faults,
        logits=place.logits,
    )


def _from_zero(changes: np.ndarray) -> np.ndarray:
    """Changes since the start, where there are none."""
    changes = changes.copy()
    changes[:, :, 0] = np.where(np.isnan(changes[:, :, 0]), math.nan, 0)
    return changes


def _notes(coordinates: Sequence[Coordinate], programs: Sequence[Program]) -> Iterator[str]:
    zero = [
        one.name for one in coordinates if one.kind != "parameter" and not one.size[..., 0].any()
    ]
    if zero:
        yield f"Zero at the start, which has no slope: {', '.join(zero)}."
    fixed = [one.name for one in coordinates if one.verdict == "not trained"]
    if fixed:
        yield f"Not changed by training: {', '.join(fixed)}."
    unsure = [
        one.name
        for one in coordinates
        if any(fault.slope.low <= 0 <= fault.slope.high for fault in one.faults)
    ]
    if unsure:
        yield f"Too few widths or seeds to be sure of: {', '.join(unsure)}."
    if missed := unread(programs):
        yield f"Not read as a layer's weights, so not checked: {', '.join(missed)}."


# Arguments


def _checked_widths(widths: Any) -> tuple[int, ...]:
    try:
        given = list(widths)
    except TypeError:
        raise TypeError(
            f"{_OWNER}: widths must be a sequence of whole numbers, such as [64, 128, 256], got"
            f" {described(widths)}"
        ) from None
    sizes = tuple(checked_integer(_OWNER, "a width", width, 1) for width in given)
    if len(sizes) < 2 or any(wide <= narrow for narrow, wide in itertools.pairwise(sizes)):
        raise ValueError(
            f"{_OWNER}: widths must be at least two increasing numbers, such as [64, 128, 256], got"
            f" {list(sizes)}"
        )
    return sizes


def _maker(make: Any, seeds: int) -> tuple[Callable[[int, Any], Any], int]:
    """What makes a model from a width and a key, and how many seeds there are."""
    if not callable(make):
        raise TypeError(
            f"{_OWNER}: make must be a function of (width, key) that returns (loss_fn, params,"
            f" batch), got {described(make)}"
        )
    try:
        inspect.signature(make).bind(1, None)
    except TypeError:
        return lambda width, key: make(width), 1
    except ValueError:  # a few callables have no signature
        pass
    return make, seeds


def _made(made: Any, width: int) -> tuple[Callable[..., Any], Any, tuple[Any, ...]]:
    """What make returned, if it is what it should be."""
    import jax

    expected = f"{_OWNER}: make must return (loss_fn, params, batch)"
    if not isinstance(made, tuple | list) or len(made) != 3:
        got = (
            f"a {type(made).__name__} of {len(made)}"
            if isinstance(made, tuple | list)
            else described(made)
        )
        raise TypeError(f"{expected}, got {got} at width {width}")
    loss_fn, params, batch = made
    if not callable(loss_fn):
        raise TypeError(
            f"{expected}; loss_fn must be a function of (params, *batch), got {described(loss_fn)}"
        )
    if not isinstance(batch, tuple | list):
        raise TypeError(
            f"{expected}; batch must be the tuple of what loss_fn takes besides params, such as"
            f" (x, y), got {described(batch)}"
        )
    leaves, _ = flatten(params)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        raise TypeError(
            f"{expected}; params must be arrays, got shapes; draw them, as initjax.initialize does"
        )
    if not any(isinstance(leaf, float | complex) or is_parameter(leaf) for leaf in leaves):
        raise no_parameters(_OWNER, params)
    return loss_fn, params, tuple(batch)


def _optimizers(optimizer: Any) -> Callable[[int], Any]:
    """The optimizer of each width."""
    of_width = callable(optimizer) and not hasattr(optimizer, "update")
    if of_width and (getattr(optimizer, "__module__", "") or "").partition(".")[0] == "optax":
        name = getattr(optimizer, "__name__", "adam")
        raise TypeError(
            f"{_OWNER}: optimizer must be an Optax transformation, got the function optax.{name};"
            f" call it, as in optax.{name}(1e-3)"
        )

    def chosen(width: int) -> Any:
        found = optimizer(width) if of_width else optimizer
        check_optimizer(_OWNER, found)
        return found

    return chosen
