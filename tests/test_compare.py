"""Runs beside each other: paired numbers against counting, and lists that do not fit."""

import csv
import io
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import torch
from test_report import Page
from test_tasks import SPACES, draw

from stadapter.cli.main import run as stadapter
from stadapter.compare import compare_runs, comparison_text, write_comparison
from stadapter.compare.paired import mcnemar, p_value
from stadapter.data import ClipTable, LabelSpace
from stadapter.evaluate import Scores
from stadapter.results import write_results
from stadapter.run import RunFolder
from stadapter.tasks import make_task

NAMES = ("<b>bold</b>", "b", "c")


def score(
    folder: Path,
    paths: Sequence[str],
    labels: Sequence[int],
    said: Sequence[int],
    *,
    names: tuple[str, ...] = NAMES,
    starts: Sequence[float] = (),
) -> Path:
    """A run folder with nothing but its results."""
    folder.mkdir(parents=True)
    space = LabelSpace.single_label(names)
    times = {"starts": starts, "ends": [s + 1 for s in starts]} if starts else {}
    table = ClipTable(paths, labels, space, **times)
    p = torch.full((len(labels), len(names)), 0.1)
    p[torch.arange(len(labels)), torch.tensor(said)] = 0.8
    scores = Scores(torch.arange(len(labels)), p, torch.tensor(labels), space, (), 1.0)
    write_results(RunFolder(folder), scores, table, {"split": "val", "seed": 0})
    return folder


PATHS = [f"/v/clip{i}.mp4" for i in range(6)]
LABELS = [0, 0, 1, 1, 2, 2]
FIRST = [0, 0, 1, 0, 0, 0]  # 3 right
SECOND = [1, 0, 1, 1, 2, 2]  # 5 right: wins 3, 4, 5 and loses 0


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [
        score(tmp_path / "a", PATHS, LABELS, FIRST),
        score(tmp_path / "b", PATHS, LABELS, SECOND),
    ]


def test_who_is_right_where(pair: list[Path]) -> None:
    found = compare_runs(pair)
    [against] = found.against
    assert (against.won, against.lost) == ((3, 4, 5), (0,))
    assert (against.both_right, against.both_wrong) == (2, 0)
    assert against.differences["top1"].value == pytest.approx(2 / 6)
    low, high = against.differences["top1"].interval95
    assert low < 2 / 6 < high
    assert [numbers["top1"] for numbers in found.numbers] == pytest.approx([3 / 6, 5 / 6])
    assert against.mcnemar_p == mcnemar(3, 1) == pytest.approx(10 / 16)
    content = json.loads(comparison_text(found, "json"))
    assert content["runs"][1]["won"] == PATHS[3:]
    assert content["runs"][1]["lost"] == PATHS[:1]


def test_paired_intervals_equal_all_resamples(tmp_path: Path) -> None:
    """Three clips have 27 equally likely resamples."""
    runs = [
        score(tmp_path / "a", PATHS[:3], [0, 1, 2], [0, 0, 0]),
        score(tmp_path / "b", PATHS[:3], [0, 1, 2], [1, 1, 2]),
    ]
    difference = [-1, 1, 1]  # of each clip
    exact = [sum(difference[i] for i in drawn) / 3 for drawn in product(range(3), repeat=3)]
    p = 2 * sum(x <= 0 for x in exact) / 27
    found = compare_runs(runs, resamples=4000).against[0].differences["top1"]
    assert found.value == pytest.approx(1 / 3)
    assert found.p_value == pytest.approx(min(1, p), abs=0.05)
    ordered = sorted(exact)
    assert found.interval95 == pytest.approx([ordered[0], ordered[-1]])


def test_a_run_differs_from_its_copy_nowhere(tmp_path: Path) -> None:
    runs = [score(tmp_path / name, PATHS, LABELS, FIRST) for name in "ab"]
    [against] = compare_runs(runs).against
    assert against.won == against.lost == ()
    assert all(d.value == 0 and d.p_value == 1 for d in against.differences.values())


def test_other_ways_of_testing_are_said(pair: list[Path], tmp_path: Path) -> None:
    assert "another" not in comparison_text(compare_runs(pair), "table")
    for folder, views in zip(pair, (3, 1), strict=True):
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(metrics | {"num_temporal_views": views}))
    found = compare_runs(pair)
    sentence = "scored with another num_temporal_views: a 3, b 1"
    assert sentence in comparison_text(found, "table")
    assert sentence in write_comparison(found, tmp_path / "c.html").read_text()


def test_p_values() -> None:
    assert p_value(torch.tensor([1.0] * 999)) == pytest.approx(2 / 1000)
    assert p_value(torch.tensor([-1.0, 1.0, torch.nan])) == 1.0
    assert mcnemar(6000, 5000) < 1e-20
    for won, lost in product(range(6), repeat=2):
        n = won + lost
        heads = [sum(coins) for coins in product((0, 1), repeat=n)]
        tail = sum(h <= min(won, lost) for h in heads) / 2**n
        assert mcnemar(won, lost) == pytest.approx(min(1, 2 * tail))


# -- lists -------------------------------------------------------------------------------------


def test_other_lists_are_refused_unless_what_they_share_is_asked_for(tmp_path: Path) -> None:
    a = score(tmp_path / "a", PATHS[:5], LABELS[:5], FIRST[:5])
    b = score(tmp_path / "b", PATHS[1:], LABELS[1:], SECOND[1:])
    with pytest.raises(ValueError) as caught:
        compare_runs([a, b])
    text = str(caught.value)
    assert "1 only by a (such as clip0.mp4) and 1 only by b (such as clip5.mp4)" in text
    assert "the 4 clips that all of the runs scored with --common" in text
    found = compare_runs([a, b], common=True)
    assert len(found.clips) == 4 and found.num_left_out == (1, 1)
    assert found.numbers[0]["top1"] == pytest.approx(2 / 4)
    assert "1 clips that a was scored on are left out" in comparison_text(found, "table")
    c = score(tmp_path / "c", ["/v/other.mp4"], [0], [0])
    with pytest.raises(ValueError, match="have no clip in common"):
        compare_runs([a, c], common=True)


def test_order_and_place_of_the_files_do_not_matter(tmp_path: Path) -> None:
    back = list(reversed(range(6)))
    a = score(tmp_path / "a", PATHS, LABELS, FIRST)
    elsewhere = [f"/mnt/2/v/clip{i}.mp4" for i in back]
    b = score(tmp_path / "b", elsewhere, [LABELS[i] for i in back], [SECOND[i] for i in back])
    assert compare_runs([a, b]).against[0].won == (3, 4, 5)


def test_clips_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [f"/v/{name}/clip.mp4" for name in "xyz"]
    runs = [score(tmp_path / n, paths, [0, 1, 2], said) for n, said in (("a", [0, 1, 2]), ("b", [0, 1, 1]))]  # fmt: skip  # noqa: E501
    found = compare_runs(runs)
    assert found.clips == ("x/clip.mp4", "y/clip.mp4", "z/clip.mp4")
    assert found.against[0].lost == (2,)
    windows = [
        score(tmp_path / f"{n}w", ["/v/long.mp4"] * 3, [0, 1, 2], said, starts=[0.0, 1.5, 3.0])
        for n, said in (("a", [0, 1, 2]), ("b", [0, 0, 2]))
    ]
    found = compare_runs(windows)
    assert found.against[0].lost == (1,)
    assert found.clips[1] == "long.mp4 (1.5 to 2.5 s)"
    twice = [score(tmp_path / f"{n}t", ["/v/a.mp4"] * 2, [0, 0], [0, 1]) for n in "ab"]
    assert compare_runs(twice).against[0].both_wrong == 1


def test_what_cannot_be_compared(pair: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two runs, 1 given"):
        compare_runs(pair[:1])
    with pytest.raises(ValueError, match="compared with itself"):
        compare_runs([pair[0], pair[0]])
    with pytest.raises(FileNotFoundError, match=r"has no metrics\.json; score the run first"):
        compare_runs([pair[0], tmp_path / "nowhere"])
    relabelled = score(tmp_path / "c", PATHS, [1, *LABELS[1:]], FIRST)
    with pytest.raises(ValueError, match=r"other labels for 1 clips, the first /v/clip0\.mp4"):
        compare_runs([pair[0], relabelled])
    other = score(tmp_path / "d", PATHS, LABELS, FIRST, names=("x", "y", "z"))
    with pytest.raises(ValueError, match="know other classes"):
        compare_runs([pair[0], other])
    for name, content in (("metrics.json", "{"), ("predictions.csv", "path,label\nx,q\n")):
        kept = (pair[1] / name).read_text()
        (pair[1] / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name} cannot be used"):
            compare_runs(pair)
        (pair[1] / name).write_text(kept)


# -- shown -------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.task)
def test_every_task_in_every_format(space: LabelSpace, tmp_path: Path) -> None:
    runs = []
    _, labels = draw(space, 30, 0)
    table = ClipTable([f"/v/{i}.mp4" for i in range(30)], labels.numpy(), space)
    task = make_task(space)
    for seed in range(3):
        logits = draw(space, 30, seed + 1)[0] + task.targets(labels)
        p = task.probabilities(logits)
        (tmp_path / f"run{seed}").mkdir()
        runs.append(tmp_path / f"run{seed}")
        scores = Scores(torch.arange(30), p, labels, space, (), 1.0)
        metrics = write_results(RunFolder(runs[-1]), scores, table, {"split": "val"})
    found = compare_runs(runs)
    for name in task.numbers:
        if metrics[name] is not None:
            assert found.numbers[2][name] == pytest.approx(metrics[name], abs=1e-4)
    assert "not corrected for their number" in comparison_text(found, "table")
    rows = list(csv.DictReader(io.StringIO(comparison_text(found, "csv"))))
    defined = [name for name in task.numbers if metrics[name] is not None]
    assert [(row["run"], row["number"]) for row in rows] == [
        (f"run{seed}", name) for seed in range(3) for name in defined
    ]
    assert {row["difference"] for row in rows[: len(defined)]} == {""}
    page = Page(write_comparison(found, tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "run2 against run0" in page.text and not page.loads


def test_the_page_is_self_contained_and_escapes(pair: list[Path], tmp_path: Path) -> None:
    text = write_comparison(compare_runs(pair), tmp_path / "c.html").read_text(encoding="utf-8")
    assert "<b>bold" not in text and "<script" not in text
    page = Page(text)
    assert not page.loads
    assert "Right by b, wrong by a: 3 clips" in page.text
    assert PATHS[3] in page.titles


def test_the_verb(pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert stadapter(["compare", *map(str, pair), "--out", str(out)]) == 0
    assert "+33.3" in capsys.readouterr().out and out.is_file()
    assert stadapter(["compare", *map(str, pair), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == "a"
    assert stadapter(["compare", str(pair[0])]) == 2
    assert "at least two runs" in capsys.readouterr().err
