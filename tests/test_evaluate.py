"""Numbers against counting by hand; the same ones whatever workers and batches."""

import csv
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stadapter.data import (
    BrokenClip,
    ClipTable,
    LabelSpace,
    Preprocessing,
    SamplingConfig,
    TestReader,
    TooManyBrokenError,
    load_collection,
)
from stadapter.evaluate import EvalConfig, Scores, score_clips, view_probabilities
from stadapter.model import VideoClassifier
from stadapter.recipe import Recipe, evaluate_run
from stadapter.results import compute_metrics, predictions_csv, read_predictions
from stadapter.tasks import wilson_interval

PLAIN = EvalConfig(num_workers=0, device="cpu")


def scores(
    rows: Sequence[Sequence[float]], labels: Sequence[int], space: LabelSpace | None = None
) -> Scores:
    return Scores(
        clips=torch.arange(len(rows)),
        probabilities=torch.tensor(rows),
        labels=torch.tensor(labels),
        space=space or LabelSpace.single_label([str(k) for k in range(len(rows[0]))]),
        broken=(),
        seconds=1.0,
    )


def table(labels: Sequence[int], class_names: Sequence[str]) -> ClipTable:
    return ClipTable(
        [f"/v/{i}.mp4" for i in range(len(labels))],
        labels,
        LabelSpace("single_label", (class_names,)),
    )


# -- metrics -----------------------------------------------------------------------------------


def test_metrics_by_hand() -> None:
    """Class a: 2 of 3 right; b: 1 of 2; c: none of 1; d has no clips."""
    a, b, c = [0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]
    labels = [0, 0, 0, 1, 1, 2]
    clips = table(labels, "abcd")
    metrics = compute_metrics(scores([a, a, b, b, c, a], labels, clips.space), clips)
    assert metrics["top1"] == pytest.approx(3 / 6)
    assert metrics["mean_class"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert metrics["confusion_matrix"] == [
        [2, 1, 0, 0],
        [0, 1, 1, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert metrics["top1_interval95"] == wilson_interval(0.5, 6)
    assert metrics["num_clips"] == 6
    assert metrics["class_names"] == list("abcd")
    assert metrics["label_space"] == clips.space.to_dict()
    assert metrics["clip_list_sha256"] == clips.list_hash()
    json.dumps(metrics)


def test_top5_counts_the_five_best() -> None:
    ranked = [0.3, 0.25, 0.2, 0.1, 0.09, 0.06]  # class 5 is sixth
    labels = [0, 3, 4, 5]
    metrics = compute_metrics(scores([ranked] * 4, labels), table(labels, "abcdef"))
    assert metrics["top1"] == pytest.approx(1 / 4)
    assert metrics["top5"] == pytest.approx(3 / 4)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_top5_is_left_out_where_it_could_not_fail(num_classes: int) -> None:
    row = [1 / num_classes] * num_classes
    metrics = compute_metrics(scores([row] * 2, [0, 1]), table([0, 1], "abcde"[:num_classes]))
    assert metrics["top5"] is None


@given(data=st.data(), num_classes=st.integers(2, 8), num_clips=st.integers(1, 30))
def test_metrics_equal_counting(data: st.DataObject, num_classes: int, num_clips: int) -> None:
    classes = st.integers(0, num_classes - 1)
    labels = data.draw(st.lists(classes, min_size=num_clips, max_size=num_clips))
    said = data.draw(st.lists(classes, min_size=num_clips, max_size=num_clips))
    rows = torch.nn.functional.one_hot(torch.tensor(said), num_classes).float().tolist()
    metrics = compute_metrics(scores(rows, labels), table(labels, "abcdefgh"[:num_classes]))
    right = [a == b for a, b in zip(labels, said, strict=True)]
    assert metrics["top1"] == pytest.approx(sum(right) / num_clips)
    recalls = [
        sum(ok for ok, label in zip(right, labels, strict=True) if label == k) / labels.count(k)
        for k in set(labels)
    ]
    assert metrics["mean_class"] == pytest.approx(sum(recalls) / len(recalls))
    pairs = list(zip(labels, said, strict=True))
    assert metrics["confusion_matrix"] == [
        [pairs.count((true, guess)) for guess in range(num_classes)] for true in range(num_classes)
    ]


@pytest.mark.parametrize(
    ("accuracy", "n", "low", "high"),
    [
        (0.9, 100, 0.826, 0.945),
        (0.0, 10, 0.0, 0.278),
        (1.0, 10, 0.722, 1.0),
        (0.5, 1, 0.055, 0.945),
    ],
)
def test_wilson_interval(accuracy: float, n: int, low: float, high: float) -> None:
    assert wilson_interval(accuracy, n) == pytest.approx((low, high), abs=5e-4)


@given(right=st.integers(0, 1000), wrong=st.integers(0, 1000))
def test_the_interval_holds_the_score_and_shrinks_with_more_clips(right: int, wrong: int) -> None:
    n = max(1, right + wrong)
    accuracy = right / n
    widths = []
    for more in (1, 4, 16):
        low, high = wilson_interval(accuracy, n * more)
        assert 0 <= low <= accuracy + 1e-12 and accuracy - 1e-12 <= high <= 1
        widths.append(high - low)
    assert all(a > b for a, b in pairwise(widths))


# -- predictions.csv ---------------------------------------------------------------------------


def test_predictions_csv(tmp_path: Path) -> None:
    names = ("a, b", 'say "c"')
    space = LabelSpace("single_label", (names,))
    clips = ClipTable(("/v/x, y.mp4", "/v/gone.mp4", "/v/z.mp4"), (0, 1, 1), space)
    read = replace(scores([[0.75, 0.25], [0.9, 0.1]], [0, 1], space), clips=torch.tensor([0, 2]))
    path = tmp_path / "predictions.csv"
    path.write_text(predictions_csv(read, clips))
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    scored = ["score:a, b", 'score:say "c"']
    assert header == ["path", "label", "prediction", "score", "label_score", "correct", *scored]
    assert rows == [
        ["/v/x, y.mp4", "a, b", "a, b", "0.750000", "0.75", "1", "0.750000", "0.250000"],
        ["/v/z.mp4", 'say "c"', "a, b", "0.900000", "0.1", "0", "0.900000", "0.100000"],
    ]
    assert [row["path"] for row in read_predictions(path)] == ["/v/x, y.mp4", "/v/z.mp4"]


def test_windows_of_a_file_have_their_times(tmp_path: Path) -> None:
    space = LabelSpace.single_label("ab")
    starts, ends = [0.0, 2.5], [2.5, math.nan]
    clips = ClipTable(["/v/x.mp4"] * 2, [0, 1], space, starts, ends)
    path = tmp_path / "predictions.csv"
    path.write_text(predictions_csv(scores([[1.0, 0.0], [1.0, 0.0]], [0, 1], space), clips))
    rows = read_predictions(path)
    assert [(row["start"], row["end"]) for row in rows] == [("0.0", "2.5"), ("2.5", "")]


# -- scoring -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(trained_run: Path) -> VideoClassifier:
    return VideoClassifier.from_pretrained(trained_run)


@pytest.fixture(scope="module")
def settings(model: VideoClassifier) -> tuple[Preprocessing, SamplingConfig]:
    info = model.adapter_set.info
    return Preprocessing.from_dict(info.preprocessing), SamplingConfig(**info.sampling)


@pytest.fixture(scope="module")
def clips(trained_run: Path) -> ClipTable:
    return load_collection(trained_run / "split.csv").whole()


def test_workers_and_batch_size_change_nothing(
    model: VideoClassifier, clips: ClipTable, settings: tuple[Preprocessing, SamplingConfig]
) -> None:
    expected = score_clips(model, clips, *settings, PLAIN)
    assert expected.clips.tolist() == list(range(18))
    assert expected.labels.tolist() == list(clips.labels)
    for batch_size, num_workers in ((1, 0), (5, 2), (64, 1)):
        config = replace(PLAIN, batch_size=batch_size, num_workers=num_workers)
        found = score_clips(model, clips, *settings, config)
        assert torch.equal(found.clips, expected.clips)
        torch.testing.assert_close(found.probabilities, expected.probabilities)
        assert torch.equal(found.predictions, expected.predictions)
        assert found.headline == expected.headline


def test_probabilities_are_the_mean_over_views(
    model: VideoClassifier, clips: ClipTable, settings: tuple[Preprocessing, SamplingConfig]
) -> None:
    preprocessing, sampling = settings
    views = TestReader(sampling, preprocessing, 2, 3)(clips.paths[0])
    assert len(views) == 6
    one_by_one = [
        view_probabilities(model, preprocessing, view[None, None], "fp32")[:, 0] for view in views
    ]
    with torch.no_grad():
        logits = model(preprocessing.normalize(views[0])[None])
    torch.testing.assert_close(one_by_one[0], logits.softmax(-1))
    config = replace(PLAIN, num_temporal_views=2, num_spatial_views=3)
    found = score_clips(model, clips, *settings, config).probabilities
    torch.testing.assert_close(found[0], torch.cat(one_by_one).mean(0))
    torch.testing.assert_close(found.sum(1), torch.ones(len(clips)))


def test_the_middle_view_alone_and_durations_come_along(
    model: VideoClassifier, clips: ClipTable, settings: tuple[Preprocessing, SamplingConfig]
) -> None:
    """With uniform frames and an odd number of parts, the middle view is that of a single one."""
    one = score_clips(model, clips, *settings, PLAIN)
    assert one.single_view is None
    many = replace(PLAIN, num_temporal_views=3, num_spatial_views=3)
    scored = score_clips(model, clips, *settings, many)
    assert scored.single_view is not None
    torch.testing.assert_close(scored.single_view, one.probabilities)
    metrics = compute_metrics(scored, clips)
    assert metrics["single_view"]["top1"] == compute_metrics(one, clips)["top1"]
    assert one.durations is not None
    frames = [10 + int(Path(path).stem.split()[1]) % 6 for path in clips.paths]
    assert one.durations.tolist() == pytest.approx([n / 10 for n in frames], abs=0.01)
    assert sum(part["num_clips"] for part in metrics["by_duration"]) == 18
    window = replace(clips.take([0]), starts=[0.2], ends=[0.7])
    [seconds] = score_clips(model, window, *settings, PLAIN).durations.tolist()
    assert seconds == pytest.approx(0.5)


def with_broken(clips: ClipTable, *places: int) -> ClipTable:
    paths = list(clips.paths)
    for place in places:
        paths[place] = f"/nowhere/{place}.mp4"
    return replace(clips, paths=tuple(paths))


def test_broken_clips_are_left_out_and_named(
    model: VideoClassifier, clips: ClipTable, settings: tuple[Preprocessing, SamplingConfig]
) -> None:
    whole = score_clips(model, clips, *settings, PLAIN)
    for num_workers in (0, 2):
        config = replace(PLAIN, max_broken=0.2, num_workers=num_workers, batch_size=2)
        found = score_clips(model, with_broken(clips, 2, 3, 17), *settings, config)
        kept = [i for i in range(18) if i not in (2, 3, 17)]
        assert found.clips.tolist() == kept
        torch.testing.assert_close(found.probabilities, whole.probabilities[kept])
        assert found.broken == tuple(
            BrokenClip(i, f"/nowhere/{i}.mp4", "no such file") for i in (2, 3, 17)
        )
    metrics = compute_metrics(found, clips)
    assert (metrics["num_clips"], metrics["num_broken"]) == (15, 3)
    assert metrics["broken"][0] == {"path": "/nowhere/2.mp4", "reason": "no such file"}


def test_too_many_broken_clips(
    model: VideoClassifier, clips: ClipTable, settings: tuple[Preprocessing, SamplingConfig]
) -> None:
    with pytest.raises(TooManyBrokenError, match=r"/nowhere/5\.mp4: no such file"):
        score_clips(model, with_broken(clips, 5), *settings, PLAIN)
    none = with_broken(clips, *range(18))
    with pytest.raises(ValueError, match="none of the 18 clips could be read; the first: /nowhere"):
        score_clips(model, none, *settings, replace(PLAIN, max_broken=1.0))


def test_scoring_leaves_the_mode_of_the_model_as_it_was(
    model: VideoClassifier, clips: ClipTable, settings: tuple[Preprocessing, SamplingConfig]
) -> None:
    few = clips.take([0, 1])
    for mode in (True, False):
        model.train(mode)
        a, b = (score_clips(model, few, *settings, PLAIN) for _ in range(2))
        assert model.training is mode
        assert torch.equal(a.probabilities, b.probabilities)  # no dropout
    model.eval()


# -- a run -------------------------------------------------------------------------------------


def test_evaluating_a_run_again_gives_its_scores(run_copy: Path) -> None:
    before = json.loads((run_copy / "metrics.json").read_text())
    predictions = (run_copy / "predictions.csv").read_text()
    for name in ("metrics.json", "predictions.csv"):
        (run_copy / name).unlink()
    metrics = evaluate_run(run_copy, None, PLAIN)
    for name in (
        "top1",
        "mean_class",
        "num_clips",
        "clip_list_sha256",
        "confusion_matrix",
        "split",
    ):
        assert metrics[name] == before[name]
    assert json.loads((run_copy / "metrics.json").read_text())["top1"] == before["top1"]
    lines = predictions.splitlines()
    assert (run_copy / "predictions.csv").read_text().splitlines()[0] == lines[0]
    assert len(lines) == 1 + 3


def test_a_score_names_what_it_was_computed_on(run_copy: Path, recipe: Recipe) -> None:
    for metrics in (
        json.loads((run_copy / "metrics.json").read_text()),
        evaluate_run(run_copy, None, PLAIN),
    ):
        config = json.loads((run_copy / "adapter_config.json").read_text())
        content = (run_copy / "adapter_model.safetensors").read_bytes()
        assert metrics["checkpoint"] == {
            "adapter_sha256": hashlib.sha256(content).hexdigest(),
            "backbone": "tiny",
            "backbone_fingerprint": config["backbone"]["fingerprint"],
        }
        assert metrics["seed"] == recipe.train.seed
        assert (metrics["num_temporal_views"], metrics["num_spatial_views"]) == (1, 1)
        assert len(metrics["clip_list_sha256"]) == 64
        assert (metrics["num_clips"], metrics["num_broken"]) == (3, 0)
        assert "torchmetrics" in metrics["versions"]
    (run_copy / "recipe.yaml").unlink()
    assert evaluate_run(run_copy, None, PLAIN)["seed"] is None


def test_recall_and_precision_of_each_class_by_hand() -> None:
    rows = torch.eye(4)[[0, 0, 1, 1, 2, 0]].tolist()  # what is said
    metrics = compute_metrics(scores(rows, [0, 0, 0, 1, 1, 2]), table([0, 0, 0, 1, 1, 2], "abcd"))
    assert metrics["recall_per_class"] == [pytest.approx(2 / 3), 1 / 2, 0, None]
    assert metrics["precision_per_class"] == [pytest.approx(2 / 3), 1 / 2, 0, None]
    rows = torch.eye(4)[[0, 0, 0]].tolist()
    metrics = compute_metrics(scores(rows, [0, 0, 1]), table([0, 0, 1], "abcd"))
    assert metrics["recall_per_class"] == [1, 0, None, None]
    assert metrics["precision_per_class"] == [pytest.approx(2 / 3), None, None, None]


def test_which_clips_are_scored(run_copy: Path, collection: Path, tmp_path: Path) -> None:
    assert evaluate_run(run_copy, None, PLAIN, split="train")["num_clips"] == 15
    whole = evaluate_run(run_copy, collection, PLAIN)  # no split there: all of it
    assert (whole["num_clips"], whole["split"]) == (18, "all")
    some = evaluate_run(run_copy, _only(collection, tmp_path, "left [fast]"), PLAIN)
    assert some["num_clips"] == 6
    assert [sum(row) for row in some["confusion_matrix"]] == [6, 0, 0]
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        evaluate_run(run_copy, None, PLAIN, split="test")


def _only(collection: Path, folder: Path, name: str) -> Path:
    (folder / "one").mkdir()
    (folder / "one" / name).symlink_to(collection / name, target_is_directory=True)
    return folder / "one"


def test_what_cannot_be_scored(run_copy: Path, collection: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "l.csv"
    stranger.write_text("path,label\na.mp4,jumping\n")
    (tmp_path / "a.mp4").touch()
    before = (run_copy / "metrics.json").read_text()
    with pytest.raises(ValueError, match="'jumping', which the model does not know; it knows"):
        evaluate_run(run_copy, stranger, PLAIN)
    with pytest.raises(ValueError, match="height 30 does not fit"):
        evaluate_run(run_copy, None, PLAIN, resolution=(30, 32))
    (run_copy / "split.csv").unlink()
    with pytest.raises(FileNotFoundError, match="does not know its clips; say which"):
        evaluate_run(run_copy, None, PLAIN)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        evaluate_run(tmp_path / "nowhere", collection, PLAIN)
    assert (run_copy / "metrics.json").read_text() == before


def test_other_frames_and_resolution(run_copy: Path) -> None:
    metrics = evaluate_run(
        run_copy,
        None,
        replace(PLAIN, num_temporal_views=2, num_spatial_views=3),
        sampling=SamplingConfig(2, 3),
        resolution=(16, 40),
    )
    assert metrics["num_frames"] == 2
    assert metrics["frame_stride"] == 3
    assert metrics["resolution"] == [16, 40]
    assert (metrics["num_temporal_views"], metrics["num_spatial_views"]) == (2, 3)
    assert not math.isnan(metrics["top1"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_temporal_views", 0),
        ("num_spatial_views", 2),
        ("batch_size", 0),
        ("num_workers", -1),
        ("max_broken", -0.1),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{setting} \({value}\)"):
        EvalConfig(**{setting: value})


def test_another_evaluation_keeps_what_the_training_cost(run_copy: Path) -> None:
    before = json.loads((run_copy / "metrics.json").read_text())["training"]
    assert evaluate_run(run_copy, None, PLAIN)["training"] == before
    assert json.loads((run_copy / "metrics.json").read_text())["training"] == before
    (run_copy / "metrics.json").unlink()
    assert "training" not in evaluate_run(run_copy, None, PLAIN)
