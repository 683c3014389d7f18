"""Which initializer a network needs, why, and what was measured."""

from initjax.advice._choices import Choice
from initjax.advice._evidence import Evidence, Measured
from initjax.advice._recommend import recommend
from initjax.advice._recommendation import Recommendation
from initjax.advice._theory import Prediction

__all__ = ["Choice", "Evidence", "Measured", "Prediction", "Recommendation", "recommend"]
