"""Runs of every kind of label: the same scores everywhere, resumed as if never interrupted."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RECIPE
from test_report import Page
from test_train import assert_same_run, change, interrupt_at, log_lines

from stadapter import Predictor, VideoClassifier
from stadapter.checkpoint import CONFIG
from stadapter.data import AugmentConfig, Batch, ClipTable, Collection, LabelSpace, load_collection
from stadapter.evaluate import EvalConfig
from stadapter.methods import LinearProbeConfig
from stadapter.recipe import Recipe, build_model, evaluate_run, train_recipe
from stadapter.results import read_predictions
from stadapter.run import RunFolder
from stadapter.tables import predictions_text
from stadapter.tasks import TASKS, make_task, metrics_text
from stadapter.train import Trainer

SPACES = {
    "single_label": LabelSpace.single_label(["push left", "push right", "wave"]),
    "multi_label": LabelSpace("multi_label", (("dark", "light", "no | bar", "odd"),)),
    "verb_noun": LabelSpace("verb_noun", (("push left", "push right", "see"), ("cup", "jar"))),
}
ALL_ON = change(
    replace(RECIPE, augment=AugmentConfig(flip="auto")), mixup=0.8, cutmix=1.0, balance="sampler"
)


def label(task: str, k: int, i: int) -> Any:
    """Of clip i of class k, which differs in brightness."""
    if task == "single_label":
        return k
    if task == "verb_noun":
        return (k, i % 2)
    return (k == 0 and i != 1, k == 2, k == 1, i % 2 == 1)  # sometimes none


@pytest.fixture(scope="session")
def labelled(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Task -> the shared clips with labels of that kind, as a CSV; class 0 is rare in training."""

    def write(task: str) -> Path:
        whole = load_collection(collection).whole()
        rows = {"train": [], "val": []}
        for k in range(3):
            for i in range(6):
                if k or i < 4:
                    rows["val" if i < 2 else "train"].append((whole.paths[6 * k + i], k, i))
        space = SPACES[task]
        tables = {
            split: ClipTable(
                [path for path, _, _ in some], [label(task, k, i) for _, k, i in some], space
            )
            for split, some in rows.items()
        }
        path = tmp_path_factory.mktemp(task) / "clips.csv"
        path.write_text(Collection(tables, space, False).to_csv(), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session", params=SPACES)
def finished(
    request: pytest.FixtureRequest,
    labelled: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """(data, run) with everything on, for each task. Not to be changed."""
    data = labelled(request.param)
    run = tmp_path_factory.mktemp("run") / request.param
    train_recipe(ALL_ON, data, run)
    return data, run


def task_of(run: Path) -> str:
    return json.loads((run / "metrics.json").read_text())["label_space"]["task"]


def test_a_run_knows_its_task(finished: tuple[Path, Path]) -> None:
    data, run = finished
    metrics = json.loads((run / "metrics.json").read_text())
    space = SPACES[task_of(run)]
    assert load_collection(data).space == space
    model = VideoClassifier.from_pretrained(run)
    assert model.adapter_set.info.space == space
    assert model.adapter_set.head.num_classes == space.num_outputs
    headline = next(iter(make_task(space).numbers))
    assert log_lines(run)[-1][f"val_{headline}"] == pytest.approx(metrics[headline])
    config = json.loads((run / CONFIG).read_text())
    assert config["scores"][f"val_{headline}"] == pytest.approx(metrics[headline])
    assert f"{metrics[headline]:.1%}" in metrics_text(metrics)
    kept = load_collection(run / "split.csv", space=space)
    assert kept.splits == load_collection(data).splits
    assert space.vocabularies[0][0] in (run / "README.md").read_text()


def test_training_eval_and_predict_say_the_same_about_a_file(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = finished[0], Path(shutil.copytree(finished[1], tmp_path / "run"))
    space = SPACES[task_of(run)]
    trained = (run / "predictions.csv").read_text()
    before = json.loads((run / "metrics.json").read_text())
    config = EvalConfig(batch_size=3, num_workers=1, device="cpu")
    metrics = evaluate_run(run, data, config)
    for key in (*make_task(space).numbers, "clip_list_sha256", "label_space"):
        expected = before[key]
        assert metrics[key] == (
            pytest.approx(expected) if isinstance(expected, float) else expected
        )
    rows = read_predictions(run / "predictions.csv")
    assert [row.split(",")[:3] for row in trained.splitlines()[1:]] == [
        row.split(",")[:3] for row in (run / "predictions.csv").read_text().splitlines()[1:]
    ]
    predictor = Predictor(run, device="cpu")
    predictions = predictor.predict([row["path"] for row in rows], top_k=99, threshold=0.0)
    for row, prediction in zip(rows, predictions, strict=True):
        rankings = [list(zip(prediction.labels, prediction.scores, strict=True))]
        prefixes = [""]
        if prediction.parts:
            assert (prediction.labels[0], f"{prediction.scores[0]:.5f}") == (
                row["prediction"],
                f"{float(row['score']):.5f}",
            )
            prefixes = [f"{kind}:" for kind in prediction.parts]
            rankings = list(prediction.parts.values())
        told = {
            f"{prefix}{name}": score
            for prefix, ranking in zip(prefixes, rankings, strict=True)
            for name, score in ranking
        }
        assert told == pytest.approx(
            {name: float(row[f"score:{name}"]) for name in space.class_names}, abs=2e-6
        )
        for ranking in rankings:
            assert [score for _, score in ranking] == sorted((s for _, s in ranking), reverse=True)


def test_resuming_with_everything_on_equals_an_uninterrupted_run(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = finished
    with monkeypatch.context() as patch:
        interrupt_at(5, "before the step", patch)
        with pytest.raises(KeyboardInterrupt):
            train_recipe(change(ALL_ON, num_workers=1), data, tmp_path)
    train_recipe(ALL_ON, data, tmp_path, resume=True)
    assert_same_run(tmp_path, run)


@pytest.mark.parametrize("task", TASKS)
def test_class_weights_change_the_loss_of_a_collection_with_a_rare_class(
    task: str, labelled: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = change(replace(RECIPE, method=LinearProbeConfig(dropout=0.0)), epochs=1)
    data = labelled(task)
    losses = []
    for balance in ("none", "loss"):
        train_recipe(change(plain, balance=balance), data, tmp_path / balance)
        losses.append(log_lines(tmp_path / balance)[0]["loss"])
    assert losses[0] != losses[1]


def test_smoothing_is_refused_before_anything_is_written(
    labelled: Callable[[str], Path], tmp_path: Path
) -> None:
    smooth = change(RECIPE, label_smoothing=0.1)
    with pytest.raises(ValueError, match="label_smoothing"):
        train_recipe(smooth, labelled("multi_label"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_reports_show_what_a_task_has(finished: tuple[Path, Path]) -> None:
    _, run = finished
    text = (run / "report.html").read_text()
    Page(text)  # its tags are balanced
    expected = {
        "single_label": ["Top-1", "Recall of each class", "Confusion<"],
        "multi_label": ["mAP on the validation clips", "Average precision of each class"],
        "verb_noun": [
            "Action top-1 on the validation clips",
            "Recall of each verb",
            "Recall of each noun",
            "Confusion of verbs",
            "Confusion of nouns",
        ],
    }[task_of(run)]
    assert all(part in text for part in expected)
    assert ("Confusion" in text) == (task_of(run) != "multi_label")
    assert "No clips are shown" not in text
    assert "What the model sees" in text


def test_predictions_as_text(finished: tuple[Path, Path]) -> None:
    data, run = finished
    predictor = Predictor(run, device="cpu")
    path = load_collection(data).splits["val"].paths[0]
    predictions = predictor.predict([path], top_k=2, threshold=1.0)
    [entry] = json.loads(predictions_text(predictions, "json"))
    header, *lines = predictions_text(predictions, "csv").splitlines()
    task = task_of(run)
    counts = {"single_label": [2, 0, 0], "multi_label": [0, 0, 0], "verb_noun": [2, 2, 2]}[task]
    assert [len(entry.get(kind, [])) for kind in ("predictions", "verb", "noun")] == counts
    assert len(lines) == sum(counts)
    assert header.endswith(",part") == (task == "verb_noun")
    table = predictions_text(predictions, "table")
    assert ("no class above" in table) == (task == "multi_label")
    assert ("verbs" in table and "nouns" in table) == (task == "verb_noun")


# -- what a step trains on ---------------------------------------------------------------------


def trainer(data: Path, run: Path, recipe: Recipe) -> Trainer:
    collection = load_collection(data)
    model, preprocessing = build_model(recipe, collection.space)
    folder = RunFolder(run)
    folder.prepare(resume=False, overwrite=False)
    return Trainer(
        model,
        collection.splits["train"],
        config=recipe.train,
        sampling=recipe.sampling,
        preprocessing=preprocessing,
        augment=recipe.augment,
        run=folder,
        validate=lambda model: pytest.fail("not validated"),
    )


def test_flipped_clips_have_the_other_side(labelled: Callable[[str], Path], tmp_path: Path) -> None:
    made = trainer(
        labelled("single_label"), tmp_path, replace(RECIPE, augment=AugmentConfig(flip="auto"))
    )
    video = torch.zeros(30, 1, 3, 3, 8, 8, dtype=torch.uint8)
    video[..., 4:] = 255  # bright on the right
    labels, clips = torch.arange(30) % 3, torch.arange(30)
    shown, targets = made.updater.prepare(Batch(clips, video, labels, (), torch.empty(0)), 1, 0, 0)
    mirrored = shown[..., 0].mean((1, 2, 3)) > shown[..., -1].mean((1, 2, 3))
    assert 5 < int(mirrored.sum()) < 25
    expected = torch.where(mirrored, torch.tensor([1, 0, 2])[labels], labels)
    assert torch.equal(targets.argmax(1), expected)
    again, _ = made.updater.prepare(Batch(clips, video, labels, (), torch.empty(0)), 1, 0, 0)
    assert torch.equal(again, shown)
    few, _ = made.updater.prepare(
        Batch(clips[:7], video[:7], labels[:7], (), torch.empty(0)), 1, 0, 0
    )
    assert torch.equal(few, shown[:7])  # whatever the batch


def test_a_step_mixes_clips_and_targets(labelled: Callable[[str], Path], tmp_path: Path) -> None:
    made = trainer(labelled("verb_noun"), tmp_path, change(RECIPE, mixup=1.0))
    video = torch.randint(256, (6, 1, 3, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([[i % 3, i % 2] for i in range(6)])
    plain = made.updater.preprocessing.normalize(video[:, 0])
    shown, targets = made.updater.prepare(
        Batch(torch.arange(6), video, labels, (), torch.empty(0)), 1, 0, 0
    )
    assert not torch.equal(shown, plain)
    torch.testing.assert_close(targets[:, :3].sum(1), torch.ones(6))
    torch.testing.assert_close(targets[:, 3:].sum(1), torch.ones(6))
    assert np.isfinite(float(made.task.loss(torch.zeros(6, 5), targets)))
