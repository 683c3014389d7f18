"""Rerunning a program with hooks gives the same numbers, and a record of every turn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._reading.walk import find

rng = np.random.default_rng(0)
SIZE = 3
W = jnp.asarray(rng.normal(size=(4, 4, SIZE, SIZE)) / 2, jnp.float32)
X = jnp.asarray(rng.normal(size=(2, SIZE)), jnp.float32)
PHASES = (Phase.explicit, Phase.generate)  # shrinking takes minutes

# A program is a list of steps; a step is a product, or a name and the programs inside it. Every
# product takes the same parameter, sliced along its first two axes by the loops around it.

STEPS = {
    "dense": st.just(("dense",)),
    "scan": st.tuples(st.just("scan"), st.integers(1, 3), st.booleans()),
    "fori": st.tuples(st.just("fori"), st.integers(1, 3)),
    "while": st.tuples(st.just("while"), st.integers(1, 3)),
    "cond": st.tuples(st.just("cond"), st.integers(0, 1)),
    "jit": st.just(("jit",)),
    "remat": st.just(("remat",)),
    "custom": st.just(("custom",)),
}
EMPTY = {**STEPS, "scan": st.tuples(st.just("scan"), st.integers(0, 3), st.booleans())}
DIFFERENTIABLE = {name: step for name, step in STEPS.items() if name != "while"}


def programs(kinds, depth=3):
    def step(inner):
        def nested(kind):
            number = 2 if kind[0] == "cond" else 1
            return st.tuples(st.just(kind), st.tuples(*[inner] * number))

        return st.one_of(*(kind.flatmap(nested) for kind in kinds.values()))

    steps = st.just((("dense",), ()))
    for _ in range(depth):
        steps = st.one_of(st.just((("dense",), ())), step(st.lists(steps, min_size=1, max_size=2)))
    return st.lists(steps, min_size=1, max_size=2)


def run(program, w, x):
    """The program as a user writes it."""
    for kind, inner in program:
        name, *arguments = kind
        call = functools.partial(run, *inner[:1])
        if name == "dense":
            x = jnp.tanh(x @ (w if w.ndim == 2 else w[0] if w.ndim == 3 else w[0, 0]))
        elif name == "scan":
            length, reverse = arguments
            if w.ndim == 2:  # no axis is left to slice
                x, _ = lax.scan(lambda x, _, call=call, w=w: (call(w, x), x), x, None, length)
            else:
                x, _ = lax.scan(
                    lambda x, w, call=call: (call(w, x), x), x, w[:length], reverse=reverse
                )
        elif name == "fori":
            x = lax.fori_loop(0, arguments[0], lambda _, x, call=call, w=w: call(w, x), x)
        elif name == "while":
            _, x = lax.while_loop(
                lambda state, most=arguments[0]: state[0] < most + 0 * state[1].sum(),
                lambda state, call=call, w=w: (state[0] + 1, call(w, state[1])),
                (0.0, x),
            )
        elif name == "cond":
            branches = [functools.partial(run, branch) for branch in inner]
            x = lax.cond(arguments[0] + 0 * x.sum() > 0.5, *branches[::-1], w, x)
        elif name == "jit":
            x = jax.jit(call)(w, x)
        elif name == "remat":
            x = jax.checkpoint(call)(w, x)
        elif name == "custom":
            x = _custom(call)(w, x)
    return x


def _custom(call):
    """The function with its own differentiation rule: twice the gradient."""

    @jax.custom_vjp
    def custom(w, x):
        return call(w, x)

    def forward(w, x):
        y, pullback = jax.vjp(call, w, x)
        return y, pullback

    custom.defvjp(forward, lambda pullback, cotangent: pullback(2 * cotangent))
    return custom


def log(program, w, x, path=(), turns=()):
    """The program in plain Python, with a log of every product's place, turn and result."""
    entries = []

    def go(program, w, x, path, turns):
        for place, (kind, inner) in enumerate(program):
            here = (*path, place)
            name, *arguments = kind
            if name == "dense":
                z = x @ (w if w.ndim == 2 else w[0] if w.ndim == 3 else w[0, 0])
                entries.append((here, turns, z))
                x = jnp.tanh(z)
            elif name in ("scan", "fori", "while"):
                order = range(arguments[0])
                if name == "scan" and arguments[1] and w.ndim > 2:
                    order = order[::-1]
                for turn in order:
                    sliced = w[turn] if name == "scan" and w.ndim > 2 else w
                    mine = () if name == "while" else (turn,)  # only the last one is kept
                    x = go(inner[0], sliced, x, here, (*turns, *mine))
            elif name == "cond":
                x = go(inner[arguments[0]], w, x, (*here, arguments[0]), turns)
            else:
                x = go(inner[0], w, x, here, turns)
        return x

    return go(program, w, x, path, turns), entries


def keep(operands, results, slot):
    return results, results[0]


def traced(program):
    closed = jax.make_jaxpr(functools.partial(run, program))(W, X)
    return closed, {path: keep for path in find(closed, 1).sites}


@settings(max_examples=40, phases=PHASES)
@given(programs(EMPTY))
def test_without_hooks_a_program_is_rerun_equation_by_equation(program):
    closed, _ = traced(program)
    again = jax.make_jaxpr(lambda *arguments: rerun(closed.jaxpr, closed.consts, arguments, {})[0])(
        W, X
    )
    assert str(again.jaxpr) == str(closed.jaxpr)


@settings(max_examples=10, phases=PHASES)
@given(programs(STEPS))
def test_hooks_that_only_record_change_nothing_and_see_every_turn(program):
    closed, hooks = traced(program)
    with jax.disable_jit():
        y, entries = log(program, W, X)
        (again,), records = rerun(closed.jaxpr, closed.consts, [W, X], hooks)
    np.testing.assert_array_equal(again, y)
    expected = {}
    for product, turns, z in entries:
        expected.setdefault(product, {})[turns] = z
    # Products without a log entry are in branches not taken, or in loops without turns.
    taken = {path: record for path, record in records.items() if not np.isnan(record).all()}
    assert len(taken) == len(expected)
    for (_, record), (_, values) in zip(
        sorted(taken.items()), sorted(expected.items()), strict=True
    ):
        for turns, z in values.items():
            np.testing.assert_array_equal(record[turns], z)
        assert record.ndim == len(next(iter(values))) + 2


@settings(max_examples=6, phases=PHASES)
@given(programs(DIFFERENTIABLE))
def test_hooks_that_only_record_leave_gradients_unchanged(program):
    closed, hooks = traced(program)

    def again(w, x):
        (y,), records = rerun(closed.jaxpr, closed.consts, [w, x], hooks)
        return y.sum(), records

    with jax.disable_jit():
        expected = jax.grad(lambda w, x: run(program, w, x).sum(), (0, 1))(W, X)
        found, _ = jax.grad(again, (0, 1), has_aux=True)(W, X)
    for one, other in zip(found, expected, strict=True):  # sums may run in a different order
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def nested(product):
    return [
        (("scan", 3, True), ([
            (("remat",), ([(("dense",), ()), (("fori", 2), ([(("dense",), ())],))],)),
            (("cond", 1), ([(("dense",), ())], [product])),
        ],)),
        (("jit",), ([(("scan", 2, False), ([(("scan", 3, False), ([(("dense",), ())],))],))],)),
    ]  # fmt: skip


DENSE = (("dense",), ())
NESTED = nested((("custom",), ([DENSE],)))


def test_compiled_outputs_and_gradients_are_bit_for_bit_equal_to_the_programs():
    closed, hooks = traced(NESTED)

    def again(w, x, hooks):
        return rerun(closed.jaxpr, closed.consts, [w, x], hooks)[0][0].sum()

    plain = jax.jit(jax.value_and_grad(lambda w, x: run(NESTED, w, x).sum(), (0, 1)))(W, X)
    for given_hooks in ({}, {path: lambda _, results, __: (results, None) for path in hooks}):
        ran = jax.jit(jax.value_and_grad(functools.partial(again, hooks=given_hooks), (0, 1)))(W, X)
        jax.tree.map(np.testing.assert_array_equal, ran, plain)


def test_a_hook_gets_the_operands_and_its_slot_and_may_change_the_results():
    def loss(w, x):
        x, _ = lax.scan(lambda x, w: (x @ w, None), x, w)
        return x

    w = W[0, :3]
    closed = jax.make_jaxpr(loss)(w, X)
    (path,) = find(closed, 1).sites
    factors = jnp.array([2.0, 3.0, -1.0])

    def hook(operands, results, slot):
        x, w = operands
        return [slot * results[0]], {"input": x, "weight": w, "slot": slot}

    (y,), records = rerun(closed.jaxpr, closed.consts, [w, X], {path: hook}, {path: factors})
    np.testing.assert_allclose(y, -6 * loss(w, X), rtol=1e-5)
    np.testing.assert_array_equal(records[path]["slot"], factors)
    np.testing.assert_array_equal(records[path]["weight"], w)
    np.testing.assert_array_equal(records[path]["input"][0], X)
    np.testing.assert_allclose(records[path]["input"][2], 6 * X @ w[0] @ w[1], rtol=1e-5)


def test_gradients_with_respect_to_slots_pass_through_nested_loops():
    closed, hooks = traced(nested(DENSE))

    def add(operands, results, slot):
        return [results[0] + slot], None

    def shifted(slots):
        hooked = dict.fromkeys(hooks, add)
        return rerun(closed.jaxpr, closed.consts, [W, X], hooked, slots)[0][0].sum()

    slots = {
        path: jnp.zeros((*(length for _, length in site.loops), *X.shape))
        for path, site in find(closed, 1).sites.items()
    }
    shifted, gradients = jax.jit(shifted), jax.jit(jax.grad(shifted))(slots)
    for path, slot in slots.items():
        for place in ((-1,) * slot.ndim, (*(1,) * (slot.ndim - 2), 0, 2)):
            there, back = (
                shifted({**slots, path: slot.at[place].set(step)}) for step in (1e-2, -1e-2)
            )
            slope = float(there - back) / 2e-2
            assert float(gradients[path][place]) == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_layers_inside_a_function_with_its_own_rule_are_not_differentiable():
    found = find(jax.make_jaxpr(functools.partial(run, NESTED))(W, X), 1).sites.values()
    assert [site.differentiable for site in found] == [True] * 3 + [False, True]


@pytest.mark.parametrize("loop", [False, True])
def test_the_record_of_a_hook_can_be_the_slot_of_a_later_one(loop):
    product, add = jax.jit(jnp.matmul), jax.jit(jnp.add)

    def turn(x, w):
        return add(product(x, w), w[0]), None

    def run(w, x):
        return lax.scan(jax.checkpoint(turn), x, w)[0] if loop else turn(x, w[0])[0]

    closed = jax.make_jaxpr(run)(W[0], X)
    (site,) = find(closed, 1).sites.values()
    assert site.path != site.output

    def largest(operands, results, slot):
        assert slot is None
        return results, jnp.abs(operands[0]).max()

    def divide(operands, results, slot):
        return [results[0] / slot], slot

    hooks, feeds = {site.path: largest, site.output: divide}, {site.path: site.output}

    @jax.jit
    def hooked(w, x):
        return rerun(closed.jaxpr, closed.consts, [w, x], hooks, feeds=feeds)

    (y,), records = hooked(W[0], X)
    expected, sizes = X, []
    for w in W[0] if loop else W[0, :1]:
        sizes.append(jnp.abs(expected).max())
        expected = (expected @ w + w[0]) / sizes[-1]
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    np.testing.assert_allclose(np.ravel(records[site.output]), sizes, rtol=1e-5)
