"""Folds of a study: real runs on two lists, and tables of runs that are written down by hand."""

import csv
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from stadapter.atomic import write_json, write_text
from stadapter.cli.recipe_flags import recipe_from
from stadapter.data import LabelSpace
from stadapter.results import read_predictions
from stadapter.study import Outcome, read_study, run_study
from stadapter.study.plan import StudyRun, make_plan
from stadapter.study.results import cell_results, score_of
from stadapter.tasks import make_task, wilson_interval

STUDY = """
recipe:
  backbone: tiny
  pretrained: false
  resolution: 32
  sampling: {num_frames: 2}
  train: {epochs: 1, lr: 0.1, batch_size: 4, num_workers: 0, device: cpu}
methods: {linear_probe: , bitfit: }
seeds: [0, 1]
"""
CLIPS = {"even": 6, "odd": 3}
"""Validation clips of each fold."""


def write_lists(collection: Path, folder: Path) -> list[str]:
    """Two lists of all clips: the first clips of each class are validated in one of them."""
    paths = []
    for fold, start in (("even", 0), ("odd", 2)):
        per_class = CLIPS[fold] // 3
        rows = []
        for label in sorted(path for path in collection.iterdir() if path.is_dir()):
            for i, clip in enumerate(sorted(label.iterdir())):
                split = "val" if start <= i < start + per_class else "train"
                rows.append([str(clip), label.name, split])
        paths.append(str(folder / f"{fold}.csv"))
        with Path(paths[-1]).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["path", "label", "split"], *rows])
    return paths


def run(lists: list[str], out: Path, *, resume: bool = False, text: str = STUDY) -> Outcome:
    study = read_study(text, "s").with_flags(data=lists)
    return run_study(study, out, text=text, parse=recipe_from, resume=resume)


@pytest.fixture(scope="module")
def lists(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_lists(collection, tmp_path_factory.mktemp("lists"))


def test_each_run_is_trained_and_scored_on_its_fold(lists: list[str], tmp_path: Path) -> None:
    text = STUDY.replace("seeds: [0, 1]", "seeds: [0]").replace(", bitfit: ", "")
    outcome = run(lists, tmp_path / "out", text=text)
    assert [r.run.name for r in outcome.results] == [
        "linear_probe_fold=even_seed=0",
        "linear_probe_fold=odd_seed=0",
    ]
    right = []
    for result, (fold, path) in zip(outcome.results, zip(CLIPS, lists, strict=True), strict=True):
        folder = tmp_path / "out" / "runs" / result.run.name
        with Path(path).open(encoding="utf-8", newline="") as file:
            wanted = {row["path"] for row in csv.DictReader(file) if row["split"] == "val"}
        clips = list(read_predictions(folder / "predictions.csv"))
        assert {str(clip["path"]) for clip in clips} == wanted
        assert len(clips) == CLIPS[fold]
        right += [int(clip["correct"]) for clip in clips]
    cell = outcome.material.cells["linear_probe"]
    assert cell.n == 1
    assert cell.mean["score"] == pytest.approx(statistics.fmean(right), abs=1e-6)
    assert cell.interval == pytest.approx(wilson_interval(cell.mean["score"], 9))
    before = [r.run.name for r in outcome.results]
    again = run(lists, tmp_path / "out", resume=True, text=text)
    assert [r.run.name for r in again.results] == before
    assert again.cost.runs == outcome.cost.runs  # nothing was trained again


def top1(run: StudyRun) -> float:
    """What a run reaches: multiples of 1/6 or 1/3, different for seeds and folds."""
    step = 1 + run.seed + 2 * (run.fold == "even") + (run.cell.entry == "bitfit")
    return step / CLIPS[run.fold] if run.fold == "even" else min(step, 3) / CLIPS[run.fold]


def finish(lists: list[str], out: Path) -> Outcome:
    """A study whose runs are all there."""
    plan = make_plan(read_study(STUDY, "s").with_flags(data=lists), recipe_from)
    space = LabelSpace.single_label(["a", "b", "c"])
    (out / "runs").mkdir(parents=True)
    write_text(out / "study.yaml", STUDY)
    for planned in plan.runs:
        folder = out / "runs" / planned.name
        folder.mkdir()
        score = top1(planned)
        metrics = {
            **{name: None for name in make_task(space).numbers},
            "top1": score,
            "top1_interval95": wilson_interval(score, CLIPS[planned.fold]),
            "num_clips": CLIPS[planned.fold],
            "label_space": space.to_dict(),
            "training": {"seconds": 10.0 if planned.fold == "even" else 20.0},
        }
        write_json(folder / "metrics.json", metrics)
    return run(lists, out, resume=True)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_seed_is_scored_over_the_clips_of_all_folds(lists: list[str], tmp_path: Path) -> None:
    outcome = finish(lists, tmp_path / "out")
    assert not outcome.failed
    plan = outcome.material.plan
    names = [planned.name for planned in plan.runs]  # a stopped study has whole folds
    assert names[:2] == ["linear_probe_fold=even_seed=0", "bitfit_fold=even_seed=0"]
    assert names[4] == "linear_probe_fold=even_seed=1"
    for row in rows_of(tmp_path / "out" / "results.csv"):
        cell = plan.cells[row["cell"]]
        seeds, folds = [], {fold: [0.0, 0.0] for fold in CLIPS}
        for seed in (0, 1):
            right = 0.0
            for fold, num_clips in CLIPS.items():
                score = top1(StudyRun(cell, seed, fold))
                right += num_clips * score
                folds[fold][seed] = score
            seeds.append(right / 9)
        assert float(row["score_mean"]) == pytest.approx(statistics.fmean(seeds))
        assert float(row["score_std"]) == pytest.approx(statistics.stdev(seeds))
        assert row["n"] == "2"
        assert float(row["seconds_mean"]) == 15.0
        low, _ = wilson_interval(statistics.fmean(seeds), 9)
        assert float(row["score_low95"]) == pytest.approx(low)
        means = {fold: statistics.fmean(scores) for fold, scores in folds.items()}
        for fold, mean in means.items():
            assert float(row[f"score_fold:{fold}"]) == pytest.approx(mean)
        assert float(row["score_fold_std"]) == pytest.approx(statistics.stdev(means.values()))
    runs = rows_of(tmp_path / "out" / "runs.csv")
    assert {(row["fold"], row["seed"]) for row in runs} == {
        (fold, seed) for fold in CLIPS for seed in "01"
    }
    page = re.sub(r"\s+", " ", outcome.page.read_text(encoding="utf-8"))
    assert "each scored on one of 2 folds with 3 to 6 clips, 9 together; 2 seeds" in page
    assert "spread of folds" in page


def test_a_seed_counts_once_all_its_folds_have_finished(lists: list[str], tmp_path: Path) -> None:
    outcome = finish(lists, tmp_path / "out")
    some = [r for r in outcome.results if r.run.name != "bitfit_fold=odd_seed=1"]
    cells = cell_results(outcome.material.plan, some)
    assert {name: cell.n for name, cell in cells.items()} == {"linear_probe": 2, "bitfit": 1}
    none = [r for r in some if r.run.fold != "odd" or r.run.cell.entry != "bitfit"]
    assert set(cell_results(outcome.material.plan, none)) == {"linear_probe"}


def test_a_fold_without_clips_of_a_group_weighs_nothing(lists: list[str], tmp_path: Path) -> None:
    outcome = finish(lists, tmp_path / "out")
    even, odd = (r for r in outcome.results if r.run.seed == 0 and r.run.cell.entry == "bitfit")
    group = score_of("some")
    even = replace(
        even, numbers={**(even.numbers or {}), group: 0.25}, clips={**even.clips, group: 4}
    )
    cell = cell_results(outcome.material.plan, [even, odd])["bitfit"]
    assert cell.mean[group] == 0.25


def test_a_bar_is_as_wide_as_what_is_least_sure(lists: list[str], tmp_path: Path) -> None:
    cell = finish(lists, tmp_path / "out").material.cells["bitfit"]
    mean, interval = cell.mean["score"], cell.interval
    assert interval is not None
    few_clips = (mean - interval[0], interval[1] - mean)
    assert replace(cell, spread={"score": 0.01}).bar == pytest.approx(few_clips)
    assert replace(cell, spread={"score": 0.9}).bar == (0.9, 0.9)
    assert replace(cell, spread={}).bar == pytest.approx(few_clips)
    assert replace(cell, spread={"score": 0.1}, interval=None).bar == (0.1, 0.1)


def test_folds_that_make_no_cross_validation_are_refused(
    lists: list[str], collection: Path, tmp_path: Path
) -> None:
    def changed(name: str, old: str, new: str) -> str:
        text = Path(lists[1]).read_text(encoding="utf-8")
        assert old in text
        write_text(tmp_path / f"{name}.csv", text.replace(old, new))
        return str(tmp_path / f"{name}.csv")

    first = Path(lists[0])
    again = tmp_path / "again.csv"
    write_text(again, first.read_text(encoding="utf-8"))
    label = first.read_text(encoding="utf-8").splitlines()[1].split(",")[-2]
    for other, sentence in (
        (str(collection), "fold clips has no split of its own"),
        (str(again), "validation clip of the folds even and again"),
        (changed("classes", f",{label},", ",another,"), "not have the same classes"),
        (str(tmp_path / "none.csv"), "none.csv"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            run([lists[0], other], tmp_path / "out")
        assert not (tmp_path / "out").exists()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"data .folds go by .*'even' stands there twice"):
        run([lists[0], str(tmp_path / "b" / first.name)], tmp_path / "out")
    with pytest.raises(ValueError, match="must be a path, or a list of paths"):
        read_study("methods: {linear_probe: }\ndata: {a: b}", "s")
    listed = read_study(f"methods: {{linear_probe: }}\ndata: {json.dumps(lists)}", "s")
    assert listed.folds == dict(zip(CLIPS, lists, strict=True))
