"""The audit: trace, measure, predict, judge."""

from __future__ import annotations

import collections
import dataclasses
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from initjax._flattening import Structure, described, flatten
from initjax._statistics import trainable_leaves
from initjax.auditing._judging.attention import public_attention
from initjax.auditing._judging.draws import with_origins
from initjax.auditing._judging.evidence import gather
from initjax.auditing._judging.judge import judge
from initjax.auditing._judging.layers import public
from initjax.auditing._measuring.jobs import on_host, unchecked
from initjax.auditing._measuring.optimizers import check_optimizer
from initjax.auditing._measuring.passes import Measurer, measurer
from initjax.auditing._reading.fingerprint import compiled_fingerprint, fingerprint
from initjax.auditing._reading.trace import Traced, trace, without_constants
from initjax.auditing._reporting.pasting import with_code
from initjax.auditing._reporting.report import Report
from initjax.auditing._reporting.text import unread_lines
from initjax.auditing._reporting.written import written

_KEPT = 8  # compiled programs that `audit` remembers

# With what was compiled, the program whose arrays its key counts by their identities.
_measurers: collections.OrderedDict[tuple[Hashable, ...], tuple[Measurer, Any]] = (
    collections.OrderedDict()
)


def audit(
    loss_fn: Callable[..., Any],
    params: Any,
    *batch: Any,
    optimizer: Any = None,
    has_aux: bool = False,
) -> Report:
    r"""Checks whether a model is initialized well, layer by layer, and explains what is wrong.

    Works with any JAX loss function, from Flax, Equinox or plain `jax.numpy`, without changes. The
    layers are read from its jaxpr, including `jit`, `scan`, `while_loop`, `cond`, `remat`, `vmap`
    and custom derivatives. A layer is a matrix product, a convolution or an embedding of a
    parameter with data. One forward and one backward pass measure its pre-activations :math:`z` and
    their gradients. Theory predicts the same numbers from the layer's fan-in, the variance of its
    weights and its activation.

    The columns of the table that `print(report)` shows:

    - *then*: the activation that follows, or where the output goes.
    - *gain*: :math:`fan_{in} E[W^2]`.
    - *rms*: the root mean square of z. *theory*: its prediction from the network's input. *z*: the
      difference of their logarithms, in standard deviations of a network of this width. Blank where
      predictions restart from a measured input.
    - *spread*: the standard deviation over examples, averaged over units. *corr*: the correlation
      of two examples.
    - *dead*: the fraction of units that are flat on the whole batch. *flat*, shown instead if an
      activation saturates: the fraction of pre-activations where it is flat.
    - *grad*: the root mean square of the loss's gradient with respect to z. *step*, shown instead
      if there is an optimizer: the size of its first update, relative to the weights.
    - *ratio*: the squared norm of that gradient, divided by that of the layer that reads this one;
      on a residual stream, by that of the end of the next branch. *chi_1*: its prediction,
      :math:`\chi_1`.

    Args:
      loss_fn: maps `(params, *batch)` to a scalar loss that is differentiable in params.
      params: a tree of arrays, or a module of Equinox or NNX. Floating-point arrays are the
        parameters. Leaves that aren't arrays, such as activation functions, are constants.
      *batch: trees of arrays: the data, and anything else that isn't a parameter, such as batch
        statistics or a PRNG key. Use 64 examples or more.
      optimizer: an Optax transformation; if given, its first update is measured.
      has_aux: whether loss_fn returns `(loss, anything)`, as for `jax.grad`.

    Returns:
      A `Report`. `report.verdict` is 'ok', 'warning' or 'failure'. `report.findings` lists what is
      wrong and how to fix it. `report.layers` and `report.network` have all numbers. Print it, plot
      it with `report.plot()`, or call `report.assert_healthy()` in a test.

    Raises:
      TypeError: loss_fn is not callable, params is a model and not its parameters, or optimizer is
        not an Optax transformation.
      ValueError: loss_fn does not return one floating-point number, params has no floating-point
        array, or the output of a layer is empty, as for a batch without examples.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from initjax import he_normal
      >>> def loss_fn(params, x):
      ...     return jnp.square(jax.nn.relu(x @ params["in"]) @ params["out"]).mean()
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> params = {"in": he_normal()(keys[0], (32, 64)), "out": he_normal()(keys[1], (64, 4))}
      >>> x = jax.random.normal(keys[2], (128, 32))
      >>> audit(loss_fn, params, x).verdict
      'ok'
      >>> params["in"] = jnp.ones((32, 64))
      >>> [finding.cause for finding in audit(loss_fn, params, x).findings]
      ['symmetry']

    Reference:
      Schoenholz et al. 2017, "Deep Information Propagation", https://arxiv.org/abs/1611.01232;
      Hanin and Nica 2020, "Products of Many Large Random Matrices and Gradients in Deep Neural
      Networks", https://arxiv.org/abs/1812.05994; Doshi, He and Gromov 2023, "Critical
      Initialization of Wide and Deep Neural Networks using Partial Jacobians",
      https://arxiv.org/abs/2111.12143.
    """
    return prepare("audit", loss_fn, params, batch, optimizer, has_aux).report(params, batch)


def auditor(
    loss_fn: Callable[..., Any],
    params: Any,
    *batch: Any,
    optimizer: Any = None,
    has_aux: bool = False,
) -> Callable[..., Report]:
    """Compiles an audit once, so that you can call it repeatedly during training.

    Tracing and compiling take most of the time of a first audit. An auditor does both once, for the
    given shapes and dtypes. Each call then costs about as much as a few gradients. `loss_fn` is
    traced only once: later changes to variables that it closes over have no effect.

    Args:
      loss_fn: the loss function, as for `initjax.audit`.
      params: a tree of arrays. Only shapes and dtypes matter here.
      *batch: trees of arrays. Only shapes and dtypes matter here.
      optimizer: an Optax transformation.
      has_aux: whether loss_fn returns `(loss, anything)`.

    Returns:
      A function: `auditor(params, *batch)` returns the `Report` for these parameters and this
      batch. It raises a ValueError if a shape, a dtype, a tree structure or a leaf that isn't an
      array differs from what it was made for.

    Raises:
      TypeError, ValueError: as for `initjax.audit`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def loss_fn(params, x):
      ...     return jnp.square(jnp.tanh(x @ params["in"]) @ params["out"]).mean()
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> params = {"in": jax.random.normal(keys[0], (32, 64)) / 32**0.5,
      ...           "out": jax.random.normal(keys[1], (64, 4)) / 8}
      >>> x = jax.random.normal(keys[2], (128, 32))
      >>> audit_again = auditor(loss_fn, params, x)
      >>> audit_again(params, x).verdict
      'ok'
      >>> audit_again({**params, "in": 100 * params["in"]}, x).findings[0].cause
      'saturated'
    """
    prepared = prepare("auditor", loss_fn, params, batch, optimizer, has_aux)
    made_for = _leaves("params", params), _leaves("batch", batch)

    def audit_again(params: Any, *batch: Any) -> Report:
        given = _leaves("params", params), _leaves("batch", batch)
        if given != made_for:
            (_, before), (_, before_batch) = made_for
            (_, now), (_, now_batch) = given
            raise ValueError(_difference(before | before_batch, now | now_batch))
        return prepared.report(params, batch)

    return audit_again


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An audit that is ready to measure, of parameters and batches of certain shapes."""

    traced: Traced
    measurer: Measurer

    @unchecked()
    def report(self, params: Any, batch: tuple[Any, ...]) -> Report:
        """Measures, predicts, judges, and puts the report together."""
        traced = self.traced
        arrays, structure = flatten(params)
        inputs, inputs_structure = flatten(batch)
        _check_numbers("params", arrays, structure)
        _check_numbers("batch", inputs, inputs_structure)
        evidence = gather(
            traced,
            self.measurer.measure(arrays, inputs, traced.constants),
            *_broken_parts(batch),
            trainable_leaves(structure.arrays.unflatten(arrays)),
        )
        return Report(
            tuple(map(public, evidence.all_layers)),
            evidence.network,
            with_code(
                with_origins(judge(evidence), evidence),
                evidence,
                written(params, traced.whole.places),
            ),
            unread_lines(traced.names, traced.anatomy.unread),
            tuple(map(public_attention, evidence.attention)),
        )


@unchecked()
def prepare(
    owner: str,
    loss_fn: Callable[..., Any],
    params: Any,
    batch: tuple[Any, ...],
    optimizer: Any,
    has_aux: bool,
) -> Prepared:
    """Traces a loss function, and finds or makes what measures it.

    What is compiled for a function is kept as long as the function lives. It is used again if the
    function, its derivatives and the optimizer trace to the same equations: what they close over
    may have changed.

    Args:
      owner: the public function that error messages name.
      loss_fn: the function.
      params: its parameters.
      batch: its other arguments.
      optimizer: an Optax transformation, or None.
      has_aux: whether loss_fn returns `(loss, anything)`.
    """
    if optimizer is not None:
        check_optimizer(owner, optimizer)
    traced = trace(owner, loss_fn, params, batch, has_aux)
    # What is kept must not keep the arrays that a function closes over.
    made = measurer(without_constants(traced), optimizer)
    compiled = made.program(flatten(params)[0], flatten(batch)[0], traced.constants)
    try:
        refer = weakref.WeakMethod if hasattr(loss_fn, "__self__") else weakref.ref
        programs = fingerprint(traced.jaxpr, traced.constants), compiled_fingerprint(compiled)
        key = (refer(loss_fn, _forget), optimizer, traced.structure, programs)
        known = _measurers.pop(key, None)
    except (TypeError, ValueError):  # no such reference, no hash, or no answer to ==
        return Prepared(traced, made)
    _measurers[key] = found = known or (made, compiled)
    while len(_measurers) > _KEPT:
        _measurers.popitem(last=False)
    return Prepared(traced, found[0])


def _forget(reference: Any, measurers: collections.OrderedDict = _measurers) -> None:
    """Drops what was compiled for a deleted function: nested programs hold arrays.

    `_measurers` is an argument since functions are deleted at exit, too, after this module's names.
    """
    for key in [key for key in list(measurers) if key[0] is reference]:
        measurers.pop(key, None)


def _leaves(name: str, tree: Any) -> tuple[Any, dict[str, Any]]:
    """The structure of a tree, and its leaves by their paths; in place of arrays their types."""
    import jax
    import jax.numpy as jnp

    arrays, structure = flatten(tree)
    types = [jax.ShapeDtypeStruct(np.shape(array), jnp.result_type(array)) for array in arrays]
    others = [  # NumPy's arrays of text can't be compared at once
        (place, leaf.tolist() if isinstance(leaf, np.ndarray) else leaf)
        for place, leaf in structure.others
    ]
    leaves = [*zip(structure.places, types, strict=True), *others]
    return structure.arrays, {name + place: leaf for place, leaf in leaves}


def _type(leaf: Any) -> str:
    """What an error calls a leaf."""
    import jax

    if isinstance(leaf, jax.ShapeDtypeStruct):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return described(leaf)


def _difference(made_for: dict[str, Any], given: dict[str, Any]) -> str:
    """The error message for arguments that an auditor was not made for."""
    again = "make another with initjax.auditor(loss_fn, params, *batch)"
    for name, before in made_for.items():
        now = given.get(name, before)
        if now is not before and now != before:
            now, before = _type(now), _type(before)
            return f"auditor: {name} is {now}, but this auditor was made for {before}; {again}"
    changes = [f"{name} is missing" for name in sorted(made_for.keys() - given.keys())[:1]]
    changes += [f"{name} is new" for name in sorted(given.keys() - made_for.keys())[:1]]
    return (
        "auditor: params or batch has a different structure than this auditor was made for"
        f"{': ' * bool(changes)}{' and '.join(changes)}; {again}"
    )


def _check_numbers(name: str, arrays: list[Any], structure: Structure) -> None:
    """Raises a TypeError for shapes in place of arrays."""
    import jax

    for array, place in zip(arrays, structure.places, strict=True):
        if isinstance(array, jax.ShapeDtypeStruct):
            raise TypeError(
                f"an audit needs numbers, but {name}{place} is a shape, {_type(array)}; pass arrays"
            )


def _broken_parts(batch: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """The parts of a batch that hold NaN, and those that hold infinite numbers."""
    import jax.numpy as jnp

    nan, infinite = [], []
    arrays, structure = flatten(batch)
    for place, leaf in zip(structure.places, arrays, strict=True):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        xp = np if on_host(leaf) else jnp
        array = xp.asarray(leaf)
        if xp.isfinite(array).all():
            continue
        nan += [f"batch{place}"] if xp.isnan(array).any() else []
        infinite += [f"batch{place}"] if xp.isinf(array).any() else []
    return nan, infinite
