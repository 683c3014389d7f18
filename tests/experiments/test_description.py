"""How a run is described."""

from experiments.common import data, description
from experiments.common.config import Config


def test_a_batch_that_is_larger_than_the_dataset_is_said(folder):
    small = data.load(None, folder)
    assert description.batch(Config(batch_size=1000), small) == "batch 1000"
    assert description.batch(Config(batch_size=1001), small) == "batch 1001 (all 1,000 images)"
    config = Config(batch_size=70_000, epochs=1)
    assert description.training(config) == "adam 0.001, batch 70000, 1 epoch"
    assert description.training(config, small).endswith("batch 70000 (all 1,000 images), 1 epoch")
