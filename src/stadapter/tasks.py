"""What each kind of label means for logits: loss, probabilities, metrics.

A `Task` is made from a `LabelSpace`; training, testing, prediction and reports ask it and know no
label themselves. Tasks with one class per vocabulary score each vocabulary by a softmax of its own;
the probability of a verb with a noun is the product of the two, and an action is right when both
are, as EPIC-Kitchens scores it (Damen et al., IJCV 2022, arXiv 2006.13256).

Letters: B clips in a batch, n clips scored, K logits. Labels are as in `ClipTable`: int64 (n,) for
single_label, bool (n, K) for multi_label, int64 (n, 2) for verb_noun.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter._torchvision import ensure_torchvision
from stadapter.data.labels import VOCABULARIES, LabelSpace, TaskName

Ranking = list[tuple[str, float]]
"""Names with their probabilities, the highest first."""
THRESHOLD = 0.5
"""Probability above which a class of a multi_label clip counts as said."""


class Task(ABC):
    """A kind of label, for the classes of one label space."""

    numbers: ClassVar[Mapping[str, str]]
    """Entries of metrics.json that are shown -> what people call them; the headline comes first. It
    chooses the best epoch."""
    exclusive: ClassVar[bool] = True
    """Whether one class of a vocabulary excludes the others."""
    matrices: ClassVar[Mapping[str, str]] = {}
    """Vocabulary -> entry of metrics.json with its confusion matrix, true classes down."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space

    @abstractmethod
    def targets(self, labels: Tensor) -> Tensor:
        """Labels -> what the probabilities should be, float32 (B, K)."""

    @abstractmethod
    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Mean loss over the clips.

        Args:
            logits: (B, K)
            targets: (B, K), as of `targets` or a mixture of them.
            smoothing: share of each target that is spread over all classes, 0 to below 1.
            class_weights: of `class_weights`, float32 (K,).
        """

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B, K) -> probabilities (B, K), float32."""

    @abstractmethod
    def predict(self, probabilities: Tensor) -> Tensor:
        """The most probable label of each clip, laid out as labels are."""

    @abstractmethod
    def label_probability(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Probability of each clip's whole label, float (n,)."""

    @abstractmethod
    def metrics(self, probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
        """Scores of n clips as plain JSON; the entries of `numbers` and those for each class."""

    @abstractmethod
    def headline(self, probabilities: Tensor, labels: Tensor) -> float | None:
        """The first of `numbers` alone, 0 to 1; None where it is not defined."""

    @abstractmethod
    def rank(
        self, probabilities: Tensor, *, top_k: int, threshold: float = THRESHOLD
    ) -> dict[str, Ranking]:
        """What to tell about one clip, (K,): kind of name -> ranking; what matters most first."""

    @abstractmethod
    def class_weights(self, labels: Tensor) -> Tensor:
        """Weights for `loss` that let rare classes of the training labels count as much as frequent
        ones, float32 (K,)."""

    @abstractmethod
    def clip_weights(self, labels: Tensor) -> Tensor:
        """How often to draw each clip so that classes come equally often, float64 (n,), up to a
        factor: the mean of 1 / clips of the class over the clip's classes."""

    def check_smoothing(self, smoothing: float) -> None:
        """Refuse label smoothing where it has no meaning.

        Raises:
            ValueError: this task's classes do not exclude each other.
        """
        if smoothing and not self.exclusive:
            raise ValueError(
                f"label_smoothing ({smoothing}) is for classes that exclude each other, and with "
                "several labels per clip they do not; leave it at 0"
            )

    def correct(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Whether the most probable label is the clip's, in all its parts, bool (n,)."""
        return (self.predict(probabilities) == labels).reshape(len(labels), -1).all(1)


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
        return {kind: _best(p, names, top_k) for kind, p, names in kinds}

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
        """Top-1 with its 95% interval (Wilson's), and as in `_classification_metrics`."""
        return _classification_metrics(probabilities, labels) | {
            "top1_interval95": wilson_interval(
                float(self.correct(probabilities, labels).float().mean()), len(labels)
            )
        }


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
            _, pairs = self.best_pairs(probabilities, 5)
            hits = (pairs == labels[:, None]).all(-1).any(-1)
            found["action_top5"] = float(hits.float().mean())
        kinds = zip(VOCABULARIES["verb_noun"], self._split(probabilities), labels.T, strict=True)
        for kind, p, y in kinds:
            scores = _classification_metrics(p, y)
            found |= {f"{kind}_{name}": value for name, value in scores.items()}
        return found

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


class MultiLabel(Task):
    """Any number of classes per clip: a sigmoid for each, binary cross entropy, mean average
    precision."""

    numbers: ClassVar[Mapping[str, str]] = {
        "mAP": "mAP",
        "micro_AP": "Micro AP",
        "micro_F1": "Micro F1",
        "macro_F1": "Macro F1",
    }
    exclusive: ClassVar[bool] = False

    def targets(self, labels: Tensor) -> Tensor:
        """1 for each class that the clip has."""
        return labels.float()

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Binary cross entropy, the mean over clips and classes; a class weight is that of the
        clips which have the class.

        Raises:
            ValueError: `smoothing` is not 0.
        """
        self.check_smoothing(smoothing)
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)

    def probabilities(self, logits: Tensor) -> Tensor:
        """A sigmoid for each class."""
        return logits.float().sigmoid()

    def predict(self, probabilities: Tensor) -> Tensor:
        """All classes above 0.5: the most probable set, each taken by itself."""
        return probabilities > THRESHOLD

    def label_probability(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Of exactly these classes, each taken by itself."""
        return torch.where(labels, probabilities, 1 - probabilities).prod(1)

    def metrics(self, probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
        """`mAP` and `macro_F1` are means over the classes that have clips; `micro_AP` ranks all
        pairs of clip and class together; F1 counts what is above 0.5."""
        said = self.predict(probabilities)
        hits, counts = (said & labels).sum(0), said.sum(0) + labels.sum(0)
        f1 = (2 * hits / counts.clamp(min=1))[labels.any(0)]
        precision = average_precision(probabilities, labels)
        micro = average_precision(probabilities.reshape(-1, 1), labels.reshape(-1, 1))[0]
        return {
            "mAP": _mean(precision),
            "micro_AP": micro,
            "micro_F1": float(2 * hits.sum() / counts.sum().clamp(min=1)),
            "macro_F1": _mean(f1.tolist()),
            "average_precision": precision,
            "clips_per_class": labels.sum(0).tolist(),
        }

    def headline(self, probabilities: Tensor, labels: Tensor) -> float | None:
        """The mean average precision; None if no clip has a class."""
        return _mean(average_precision(probabilities, labels))

    def rank(
        self, probabilities: Tensor, *, top_k: int, threshold: float = THRESHOLD
    ) -> dict[str, Ranking]:
        """All classes above the threshold, however many."""
        ranking = _best(probabilities, self.space.class_names, self.space.num_outputs)
        return {"label": [(name, p) for name, p in ranking if p > threshold]}

    def class_weights(self, labels: Tensor) -> Tensor:
        """Clips without the class for each one with it, so that both sides weigh the same."""
        counts = labels.sum(0)
        return ((len(labels) - counts) / counts.clamp(min=1)).float().clamp(min=1e-3)

    def clip_weights(self, labels: Tensor) -> Tensor:
        """Clips without a class are drawn as if that were a class."""
        none = ~labels.any(1)
        weights = none.double() / none.sum().clamp(min=1)
        classes_per_clip = labels.sum(1).clamp(min=1)
        for has_class in labels.T:  # a column at a time, as the table may be large
            weights += has_class / (classes_per_clip * has_class.sum().clamp(min=1))
        return weights


TASKS: dict[TaskName, type[Task]] = {
    "single_label": SingleLabel,
    "multi_label": MultiLabel,
    "verb_noun": VerbNoun,
}
"""Task name -> its class."""


def make_task(space: LabelSpace) -> Task:
    """The task of a label space."""
    return TASKS[space.task](space)


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """The numbers of a metrics.json as one line."""
    parts = []
    for name, title in TASKS[metrics["label_space"]["task"]].numbers.items():
        value, interval = metrics[name], metrics.get(f"{name}_interval95")
        if value is not None:
            parts.append(
                f"{title if title.isupper() else title[0].lower() + title[1:]} {value:.1%}"
            )
        if interval is not None:
            parts[-1] += f" (95% interval {interval[0]:.1%} to {interval[1]:.1%})"
    return "  ".join(parts)


def wilson_interval(accuracy: float, n: int) -> tuple[float, float]:
    """95% interval of a proportion measured on n clips (Wilson 1927).

    >>> [round(x, 3) for x in wilson_interval(0.9, 100)]
    [0.826, 0.945]
    """
    z = 1.959964
    centre = accuracy + z * z / (2 * n)
    half = z * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def average_precision(probabilities: Tensor, labels: Tensor) -> list[float | None]:
    """Of each column of (n, K): the mean, over the clips that have the class, of the precision
    among all clips that score at least as high; None without such clips."""
    ensure_torchvision()  # torchmetrics imports it
    from torchmetrics.functional.classification import binary_average_precision

    return [
        float(binary_average_precision(p, y.long())) if bool(y.any()) else None
        for p, y in zip(probabilities.T, labels.T, strict=True)
    ]


def _classification_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Top-1, top-5, mean class accuracy and confusion matrix of one vocabulary.

    `top5` is null with fewer than six classes, where it could not fail. `mean_class` averages the
    recall of classes that have clips.
    """
    K, said = probabilities.shape[1], probabilities.argmax(1)
    confusion = torch.bincount(labels * K + said, minlength=K * K).reshape(K, K)
    counts = confusion.sum(1)
    recall = confusion.diag()[counts > 0] / counts[counts > 0]
    top5 = (probabilities.topk(5).indices == labels[:, None]).any(1) if K > 5 else None
    return {
        "top1": float((said == labels).float().mean()),
        "top5": None if top5 is None else float(top5.float().mean()),
        "mean_class": float(recall.mean()),
        "confusion_matrix": confusion.tolist(),
    }


def _columns(labels: Tensor) -> tuple[Tensor, ...]:
    """The labels of each vocabulary, (n,) each."""
    return labels.reshape(len(labels), -1).unbind(1)


def _best(probabilities: Tensor, names: tuple[str, ...], top_k: int) -> Ranking:
    best = probabilities.topk(min(top_k, len(names)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(names[k], value) for k, value in pairs]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
