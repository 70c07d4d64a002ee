"""What a run says about files: the same everywhere, in order, and in three formats."""

import csv
import io
import json
import pickle
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import CLASS_NAMES, RECIPE

from stadapter import Predictor, VideoClassifier
from stadapter.data import ClipTable, Preprocessing, SamplingConfig, TestReader
from stadapter.evaluate import EvalConfig, score_clips
from stadapter.predict import Prediction
from stadapter.recipe import build_model, evaluate_run
from stadapter.results import read_predictions
from stadapter.tables import predictions_text, table_text


@pytest.fixture(scope="module")
def predictor(trained_run: Path) -> Predictor:
    return Predictor(trained_run, device="cpu")


@pytest.fixture(scope="module")
def clips(trained_run: Path) -> list[dict[str, str]]:
    """The validation clips, as the training scored them at its end."""
    return read_predictions(trained_run / "predictions.csv")


def by_class(prediction: Prediction) -> dict[str, float]:
    return dict(zip(prediction.labels, prediction.scores, strict=True))


def csv_by_class(row: dict[str, str]) -> dict[str, float]:
    return {name: float(row[f"score:{name}"]) for name in CLASS_NAMES}


# -- the same everywhere -----------------------------------------------------------------------


def test_training_eval_and_predict_say_the_same_about_a_file(
    predictor: Predictor, clips: list[dict[str, str]], run_copy: Path
) -> None:
    evaluate_run(run_copy, None, EvalConfig(batch_size=2, num_workers=1, device="cpu"))
    evaluated = read_predictions(run_copy / "predictions.csv")
    predicted = predictor.predict([row["path"] for row in clips])
    assert len(clips) == len(evaluated) == len(predicted) == 3
    for trained, scored, prediction in zip(clips, evaluated, predicted, strict=True):
        assert trained["path"] == scored["path"] == prediction.path
        assert trained["prediction"] == scored["prediction"] == prediction.labels[0]
        assert csv_by_class(scored) == pytest.approx(csv_by_class(trained), abs=2e-6)
        assert by_class(prediction) == pytest.approx(csv_by_class(trained), abs=2e-6)


def test_one_preprocessing_gives_the_same_logits_everywhere(
    trained_run: Path, collection: Path
) -> None:
    """For one file: what validation in training, `eval` and `predict` put into the model, and what
    comes out of it, bit for bit."""
    model = VideoClassifier.from_pretrained(trained_run)
    info = model.adapter_set.info
    _, in_training = build_model(RECIPE, info.space)
    in_eval = Preprocessing.from_dict(info.preprocessing)
    reader = Predictor(trained_run, device="cpu").reader
    assert in_training == in_eval == reader.preprocessing
    assert SamplingConfig(**info.sampling) == RECIPE.sampling == reader.sampling
    [path, *_] = sorted(collection.rglob("*.mp4"))
    outcomes = []
    for sampling, preprocessing in (
        (RECIPE.sampling, in_training),
        (SamplingConfig(**info.sampling), in_eval),
        (reader.sampling, reader.preprocessing),
    ):
        views = TestReader(sampling, preprocessing)(str(path))
        with torch.no_grad():
            outcomes.append((views, model(preprocessing.normalize(views))))
    for views, logits in outcomes[1:]:
        assert torch.equal(views, outcomes[0][0])
        assert torch.equal(logits, outcomes[0][1])
    table = ClipTable([str(path)], [0], info.space)
    config = EvalConfig(num_workers=0, device="cpu")
    scored = score_clips(model, table, in_training, RECIPE.sampling, config)
    [predicted] = Predictor(trained_run, device="cpu").predict([path])
    expected = outcomes[0][1].softmax(-1)
    assert torch.equal(scored.probabilities, expected)
    assert by_class(predicted) == dict(zip(CLASS_NAMES, expected[0].tolist(), strict=True))


def test_with_several_views_too(
    trained_run: Path, clips: list[dict[str, str]], run_copy: Path
) -> None:
    config = EvalConfig(num_temporal_views=2, num_spatial_views=3, num_workers=0, device="cpu")
    evaluate_run(run_copy, None, config, sampling=SamplingConfig(2, 4), resolution=(16, 40))
    several = Predictor(
        trained_run,
        num_temporal_views=2,
        num_spatial_views=3,
        sampling=SamplingConfig(2, 4),
        resolution=(16, 40),
        device="cpu",
    )
    for row in read_predictions(run_copy / "predictions.csv"):
        [prediction] = several.predict([row["path"]])
        assert by_class(prediction) == pytest.approx(csv_by_class(row), abs=2e-6)


# -- files -------------------------------------------------------------------------------------


def test_a_prediction_is_sorted_and_sums_to_one(
    predictor: Predictor, clips: list[dict[str, str]]
) -> None:
    [prediction] = predictor.predict([clips[0]["path"]])
    assert sorted(prediction.labels) == sorted(CLASS_NAMES)
    assert list(prediction.scores) == sorted(prediction.scores, reverse=True)
    assert sum(prediction.scores) == pytest.approx(1)
    assert prediction.error is None
    for top_k in (1, 2, 99):
        [few] = predictor.predict([clips[0]["path"]], top_k=top_k)
        assert few.labels == prediction.labels[:top_k]
        assert few.scores == prediction.scores[:top_k]


def test_folders_are_searched_and_the_order_is_kept(predictor: Predictor, collection: Path) -> None:
    one = collection / CLASS_NAMES[2] / "clip 3.mp4"
    predictions = predictor.predict([one, collection / CLASS_NAMES[0], str(one)])
    expected = [one, *sorted((collection / CLASS_NAMES[0]).iterdir()), one]
    assert [p.path for p in predictions] == [str(path) for path in expected]
    assert predictions[0] == predictions[-1]


def test_a_file_that_cannot_be_read_says_so_and_stops_nothing(
    predictor: Predictor, clips: list[dict[str, str]], tmp_path: Path
) -> None:
    shutil.copy(clips[0]["path"], tmp_path / "b.mp4")
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "c.mp4").write_text("a text")
    broken, good, text = predictor.predict([tmp_path])
    assert broken == Prediction(str(tmp_path / "a.mp4"), (), (), "the file is empty")
    assert by_class(good) == pytest.approx(by_class(predictor.predict([clips[0]["path"]])[0]))
    assert text.error and text.labels == ()


def test_a_clip_in_a_tar_is_a_clip(predictor: Predictor, collection: Path, tmp_path: Path) -> None:
    [clip, *_] = sorted(collection.rglob("*.mp4"))
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        tar.add(clip, "clip.mp4")
    [loose] = predictor.predict([clip])
    [packed] = predictor.predict([tmp_path / "clips.tar" / "clip.mp4"])
    assert (packed.labels, packed.scores) == (loose.labels, loose.scores)
    with pytest.raises(OSError, match=r"no member 'other\.mp4'"):
        predictor.predict([tmp_path / "clips.tar" / "other.mp4"])


def test_what_cannot_be_predicted(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        predictor.predict([tmp_path / "nowhere"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="has no videos"):
        predictor.predict([tmp_path])
    clip = tmp_path / "a.mp4"
    clip.touch()
    with pytest.raises(ValueError, match=r"top_k \(0\) must be at least 1"):
        predictor.predict([clip], top_k=0)


def test_what_cannot_be_loaded(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        Predictor(tmp_path)
    with pytest.raises(ValueError, match="width 33 does not fit"):
        Predictor(trained_run, resolution=(32, 33))
    with pytest.raises(ValueError, match="device 'abacus' is not usable"):
        Predictor(trained_run, device="abacus")


def test_a_predictor_can_be_sent_to_another_process(
    predictor: Predictor, clips: list[dict[str, str]]
) -> None:
    again = pickle.loads(pickle.dumps(predictor))
    assert again.predict([clips[0]["path"]]) == predictor.predict([clips[0]["path"]])


def test_a_run_can_be_moved(run_copy: Path, predictor: Predictor, collection: Path) -> None:
    moved = run_copy.rename(run_copy.with_name("movéd run"))
    clip = next(collection.rglob("*.mp4"))
    assert Predictor(moved, device="cpu").predict([clip]) == predictor.predict([clip])


# -- formats -----------------------------------------------------------------------------------

PREDICTIONS = [
    Prediction("/v/a, b.mp4", CLASS_NAMES[:2], (0.75, 0.25)),
    Prediction('/v/"c" [bold].mp4', (), (), "damaged, [red] sadly"),
]


def test_json() -> None:
    assert json.loads(predictions_text(PREDICTIONS, "json")) == [
        {
            "path": "/v/a, b.mp4",
            "predictions": [
                {"label": "left [fast]", "score": 0.75},
                {"label": "right, então", "score": 0.25},
            ],
            "error": None,
        },
        {"path": '/v/"c" [bold].mp4', "predictions": [], "error": "damaged, [red] sadly"},
    ]


def test_csv() -> None:
    rows = list(csv.reader(io.StringIO(predictions_text(PREDICTIONS, "csv"))))
    assert rows == [
        ["path", "rank", "label", "score", "error"],
        ["/v/a, b.mp4", "1", "left [fast]", "0.750000", ""],
        ["/v/a, b.mp4", "2", "right, então", "0.250000", ""],
        ['/v/"c" [bold].mp4', "", "", "", "damaged, [red] sadly"],
    ]


def test_table() -> None:
    text = predictions_text(PREDICTIONS, "table")
    assert "left [fast] 75.0%  right, então 25.0%" in text
    assert '/v/"c" [bold].mp4' in text
    assert "damaged, [red] sadly" in text


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("length", [30, 50, 230, 700])
def test_nothing_of_a_long_path_is_lost(
    length: int, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "60")
    path = "/" + "a" * length + ".mp4"
    text = predictions_text([Prediction(path, ("label",), (1.0,))], "table")
    text = re.sub("\x1b[^m]*m", "", text)
    lines = text.splitlines()[1:]
    assert "".join(line.split("  ")[0].strip() for line in lines) == path
    assert "label 100.0%" in lines[0]
    if terminal:
        assert max(map(len, lines)) <= 60
    else:
        assert len(lines) == 1


def test_numbers_in_tables() -> None:
    lines = table_text([{"name": "x", "n": 12345, "share": 0.5}]).splitlines()
    assert lines[0].split() == ["name", "n", "share"]
    assert lines[1].split() == ["x", "12,345", "0.500"]
