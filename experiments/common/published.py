"""The published results that this project starts from, compared with our runs.

TUTORIAL is from "Weight Initialization in Deep Learning", a tutorial with Keras: one run of each
initializer. It does not state optimizer and batch size; Adam with batches of 128 reproduces it.
INDEPENDENT is the same model in another implementation: means of 12 seeds, Adam 1e-3 with epsilon
1e-7, batches of 128 without the last, partial one.

`published_diagram` is that of Deep Information Propagation, from another implementation.
"""

import functools
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from experiments.common.comparison import Setting
    from experiments.common.trainability import Diagram

# Epoch 1, then epoch 5; each loss, acc, val_loss, val_acc.
TUTORIAL = {
    "zeros": (2.3016, 0.1119, 2.3011, 0.1135, 2.3013, 0.1124, 2.3010, 0.1135),
    "random_uniform": (0.3929, 0.8887, 0.1889, 0.9432, 0.0629, 0.9804, 0.0877, 0.9755),
    "glorot_uniform": (0.3317, 0.9072, 0.1534, 0.9545, 0.0529, 0.9840, 0.0755, 0.9771),
    "glorot_normal": (0.3296, 0.9064, 0.1628, 0.9492, 0.0576, 0.9824, 0.0707, 0.9783),
    "he_uniform": (0.3252, 0.9050, 0.1524, 0.9546, 0.0546, 0.9828, 0.0860, 0.9740),
    "he_normal": (0.3163, 0.9087, 0.1596, 0.9508, 0.0537, 0.9836, 0.0764, 0.9769),
}
INDEPENDENT = {
    "zeros": (2.3017, 0.1118, 2.3011, 0.1135, 2.3013, 0.1124, 2.3010, 0.1135),
    "random_uniform": (0.3815, 0.8950, 0.1862, 0.9447, 0.0660, 0.9799, 0.0849, 0.9741),
    "glorot_uniform": (0.3318, 0.9066, 0.1638, 0.9515, 0.0572, 0.9825, 0.0805, 0.9750),
    "glorot_normal": (0.3315, 0.9067, 0.1622, 0.9523, 0.0567, 0.9827, 0.0805, 0.9751),
    "he_uniform": (0.3240, 0.9078, 0.1595, 0.9526, 0.0555, 0.9830, 0.0814, 0.9748),
    "he_normal": (0.3230, 0.9083, 0.1587, 0.9532, 0.0548, 0.9833, 0.0796, 0.9753),
}

_METRICS = ("loss", "acc", "val_loss", "val_acc")
_TRAINING = {
    "dataset": "mnist", "hidden": [128, 64], "activation": "relu", "dtype": "float32",
    "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 128, "epochs": 5,
    "output_init": "glorot_uniform", "bias_init": "zeros",
}  # fmt: skip


def compare(setting: "Setting") -> list[dict[str, Any]]:
    """The published figures beside ours, for a setting that trains the published network.

    Args:
      setting: from `comparison.settings`.

    Returns:
      A row for each initializer, epoch and metric; none for another setting. A row says which share
      of our runs is below the published figure, and whether the figure is in the 95% prediction
      interval of one more run.
    """
    from experiments.common import comparison

    if any(setting.fields[name] != value for name, value in _TRAINING.items()):
        return []
    rows = []
    names = np.array(setting.runs["init"].to_pylist())
    for init in setting.inits:
        for index, figure in enumerate(TUTORIAL.get(init, ())):
            epoch, metric = (1, 5)[index // 4], _METRICS[index % 4]
            values = comparison.column(setting.runs, metric)[names == init]
            values = values[:, epoch if metric.startswith("val_") else epoch - 1]
            if len(values) < 2:
                continue
            rows.append(
                {
                    "initializer": init,
                    "epoch": epoch,
                    "metric": metric,
                    "published": f"{figure:.4f}",
                    "independent": f"{INDEPENDENT[init][index]:.4f}",
                    "ours": f"{values.mean():.4f}",
                    "stddev over seeds": f"{values.std(ddof=1):.4f}",
                    "our runs below it": f"{np.mean(values < figure):.0%}",
                    "inside 95%": "yes" if inside(values, figure) else "no",
                }
            )
    return rows


def inside(values: np.ndarray, figure: float, rounding: float = 5e-5) -> bool:
    """Whether a figure is in the 95% prediction interval of one more run.

    Args:
      values: of our runs, two or more.
      figure: the published one.
      rounding: the largest error that comes from rounding the figure.
    """
    from scipy import stats

    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) * (1 + 1 / n) ** 0.5
    return bool(abs(figure - values.mean()) <= half + rounding)


def like(diagram: "Diagram") -> "Diagram | None":
    """The published diagram, if it is one of the same activation and bias variance."""
    same = (diagram.activation, diagram.bias_variance) == ("tanh", 0.05)
    return published_diagram() if same else None


@functools.cache
def published_diagram() -> "Diagram":
    """The published trainability diagram of tanh, from `published_diagram/accuracy.csv`."""
    from experiments.common import trainability

    path = pathlib.Path(__file__).with_name("published_diagram") / "accuracy.csv"
    head, *rows = (line.split(",") for line in path.read_text().splitlines())
    values = np.array(rows, float)
    depths, accuracy = values[:, 0].astype(int), values[:, 1:, None] / 1000
    return trainability.Diagram(
        "tanh",
        300,
        0.05,
        np.array(head[1:], float),
        depths,
        accuracy,
        np.full(accuracy.shape[:2], 0.001),
        {
            "model": "mlp", "activation": "tanh", "width": 300, "dataset": "mnist",
            "optimizer": "sgd", "epochs": 1, "steps": 200, "batch_size": 256,
        },
        [],
    )  # fmt: skip
