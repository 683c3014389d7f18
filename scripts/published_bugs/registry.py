"""All published bugs and all false friends, by kind."""

from . import batch, depth, draws, outputs
from .cases import Bug, Friend

BUGS: dict[str, tuple[Bug, ...]] = {
    "Constant outputs": outputs.CONSTANT,
    "Bounded outputs": outputs.BOUNDED,
    "Softmax twice": outputs.DOUBLED,
    "The batch axis": batch.COUPLED,
    "Sums over the batch": batch.SUMMED,
    "Scale of the targets": batch.TARGETS,
    "Scale of the draws": draws.SCALE,
    "Fans, means and constants": draws.FANS,
    "Scale of the inputs": draws.INPUT,
    "Depth and activations": depth.DEPTH,
    "Linear stacks": depth.LINEAR,
    "First layers": depth.FIRST,
    "Attention": depth.ATTENTION,
}
FRIENDS: tuple[Friend, ...] = (
    *outputs.FRIENDS,
    *batch.FRIENDS,
    *draws.FRIENDS,
    *depth.FRIENDS,
)
