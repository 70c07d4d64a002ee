"""What a picture says in words: what is drawn, of which models."""

from collections.abc import Sequence
from pathlib import Path

import torch

from stadapter.visualize.maps import MapKind
from stadapter.visualize.motion import motion_seen
from stadapter.visualize.observe import Observation

ROLES = ("input", "frozen", "adapted", "change")
"""What stands beside each other in a picture."""
KINDS: dict[MapKind, str] = {
    "class_token": "attention of the class token to each patch",
    "attention_pooling": "attention of the backbone's pooling to each patch",
    "received": "attention that each patch receives, on average over all patches that look",
    "patch_norm": "how much the block changes each patch (length of what it adds, with adapters)",
}


def title(shown: Observation) -> str:
    """The clip, and what the model says about it."""
    name = Path(shown.clip).name
    if not shown.ranking:
        return f"{name}: no class above the threshold"
    label, score = shown.ranking[0]
    return f"{name}: predicted {label} ({score:.1%})"


def place(shown: Observation, block: int) -> str:
    """Where in the backbone: a block from 0 on, or the pooling."""
    if shown.kind == "attention_pooling":
        return f"after block {shown.depth} of {shown.depth}"
    return f"block {block + 1} of {shown.depth}"


def layer_name(name: str) -> str:
    """Of a layer of `block_layers`."""
    return f"head {name}" if name.isdecimal() else name


def drawn(shown: Observation, names: Sequence[str]) -> str:
    """One sentence that says which maps are drawn."""
    if len(names) > 1 or shown.kind == "patch_norm":
        what = ""
    else:
        words = {"mean": "mean of the heads", "rollout": "rollout through all blocks up to here"}
        what = f", {words.get(names[0], layer_name(names[0]))}"
    return f"Drawn: {KINDS[shown.kind]}; {place(shown, shown.block)}{what}."


def models(shown: Observation) -> str:
    """One sentence about the two models."""
    return (
        f"Frozen: {shown.backbone_id} as pretrained. Adapted: after training with {shown.method}."
    )


def heading(shown: Observation, names: Sequence[str]) -> list[str]:
    """Title and sentences of a picture with these layers."""
    lines = [title(shown), drawn(shown, names), models(shown), *measured(shown, shown.block)]
    if len(names) > 1:
        lines.append(
            "Each layer on its own scale, the same for frozen and adapted; "
            "in change, orange is more and blue is less."
        )
    return lines


def measured(shown: Observation, block: int) -> list[str]:
    """Sentences with numbers of a block's mean maps."""
    before, after = shown.frozen[block], shown.adapted[block]
    sentences = []
    if torch.equal(before.mean, after.mean):
        sentences.append("No difference: up to here the training changed nothing.")
    seen = motion_seen(before.mean, shown.frames), motion_seen(after.mean, shown.frames)
    if seen[0] is not None and seen[1] is not None:
        sentences.append(
            f"Motion: weighted by the mean map, patches move {seen[0]:.2f} times as much as on "
            f"average when frozen, {seen[1]:.2f} times adapted."
        )
    if shown.kind != "patch_norm":
        sentences.append(
            f"On patches: {before.on_patches:.1%} of the mean attention when frozen, "
            f"{after.on_patches:.1%} adapted; the rest is on class tokens, registers or padding."
        )
    return sentences


def summary(shown: Observation) -> str:
    """What was drawn, in lines for a terminal."""
    lines = [title(shown), f"Drawn: {KINDS[shown.kind]}; {place(shown, shown.block)}."]
    return "\n".join(lines + measured(shown, shown.block))
