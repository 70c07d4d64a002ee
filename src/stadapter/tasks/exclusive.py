"""Tasks whose classes exclude each other: one class of each vocabulary, a softmax for each.

The probability of a verb with a noun is the product of the two, and an action is right when both
are, as EPIC-Kitchens scores it (Damen et al., IJCV 2022, arXiv 2006.13256).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter.data.labels import VOCABULARIES, LabelSpace
from stadapter.tasks.numbers import (
    SMALLEST,
    classification_metrics,
    classification_resampled,
    wilson_interval,
)
from stadapter.tasks.task import THRESHOLD, Ranking, Task, best_names


class _OneOfEach(Task):
    """One class of each vocabulary; a softmax for each."""

    def __init__(self, space: LabelSpace) -> None:
        super().__init__(space)
        self.sizes = [len(names) for names in space.vocabularies]

    def targets(self, labels: Tensor) -> Tensor:
        columns = zip(_columns(labels), self.sizes, strict=True)
        return torch.cat([F.one_hot(y, size) for y, size in columns], -1).float()

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """The sum over vocabularies of their cross entropies: with hard targets, minus the log of
        `label_probability`."""
        if class_weights is None:
            class_weights = torch.ones_like(targets[0])
        parts = zip(
            self._split(logits), self._split(targets), self._split(class_weights), strict=True
        )
        return torch.stack(
            [
                F.cross_entropy(x, target, weight=weight, label_smoothing=smoothing)
                for x, target, weight in parts
            ]
        ).sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.cat([x.softmax(-1) for x in self._split(logits.float())], -1)

    def predict(self, probabilities: Tensor) -> Tensor:
        best = torch.stack([p.argmax(-1) for p in self._split(probabilities)], -1)
        return best.squeeze(-1)

    def label_probability(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        columns = zip(self._split(probabilities), _columns(labels), strict=True)
        return torch.stack([p.gather(1, y[:, None])[:, 0] for p, y in columns]).prod(0)

    def surprise(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        columns = zip(self._split(probabilities), _columns(labels), strict=True)
        chosen = torch.stack([p.gather(1, y[:, None])[:, 0] for p, y in columns])
        return -chosen.clamp(min=SMALLEST).log().sum(0)

    def tempered(self, probabilities: Tensor, temperature: float) -> Tensor:
        """Logits are known from probabilities up to a constant, which a softmax does not see."""
        logits = probabilities.clamp(min=SMALLEST).log() / temperature
        return torch.cat([x.softmax(-1) for x in self._split(logits)], -1)

    def headline(self, probabilities: Tensor, labels: Tensor) -> float | None:
        return float(self.correct(probabilities, labels).float().mean())

    def rank(
        self, probabilities: Tensor, *, top_k: int, threshold: float = THRESHOLD
    ) -> dict[str, Ranking]:
        kinds = zip(
            VOCABULARIES[self.space.task],
            self._split(probabilities),
            self.space.vocabularies,
            strict=True,
        )
        return {kind: best_names(p, names, top_k) for kind, p, names in kinds}

    def class_weights(self, labels: Tensor) -> Tensor:
        """n / (classes * clips of the class): 1 on average over the clips."""
        weights = []
        for y, size in zip(_columns(labels), self.sizes, strict=True):
            counts = torch.bincount(y, minlength=size)
            balanced = len(y) / (int((counts > 0).sum()) * counts.clamp(min=1))
            weights.append(torch.where(counts > 0, balanced, 1.0))  # 1: met in smoothing only
        return torch.cat(weights).float()

    def clip_weights(self, labels: Tensor) -> Tensor:
        columns = _columns(labels)
        return torch.stack([1 / torch.bincount(y)[y].double() for y in columns]).mean(0)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, self.sizes, dim=-1)


class SingleLabel(_OneOfEach):
    """Exactly one class per clip: softmax, cross entropy, top-1."""

    numbers: ClassVar[Mapping[str, str]] = {
        "top1": "Top-1",
        "top5": "Top-5",
        "mean_class": "Mean class accuracy",
    }
    matrices: ClassVar[Mapping[str, str]] = {"label": "confusion_matrix"}

    def metrics(self, probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
        """Top-1 with its 95% interval (Wilson's), and as in `classification_metrics`."""
        return classification_metrics(probabilities, labels) | {
            "top1_interval95": wilson_interval(
                float(self.correct(probabilities, labels).float().mean()), len(labels)
            )
        }

    def resampled(
        self, probabilities: Tensor, labels: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """As in `classification_resampled`."""
        return classification_resampled(probabilities, labels, weights)


class VerbNoun(_OneOfEach):
    """A verb and a noun per clip; the pair is the action."""

    numbers: ClassVar[Mapping[str, str]] = {
        "action_top1": "Action top-1",
        "action_top5": "Action top-5",
        "verb_top1": "Verb top-1",
        "verb_top5": "Verb top-5",
        "noun_top1": "Noun top-1",
        "noun_top5": "Noun top-5",
        "verb_mean_class": "Verb mean class accuracy",
        "noun_mean_class": "Noun mean class accuracy",
    }
    matrices: ClassVar[Mapping[str, str]] = {
        "verb": "verb_confusion_matrix",
        "noun": "noun_confusion_matrix",
    }

    def metrics(self, probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
        """Top-1 and top-5 of actions, and of verbs and nouns by themselves."""
        right = float(self.correct(probabilities, labels).float().mean())
        found: dict[str, Any] = {
            "action_top1": right,
            "action_top1_interval95": wilson_interval(right, len(labels)),
            "action_top5": None,
        }
        if math.prod(self.sizes) > 5:
            found["action_top5"] = float(self._in_best_five(probabilities, labels).mean())
        for kind, p, y in self._kinds(probabilities, labels):
            scores = classification_metrics(p, y)
            found |= {f"{kind}_{name}": value for name, value in scores.items()}
        return found

    def resampled(
        self, probabilities: Tensor, labels: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """Of actions, and of verbs and nouns by themselves."""
        clips = weights.sum(1)
        right = self.correct(probabilities, labels).float()
        found = {"action_top1": weights @ right / clips}
        if math.prod(self.sizes) > 5:
            found["action_top5"] = weights @ self._in_best_five(probabilities, labels) / clips
        for kind, p, y in self._kinds(probabilities, labels):
            scores = classification_resampled(p, y, weights)
            found |= {f"{kind}_{name}": value for name, value in scores.items()}
        return found

    def _kinds(self, probabilities: Tensor, labels: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, probabilities and labels (n,) of each vocabulary."""
        kinds = VOCABULARIES[self.space.task]
        return zip(kinds, self._split(probabilities), _columns(labels), strict=True)

    def _in_best_five(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Whether each clip's pair is among the five most probable, 0 or 1, float (n,)."""
        _, pairs = self.best_pairs(probabilities, 5)
        return (pairs == labels[:, None]).all(-1).any(-1).float()

    def best_pairs(self, probabilities: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """The most probable of all pairs: scores (n, k) and (verb, noun) int64 (n, k, 2).

        k is `top_k`, or the number of pairs if there are fewer. The k best pairs are made of the k
        best verbs and the k best nouns, so no table of all pairs is needed.
        """
        verb, noun = self._split(probabilities)
        p_verb, verbs = verb.topk(min(top_k, verb.shape[1]))
        p_noun, nouns = noun.topk(min(top_k, noun.shape[1]))
        products = (p_verb[:, :, None] * p_noun[:, None, :]).flatten(1)
        scores, places = products.topk(min(top_k, products.shape[1]))
        verbs = verbs.gather(1, places // nouns.shape[1])
        nouns = nouns.gather(1, places % nouns.shape[1])
        return scores, torch.stack([verbs, nouns], -1)

    def rank(
        self, probabilities: Tensor, *, top_k: int, threshold: float = THRESHOLD
    ) -> dict[str, Ranking]:
        """The best actions, then verbs and nouns by themselves."""
        scores, pairs = self.best_pairs(probabilities[None], top_k)
        names = [self.space.label_name(pair) for pair in pairs[0].numpy()]
        actions = list(zip(names, scores[0].tolist(), strict=True))
        return {"action": actions, **super().rank(probabilities, top_k=top_k)}


def _columns(labels: Tensor) -> tuple[Tensor, ...]:
    """The labels of each vocabulary, (n,) each."""
    return labels.reshape(len(labels), -1).unbind(1)
