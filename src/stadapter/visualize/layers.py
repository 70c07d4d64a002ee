"""Which maps of a comparison are drawn, as layers of colours."""

from stadapter.visualize.config import VisualizeConfig
from stadapter.visualize.observe import Observation
from stadapter.visualize.paint import Layer, make_layer


def block_layers(shown: Observation, block: int) -> dict[str, Layer]:
    """All layers of a block: "mean", "rollout" and "1", "2", ... for the heads, as far as there."""
    frozen, adapted = shown.frozen[block], shown.adapted[block]
    layers = {"mean": make_layer(frozen.mean, adapted.mean)}
    if frozen.rollout is not None and adapted.rollout is not None:
        layers["rollout"] = make_layer(frozen.rollout, adapted.rollout)
    pairs = zip(frozen.heads, adapted.heads, strict=True)
    heads = {str(i): make_layer(*pair) for i, pair in enumerate(pairs, start=1)}
    return layers | heads


def chosen_layers(shown: Observation, config: VisualizeConfig) -> dict[str, Layer]:
    """The layers of the chosen block that the settings name, in order.

    Raises:
        ValueError: a head that is not there.
    """
    layers = block_layers(shown, shown.block)
    if config.rollout:
        return {"rollout": layers["rollout"]}
    if config.head == "all":
        return layers
    name = str(config.head)
    if name not in layers:
        count = len(shown.frozen[shown.block].heads)
        there = f"heads 1 to {count}" if count else "no heads, as norms are of whole patches"
        raise ValueError(
            f"head {name} is out of range: block {shown.block + 1} of backbone "
            f"{shown.backbone_id!r} has {there}"
        )
    return {name: layers[name]}
