"""A run as data: every setting in one tree, from YAML and flags, and what it does.

`Recipe` composes the configs that live beside the code they configure. It is saved, resolved, as
recipe.yaml in the run folder, and that file is itself a recipe.
"""

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from stadapter.atomic import write_text
from stadapter.backbones.frozen import Storage
from stadapter.checkpoint import TENSORS, library_versions
from stadapter.data import (
    AugmentConfig,
    ClipTable,
    Collection,
    DataConfig,
    LabelSpace,
    Preprocessing,
    SamplingConfig,
    TooManyBrokenError,
    announce_collection,
    check_trainable,
    count_by_reason,
    load_collection,
    skipped,
    write_broken,
)
from stadapter.device import device_name, peak_memory
from stadapter.evaluate import EvalConfig, Scores, score_clips
from stadapter.methods import MethodConfig, STAdapterConfig
from stadapter.model import VideoClassifier, create_model
from stadapter.progress import console
from stadapter.ranks import Ranks, join_ranks
from stadapter.report import write_report
from stadapter.results import write_results
from stadapter.run import RunFolder
from stadapter.tasks import make_task
from stadapter.train import TrainConfig, Trainer, check_shard, check_trackers, mirror


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training run."""

    backbone: str = "tiny"
    """Frozen image transformer: "tiny" or "timm/NAME"."""
    backbone_weights: str | None = None
    """Local file with its pretrained weights; None takes the package's or the Hub's."""
    pretrained: bool = True
    """False starts from random weights."""
    backbone_storage: Storage = "fp32"
    """Type in which frozen weights are kept in memory: bf16 (half; with precision bf16) or int8 (a
    quarter of the linear layers). The run is scored so; `eval` and `predict` use fp32."""
    method: MethodConfig = field(default_factory=STAdapterConfig)
    """What is trained on top of it."""
    resolution: int | tuple[int, int] | None = None
    """Side, or height and width, of the input in pixels; None is the backbone's native one."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Which frames make a clip."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes to training clips."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""

    def to_dict(self) -> dict[str, Any]:
        """As plain YAML."""
        content: dict[str, Any] = _plain(asdict(self))
        content["method"] = _plain(self.method.to_dict())
        return content


FREE_TO_CHANGE = (
    "train.num_workers",
    "train.decode_timeout_seconds",
    "train.device",
    "train.save_every_minutes",
    "train.trackers",
    "backbone_weights",
)
"""Settings that a resumed run may change, because they do not change its result."""


def train_recipe(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    reading: DataConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a run from start (or where it stopped) to end; returns its metrics.

    `data` is read as `reading` says. What a resumed run compares is which clips come of it.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, PermissionError: input that cannot be used.
        TooManyBrokenError, FloatingPointError: a run that had to stop.
    """
    run = RunFolder(Path(out))
    collection = load_collection(data, reading, seed=recipe.train.seed)
    check_trainable(collection, data)
    model, preprocessing = build_model(recipe, collection.space)
    make_task(collection.space).check_smoothing(recipe.train.label_smoothing)
    # Refused before anything is written.
    check_trackers(recipe.train.trackers)
    ranks = join_ranks(recipe.train.device)
    check_shard(recipe.train.shard, ranks)
    if ranks.is_main:
        run.prepare(resume=resume, overwrite=overwrite)
        if resume and run.recipe.exists():
            _check_same(recipe, run)
        if resume and run.split.exists():
            _check_same_clips(collection, run, data)
        write_text(run.recipe, recipe_yaml(recipe, data))
        write_text(run.split, collection.to_csv())
    ranks.wait()
    announce_collection(collection, data)
    _announce(model, collection, recipe)
    val = collection.splits["val"]
    eval_config = _eval_config(recipe.train)

    def validate(model: VideoClassifier) -> Scores:
        with _listing_broken(run, "val", ranks):
            return score_clips(
                model,
                val,
                preprocessing,
                recipe.sampling,
                eval_config,
                ranks=ranks,
                in_step=recipe.train.shard,
                text="validating",
            )

    trainer = Trainer(
        model,
        collection.splits["train"],
        config=recipe.train,
        sampling=recipe.sampling,
        preprocessing=preprocessing,
        augment=recipe.augment,
        run=run,
        ranks=ranks,
        validate=validate,
    )
    if resume:
        trainer.resume()
    scores = trainer.run()
    context = _context("val", preprocessing, recipe.sampling, eval_config)
    broken = sorted(trainer.state.broken.values(), key=lambda clip: clip.clip)
    context["seed"] = recipe.train.seed
    context["broken_train"] = [{"path": b.path, "reason": b.reason} for b in skipped(broken)]
    context["broken_train_reasons"] = count_by_reason(broken)
    context["waited_for_data"] = trainer.waited_for_data
    context["selected"] = f"{recipe.train.keep} epoch"
    context["flip"] = str(trainer.mirror or "off")
    context["training"] = _training_record(trainer)
    return _write(run, recipe.method.name, scores, val, context, ranks)


def _training_record(trainer: Trainer) -> dict[str, Any]:
    """What the training cost; times are of its steps, without validation."""
    state, ranks = trainer.state, trainer.ranks
    total, trained = trainer.model.num_parameters()
    seconds = state.step_seconds
    return {
        "seconds": round(seconds, 2),
        "seconds_per_epoch": round(seconds / trainer.config.epochs, 2),
        "clips_per_second": round(state.clips / seconds, 3) if seconds else None,
        "peak_memory_bytes": max(ranks.gather(peak_memory(ranks.device))),
        "num_parameters": total,
        "num_trained": trained,
        "adapter_bytes": (trainer.folder.path / TENSORS).stat().st_size if ranks.is_main else None,
        "num_processes": ranks.num_ranks,
        "device": device_name(ranks.device),
    }


def evaluate_run(
    run_path: str | Path,
    data: str | Path | None,
    config: EvalConfig,
    *,
    split: str = "val",
    reading: DataConfig | None = None,
    backbone_weights: str | Path | None = None,
    sampling: SamplingConfig | None = None,
    resolution: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Score a trained run on a split of `data` (or of its own collection); returns the metrics.

    `data` is read as `reading` says; of the run's own collection only `reading.skip_list` is used.

    Raises:
        ValueError, FileNotFoundError: input that cannot be used.
        TooManyBrokenError: more unreadable clips than `config.max_broken`.
    """
    run = RunFolder(Path(run_path))
    if not run.path.is_dir():
        raise FileNotFoundError(f"run {run.path} does not exist; give a folder that train wrote")
    model = VideoClassifier.from_pretrained(run.path, backbone_weights=backbone_weights)
    info = model.adapter_set.info
    preprocessing = Preprocessing.from_dict(info.preprocessing)
    if resolution is not None:
        preprocessing = replace(preprocessing, resolution=resolution)
    model.backbone.grid(*preprocessing.resolution)
    sampling = sampling or SamplingConfig(**info.sampling)
    source = run.split if data is None else data
    if data is None and not run.split.exists():
        raise FileNotFoundError(f"{run.path} does not know its clips; say which: eval RUN DATA")
    if data is None and reading is not None:  # the run's own list needs nothing else said
        reading = DataConfig(skip_list=reading.skip_list)
    collection = load_collection(source, reading, space=info.space)
    if collection.made_split:  # a collection without splits is scored whole
        table = collection.whole()
        split = "all"
    elif split in collection.splits:
        table = collection.splits[split]
    else:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(collection.splits)}")
    announce_collection(collection, source)
    ranks = join_ranks(config.device)
    with _listing_broken(run, split, ranks):
        scores = score_clips(model, table, preprocessing, sampling, config, ranks=ranks)
    context = _context(split, preprocessing, sampling, config) | {"seed": _seed(run)}
    if training := _training_cost(run):
        context["training"] = training
    return _write(run, model.adapter_set.config.name, scores, table, context, ranks)


def _write(
    run: RunFolder,
    method: str,
    scores: Scores,
    table: ClipTable,
    context: dict[str, Any],
    ranks: Ranks,
) -> dict[str, Any]:
    """What an evaluation leaves in the run folder; returns the metrics, on every rank."""
    metrics = {}
    if ranks.is_main:
        metrics = write_results(run, scores, table, context)
        write_report(run.report, {method: run}, title=_title(run))
    found: dict[str, Any] = ranks.gather(metrics)[0]
    return found


@contextmanager
def _listing_broken(run: RunFolder, split: str, ranks: Ranks) -> Iterator[None]:
    """broken.csv is also written when there are too many broken clips to go on."""
    try:
        yield
    except TooManyBrokenError as error:
        if ranks.is_main:
            write_broken(run.broken, split, error.broken)
        raise


def build_model(recipe: Recipe, space: LabelSpace) -> tuple[VideoClassifier, Preprocessing]:
    """The recipe's model with fresh adapters from its seed, and how its frames are made.

    Raises:
        ValueError, FileNotFoundError: a backbone, method or resolution that cannot be used.
    """
    if recipe.backbone_storage == "bf16" and recipe.train.precision != "bf16":
        raise ValueError(
            f"backbone_storage bf16 goes with precision bf16, not {recipe.train.precision}; int8 "
            "goes with any"
        )
    torch.manual_seed(recipe.train.seed)
    model = create_model(
        recipe.backbone,
        num_classes=space.num_outputs,
        method=recipe.method,
        backbone_weights=recipe.backbone_weights,
        pretrained=recipe.pretrained,
        backbone_storage=recipe.backbone_storage,
    )
    pixels = model.backbone.pixels
    resolution = recipe.resolution or pixels.resolution
    if isinstance(resolution, int):
        resolution = (resolution, resolution)
    preprocessing = Preprocessing(
        resolution=(resolution[0], resolution[1]),
        mean=pixels.mean,
        std=pixels.std,
        interpolation=pixels.interpolation,
    )
    model.backbone.grid(*preprocessing.resolution)
    model.adapter_set.info = replace(
        model.adapter_set.info,
        space=space,
        preprocessing=preprocessing.to_dict(),
        sampling=asdict(recipe.sampling),
    )
    return model, preprocessing


def recipe_yaml(recipe: Recipe, data: str | Path) -> str:
    """The recipe as YAML, headed by what it ran on."""
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    head = f"# data: {data}\n# {versions}\n# {platform.platform()}, {platform.machine()}\n"
    return head + yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)


def _training_cost(run: RunFolder) -> dict[str, Any] | None:
    """What metrics.json says of the training, which another evaluation does not change."""
    try:
        content = json.loads(run.metrics.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return content.get("training") if isinstance(content, dict) else None


def _seed(run: RunFolder) -> int | None:
    """The seed that a run was trained with; None if no recipe says it, as of converted ones."""
    try:
        content = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    seed = _flat(content).get("train.seed") if isinstance(content, Mapping) else None
    return seed if isinstance(seed, int) else None


def _title(run: RunFolder) -> str:
    return f"stadapter: {run.path.absolute().name}"


def changed_settings(recipe: Recipe, run: RunFolder) -> list[str]:
    """Settings in which a begun run differs, as "train.lr: 0.1 before, 0.2 now"; without those that
    are `FREE_TO_CHANGE`."""
    before = _flat(yaml.safe_load(run.recipe.read_text(encoding="utf-8")))
    now = _flat(recipe.to_dict())
    return [
        f"{key}: {before.get(key)!r} before, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in FREE_TO_CHANGE
    ]


def _check_same(recipe: Recipe, run: RunFolder) -> None:
    changed = changed_settings(recipe, run)
    if changed:
        raise ValueError(
            f"{run.path} was begun with other settings; resume with the same ones, or start anew "
            f"with --overwrite: {'; '.join(changed)}"
        )


def _check_same_clips(collection: Collection, run: RunFolder, data: str | Path) -> None:
    if load_collection(run.split, space=collection.space).list_hash() != collection.list_hash():
        raise ValueError(
            f"{run.path} was begun with other clips than {data} holds now; resume with the same "
            f"ones (they are listed in {run.split}), or start anew with --overwrite"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _eval_config(train: TrainConfig) -> EvalConfig:
    return EvalConfig(
        batch_size=train.batch_size,
        num_workers=train.num_workers,
        precision=train.precision,
        device=train.device,
        on_broken=train.on_broken,
        max_broken=train.max_broken,
        decode_timeout_seconds=train.decode_timeout_seconds,
    )


def _context(
    split: str, preprocessing: Preprocessing, sampling: SamplingConfig, config: EvalConfig
) -> dict[str, Any]:
    return {
        "split": split,
        "num_temporal_views": config.num_temporal_views,
        "num_spatial_views": config.num_spatial_views,
        "num_frames": sampling.num_frames,
        "frame_stride": sampling.frame_stride,
        "resolution": list(preprocessing.resolution),
        "precision": config.precision,
    }


def _announce(model: VideoClassifier, collection: Collection, recipe: Recipe) -> None:
    total, trained = model.num_parameters()
    made = "; the split was made here and is kept in split.csv" if collection.made_split else ""
    console.print(
        f"{recipe.method.name} on {model.backbone.id}: trains {trained:,} of {total:,} parameters "
        f"({trained / total:.1%}){made}",
        highlight=False,
    )
    flips = mirror(recipe.augment, collection.space)
    if flips is not None:
        console.print(f"flip {recipe.augment.flip}: {flips}", highlight=False, markup=False)
