"""Measures frozen features on pictures whose shapes and textures pretraining never drew.

Probes see one picture each: a single object of a held-out family and texture over a ground of a
held-out texture. Whole-picture probes read the class token beside the mean patch token; the mask
probe reads one patch token at a time. Random weights of the same architecture are the yardstick,
because position and colour pass through any network.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from still_families import NUM_TRAIN_SHAPES, NUM_TRAIN_TEXTURES, SHAPES, TEXTURES
from still_images import StillImages
from torch import Generator, Tensor, nn

HELD_OUT = StillImages(
    counts=(0.0, 1.0),
    shapes=(NUM_TRAIN_SHAPES, len(SHAPES)),
    textures=(NUM_TRAIN_TEXTURES, len(TEXTURES)),
    radius=(9.0, 22.0),
)
PROBE_SEED = 123_456_789


@dataclass(frozen=True)
class Probed:
    """Features of pictures and what is true of them."""

    whole: Tensor  # (B, 2D)
    patches: Tensor  # (B, N, D)
    inside: Tensor  # (B, N) whether more than half of the patch is object
    shape: Tensor
    texture: Tensor
    ground: Tensor  # texture of the ground
    values: Tensor  # (B, 5): x, y, log radius, cos and sin of the angle
    pointed: Tensor  # (B,) whether the angle means something (order of symmetry 1, no stretch)


@torch.no_grad()
def _look(model: nn.Module, num_images: int) -> Probed:
    generator, parts = Generator().manual_seed(PROBE_SEED), []
    for _ in range(num_images // 100):
        batch = HELD_OUT.draw(100, generator)
        tokens = model.forward_features((batch.images - 0.5) / 0.5)
        drawn, patches = batch.objects, tokens[:, 1:]
        pointed = torch.tensor([order == 1 for _, order in SHAPES.values()])[drawn.shape]
        parts.append(
            Probed(
                whole=torch.cat([tokens[:, 0], patches.mean(1)], -1),
                patches=patches,
                inside=F.avg_pool2d(batch.visible, 8).flatten(1) > 0.5,
                shape=drawn.shape - NUM_TRAIN_SHAPES,
                texture=drawn.texture - NUM_TRAIN_TEXTURES,
                ground=batch.ground_texture - NUM_TRAIN_TEXTURES,
                values=torch.cat(
                    [
                        drawn.centre,
                        drawn.radius.log()[:, None],
                        drawn.angle.cos()[:, None],
                        drawn.angle.sin()[:, None],
                    ],
                    -1,
                ),
                pointed=pointed & (drawn.aspect == 1),
            )
        )
    return Probed(**{name: torch.cat([getattr(p, name) for p in parts]) for name in vars(parts[0])})


def _standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, spread = train.mean(0), train.std(0) + 1e-6
    return (train - mean) / spread, (test - mean) / spread


def _logistic(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Predictions of a multinomial logistic regression with a little weight decay."""
    num_classes = int(labels.max()) + 1
    layer = nn.Linear(train.shape[1], num_classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(train), labels) + 3e-3 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer(test).argmax(1)


def _nearest(train: Tensor, labels: Tensor, test: Tensor, num_neighbours: int = 15) -> Tensor:
    """Majority among the nearest by cosine."""
    near = (F.normalize(test, dim=1) @ F.normalize(train, dim=1).T).topk(num_neighbours, 1).indices
    return F.one_hot(labels[near], int(labels.max()) + 1).sum(1).argmax(1)


def _ridge(train: Tensor, values: Tensor, test: Tensor) -> Tensor:
    train, test = F.pad(train, (0, 1), value=1.0), F.pad(test, (0, 1), value=1.0)
    gram = train.T @ train + 0.01 * len(train) * torch.eye(train.shape[1])
    return test @ torch.linalg.solve(gram, train.T @ values)


def _r2(predicted: Tensor, true: Tensor) -> float:
    return float(1 - (predicted - true).square().sum() / (true - true.mean(0)).square().sum())


def measure(model: nn.Module, num_train: int) -> dict[str, float]:
    """Quality of frozen features; tests on half as many pictures as the probes are fitted on."""
    seen = _look(model, num_train + num_train // 2)
    train, test = _standardise(seen.whole[:num_train], seen.whole[num_train:])
    quality = {}
    for name in ("shape", "texture", "ground"):
        labels = getattr(seen, name)
        for how, probe in (("linear", _logistic), ("kNN", _nearest)):
            hit = probe(train, labels[:num_train], test) == labels[num_train:]
            quality[f"{name} {how}"] = float(hit.float().mean())
    values = _ridge(train, seen.values[:num_train], test)
    true = seen.values[num_train:]
    quality["position R2"] = _r2(values[:, :2], true[:, :2])
    quality["size R2"] = _r2(values[:, 2:3], true[:, 2:3])
    first, last = seen.pointed[:num_train], seen.pointed[num_train:]
    turned = _ridge(train[first], seen.values[:num_train][first, 3:], test[last])
    quality["direction R2"] = _r2(turned, true[last, 3:])
    return quality | _measure_mask(seen, num_train)


def _measure_mask(seen: Probed, num_train: int) -> dict[str, float]:
    train, test = _standardise(
        seen.patches[:num_train].flatten(0, 1), seen.patches[num_train:].flatten(0, 1)
    )
    inside, true = (part.flatten() for part in (seen.inside[:num_train], seen.inside[num_train:]))
    # Patches outside are many; weighting both sides alike asks for the balanced accuracy.
    weight = torch.where(inside, (~inside).sum() / inside.sum(), 1.0).sqrt()[:, None]
    train = F.pad(train, (0, 1), value=1.0) * weight
    gram = train.T @ train + 0.01 * len(train) * torch.eye(train.shape[1])
    solution = torch.linalg.solve(gram, train.T @ ((inside.float() * 2 - 1)[:, None] * weight))
    said = (F.pad(test, (0, 1), value=1.0) @ solution)[:, 0] > 0
    hit, miss = said[true].float().mean(), (~said)[~true].float().mean()
    union = (said | true).sum().clamp(min=1)
    return {
        "mask balanced accuracy": float((hit + miss) / 2),
        "mask IoU": float((said & true).sum() / union),
    }
