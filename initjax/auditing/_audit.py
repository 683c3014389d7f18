"""The audit: trace, measure, predict, judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from initjax.auditing._judging.evidence import gather
from initjax.auditing._judging.judge import judge
from initjax.auditing._judging.layers import public
from initjax.auditing._measuring.optimizers import check_optimizer
from initjax.auditing._measuring.passes import Measurements, measurer
from initjax.auditing._reading.trace import Traced, trace
from initjax.auditing._reading.trainable import trainable_leaves
from initjax.auditing._reporting.report import Report
from initjax.auditing._reporting.text import unread_lines


def audit(
    loss_fn: Callable[..., Any],
    params: Any,
    *batch: Any,
    optimizer: Any = None,
    has_aux: bool = False,
) -> Report:
    r"""Says whether a model is initialized well, layer by layer, and if not, what is wrong.

    Any JAX function will do, from Flax, Equinox or plain `jax.numpy`, as it is: its layers are read
    from its jaxpr, through `jit`, `scan`, `while_loop`, `cond`, `remat`, `vmap` and custom rules of
    differentiation. A layer is where a parameter meets data in a matrix product, a convolution or
    an embedding. One pass forward and one back measure its pre-activations :math:`z` and their
    gradients; theory predicts the same numbers from the layer's fan-in, its weights' variance and
    its activation, which are read from the program too.

    In the table that `print(report)` shows:

    - *then*: the activation that follows, or another fate of the output.
    - *gain*: :math:`fan_{in} E[W^2]`; *rms*: the root mean square of z; *theory*: its prediction
      from the input of the chain on; *z*: how many standard deviations of a network of this width
      the measured one is off. None where theory starts anew from a measured input.
    - *spread*: standard deviation over examples, mean over units; *corr*: the correlation of two
      examples; *dead*: units that are flat on the whole batch; or *flat*: the part of
      pre-activations where the activation is.
    - *gradient*: root mean square of the loss's gradient with respect to z; or *step*: size of the
      optimizer's first update, as a part of the weights'; *ratio*: squared norm of that gradient,
      as a part of that at the layer which reads this one, or along a residual stream at the next
      end of a branch: the partial Jacobian norm, for which theory says :math:`\chi_1`.

    Args:
      loss_fn: maps `(params, *batch)` to a scalar, and can be differentiated by params.
      params: a tree of arrays; floating ones are parameters.
      *batch: trees of arrays: the data, and anything else that is no parameter, such as statistics
        of normalisation or a key. 64 examples or more tell most.
      optimizer: an Optax transformation, whose first update is measured if it is given.
      has_aux: whether loss_fn gives `(loss, anything)`, as for `jax.grad`.

    Returns:
      A `Report`: `report.verdict` is 'ok', 'warning' or 'failure'; `report.findings` say why and
      what helps; `report.layers` and `report.network` have all numbers. It can be printed, plotted
      with `report.plot()`, and asserted healthy in a test with `report.assert_healthy()`.

    Raises:
      TypeError: loss_fn is not callable, params holds something else than arrays, or optimizer is
        none.
      ValueError: loss_fn gives something else than one floating number, params holds no floating
        array, or a layer gives an empty one, as for a batch without examples.

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
    if optimizer is not None:
        check_optimizer("audit", optimizer)
    traced = trace("audit", loss_fn, params, batch, has_aux)
    return reported(traced, measurer(traced, optimizer)(params, batch), params, batch)


def reported(traced: Traced, measured: Measurements, params: Any, batch: tuple[Any, ...]) -> Report:
    """Predicts, judges, and puts the report together."""
    import jax.numpy as jnp

    evidence = gather(
        traced,
        measured,
        _parts(batch, jnp.isnan),
        _parts(batch, jnp.isinf),
        trainable_leaves(params),
    )
    return Report(
        tuple(map(public, evidence.all_layers)),
        evidence.network,
        tuple(judge(evidence)),
        unread_lines(traced.names, traced.anatomy.unread),
    )


def _parts(batch: tuple[Any, ...], test: Callable[[Any], Any]) -> list[str]:
    """The parts of a batch of which a number passes a test."""
    import jax
    import jax.numpy as jnp

    return [
        "batch" + jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and test(leaf).any()
    ]
