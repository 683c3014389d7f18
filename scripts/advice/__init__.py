"""The runs behind `initjax.recommend`: those of its table, and those that check it."""
