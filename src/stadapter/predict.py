"""Files in, labelled scores out: what `stadapter predict` does, for Python."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stadapter.data import (
    Preprocessing,
    SamplingConfig,
    TestReader,
    VideoError,
    find_videos,
)
from stadapter.data.shards import open_member
from stadapter.device import Precision, pick_device
from stadapter.evaluate import view_probabilities
from stadapter.model import VideoClassifier
from stadapter.tasks import THRESHOLD, Ranking, make_task


@dataclass(frozen=True)
class Prediction:
    """What the model says about one file."""

    path: str
    """The file."""
    labels: tuple[str, ...]
    """The most probable first: classes; actions ("take|cup") of a verb_noun run; all classes above
    the threshold of a multi_label run."""
    scores: tuple[float, ...]
    """Probability of each of `labels`, 0 to 1."""
    error: str | None = None
    """Why the file could not be read; `labels` is then empty."""
    parts: Mapping[str, Ranking] = field(default_factory=dict)
    """The best verbs and nouns by themselves ("verb", "noun"), of a verb_noun run."""


class Predictor:
    """A trained run, ready for files; sampling, resolution and class names come from the run."""

    def __init__(
        self,
        run: str | Path,
        *,
        backbone_weights: str | Path | None = None,
        num_temporal_views: int = 1,
        num_spatial_views: int = 1,
        sampling: SamplingConfig | None = None,
        resolution: tuple[int, int] | None = None,
        precision: Precision = "fp32",
        device: str = "auto",
    ) -> None:
        """Load the run.

        Args:
            run: folder written by `stadapter train`.
            backbone_weights: where the pretrained weights are now, if not where they were.
            num_temporal_views: clips per video, spread over time.
            num_spatial_views: 1 or 3 crops.
            sampling: other frames than in training.
            resolution: other (height, width) than in training.
            precision: of the matrix products.
            device: auto, cpu, cuda, mps.

        Raises:
            FileNotFoundError: no run there.
            ValueError: unreadable files or impossible settings.
            AdapterMismatchError: the backbone's weights are not those of the training.
        """
        self.device = pick_device(device)
        self.precision = precision
        self.model = VideoClassifier.from_pretrained(run, backbone_weights=backbone_weights).to(
            self.device
        )
        info = self.model.adapter_set.info
        self.class_names = info.class_names
        self.task = make_task(info.space)
        preprocessing = Preprocessing.from_dict(info.preprocessing)
        if resolution is not None:
            preprocessing = replace(preprocessing, resolution=resolution)
        self.model.backbone.grid(*preprocessing.resolution)  # refuse before the first file
        self.reader = TestReader(
            sampling or SamplingConfig(**info.sampling),
            preprocessing,
            num_temporal_views,
            num_spatial_views,
        )

    def predict(
        self, paths: Sequence[str | Path], *, top_k: int = 5, threshold: float = THRESHOLD
    ) -> list[Prediction]:
        """Score files, and all videos below folders; a file that cannot be read gets its `error`.

        Args:
            paths: files and folders.
            top_k: names per file, where exactly one is right.
            threshold: probability above which a class is told, where any number may be right.

        Raises:
            FileNotFoundError: a path that does not exist.
            ValueError: a folder without videos, top_k below 1, or a threshold outside 0 to 1.
        """
        return list(self.stream(self.files(paths), top_k=top_k, threshold=threshold))

    def files(self, paths: Sequence[str | Path]) -> list[Path]:
        """`paths` with each folder replaced by the videos below it."""
        files = []
        for path in map(Path, paths):
            if path.is_dir():
                found = find_videos(path)
                if not found:
                    raise ValueError(f"folder {path} has no videos")
                files += found
            elif path.exists() or open_member(str(path)):  # in a tar shard
                files.append(path)
            else:
                raise FileNotFoundError(f"{path} does not exist")
        return files

    def stream(
        self, files: Sequence[Path], *, top_k: int = 5, threshold: float = THRESHOLD
    ) -> Iterator[Prediction]:
        """One `Prediction` after the other; arguments and errors as of `predict`."""
        if top_k < 1:
            raise ValueError(f"top_k ({top_k}) must be at least 1")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold ({threshold}) must be a probability, 0 to 1")
        for file in files:
            try:
                video = self.reader(str(file))
            except VideoError as error:
                yield Prediction(str(file), (), (), error.reason)
                continue
            batch = video[None].to(self.device)
            preprocessing = self.reader.preprocessing
            views = view_probabilities(self.model, preprocessing, batch, self.precision)[0]
            rankings = self.task.rank(views.mean(0).cpu(), top_k=top_k, threshold=threshold)
            main = rankings.pop(next(iter(rankings)))
            labels, values = tuple(label for label, _ in main), tuple(score for _, score in main)
            yield Prediction(str(file), labels, values, parts=rankings)
