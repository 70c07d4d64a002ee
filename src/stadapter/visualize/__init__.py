"""Where a model looks in a clip, frozen and adapted, as a picture.

Rooms: `maps` computes a number per patch, `observe` does it for both models of a run; `layers` and
`paint` make colours of them, `words` says what they are; `sheet` and `picture` draw, `animation`
and `page` write, `build` joins all.
"""

from stadapter.visualize.build import ENDINGS, visualize
from stadapter.visualize.config import VisualizeConfig
from stadapter.visualize.observe import Observation, observe

__all__ = ["ENDINGS", "Observation", "VisualizeConfig", "observe", "visualize"]
