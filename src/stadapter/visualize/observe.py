"""One clip through the frozen and through the adapted model, and what each made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from stadapter.backbones import Backbone
from stadapter.checkpoint import load_adapter_config, load_backbone
from stadapter.data import SamplingConfig
from stadapter.hub import resolve
from stadapter.methods import LinearProbeConfig
from stadapter.model import VideoClassifier
from stadapter.predict import Predictor
from stadapter.tasks import Ranking
from stadapter.visualize.config import VisualizeConfig
from stadapter.visualize.maps import (
    MapKind,
    Maps,
    can_roll_out,
    check_kind,
    clip_maps,
    default_kind,
)


@dataclass(frozen=True)
class Observation:
    """A clip, and the maps of both models over it."""

    clip: str
    """Its file."""
    frames: Tensor
    """What both models saw, uint8 (T, C, H, W)."""
    kind: MapKind
    """What the maps show."""
    block: int
    """The chosen one, from 0 on; the last for the pooling."""
    frozen: Mapping[int, Maps]
    """Of the pretrained backbone alone, by block from 0 on."""
    adapted: Mapping[int, Maps]
    """Of the run's model; the same blocks."""
    depth: int
    """Number of blocks of the backbone."""
    backbone_id: str
    method: str
    """Name of the run's method."""
    ranking: Ranking
    """What the run's model says about these frames, the most probable first; may be empty."""


def observe(
    run: str | Path,
    clip: str | Path,
    config: VisualizeConfig,
    *,
    every_block: bool = False,
    backbone_weights: str | Path | None = None,
    sampling: SamplingConfig | None = None,
    resolution: tuple[int, int] | None = None,
    device: str = "auto",
) -> Observation:
    """Read a clip as the run's test does and run both models over it, in float32.

    The frozen model is the backbone loaded anew, so that it is the pretrained one also where a
    method changes the backbone's own weights.

    Args:
        run: a run folder, or ORG/NAME on the Hub.
        clip: a video file, or a member of a tar shard.
        config: which maps of which view.
        every_block: maps of all blocks, with rollout where there is one; else of one.
        backbone_weights: where the pretrained weights are now, if not where they were.
        sampling: other frames than in training.
        resolution: other (height, width) than in training.
        device: auto, cpu, cuda, mps.

    Raises:
        FileNotFoundError: no run, no clip, or the backbone's weights are gone.
        VideoError: the clip cannot be read.
        ValueError: a block, head or kind of map that is not there, or unreadable files.
        AdapterMismatchError: the backbone's weights are not those of the training.
        TypeError: an attention that cannot be recorded.
    """
    directory = resolve(run)
    predictor = Predictor(
        directory,
        backbone_weights=backbone_weights,
        num_temporal_views=config.num_temporal_views,
        sampling=sampling,
        resolution=resolution,
        device=device,
    )
    model = predictor.model
    kind = config.map or default_kind(model.backbone)
    check_kind(model.backbone, kind)
    block = _chosen_block(model.backbone, kind, config.block)
    depth = len(model.backbone.blocks)
    blocks = range(depth) if every_block else range(block, block + 1)
    rollout = config.rollout or (every_block and can_roll_out(model.backbone, kind))
    if Path(clip).is_dir():
        raise ValueError(f"{clip} is a folder; give one video file")
    [file] = predictor.files([clip])
    frames = predictor.reader(str(file))[config.view - 1]  # (T, C, H, W)
    video = predictor.reader.preprocessing.normalize(frames[None].to(predictor.device))
    adapted, logits = clip_maps(model, video, kind, blocks=blocks, rollout=rollout)
    probabilities = predictor.task.probabilities(logits[None])[0]
    rankings = predictor.task.rank(probabilities.cpu(), top_k=1)
    frozen_model = _frozen(directory, model, backbone_weights).to(predictor.device)
    frozen, _ = clip_maps(frozen_model, video, kind, blocks=blocks, rollout=rollout)
    return Observation(
        clip=str(clip),
        frames=frames,
        kind=kind,
        block=block,
        frozen=_to_cpu(frozen),
        adapted=_to_cpu(adapted),
        depth=depth,
        backbone_id=model.backbone.id,
        method=model.adapter_set.config.name,
        ranking=rankings[next(iter(rankings))],
    )


def _chosen_block(backbone: Backbone, kind: MapKind, block: int | None) -> int:
    depth = len(backbone.blocks)
    if block is None:
        return depth - 1
    if kind == "attention_pooling":
        raise ValueError(
            f"the pooling of backbone {backbone.id!r} comes after the last block; leave --block "
            "out, or choose --map received"
        )
    if not 1 <= block <= depth:
        raise ValueError(
            f"block {block} is out of range: backbone {backbone.id!r} has blocks 1 to {depth}"
        )
    return block - 1


def _frozen(
    directory: Path, adapted: VideoClassifier, backbone_weights: str | Path | None
) -> VideoClassifier:
    """The pretrained backbone with nothing in its slots; its head is not used."""
    backbone = load_backbone(load_adapter_config(directory), backbone_weights)
    nothing = LinearProbeConfig().build(backbone, 2)
    fingerprint = adapted.backbone_fingerprint  # of the same file, checked a moment ago
    return VideoClassifier(backbone, nothing, backbone_fingerprint=fingerprint).eval()


def _to_cpu(maps: Mapping[int, Maps]) -> dict[int, Maps]:
    return {
        i: Maps(m.mean.cpu(), m.heads.cpu(), None if m.rollout is None else m.rollout.cpu())
        for i, m in maps.items()
    }
