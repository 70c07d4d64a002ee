"""What every kind of label has to say; `Task` is made from a `LabelSpace`.

Letters: B clips in a batch, n clips scored, K logits, R resamples. Labels are as in `ClipTable`:
int64 (n,) for single_label, bool (n, K) for multi_label, int64 (n, 2) for verb_noun.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from stadapter.data.labels import LabelSpace

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
    def resampled(
        self, probabilities: Tensor, labels: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """Those of `numbers` that are defined, with each clip counted `weights` times.

        Args:
            probabilities: (n, K)
            labels: of n clips.
            weights: float (R, n), whole numbers of at least 0; a row has at least one clip.

        Returns:
            Name -> float (R,); nan where a number is not defined on a row's clips.
        """

    @abstractmethod
    def surprise(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Minus the log of the probability of each clip's label, float (n,): its loss in nats."""

    @abstractmethod
    def tempered(self, probabilities: Tensor, temperature: float) -> Tensor:
        """The probabilities (n, K), had the logits been divided by `temperature`."""

    def claims(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What calibration is about: probabilities that were stated, float (m,), and whether what
        they were stated of is so, bool (m,). Here of each clip's prediction."""
        stated = self.label_probability(probabilities, self.predict(probabilities))
        return stated, self.correct(probabilities, labels)

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


def best_names(probabilities: Tensor, names: tuple[str, ...], top_k: int) -> Ranking:
    """The most probable of `names`, by their probabilities (K,)."""
    best = probabilities.topk(min(top_k, len(names)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(names[k], value) for k, value in pairs]
