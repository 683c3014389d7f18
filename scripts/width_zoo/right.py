"""Rightly parametrized models, one per function: a check should call every layer stable."""

import dataclasses

import optax

import initjax

from . import perceptrons, sequences
from .cases import Case, Role, digits, points, tokens

STACKED = initjax.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)


def mlp() -> Case:
    return Case("MLP", "NNX", perceptrons.mlp, digits())


def mlp_sgd() -> Case:
    return dataclasses.replace(mlp(), rule="sgd", optimizer=optax.sgd(0.1))


def residual() -> Case:
    optimizer = optax.adamw(1e-3, weight_decay=0.1)
    model = perceptrons.residual_mlp
    return Case("Residual MLP", "Linen", model, digits(), "adamw", optimizer)


def cnn() -> Case:
    optimizer = optax.sgd(0.02, momentum=0.9)
    case = Case("CNN", "Equinox", perceptrons.cnn, digits(), "momentum", optimizer)
    roles: dict[str, Role] = {
        "convs/0/weight": "input",
        "convs/*/weight": "hidden",
        "head/weight": "output",
    }
    return dataclasses.replace(case, widths=(16, 128), roles=roles)


def wide_heads() -> Case:
    model = sequences.wide_heads
    return Case("Transformer, wider heads", "Linen", model, tokens(), head_size=lambda n: n // 4)


def many_heads() -> Case:
    model = sequences.many_heads
    return Case("Transformer, more heads", "Linen", model, tokens(), "lion", optax.lion(3e-4))


def tied() -> Case:
    case = Case("Tied language model", "plain", sequences.tied, tokens())
    roles: dict[str, Role] = {
        "embedding": "tied",
        "blocks/*/qkv": "hidden",
        "blocks/*/gains": "vector",
    }
    laws = {"blocks/*/qkv": initjax.lecun_normal(in_axis=0, out_axis=(1, 2, 3))}
    return dataclasses.replace(case, roles=roles, laws=laws)


def stacked() -> Case:
    roles: dict[str, Role] = {"net/~/blocks/b": "vector"}  # stacked, so they look like kernels
    case = Case("Scanned blocks", "as Haiku", perceptrons.stacked_mlp, digits())
    return dataclasses.replace(case, roles=roles, laws={"net/~/blocks/w": STACKED})


def normed() -> Case:
    return Case("MLP with norms", "plain", perceptrons.normed_mlp, digits())


def normed_sgd() -> Case:
    return dataclasses.replace(normed(), rule="sgd", optimizer=optax.sgd(0.1))


def gru() -> Case:
    return Case("GRU", "NNX", sequences.gru, digits())


def experts() -> Case:
    laws = {"up": STACKED, "down": STACKED}
    return Case("Mixture of experts", "plain", sequences.experts, digits(), laws=laws)


def deep_sets() -> Case:
    roles: dict[str, Role] = {
        "phi/0/weight": "input",
        "rho/1/weight": "output",
    }  # Equinox's are (out, in)
    return Case("Deep sets", "Equinox", perceptrons.deep_sets, points(), roles=roles)


def spectral() -> Case:
    model, optimizer = perceptrons.plain_mlp, optax.contrib.muon(0.01)
    return Case("MLP", "plain", model, digits(7), "muon", optimizer, "spectral")


def unit() -> Case:
    return Case("MLP", "plain", perceptrons.plain_mlp, digits(7), scheme="u_mup")


RIGHT = (
    mlp,
    mlp_sgd,
    residual,
    cnn,
    wide_heads,
    many_heads,
    tied,
    stacked,
    normed,
    normed_sgd,
    gru,
    experts,
    deep_sets,
    spectral,
    unit,
)
