"""The factors of every scheme, derived again from the sources, as numbers.

The width grows by 9 where a leaf has one axis that grows, the hidden kernels by 9 and 25, the depth
by 4: products of powers of 3, 5 and 2, so that no two rules give the same number.

Sources, as `repository@commit file`:
- Tensor Programs V, https://arxiv.org/abs/2203.03466, tables 3, 8 and 9; microsoft/mup@1981497
  mup/optim.py (learning rates, weight decay), mup/init.py and mup/layer.py (stddevs, logits).
- Tensor Programs VI, https://arxiv.org/abs/2310.02244: branches and Adam's learning rates in them
  are divided by the root of the depth, those of SGD are not.
- CompleteP, https://arxiv.org/abs/2505.01618, table 1; EleutherAI/nanoGPT-mup@6f8bc3b model.py. The
  paper scales Adam's epsilon in blocks only, the code scales it for all parameters. What divides
  gradients divides epsilon, and the gradients of embeddings shrink as well: as in the code.
- u-muP, https://arxiv.org/abs/2407.17465; graphcore-research/unit-scaling@a7b5b3c
  unit_scaling/optim.py (learning rates), unit_scaling/functional.py (multipliers).
- A spectral condition for feature learning, https://arxiv.org/abs/2310.17813.
- The neural tangent kernel, https://arxiv.org/abs/1806.07572: a kernel of unit variance and the
  multiplier 1/sqrt(fan_in), which are absorbed here. One learning rate for all.
- `optax.contrib.muon` multiplies updates of matrices by sqrt(max(1, fan_out / fan_in)).

Epsilon isn't in the tables of muP. In each form it follows the gradients, which shrink with what
multiplies them: by the width that the layer's outputs grow by, except at the output, where the
gradient is divided by the multiplier of the logits alone. (NVIDIA/Megatron-LM@0044db1
megatron/core/optimizer/__init__.py has the same for kernels, and cites appendix B.3 of Tensor
Programs V; CompleteP's table has it in its column of muP.)
"""

import jax
import numpy as np
import pytest

import initjax

M, N, L = 9, 25, 4  # what widths, the fan_out of hidden kernels, and the depth grow by
W, D = 3, 2  # roots of the width and of the depth
LEAVES = {  # path: (shape, role); of a block, (48, 32) grows to (432, 800)
    "stem/kernel": ((24, 16), "input"),
    "embed/embedding": ((7, 16), "embedding"),
    "mix/kernel": ((48, 32), "hidden"),
    "head/kernel": ((16, 3), "output"),
    "norm/scale": ((16,), "vector"),
    "head/bias": ((3,), "scalar"),
    "shared/embedding": ((7, 16), "tied"),
    "block_0/up/kernel": ((48, 32), "hidden"),
    "block_0/up/bias": ((32,), "vector"),
}
GROWN = {16: 16 * M, 48: 48 * M, 32: 32 * N}

ONES = (1, 1, 1, 1, 1, 1, 1, 1, 1)
LECUN = (1, 1, 1 / W, 1 / W, 1, 1, 1, 1 / W, 1)
MUP_STDDEV = (1, 1, 1 / W, 1 / M, 1, 1, 1, 1 / W, 1)
MUP_SGD = (M, M, N / M, 1 / M, M, 1, M, N / M, N)
MUP_ADAM = (1, 1, 1 / M, 1 / M, 1, 1, 1, 1 / M, 1)
MUP_EPSILON = (1 / M, 1 / M, 1 / N, 1, 1 / M, 1, 1 / M, 1 / N, 1 / N)
TIED = (1, 1, 1, 1, 1, 1, 1 / M, 1, 1)
LOGITS = (1, 1, 1, 1 / M, 1, 1, 1 / M, 1, 1)
# The spectral norm shall grow by sqrt(fan_out / fan_in), which is 3, 3, 5/3, 1/3 and 3 here. Optax
# has done that for the embeddings (from 16/7 to 144/7). It has multiplied the input by 6^.5
# instead (16/24 counts as 1, 144/24), hidden kernels by (800/432)^.5.
MUP_MUON = (1.5**0.5, 1, 1.5**0.5, 1 / W, 1, 1, 1, 1.5**0.5, 1)

# By scheme: stddevs, multipliers, learning rates of SGD, of Adam and Lion, of Muon, and epsilon, in
# the order of LEAVES. None: the source has no such rule.
TABLE = {
    "standard": (LECUN, ONES, ONES, ONES, ONES, ONES),
    "ntk": (
        LECUN,
        (1, 1, 1, 1, 1, 1, 1 / W, 1, 1),
        (1, 1, 1 / M, 1 / M, 1, 1, 1, 1 / M, 1),
        (1, 1, 1 / W, 1 / W, 1, 1, 1, 1 / W, 1),
        None,
        (1, 1, W, W, 1, 1, 1, W, 1),
    ),
    "mup": (MUP_STDDEV, TIED, MUP_SGD, MUP_ADAM, MUP_MUON, MUP_EPSILON),
    "depth_mup": (
        MUP_STDDEV,
        TIED,
        MUP_SGD,
        (1, 1, 1 / M, 1 / M, 1, 1, 1, 1 / M / D, 1 / D),
        None,
        (1 / M, 1 / M, 1 / N, 1, 1 / M, 1, 1 / M, 1 / N / D, 1 / N / D),
    ),
    "completep": (
        (*LECUN[:3], 1, *LECUN[4:]),
        LOGITS,
        None,
        (1, 1, 1 / M, 1, 1, 1, 1, 1 / M, 1),
        None,
        (1 / M, 1 / M, 1 / N, 1 / M, 1 / M, 1, 1 / M, 1 / N / L, 1 / N / L),
    ),
    "u_mup": (
        ONES,
        (1, 1, 1 / W, 1 / M, 1, 1, 1 / M, 1 / W, 1),
        None,
        (1, 1 / W, 1 / W, 1, 1, 1, 1 / W, 1 / W / D, 1 / D),
        None,
        (1 / M, 1 / M, 1 / N / W, 1 / M, 1 / M, 1, 1 / M, 1 / N / W / D, 1 / N / D),
    ),
    # sqrt(min(1, fan_out / fan_in) / fan_in): the input and hidden kernels have grown from below
    # 1 to above.
    "spectral": (
        (1.5**0.5, 1, 1.5**0.5 / W, 1 / M, 1, 1, 1, 1.5**0.5 / W, 1),
        TIED,
        MUP_SGD,
        MUP_ADAM,
        MUP_MUON,
        MUP_EPSILON,
    ),
}
# What multiplies scores of attention besides 1/sqrt(size) when heads grow by 9, and residual
# branches when the depth grows by 4.
SCORES_AND_BRANCHES = {
    "standard": (1, 1),
    "ntk": (1, 1),
    "mup": (1 / W, 1),
    "depth_mup": (1 / W, 1 / D),
    "completep": (1 / W, 1 / L),
    "u_mup": (1 / W, 1 / D),
    "spectral": (1 / W, 1),
}
RATES = {
    "sgd": 2,
    "momentum": 2,
    "adam": 3,
    "adamw": 3,
    "adamw_independent": 3,
    "lion": 3,
    "muon": 4,
}
KINDS = ("stddev", "multiplier", "learning_rate", "epsilon", "weight_decay")
PAIRS = [(scheme, optimizer) for scheme in TABLE for optimizer in RATES]
CASES = [(scheme, one) for scheme, one in PAIRS if TABLE[scheme][RATES[one]] is not None]
MISSING = [pair for pair in PAIRS if pair not in CASES]


def shapes(grown):
    """The leaves at one of the two sizes, with the blocks that a model of that depth has."""
    tree = {}
    for path, (shape, _) in LEAVES.items():
        shape = tuple(GROWN.get(size, size) for size in shape) if grown else shape
        for block in range(L if grown else 1) if "block" in path else (0,):
            tree[path.replace("_0", f"_{block}")] = jax.ShapeDtypeStruct(shape, np.float32)
    return tree


def plan_of(scheme, optimizer):
    return initjax.parametrize(
        shapes(True),
        shapes(False),
        scheme=scheme,
        optimizer=optimizer,
        roles={"shared/*": "tied"},
        depth=(1, L),
        head_size=(8, 8 * M),
    )


def expected(scheme, optimizer):
    """The numbers of the table as (leaf, kind)."""
    stddev, multiplier, *_, epsilon = TABLE[scheme]
    rate = TABLE[scheme][RATES[optimizer]]
    # Whatever the learning rate is, what decays in one step stays the same: Tensor Programs V,
    # appendix B.3; `weight_decay *= width_mult` in mup/optim.py; "Hidden WD" in CompleteP.
    decay = ONES if optimizer in ("adam", "adamw_independent") else [1 / value for value in rate]
    trained_by_adam = [
        optimizer.startswith("adam") or (optimizer == "muon" and len(shape) == 1)
        for shape, _ in LEAVES.values()
    ]
    return np.array([stddev, multiplier, rate, np.where(trained_by_adam, epsilon, 1), decay]).T


@pytest.mark.parametrize(("scheme", "optimizer"), CASES)
def test_the_factors_are_those_of_the_sources(scheme, optimizer):
    leaves = {leaf.path: leaf for leaf in plan_of(scheme, optimizer).leaves}
    assert len(leaves) == 7 + 2 * L
    for (path, (_, role)), numbers in zip(LEAVES.items(), expected(scheme, optimizer), strict=True):
        for block in range(L if "block" in path else 1):
            leaf = leaves[path.replace("_0", f"_{block}")]
            assert (leaf.role, leaf.in_block) == (role, "block" in path)
            found = [getattr(leaf, kind) for kind in KINDS]
            np.testing.assert_allclose(found, numbers, rtol=1e-12, err_msg=path)


@pytest.mark.parametrize("scheme", TABLE)
def test_the_multipliers_of_scores_and_branches_are_those_of_the_sources(scheme):
    found = plan_of(scheme, "adam").multipliers
    values = [found[name].value if name in found else 1 for name in ("attention", "residual")]
    np.testing.assert_allclose(values, SCORES_AND_BRANCHES[scheme], rtol=1e-12)


@pytest.mark.parametrize(("scheme", "optimizer"), MISSING)
def test_no_rule_is_made_up_for_an_optimizer_that_the_source_lacks(scheme, optimizer):
    with pytest.raises(ValueError, match=optimizer):
        plan_of(scheme, optimizer)


def test_embeddings_keep_their_size_by_the_spectral_condition_whatever_the_vocabulary():
    plan = initjax.parametrize(
        {"embedding": np.ones((500, 64))}, {"embedding": np.ones((500, 16))}, "spectral"
    )
    (leaf,) = plan.leaves
    assert (leaf.role, leaf.stddev) == ("embedding", 1)
