"""Intervals, calibration and parts of the clips: against other ways to compute them."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tasks import MULTI, SINGLE, SPACES, draw

from stadapter._torchvision import ensure_torchvision
from stadapter.data import LabelSpace
from stadapter.metrics import (
    bootstrap,
    bootstrap_intervals,
    by_duration,
    by_source,
    calibration,
    interval95,
    reliability,
)
from stadapter.metrics.calibration import calibration_error, fit_temperature
from stadapter.tasks import make_task

by_task = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.task)


# -- resampling --------------------------------------------------------------------------------


@by_task
@settings(max_examples=10)  # torchmetrics takes its time
@given(n=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_a_weighted_clip_is_that_clip_several_times(space: LabelSpace, n: int, seed: int) -> None:
    """So the bootstrap resamples the very numbers of metrics.json."""
    logits, labels = draw(space, n, seed)
    logits = logits.round(decimals=0)  # few values: ties
    task = make_task(space)
    p = task.probabilities(logits)
    weights = torch.randint(3, (4, n), generator=torch.Generator().manual_seed(seed)).float()
    weights[0] = 1
    weights[:, 0] += weights.sum(1) == 0
    found = task.resampled(p, labels, weights)
    for row, times in enumerate(weights.long()):
        repeated = torch.arange(n).repeat_interleave(times)
        expected = task.metrics(p[repeated], labels[repeated])
        for name in task.numbers:
            value = expected[name]
            if name not in found:
                assert value is None
            elif value is None:
                assert found[name][row].isnan()
            else:
                assert float(found[name][row]) == pytest.approx(value, abs=1e-5)


@by_task
def test_intervals_are_seeded_hold_the_value_and_shrink_with_more_clips(space: LabelSpace) -> None:
    task = make_task(space)
    widths = []
    for n in (40, 640):
        logits, labels = draw(space, n, 3)
        p = task.probabilities(logits + 2 * task.targets(labels))
        found = bootstrap_intervals(task, p, labels)
        assert found == bootstrap_intervals(task, p, labels)
        json.dumps(found)
        metrics = task.metrics(p, labels)
        for name, ends in found["interval95"].items():
            assert ends[0] <= metrics[name] <= ends[1]
        low, high = found["interval95"][next(iter(task.numbers))]
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_the_interval_of_a_share_is_about_that_of_the_formula() -> None:
    task = make_task(LabelSpace.single_label("ab"))
    labels = torch.zeros(400, dtype=torch.int64)
    p = torch.tensor([[0.9, 0.1]] * 300 + [[0.2, 0.8]] * 100)
    low, high = bootstrap_intervals(task, p, labels)["interval95"]["top1"]
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.01)


def test_undefined_numbers_have_no_interval() -> None:
    task = make_task(MULTI)
    found = bootstrap_intervals(task, torch.rand(5, 4), torch.zeros(5, 4, dtype=torch.bool))
    assert found["interval95"]["mAP"] is None
    assert interval95(torch.tensor([torch.nan])) is None
    with pytest.raises(ValueError, match=r"resamples \(0\) must be at least 1"):
        bootstrap(task, torch.rand(5, 4), torch.zeros(5, 4, dtype=torch.bool), resamples=0)


def test_models_are_resampled_alike() -> None:
    """Which makes differences paired: a model against itself differs nowhere."""
    task = make_task(SINGLE)
    logits, labels = draw(SINGLE, 30, 0)
    a = bootstrap(task, logits.softmax(1), labels, seed=5)
    b = bootstrap(task, logits.softmax(1), labels, seed=5)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["top1"], bootstrap(task, logits.softmax(1), labels, seed=6)["top1"])


# -- calibration -------------------------------------------------------------------------------


@given(n=st.integers(1, 60), seed=st.integers(0, 10**6))
def test_ece_equals_torchmetrics(n: int, seed: int) -> None:
    ensure_torchvision()
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = draw(SINGLE, n, seed)
    p = (2 * logits).softmax(1)
    expected = multiclass_calibration_error(p, labels, num_classes=7, n_bins=15, norm="l1")
    found = calibration_error(*make_task(SINGLE).claims(p, labels))
    assert found == pytest.approx(float(expected), abs=1e-5)


def test_the_bins_by_hand() -> None:
    stated = torch.tensor([0.0, 0.5, 0.51, 1.0, 1.0])
    rows = reliability(stated, torch.tensor([False, True, False, True, False]), 2)
    assert [row["count"] for row in rows] == [1, 4]  # 0.5 opens a bin, and 1 is in the last
    assert rows[1]["stated"] == pytest.approx(3.01 / 4)
    assert rows[1]["observed"] == 0.5
    assert reliability(stated[:1], torch.tensor([False]), 2)[1]["stated"] is None


@by_task
@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(space: LabelSpace, true: float) -> None:
    """Labels are drawn from the model's own probabilities, which are sharpened or flattened."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, space.num_outputs, generator=generator)
    task = make_task(space)
    p = task.probabilities(logits)
    if space.task == "multi_label":
        labels = torch.rand(p.shape, generator=generator) < p
    else:
        parts = torch.split(p, [len(names) for names in space.vocabularies], 1)
        columns = [part.multinomial(1, generator=generator) for part in parts]
        labels = torch.cat(columns, 1).squeeze(1)
    stated = task.probabilities(true * logits)
    assert fit_temperature(task, stated, labels) == pytest.approx(true, rel=0.1)
    half = torch.arange(4000) % 2 == 0
    found = calibration(task, stated, labels, half)
    json.dumps(found)
    assert found["cross_fitted"]["ece"] < 0.04
    assert found["temperature"]["nll"] <= found["nll"] + 1e-6
    assert found["temperature"]["nll"] <= found["cross_fitted"]["nll"] + 1e-6
    if true != 1.0:
        assert found["cross_fitted"]["ece"] < found["ece"] / 2


@by_task
def test_a_temperature_of_one_changes_nothing_and_none_changes_the_order(
    space: LabelSpace,
) -> None:
    logits, labels = draw(space, 20, 1)
    task = make_task(space)
    p = task.probabilities(logits)
    torch.testing.assert_close(task.tempered(p, 1.0), p)
    torch.testing.assert_close(task.tempered(p, 2.0), task.probabilities(logits / 2))
    assert torch.equal(task.predict(task.tempered(p, 3.0)), task.predict(p))
    torch.testing.assert_close(
        task.surprise(p, labels).mean(), task.loss(logits, task.targets(labels))
    )


@by_task
def test_certain_and_lonely_clips_give_numbers(space: LabelSpace) -> None:
    """Probabilities of exactly 0 and 1, right and wrong; one clip, which has no other half."""
    task = make_task(space)
    for n in (1, 6):
        _, labels = draw(space, n, 2)
        right = task.targets(labels)
        for p in (right, right.roll(1, 1)):
            half = torch.arange(n) % 2 == 0
            text = json.dumps(calibration(task, p, labels, half))
            assert "NaN" not in text and "Infinity" not in text
            assert (json.loads(text)["cross_fitted"] is None) == (n == 1)
            assert "NaN" not in json.dumps(bootstrap_intervals(task, p, labels))


# -- parts of the clips ------------------------------------------------------------------------


@given(st.lists(st.one_of(st.floats(0.1, 100), st.just(float("nan"))), max_size=40))
def test_quarters_hold_each_known_clip_once(seconds: list[float]) -> None:
    durations = torch.tensor(seconds, dtype=torch.float64)
    found = by_duration(durations)
    known = [i for i, s in enumerate(seconds) if s == s]
    if found:
        assert sorted(i for _, _, part in found for i in part.tolist()) == known
        ends = [x for low, high, _ in found for x in (low, high)]
        assert ends == sorted(ends)
    else:
        assert len(known) < 8 or len(set(seconds[i] for i in known)) < 5


def test_sources_are_folders_that_say_more_than_the_class() -> None:
    epic = ["/d/rgb/P01/a.mp4", "/d/rgb/P01/b.mp4", "/d/rgb/P02/c.mp4", "/d/rgb/P02/d.mp4"]
    found = by_source(epic, ["take", "put", "take", "put"])
    assert {name: clips.tolist() for name, clips in found.items()} == {"P01": [0, 1], "P02": [2, 3]}
    assert by_source(epic, ["take", "take", "put", "put"]) == {}  # a folder per class
    assert by_source(["/d/a.mp4", "/d/b.mp4"], ["x", "y"]) == {}  # one folder
    shards = ["/d/v-0.tar/a.mp4", "/d/v-1.tar/b.mp4", "/d/v-0.tar/c.mp4", "/d/v-1.tar/d.mp4"]
    assert by_source(shards, ["x", "x", "y", "y"]) == {}
    mixed = ["/d/ucf/run/a.mp4", "/d/ucf/sit/b.mp4", "/d/hmdb/run/c.mp4", "/d/hmdb/sit/d.mp4"]
    assert set(by_source(mixed, ["run", "sit", "run", "sit"])) == {"ucf", "hmdb"}
    assert by_source([f"/d/{i}/{k}.mp4" for i in range(101) for k in "ab"], ["a", "b"] * 101) == {}
