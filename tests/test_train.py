"""A run reaches its end and leaves every file; interrupted, it goes on as if nothing had been."""

import csv
import json
import math
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from videos import numbered_frames, write_audio, write_video

from stadapter import FullFinetuneConfig, LinearProbeConfig, STAdapterConfig, create_model
from stadapter.checkpoint import CONFIG, TENSORS
from stadapter.data import OnBroken, TooManyBrokenError, TrainReader, load_collection
from stadapter.hub import CARD
from stadapter.model import VideoClassifier
from stadapter.recipe import Recipe, train_recipe
from stadapter.train import TrainConfig, Trainer, lr_schedule, parameter_groups
from stadapter.train.update import Updater

RUN_FILES = [
    "broken.csv",
    CARD,
    CONFIG,
    TENSORS,
    "log.jsonl",
    "metrics.json",
    "predictions.csv",
    "recipe.yaml",
    "report.html",
    "split.csv",
    f"state/best/{CARD}",
    f"state/best/{CONFIG}",
    f"state/best/{TENSORS}",
    "state/last.pt",
    "state/previous.pt",
]
STEPS = 4  # of an epoch of the shared collection


def files(run: Path) -> list[str]:
    return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())


def log_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def steps(run: Path) -> list[tuple[float, ...]]:
    """What each step of the log computed, without what depends on time."""
    names = ("step", "epoch", "loss", "lr", "grad_norm")
    return [tuple(line.get(name) for name in names) for line in log_lines(run) if "loss" in line]


def assert_same_run(run: Path, expected: Path) -> None:
    """Same weights to the bit, same losses, same scores."""
    for name in (TENSORS, f"state/best/{TENSORS}"):
        tensors, wanted = load_file(run / name), load_file(expected / name)
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[key], wanted[key]) for key in wanted)
    assert steps(run) == steps(expected)
    for name in ("predictions.csv", "split.csv", CONFIG):
        assert (run / name).read_text() == (expected / name).read_text()


def change(recipe: Recipe, **settings: Any) -> Recipe:
    return replace(recipe, train=replace(recipe.train, **settings))


# -- to the end --------------------------------------------------------------------------------


def test_a_run_leaves_every_file(trained_run: Path) -> None:
    assert files(trained_run) == sorted(RUN_FILES)


def test_the_log_has_a_line_per_step_and_epoch(trained_run: Path) -> None:
    lines = log_lines(trained_run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(2 * STEPS))
    epochs = [line for line in lines if "train_loss" in line]
    assert [(line["epoch"], line["step"]) for line in epochs] == [(1, STEPS), (2, 2 * STEPS)]
    for number, line in enumerate(epochs):
        losses = [step["loss"] for step in lines if "loss" in step and step["epoch"] == number]
        assert line["train_loss"] == pytest.approx(sum(losses) / len(losses))
        assert 0 <= line["val_top1"] <= 1
    assert all(line["clips_per_second"] > 0 for line in lines if "loss" in line)


def test_metrics_split_and_scores_agree(trained_run: Path, collection: Path) -> None:
    metrics = json.loads((trained_run / "metrics.json").read_text())
    config = json.loads((trained_run / CONFIG).read_text())
    assert metrics["num_clips"] == 3
    assert metrics["num_broken"] == 0
    assert metrics["broken_train"] == []
    assert metrics["class_names"] == config["class_names"]
    assert config["scores"]["val_top1"] == metrics["top1"] == log_lines(trained_run)[-1]["val_top1"]
    kept = load_collection(trained_run / "split.csv")
    assert kept.splits == load_collection(collection, seed=3).splits


def test_the_recipe_is_kept_resolved(trained_run: Path, recipe: Recipe) -> None:
    text = (trained_run / "recipe.yaml").read_text()
    assert yaml.safe_load(text) == json.loads(json.dumps(recipe.to_dict()))
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert "torch" in " ".join(head)
    assert "stadapter" in " ".join(head)


def test_every_epoch_shows_every_clip_anew(
    collection: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[tuple[int, int]] = []
    read = TrainReader.__call__

    def note(self: TrainReader, path: str, key: tuple[int, int]) -> torch.Tensor:
        keys.append(key)
        return read(self, path, key)

    monkeypatch.setattr(TrainReader, "__call__", note)
    train_recipe(recipe, collection, tmp_path)
    first, second = keys[:15], keys[15:30]  # the report shows a few once more
    assert sorted(first) == [(0, clip) for clip in range(15)]
    assert sorted(second) == [(1, clip) for clip in range(15)]
    assert [clip for _, clip in first] != [clip for _, clip in second]


def test_training_learns(collection: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Brightness tells the classes of this collection."""
    easy = replace(recipe, method=STAdapterConfig(width=8, dropout=0.0))
    train_recipe(change(easy, epochs=6, lr=0.5, warmup_epochs=0.5), collection, tmp_path)
    losses = [line["train_loss"] for line in log_lines(tmp_path) if "train_loss" in line]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("method", [LinearProbeConfig(), FullFinetuneConfig()])
def test_other_methods_and_bf16(
    method: Any, collection: Path, recipe: Recipe, tmp_path: Path
) -> None:
    other = change(replace(recipe, method=method), epochs=1, precision="bf16")
    metrics = train_recipe(other, collection, tmp_path)
    assert metrics["num_clips"] == 3
    assert files(tmp_path) == sorted(RUN_FILES)


def test_best_is_the_epoch_that_validated_best(
    collection: Path, recipe: Recipe, tmp_path: Path
) -> None:
    metrics = train_recipe(change(recipe, epochs=4, keep="best"), collection, tmp_path)
    scores = [line["val_top1"] for line in log_lines(tmp_path) if "val_top1" in line]
    assert metrics["top1"] == max(scores)
    best = json.loads((tmp_path / CONFIG).read_text())["scores"]["epoch"]
    assert best == scores.index(max(scores)) + 1
    tensors, wanted = load_file(tmp_path / TENSORS), load_file(tmp_path / "state/best" / TENSORS)
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_validation_every_few_epochs_and_always_at_the_end(
    collection: Path, recipe: Recipe, tmp_path: Path
) -> None:
    train_recipe(change(recipe, epochs=3, eval_every=2), collection, tmp_path)
    assert [line["epoch"] for line in log_lines(tmp_path) if "val_top1" in line] == [2, 3]


# -- interrupted -------------------------------------------------------------------------------


def interrupt_at(step: int, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real Ctrl-C in the middle of a step, once."""
    pressed: list[bool] = []

    def press(now: int) -> None:
        if now == step and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    steps_seen: list[int] = []
    update, forward = Updater.update, VideoClassifier.forward

    def note(self: Updater, *arguments: Any, step: int, **more: Any) -> Any:
        steps_seen.append(step)
        if where == "before the step":
            press(step)
        line = update(self, *arguments, step=step, **more)
        if where == "after the weights changed":
            press(step)
        return line

    def forward_and_press(self: VideoClassifier, video: torch.Tensor) -> torch.Tensor:
        logits = forward(self, video)
        if where == "after dropout was drawn" and self.training:
            press(steps_seen[-1])
        return logits

    monkeypatch.setattr(Updater, "update", note)
    monkeypatch.setattr(VideoClassifier, "forward", forward_and_press)


@pytest.mark.parametrize(
    ("where", "step"),
    [
        ("before the step", 1),
        ("before the step", 6),
        ("after dropout was drawn", 1),
        ("after the weights changed", 6),
    ],
)
def test_ctrl_c_and_resume_equals_an_uninterrupted_run(
    trained_run: Path,
    collection: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    step: int,
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(step, where, patch)
        with pytest.raises(KeyboardInterrupt):
            train_recipe(recipe, collection, tmp_path)
    assert (tmp_path / "state/last.pt").is_file()
    train_recipe(recipe, collection, tmp_path, resume=True)
    assert_same_run(tmp_path, trained_run)


def test_a_run_that_died_before_its_first_epoch_ended_starts_anew(
    trained_run: Path,
    collection: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Trainer._log

    def log_and_die(self: Trainer, line: dict[str, Any]) -> None:
        log(self, line)
        raise RuntimeError("the power went out")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log", log_and_die)
        with pytest.raises(RuntimeError, match="power"):
            train_recipe(recipe, collection, tmp_path)
    train_recipe(recipe, collection, tmp_path, resume=True)
    assert_same_run(tmp_path, trained_run)


def test_resuming_a_finished_run_changes_nothing(
    run_copy: Path, trained_run: Path, collection: Path, recipe: Recipe
) -> None:
    train_recipe(recipe, collection, run_copy, resume=True)
    assert_same_run(run_copy, trained_run)
    assert files(run_copy) == sorted(RUN_FILES)


def test_resuming_with_other_settings_is_refused(
    run_copy: Path, collection: Path, recipe: Recipe
) -> None:
    before = (run_copy / "recipe.yaml").read_text()
    other = replace(change(recipe, lr=0.2), method=STAdapterConfig(width=16, dropout=0.1))
    with pytest.raises(ValueError, match="begun with other settings") as caught:
        train_recipe(other, collection, run_copy, resume=True)
    assert "train.lr: 0.1 before, 0.2 now" in str(caught.value)
    assert "method.width: 8 before, 16 now" in str(caught.value)
    assert "epochs" not in str(caught.value)
    assert (run_copy / "recipe.yaml").read_text() == before


def test_resuming_with_other_clips_is_refused(
    run_copy: Path, collection: Path, recipe: Recipe, tmp_path: Path
) -> None:
    more = Path(shutil.copytree(collection, tmp_path / "more"))
    clip = next(more.rglob("*.mp4"))
    shutil.copy(clip, clip.with_name("another.mp4"))
    before = (run_copy / "split.csv").read_text()
    with pytest.raises(ValueError, match="clips"):
        train_recipe(recipe, more, run_copy, resume=True)
    assert (run_copy / "split.csv").read_text() == before


def test_an_existing_run_is_kept_unless_overwritten(
    run_copy: Path, trained_run: Path, collection: Path, recipe: Recipe
) -> None:
    with pytest.raises(FileExistsError, match="already holds a run"):
        train_recipe(recipe, collection, run_copy)
    assert_same_run(run_copy, trained_run)
    train_recipe(change(recipe, epochs=1), collection, run_copy, overwrite=True)
    assert len(steps(run_copy)) == STEPS
    assert files(run_copy) == sorted(RUN_FILES)


# -- broken clips ------------------------------------------------------------------------------


@pytest.fixture
def collection_with_broken(collection: Path, tmp_path: Path) -> Path:
    """A CSV whose training names a vanished file, and whose validation a text."""
    kept = load_collection(collection, seed=3)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    name = f'"{kept.class_names[1]}"'
    extra = f"gone.mp4,{name},train\ntext.mp4,{name},val\n"
    (tmp_path / "clips.csv").write_text(kept.to_csv() + extra)
    return tmp_path / "clips.csv"


def test_broken_clips_are_skipped_counted_and_named(
    collection_with_broken: Path, recipe: Recipe, tmp_path: Path
) -> None:
    metrics = train_recipe(change(recipe, max_broken=0.3), collection_with_broken, tmp_path / "run")
    folder = collection_with_broken.parent
    assert metrics["num_clips"] == 3
    assert metrics["num_broken"] == 1
    [broken] = metrics["broken"]
    assert broken["path"] == str(folder / "text.mp4")
    assert "cannot be opened" in broken["reason"]
    assert metrics["broken_train"] == [{"path": str(folder / "gone.mp4"), "reason": "no such file"}]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["num_broken"] == 1
    listed = (tmp_path / "run" / "broken.csv").read_text().splitlines()
    assert listed[1:] == [
        f"{folder / 'gone.mp4'},train,no such file,skipped",
        f"{folder / 'text.mp4'},val,{broken['reason']},skipped",
    ]
    assert metrics["broken_train_reasons"] == {"skipped: no such file": 1}
    assert 0 <= metrics["waited_for_data"] <= 1


@pytest.fixture(scope="module")
def damaged_collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; in training two sound clips of each, and one clip of each kind of damage."""
    folder = tmp_path_factory.mktemp("damaged") / "clips"
    frames = numbered_frames(48)
    for split, count in (("train", 2), ("val", 1)):
        for label in ("clap", "wave"):
            for i in range(count):
                write_video(folder / split / label / f"{i}.mp4", frames)
    train = folder / "train" / "clap"
    (train / "empty.mp4").touch()
    (train / "text.mp4").write_text("no video")
    write_audio(train / "audio.mp4")
    late, early = (
        write_video(train / f"{name}.mkv", frames, gop=8) for name in ("cut late", "cut early")
    )
    late.write_bytes(late.read_bytes()[: int(late.stat().st_size * 0.8)])
    early.write_bytes(early.read_bytes()[: int(early.stat().st_size * 0.3)])
    return folder


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")
@pytest.mark.parametrize("on_broken", ["skip", "salvage"])
def test_the_same_clips_are_broken_for_any_number_of_workers(
    damaged_collection: Path, recipe: Recipe, tmp_path: Path, on_broken: OnBroken
) -> None:
    expected = dict.fromkeys(("audio.mp4", "cut early.mkv", "empty.mp4", "text.mp4"), "skipped")
    expected["cut late.mkv"] = "salvaged" if on_broken == "salvage" else "skipped"
    wanted = change(recipe, on_broken=on_broken, max_broken=0.6)
    runs = []
    for num_workers in (0, 2, 4):
        runs.append(tmp_path / f"run{num_workers}")
        metrics = train_recipe(
            change(wanted, num_workers=num_workers), damaged_collection, runs[-1]
        )
        with (runs[-1] / "broken.csv").open(encoding="utf-8", newline="") as file:
            listed = {Path(row["path"]).name: row["action"] for row in csv.DictReader(file)}
        assert listed == expected
        assert sum(metrics["broken_train_reasons"].values()) == 5
        assert len(metrics["broken_train"]) == list(expected.values()).count("skipped")
        assert metrics["num_clips"] == 2
    for run in runs[1:]:
        assert_same_run(run, runs[0])
        assert (run / "broken.csv").read_text() == (runs[0] / "broken.csv").read_text()


def test_too_many_broken_clips_stop_the_run_with_a_list(
    collection_with_broken: Path, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(TooManyBrokenError, match="1 of 16 clips could not be read") as caught:
        train_recipe(recipe, collection_with_broken, tmp_path / "run")
    assert "gone.mp4: no such file" in str(caught.value)
    assert "gone.mp4,train,no such file" in (tmp_path / "run" / "broken.csv").read_text()


def test_a_loss_that_is_no_number_stops_the_run(
    collection: Path, recipe: Recipe, tmp_path: Path
) -> None:
    wild = change(recipe, lr=1e30, warmup_epochs=0.0, clip_grad_norm=None)
    with pytest.raises(FloatingPointError, match=r"the loss is .* at step \d.*Try a lower --lr"):
        train_recipe(wild, collection, tmp_path)


# -- the recipe of learning --------------------------------------------------------------------


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    config = TrainConfig(epochs=5, warmup_epochs=1)
    values = [lr_schedule(step, 4, config) for step in range(20)]
    assert values[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert values[4] == 1
    assert values[12] == pytest.approx(0.5)
    assert values[8] == pytest.approx(0.5 + math.sqrt(0.5) / 2)
    assert 0 < values[19] < 0.02
    assert lr_schedule(0, 4, TrainConfig(epochs=5, warmup_epochs=0)) == 1


@given(
    epochs=st.integers(1, 30),
    steps_per_epoch=st.integers(1, 30),
    warmup=st.floats(0, 40, allow_nan=False),
)
def test_any_learning_rate_is_above_zero_and_has_one_peak(
    epochs: int, steps_per_epoch: int, warmup: float
) -> None:
    config = TrainConfig(epochs=epochs, warmup_epochs=warmup)
    values = [lr_schedule(s, steps_per_epoch, config) for s in range(epochs * steps_per_epoch)]
    assert all(0 < value <= 1 for value in values)
    top = values.index(max(values))
    assert all(a < b for a, b in pairwise(values[: top + 1]))
    assert all(a >= b for a, b in pairwise(values[top:]))
    assert max(values) > 0.4  # also when the warm-up is longer than the run


def test_the_rate_is_for_256_clips(trained_run: Path, recipe: Recipe) -> None:
    config = recipe.train
    for step, _, _, lr, _ in steps(trained_run):
        expected = config.lr * config.batch_size / 256 * lr_schedule(int(step), STEPS, config)
        assert lr == pytest.approx(expected)


@pytest.mark.parametrize("method", [STAdapterConfig(width=8), FullFinetuneConfig()])
def test_no_decay_on_biases_and_norms(method: Any) -> None:
    model = create_model("tiny", num_classes=3, method=method, pretrained=False)
    config = TrainConfig(lr=0.1, batch_size=64, weight_decay=0.05)
    found: dict[int, dict[str, Any]] = {}
    for group in parameter_groups(model, config):
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = group
    trained = dict(model.trained_parameters())
    assert found.keys() == {id(p) for p in trained.values()}
    for name, parameter in trained.items():
        group = found[id(parameter)]
        plain = name.endswith("bias") or "norm" in name
        assert group["weight_decay"] == (0.0 if plain else 0.05), name
        scale = 0.1 if name.startswith("backbone.") else 1.0
        assert group["peak_lr"] == pytest.approx(0.1 * 64 / 256 * scale), name


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("eval_every", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("warmup_epochs", -1.0),
        ("weight_decay", -0.1),
        ("clip_grad_norm", 0.0),
        ("label_smoothing", 1.0),
        ("max_broken", 1.5),
        ("num_workers", -1),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{setting} \({value}\)"):
        TrainConfig(**{setting: value})
