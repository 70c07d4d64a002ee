"""Any number of classes per clip."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter.tasks.numbers import SMALLEST, average_precision, resampled_average_precision
from stadapter.tasks.task import THRESHOLD, Ranking, Task, best_names


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

    def resampled(
        self, probabilities: Tensor, labels: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """A class without clips in a resample is left out of that resample's means."""
        said = self.predict(probabilities)
        true = weights @ labels.float()  # (R, K) clips of each class
        hits, counts = weights @ (said & labels).float(), weights @ said.float() + true
        f1 = torch.where(true > 0, 2 * hits / counts.clamp(min=1), torch.nan)
        precision = [
            resampled_average_precision(p, y, weights)
            for p, y in zip(probabilities.T, labels.T, strict=True)
        ]
        K = labels.shape[1]
        pairs = weights.repeat_interleave(K, dim=1)
        return {
            "mAP": torch.stack(precision).nanmean(0),
            "micro_AP": resampled_average_precision(
                probabilities.flatten(), labels.flatten(), pairs
            ),
            "micro_F1": 2 * hits.sum(1) / counts.sum(1).clamp(min=1),
            "macro_F1": f1.nanmean(1),
        }

    def surprise(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """The mean over classes, as in the loss."""
        p = torch.where(labels, probabilities, 1 - probabilities)
        return -p.clamp(min=SMALLEST).log().mean(1)

    def tempered(self, probabilities: Tensor, temperature: float) -> Tensor:
        """A probability that was rounded to 0 or 1 has no logit, and stays."""
        return (probabilities.logit() / temperature).sigmoid()

    def claims(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of each class of each clip, m = nK."""
        return probabilities.flatten(), labels.flatten()

    def headline(self, probabilities: Tensor, labels: Tensor) -> float | None:
        """The mean average precision; None if no clip has a class."""
        return _mean(average_precision(probabilities, labels))

    def rank(
        self, probabilities: Tensor, *, top_k: int, threshold: float = THRESHOLD
    ) -> dict[str, Ranking]:
        """All classes above the threshold, however many."""
        ranking = best_names(probabilities, self.space.class_names, self.space.num_outputs)
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


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
