"""Where a model looks in a clip, frozen and adapted, as a picture.

Rooms: `maps` computes a number per patch, `compare` does it for both models of a run; `layers` and
`paint` make colours of them, `words` says what they are; `sheet` and `picture` draw, `animation`
and `page` write, `build` joins all.
"""

from stadapter.visualize.build import ENDINGS, visualize
from stadapter.visualize.compare import Comparison, compare
from stadapter.visualize.config import VisualizeConfig

__all__ = ["ENDINGS", "Comparison", "VisualizeConfig", "compare", "visualize"]
