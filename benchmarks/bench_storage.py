"""What storing frozen weights in bf16 or int8 changes in the features of real clips.

    python benchmarks/bench_storage.py --backbone timm/vit_tiny_patch16_224 \
        --backbone_weights FILE --clips VIDEO [VIDEO ...]

Per storage: bytes of the backbone, distance of the pooled features from those of float32 weights
(relative norm, cosine; worst clip), and in how many clips the nearest other clip is the same one as
with float32. Prints a table, then one JSON line.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter.backbones import Backbone, create_backbone
from stadapter.backbones.frozen import Storage, store_frozen
from stadapter.data.video import read_clip
from stadapter.methods import LinearProbeConfig
from stadapter.model import create_model

STORAGES: tuple[Storage, ...] = ("fp32", "bf16", "int8")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--backbone_weights")
    parser.add_argument("--clips", nargs="+", required=True)
    parser.add_argument("--num_frames", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone = create_backbone(args.backbone, weights=args.backbone_weights)
    videos = [read(Path(path), args.num_frames, backbone) for path in args.clips]
    rows = {}
    print(f"{'storage':8}{'MB':>8}{'error':>10}{'worst':>10}{'cosine':>10}{'neighbour':>11}")
    exact = torch.empty(0)
    for storage in STORAGES:
        stored = copy.deepcopy(backbone).requires_grad_(False)
        store_frozen(stored, storage)
        found = features(stored, videos, half=storage == "bf16")
        if storage == "fp32":
            exact = found
        errors = (found - exact).norm(dim=1) / exact.norm(dim=1)
        size = sum(t.numel() * t.element_size() for t in stored.state_dict().values())
        rows[storage] = {
            "bytes": size,
            "error": round(errors.mean().item(), 5),
            "worst": round(errors.max().item(), 5),
            "cosine": round(F.cosine_similarity(found, exact).min().item(), 6),
            "same_neighbour": (neighbours(found) == neighbours(exact)).float().mean().item(),
        }
        row = rows[storage]
        print(f"{storage:8}{size / 1e6:>8.2f}{row['error']:>10}{row['worst']:>10}", end="")
        print(f"{row['cosine']:>10}{row['same_neighbour']:>11.3f}")
    settings = {"backbone": args.backbone, "clips": len(videos), "num_frames": args.num_frames}
    print(json.dumps({"benchmark": "storage", **settings, "results": rows}))


def read(path: Path, num_frames: int, backbone: Backbone) -> Tensor:
    """Frames spread over the clip, resized and normalised: (1, T, C, H, W)."""
    frames = read_clip(path, lambda n: [i * n // num_frames for i in range(num_frames)])
    pixels = backbone.pixels
    video = F.interpolate(frames.float() / 255, pixels.resolution, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (pixels.mean, pixels.std))
    return ((video - mean) / std)[None]


@torch.no_grad()
def features(backbone: Backbone, videos: list[Tensor], *, half: bool) -> Tensor:
    """(clips, D) in float32."""
    model = create_model(backbone, num_classes=2, method=LinearProbeConfig()).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        return torch.cat([model.features(video).float() for video in videos])


def neighbours(features: Tensor) -> Tensor:
    """Number of the most similar other clip, by cosine."""
    unit = F.normalize(features)
    similarity = (unit @ unit.T).fill_diagonal_(-2)
    return similarity.argmax(1)


if __name__ == "__main__":
    main()
