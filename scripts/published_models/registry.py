"""All healthy models after public repositories."""

from .generative import GENERATIVE
from .language import LANGUAGE
from .science import SCIENCE
from .vision import VISION

PUBLISHED = (*LANGUAGE, *VISION, *GENERATIVE, *SCIENCE)
