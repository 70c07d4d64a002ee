"""Pretrains the embedded backbone "tiny" on generated still pictures, and measures it.

One linear layer on the patch tokens answers, patch by patch, what `still_images` knows: which part
of the patch is object, which part is the object that dominates it, how far away that object's
centre lies, its size, direction, family and texture, and the patch's colours per 2 x 2
pixels. One more on the class token answers for the largest object and the ground. Dense
answers are the point: the answers asked of the whole picture learn far more slowly (docs/tiny.md),
and an adapter that must see motion needs tokens which say *where*.

    python tools/pretrain_tiny.py --out src/stadapter/backbones/tiny.safetensors

Letters: B pictures, K object slots, N = 64 patches, D = 128 width.
"""

import argparse
import copy
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from still_families import NUM_TRAIN_SHAPES, NUM_TRAIN_TEXTURES, ORIENTED, SYMMETRY
from still_images import StillBatch, StillImages
from torch import Generator, Tensor, nn

from stadapter.backbones.tiny import build_tiny

GRID, PATCH, WIDTH = 8, 8, 128
COUNTS = len(StillImages().counts)
PATCH_ANSWERS = {
    "foreground": 16, "own": 16, "pixels": 48, "offset": 2, "size": 1, "direction": 8,
    "shape": NUM_TRAIN_SHAPES, "texture": NUM_TRAIN_TEXTURES, "texture_angle": 2,
    "texture_period": 1,
}  # fmt: skip
CLASS_ANSWERS = {
    "count": COUNTS, "offset": 2, "size": 1, "direction": 8, "shape": NUM_TRAIN_SHAPES,
    "texture": NUM_TRAIN_TEXTURES, "ground": NUM_TRAIN_TEXTURES,
}  # fmt: skip
CROSS_ENTROPY = frozenset({"shape", "texture", "count", "ground"})
WEIGHT = {
    "foreground": 2.0,
    "own": 2.0,
    "pixels": 2.0,
    "shape": 0.5,
    "texture": 0.5,
    "count": 0.5,
    "ground": 0.5,
}


@dataclass(frozen=True)
class Settings:
    """All settings; each is a flag of the command line."""

    out: Path = Path("src/stadapter/backbones/tiny.safetensors")
    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 60
    ema_decay: float = 0.995
    objective: str = "dense+pixels"  # "labels" (class token only) | "dense" | "dense+pixels"
    keep: float = 0.5  # fraction of patch tokens that enter the blocks; half is much faster
    full_from: float = 0.8  # after this fraction of the steps all tokens enter, as they will in use
    hidden: float = 0.0  # chance that a patch is painted grey, its answers still asked
    seed: int = 0
    num_threads: int = 2
    save_every_steps: int = 100
    num_probe: int = 3000  # pictures to fit a probe on; half as many again to test it
    report: Path | None = None  # JSON file for the settings and the quality table

    def __post_init__(self) -> None:
        """Refuses what would train silently on something else."""
        if self.objective not in ("labels", "dense", "dense+pixels"):
            raise ValueError(f"objective ({self.objective!r}) must be labels, dense, dense+pixels")
        if not 0 < self.keep <= 1 or not 0 <= self.hidden < 1:
            raise ValueError(
                f"keep ({self.keep}) must be in (0, 1], hidden ({self.hidden}) in [0, 1)"
            )


def tokens_of(model: nn.Module, images: Tensor, kept: Tensor | None = None) -> Tensor:
    """Normalised tokens (B, 1 + N, D), class token first; `kept` (B, n) selects patches."""
    tokens = model._pos_embed(model.patch_embed((images - 0.5) / 0.5))
    if kept is not None:
        row = torch.arange(len(images))[:, None]
        tokens = torch.cat([tokens[:, :1], tokens[row, 1 + kept]], 1)
    return model.norm(model.blocks(tokens))


# --------------------------------------------------------------------------- targets


@dataclass(frozen=True)
class Target:
    """What one answer should be and where it counts."""

    value: Tensor
    valid: Tensor | None = None  # None: everywhere


def _quarters(maps: Tensor) -> Tensor:
    """Means over 2 x 2 pixels, gathered by patch: (B, C, 64, 64) to (B, N, C * 16)."""
    B, C = maps.shape[:2]
    means = F.avg_pool2d(maps, 2).view(B, C, GRID, 4, GRID, 4)
    return means.permute(0, 2, 4, 1, 3, 5).reshape(B, GRID * GRID, C * 16)


def _direction(shape: Tensor, angle: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of k times the angle in slot k of four, and the mask of that slot: (..., 8).

    k is the order of rotational symmetry. Stretching leaves 1 of odd orders and 2 of even ones;
    orders above 4 are too fine to ask for.
    """
    order = SYMMETRY[shape]
    order = torch.where((aspect > 1) & (order > 0), 2 - order % 2, order)
    slot = torch.arange(1, 5)
    turned = slot * angle[..., None]
    used = (order[..., None] == slot)[..., None].expand(*order.shape, 4, 2)
    return torch.stack([turned.cos(), turned.sin()], -1).flatten(-2), used.flatten(-2)


def _pick(field: Tensor, owner: Tensor) -> Tensor:
    """Field of the objects (B*K, ...) at slot `owner` (B, M): (B, M, ...)."""
    B = len(owner)
    return field.view(B, -1, *field.shape[1:])[torch.arange(B)[:, None], owner]


def _object_targets(
    batch: StillBatch, owner: Tensor, from_point: Tensor, valid: Tensor
) -> dict[str, Target]:
    """Answers about the objects `owner` (B, M), with centres relative to points in pixels."""
    drawn = batch.objects
    shape, centre = _pick(drawn.shape, owner), _pick(drawn.centre, owner)
    direction, used = _direction(shape, _pick(drawn.angle, owner), _pick(drawn.aspect, owner))
    return {
        "offset": Target(((centre - from_point) / 16).clamp(-2, 2), valid[..., None]),
        "size": Target((_pick(drawn.radius, owner) / 11).log()[..., None], valid[..., None]),
        "direction": Target(direction, used & valid[..., None]),
        "shape": Target(shape, valid),
    }


def patch_targets(batch: StillBatch) -> dict[str, Target]:
    """Answers for every patch, fields (B, N, ...)."""
    visible = batch.visible
    B, K = visible.shape[:2]
    share, owner = F.avg_pool2d(visible, PATCH).flatten(2).max(1)  # (B, N)
    valid = share > 0.2
    quarters = _quarters(visible).view(B, -1, K, 16)
    own = quarters.gather(2, owner[..., None, None].expand(-1, -1, 1, 16))[:, :, 0]
    steps = (torch.arange(GRID) + 0.5) * PATCH
    point = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(-1, 2)

    def of_layer(objects: Tensor, ground: Tensor) -> Tensor:
        return torch.where(share > 0.5, _pick(objects, owner), ground[:, None])

    drawn = batch.objects
    texture = of_layer(drawn.texture, batch.ground_texture)
    angle = 2 * of_layer(drawn.texture_angle, batch.ground_angle)
    period = of_layer(drawn.period, batch.ground_period)
    oriented = ORIENTED[texture][..., None]
    return {
        "foreground": Target(_quarters(visible.sum(1, keepdim=True)).clamp(0, 1)),
        "own": Target(own.clamp(0, 1), valid[..., None]),
        "pixels": Target((_quarters(batch.images) - 0.5) / 0.25),
        **_object_targets(batch, owner, point, valid),
        "texture": Target(texture),
        "texture_angle": Target(torch.stack([angle.cos(), angle.sin()], -1), oriented),
        "texture_period": Target((period / 8).log()[..., None], oriented),
    }


def class_targets(batch: StillBatch) -> dict[str, Target]:
    """Answers for the class token, about the largest visible object: fields (B, 1, ...)."""
    area, largest = batch.visible.sum((2, 3)).max(1, keepdim=True)
    valid = area > 20
    middle = torch.full((2,), GRID * PATCH / 2)
    return {
        "count": Target(batch.present.sum(1, keepdim=True)),
        **_object_targets(batch, largest, middle, valid),
        "texture": Target(_pick(batch.objects.texture, largest), valid),
        "ground": Target(batch.ground_texture[:, None]),
    }


def loss_of(answers: dict[str, Tensor], targets: dict[str, Target]) -> dict[str, Tensor]:
    """Weighted loss of each answer, a mean over where it is valid."""
    losses = {}
    for name, answer in answers.items():
        target = targets[name]
        if name in CROSS_ENTROPY:
            loss = F.cross_entropy(answer.flatten(0, 1), target.value.flatten(), reduction="none")
            loss = loss.view_as(target.value)
        elif name in ("foreground", "own"):
            loss = F.binary_cross_entropy_with_logits(answer, target.value, reduction="none")
        else:
            loss = F.smooth_l1_loss(answer, target.value, reduction="none")
        if target.valid is None:
            mean = loss.mean()
        else:
            valid = target.valid.expand_as(loss)
            mean = (loss * valid).sum() / valid.sum().clamp(min=1)
        losses[name] = WEIGHT.get(name, 1.0) * mean
    return losses


# --------------------------------------------------------------------------- training


class Heads(nn.Module):
    """The two linear layers that are thrown away after pretraining."""

    def __init__(self, objective: str) -> None:
        super().__init__()
        self.patch_answers = {} if objective == "labels" else dict(PATCH_ANSWERS)
        if objective == "dense":
            del self.patch_answers["pixels"]
        self.patch = nn.Linear(WIDTH, max(1, sum(self.patch_answers.values())))
        self.summary = nn.Linear(WIDTH, sum(CLASS_ANSWERS.values()))

    def forward(self, tokens: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Answers of patches and of the class token, by name."""
        whole = self.summary(tokens[:, :1]).split(list(CLASS_ANSWERS.values()), -1)
        summary = dict(zip(CLASS_ANSWERS, whole, strict=True))
        if not self.patch_answers:
            return {}, summary
        parts = self.patch(tokens[:, 1:]).split(list(self.patch_answers.values()), -1)
        return dict(zip(self.patch_answers, parts, strict=True)), summary


def step_loss(
    model: nn.Module,
    heads: Heads,
    batch: StillBatch,
    *,
    keep: float,
    hidden: float,
    generator: Generator,
) -> dict[str, Tensor]:
    """Losses by name for one batch; "class ..." are those of the class token."""
    images, kept = batch.images, None
    N = GRID * GRID
    if hidden > 0:
        grey = torch.rand(len(images), 1, GRID, GRID, generator=generator) < hidden
        images = images.masked_fill(F.interpolate(grey.float(), scale_factor=PATCH) > 0, 0.5)
    if keep < 1:
        order = torch.rand(len(images), N, generator=generator).argsort(1)
        kept = order[:, : round(keep * N)]
    patches, summary = heads(tokens_of(model, images, kept))
    targets = patch_targets(batch)
    if kept is not None:
        row = torch.arange(len(images))[:, None]
        targets = {
            name: Target(t.value[row, kept], None if t.valid is None else t.valid[row, kept])
            for name, t in targets.items()
        }
    losses = loss_of(patches, targets)
    whole = loss_of(summary, class_targets(batch))
    return losses | {f"class {name}": loss for name, loss in whole.items()}


def learning_rate_at(step: int, settings: Settings) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def save_weights(model: nn.Module, step: int, settings: Settings) -> None:
    """Half-precision weights, put in place in one move so that readers never see half a file."""
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    about = {
        "seed": str(settings.seed),
        "steps": f"{step} of {settings.steps}",
        "created_by": "tools/pretrain_tiny.py",
        "licence": "Apache-2.0",
    }
    part = settings.out.with_suffix(".part")
    save_file(state, part, metadata=about)
    part.chmod(0o644)  # safetensors writes files that only their owner may read
    part.replace(settings.out)


def pretrain(settings: Settings) -> nn.Module:
    """Trains, writes the averaged weights now and then, and returns the averaged model."""
    torch.manual_seed(settings.seed)
    model, heads = build_tiny(), Heads(settings.objective)
    averaged = copy.deepcopy(model).eval()
    parameters = [p for part in (model, heads) for p in part.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    source, start = StillImages(), time.perf_counter()
    for step in range(settings.steps):
        generator = Generator().manual_seed(settings.seed * 1_000_003 + step + 1)
        batch = source.draw(settings.batch_size, generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        keep = settings.keep if step < settings.full_from * settings.steps else 1.0
        losses = step_loss(
            model, heads, batch, keep=keep, hidden=settings.hidden, generator=generator
        )
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        if step % 50 == 0 or step + 1 == settings.steps:
            parts = "  ".join(f"{name} {loss.item():.2f}" for name, loss in losses.items())
            print(f"{step:5d} {time.perf_counter() - start:6.0f} s  {parts}", flush=True)
        if (step + 1) % settings.save_every_steps == 0 or step + 1 == settings.steps:
            save_weights(averaged, step + 1, settings)
    return averaged


def parse_settings() -> Settings:
    """One flag per field of `Settings`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for field in fields(Settings):
        kind = Path if field.name in ("out", "report") else type(field.default)
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
    return Settings(**vars(parser.parse_args()))


def main() -> None:
    """Pretrains, then measures the weights beside random ones."""
    from probe_tiny import measure

    settings = parse_settings()
    torch.set_num_threads(settings.num_threads)
    start = time.perf_counter()
    pretrain(settings)
    seconds = time.perf_counter() - start
    model = build_tiny().eval()
    model.load_state_dict(load_file(settings.out))  # measure what is shipped, halved precision too
    torch.manual_seed(settings.seed + 1)
    quality = {
        "tiny": measure(model, settings.num_probe),
        "random": measure(build_tiny().eval(), settings.num_probe),
    }
    for name in quality["tiny"]:
        print(f"{name:28s} {quality['tiny'][name]:.3f}  random {quality['random'][name]:.3f}")
    content = settings.out.read_bytes()
    report = {
        "settings": {k: str(v) for k, v in asdict(settings).items()},
        "quality": quality,
        "training_seconds": round(seconds),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    if settings.report is not None:
        settings.report.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
