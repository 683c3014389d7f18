"""`experiments.compare`: any network, any arrays, the same statistics, no run trained twice."""

import pathlib
import re
import subprocess
import sys

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import initjax
from experiments import compare
from experiments.common import batching, comparison, own_comparison, starting, sweep_directory
from experiments.common.config import UsageError

ROOT = pathlib.Path(__file__).parents[2]
X = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
DATA = X, np.sin(3 * X)
SHAPES = {
    "in": {
        "kernel": jax.ShapeDtypeStruct((1, 4), "float32"),
        "bias": jax.ShapeDtypeStruct((4,), "float32"),
    },
    "out": {"kernel": jax.ShapeDtypeStruct((4, 1), "float32")},
}


def predict(params, x):
    hidden = jax.nn.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    return hidden @ params["out"]["kernel"]


def loss_fn(params, x, y):
    return jnp.mean((predict(params, x) - y) ** 2)


def run(loss_fn=loss_fn, params=SHAPES, data=DATA, **options):
    settings = {
        "inits": {"lecun": "lecun_normal", "zeros": "zeros"}, "optimizer": optax.sgd(0.1),
        "steps": 7, "batch_size": 16, "seeds": 2, "stream": None, **options,
    }  # fmt: skip
    return compare(loss_fn, params, data=data, **settings)


def count(directory):
    return len(sweep_directory.read(directory))


def test_a_run_is_what_a_plain_loop_of_optax_trains():
    """Every batch is full, and every example counts once before any counts twice."""
    rules = {"*bias": initjax.random_normal(0.0, 0.1), "*": "he_normal"}
    (row,) = run(seeds=[3], inits={"he": rules}).rows()
    key = starting.root_key(3)
    params = initjax.initialize(SHAPES, initjax.named_key(key, "weights"), rules)
    optimizer = optax.sgd(0.1)
    state, losses = optimizer.init(params), []
    passes = [
        batching.shuffled_batches(jax.random.fold_in(starting.order_key(key), number), 40, 40)[0]
        for number in (1, 2, 3)
    ]
    assert row["initial_loss"] == pytest.approx(float(loss_fn(params, *DATA)), rel=1e-5)
    for batch in np.concatenate(passes)[: 7 * 16].reshape(7, 16):
        loss, grads = jax.value_and_grad(loss_fn)(params, *(part[batch] for part in DATA))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert row["final_loss"] == pytest.approx(float(loss_fn(params, *DATA)), rel=1e-5)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.outer = nnx.Linear(1, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.outer(nnx.tanh(self.inner(x)))


LINEN = linen.Sequential([linen.Dense(4), linen.tanh, linen.Dense(1)])
BY_KIND = {"he": {"*bias": "zeros", "*": "he_normal"}, "small": {"*": "random_normal(0.0, 0.1)"}}


@pytest.mark.parametrize(
    ("params", "apply", "inits"),
    [
        (lambda: jax.eval_shape(LINEN.init, jax.random.key(0), X), LINEN.apply, BY_KIND),
        (lambda: nnx.eval_shape(lambda: Net(nnx.Rngs(0))), lambda net, x: net(x), BY_KIND),
        (lambda: nnx.state(Net(nnx.Rngs(0))),
         lambda state, x: nnx.merge(nnx.graphdef(Net(nnx.Rngs(1))), state)(x), BY_KIND),
        (lambda: equinox.nn.MLP(1, 1, 4, 1, jax.nn.tanh, key=jax.random.key(0)),
         lambda net, x: jax.vmap(net)(x),
         {"he": {"*weight": 'variance_scaling(2.0, "fan_in", "normal", in_axis=-1, out_axis=-2)'},
          "small": {"*": "random_normal(0.0, 0.1)"}}),
    ],
    ids=["linen", "nnx", "nnx state", "equinox"],
)  # fmt: skip
def test_every_library_s_parameters_are_trained(params, apply, inits):
    result = run(lambda params, x, y: jnp.mean((apply(params, x) - y) ** 2), params(), inits=inits)
    assert len(result.rows()) == 4
    assert all(row["final_loss"] < row["initial_loss"] for row in result.rows())
    assert "final_acc" not in result.rows()[0] and "test accuracy" not in str(result)


def test_classification_has_accuracy_and_token_arrays_and_trees_are_data():
    tokens = np.arange(60).reshape(20, 3) % 7
    data = {"tokens": tokens, "graph": (np.ones((20, 2, 2), bool),)}, tokens[:, 0] % 2

    def loss_fn(params, inputs, labels):
        logits = params["table"][inputs["tokens"]].sum(1) + inputs["graph"][0].sum((1, 2))[:, None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        accuracy = jnp.mean(jnp.float32(logits.argmax(-1) == labels))
        return losses.mean(), {"accuracy": accuracy, "anything": labels}

    shapes = {"table": jax.ShapeDtypeStruct((7, 2), "float32")}
    result = run(
        loss_fn, shapes, data, inits={"a": {"*": "normal(1.0)"}, "b": {"*": "zeros"}}, steps=40,
        optimizer=optax.adam, learning_rates=[0.001, 0.1], batch_size=7, seeds=6,
    )  # fmt: skip
    by_rate = {setting.fields["learning_rate"]: setting for setting in result.settings}
    assert set(by_rate) == {0.001, 0.1, None}
    assert set(by_rate[None].runs["learning_rate"].to_pylist()) == {0.1}
    assert "mean test accuracy" in result.verdict and len(result.rows()) == 24
    found = result.to_dict()["settings"][-1]
    assert {row["endpoint"] for row in found["endpoints"]} == {
        "final_acc", "final_loss", "steps", "area",
    }  # fmt: skip


def keys(loss_fn=loss_fn, params=SHAPES, data=DATA, **options):
    """The keys of the runs, without training any."""
    settings = {
        "inits": {"lecun": "lecun_normal", "zeros": "zeros"}, "optimizer": optax.sgd(0.1),
        "steps": 7, "batch_size": 16, "seeds": 2, **options,
    }  # fmt: skip
    return set(own_comparison.planned(loss_fn, params, data=data, **settings)[1])


def scaled(factor):
    return lambda params, x, y: factor * loss_fn(params, x, y)


def test_equal_programs_are_the_same_runs():
    """Other objects, and arrays in place of shapes, whose values no rule keeps."""
    base = keys()
    assert len(base) == 4
    assert keys(lambda *arguments: loss_fn(*arguments), optimizer=optax.sgd(0.1)) == base
    drawn = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), SHAPES)
    rules = {"lecun": {"*bias": "zeros", "*": initjax.lecun_normal()}, "zeros": {"*": "zeros"}}
    assert keys(params=drawn, inits=rules) == keys(inits=rules)
    assert keys(seeds=3) > base and keys(seeds=[1]) < base
    assert len(keys(optimizer=optax.sgd, learning_rates=[0.1, 0.2])) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"loss_fn": scaled(np.float32(2.0))},
        {"loss_fn": scaled(jnp.float32(3.0))},
        {"optimizer": optax.sgd(0.2)},
        {"optimizer": optax.sgd(0.1, momentum=0.9)},
        {"optimizer": optax.sgd(optax.linear_schedule(0.1, 0.0, 7))},
        {"data": (X, np.cos(X))},
        {"test_data": (X[:10], X[:10])},
        {"inits": {"lecun": "lecun_uniform", "zeros": {"*": "ones"}}},
        {"inits": {name: {"*": lambda key, shape, dtype: jnp.ones(shape, dtype)}
                   for name in ("lecun", "zeros")}},
        {"steps": 8},
        {"batch_size": 8},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_changes_the_numbers_makes_other_runs(change):
    assert not keys() & keys(**change)


def test_a_kept_value_is_part_of_a_run():
    params = {**SHAPES, "shift": np.float32(1.0)}
    inits = {"lecun": {"*bias": "zeros", "*kernel": "lecun_normal"}}
    others = {**SHAPES, "shift": np.float32(2.0)}
    assert not keys(params=params, inits=inits) & keys(params=others, inits=inits)


def test_the_key_of_a_run_is_the_same_in_every_process():
    """Addresses of functions, and the seed of Python's hashes, differ between processes."""
    code = "from tests.experiments.test_own_comparison import keys; print(sorted(keys()))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(sorted(keys()))


def test_finished_runs_are_kept_and_named_by_what_they_are(tmp_path):
    """Other rules under one name are another initializer, another loss is another setting."""
    first = run(workdir=str(tmp_path), inits={"he": "he_normal"})
    again = run(workdir=str(tmp_path), inits={"he": "he_normal"}, seeds=3)
    assert len(sweep_directory.read(tmp_path)) == 3
    assert again.rows()[:2] == first.rows()
    run(workdir=str(tmp_path), inits={"he": "he_uniform"})
    run(scaled(2.0), workdir=str(tmp_path), inits={"he": "he_normal"})
    found = comparison.settings(sweep_directory.read(tmp_path))
    assert [len(setting.runs) for setting in found] in ([5, 2], [2, 5])
    names = {init for setting in found for init in setting.inits}
    assert len(names) == 2 and all(re.fullmatch(r"he \([0-9a-f]{8}\)", name) for name in names)
    models = {setting.fields["model"] for setting in found}
    assert len(models) == 2 and all(
        re.fullmatch(r"loss_fn \([0-9a-f]{8}\)", name) for name in models
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "^steps=0: "),
        ({"steps": True}, "^steps=True: "),
        ({"batch_size": 41}, "^batch_size=41: there are only 40 examples"),
        ({"seeds": [1, 1]}, r"^seeds=\[1, 1\]: "),
        ({"seeds": 2.0}, r"^seeds=2\.0: "),
        ({"data": (X, X.astype(str))}, "^data: must hold numbers, got an array of dtype <U"),
        ({"data": (X, X[:3])}, "^data: all arrays .* got 40, 3$"),
        ({"data": (X, [1, 2])}, "^data: must be a tuple of arrays"),
        ({"data": X}, "^loss_fn is called with the parameters and one array, .*: missing"),
        ({"test_data": (X,)}, "^test_data: must be like data"),
        ({"inits": {}}, "^inits: must map names to rules"),
        ({"inits": {"a": "he_normall"}}, "^inits: 'a': .*did you mean he_normal"),
        ({"inits": {"a": {"*bias": "zeros", "*kern": "zeros"}}}, "^inits: 'a': no rule matches"),
        ({"params": {"kernel": jnp.ones((3, 2, 2))}}, "^inits: 'lecun': a kernel of shape"),
        ({"params": {"kernel": jnp.ones((3, 2), complex)}}, "complex"),
        ({"optimizer": optax.adam}, "^optimizer: a function needs learning_rates"),
        ({"learning_rates": 0.1}, "^optimizer: with learning_rates it must be a function"),
        ({"optimizer": optax.adam, "learning_rates": [0]}, r"^learning_rates=\[0\]: "),
        ({"optimizer": optax.lbfgs()}, "^optimizer: .*missing"),
        ({"loss_fn": lambda params, x, y: predict(params, x)}, r"scalar.*of shape \(16, 1\)"),
        ({"loss_fn": lambda params, x, y: 1.0}, "scalar.*the loss is float"),
        ({"loss_fn": lambda params, x, y: (y.sum(), y)}, "batch statistics"),
        ({"loss_fn": lambda params, x, y: (jax.debug.print("{}", y[0]), y.mean())[1]},
         "calls back into Python"),
        ({"params": {"params": SHAPES, "batch_stats": {"mean": X}}}, "collection 'batch_stats'"),
        ({"params": nnx.eval_shape(lambda: nnx.BatchNorm(4, rngs=nnx.Rngs(0))),
          "inits": {"a": {"*": "ones"}}}, "hold BatchStat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # no addresses of functions
)  # fmt: skip
def test_what_does_not_fit_is_reported_before_training(change, message):
    with pytest.raises(UsageError, match=message):
        keys(**change)


@pytest.mark.parametrize(("share", "text"), [(-1.0, "-1"), (float("nan"), "nan")])
def test_only_a_run_that_diverged_may_have_an_accuracy_that_is_no_number(share, text):
    row = {"status": "diverged", "val_acc": [0.9, float("nan")]}
    own_comparison._check_accuracies([row])
    with pytest.raises(UsageError, match=f"accuracy of {text}; it must be the share"):
        own_comparison._check_accuracies([row, {"status": "finished", "val_acc": [0.9, share]}])


def test_a_run_that_diverges_counts_as_untrained_and_accuracies_are_shares():
    def with_accuracy(value):
        return lambda params, x, y: (loss_fn(params, x, y), {"accuracy": jnp.float32(value)})

    inits = {"he": "he_normal", "huge": {"*bias": "zeros", "*": "normal(1e30)"}}
    result = run(with_accuracy(0.5), inits=inits)
    (setting,) = result.settings
    statuses = {row["init"]: row["status"] for row in result.rows()}
    assert statuses == {"he": "finished", "huge": "diverged"}
    starts = [row["initial_loss"] for row in result.rows() if row["init"] == "he"]
    place = setting.inits.index("huge")
    assert setting.values["final_loss"][place] == pytest.approx(np.median(starts))
    assert setting.trained[place].tolist() == [0, 0]
    with pytest.raises(UsageError, match="accuracy of 3; it must be the share"):
        run(with_accuracy(3.0))
