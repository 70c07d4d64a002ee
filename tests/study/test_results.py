"""Tables, figures and page of a study, from runs whose metrics are written down by hand."""

import csv
import json
import math
import re
import statistics
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stadapter.atomic import write_json, write_text
from stadapter.cli.recipe_flags import recipe_from
from stadapter.data import LabelSpace
from stadapter.study import Outcome, read_study, run_study
from stadapter.study.cost import Cost
from stadapter.study.plan import StudyRun, make_plan
from stadapter.tasks import make_task, wilson_interval

CLASSES = ("left [fast]", "right, então", 'turn "slow"')
"""Of the collection that all tests share."""
STUDY = f"""
title: Ours <&>
methods:
  linear_probe:
  st_adapter: {{method: {{width: 8}}}}
seeds: [0, 1, 2]
fractions: [0.5]
epochs: [5]
ablations:
  of: st_adapter
  vary: {{width: [4, 16], kernel_size: [[1, 1, 1], [3, 1, 1]]}}
class_groups: {json.dumps({"turns": [CLASSES[2]], "sides": list(CLASSES[:2])})}
"""
FIGURES = ("parameters", "time", "fractions", "groups", "ablations")


def scores(run: StudyRun) -> list[bool]:
    """Which of its ten clips a run tells rightly: different for each run."""
    generator = torch.Generator().manual_seed(zlib.crc32(run.name.encode()))
    return (torch.rand(10, generator=generator) < 0.6).tolist()


def write_run(folder: Path, run: StudyRun) -> None:
    """What `train` leaves of a finished run, as far as a study reads it."""
    folder.mkdir(parents=True)
    space = LabelSpace.single_label(list(CLASSES))
    right = scores(run)
    labels = [CLASSES[i % 3] for i in range(10)]
    rows = "".join(
        f'"{label.replace(chr(34), 2 * chr(34))}",{int(correct)}\n'
        for label, correct in zip(labels, right, strict=True)
    )
    write_text(folder / "predictions.csv", "label,correct\n" + rows)
    top1 = statistics.fmean(right)
    metrics = {
        **{name: None for name in make_task(space).numbers},
        "top1": top1,
        "top1_interval95": wilson_interval(top1, 10),
        "num_clips": 10,
        "label_space": space.to_dict(),
        "training": {
            "seconds": 10.0 * run.seed + 1,
            "seconds_per_epoch": 1.5,
            "num_trained": 1000 + len(run.cell.name),
            "num_parameters": 5000,
            "peak_memory_bytes": 3e8,
        },
    }
    write_json(folder / "metrics.json", metrics)


def finish(out: Path, collection: Path, skip: str = "", text: str = STUDY) -> Outcome:
    """A study whose runs are all there but those whose name contains `skip`."""
    study = read_study(text, "s").with_flags(data=[str(collection)])
    plan = make_plan(study, recipe_from)
    out.mkdir(exist_ok=True)
    write_text(out / "study.yaml", text)
    for run in plan.runs:
        if not skip or skip not in run.name:
            write_run(out / "runs" / run.name, run)
    return run_study(study, out, text=text, parse=recipe_from, resume=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return folder


@pytest.fixture(scope="module")
def outcome(out: Path, collection: Path) -> Outcome:
    return finish(out, collection)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_cell_has_mean_spread_and_n_of_its_seeds(outcome: Outcome, out: Path) -> None:
    rows = {row["cell"]: row for row in table(out / "results.csv")}
    plan = outcome.material.plan
    assert list(rows) == list(plan.cells)
    for name, cell in plan.cells.items():
        top1 = [statistics.fmean(scores(StudyRun(cell, seed))) for seed in plan.seeds]
        assert float(rows[name]["score_mean"]) == pytest.approx(statistics.fmean(top1))
        assert float(rows[name]["score_std"]) == pytest.approx(statistics.stdev(top1))
        assert rows[name]["n"] == "3"
        assert float(rows[name]["seconds_mean"]) == pytest.approx(11)
        turns = [statistics.fmean(scores(StudyRun(cell, s))[2::3]) for s in plan.seeds]
        assert float(rows[name]["score:turns_mean"]) == pytest.approx(statistics.fmean(turns))
        low, high = wilson_interval(statistics.fmean(top1), 10)
        assert float(rows[name]["score_low95"]) == pytest.approx(low)
        assert float(rows[name]["score_high95"]) == pytest.approx(high)


def test_the_parquet_table_is_the_csv(outcome: Outcome, out: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet").read_table(out / "results.parquet").to_pylist()
    for row, text in zip(parquet, table(out / "results.csv"), strict=True):
        for name, value in row.items():
            if isinstance(value, float):
                assert float(text[name]) == value or math.isclose(float(text[name]), value)
            else:
                assert text[name] == (value or "")


def test_every_figure_is_a_picture(outcome: Outcome, out: Path) -> None:
    for name in FIGURES:
        root = ET.parse(out / "figures" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
        with Image.open(out / "figures" / f"{name}.png") as picture:
            assert picture.width > 600 and picture.height > 300
            assert picture.convert("L").getextrema()[0] < 60  # something dark on white
    assert "st_adapter" in (out / "figures" / "parameters.svg").read_text(encoding="utf-8")


class _Sources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for k, v in attrs if k in ("src", "href") and tag != "a"]


def test_the_page_needs_nothing_else(outcome: Outcome) -> None:
    text = outcome.page.read_text(encoding="utf-8")
    parser = _Sources()
    parser.feed(text)
    assert len(parser.found) == len(FIGURES)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in parser.found)
    assert "Ours &lt;&amp;&gt;" in text and "<&>" not in text
    questions = re.findall("<h2>(.*?)</h2>", text)
    assert len(questions) == len(FIGURES) + 4
    assert all(question.endswith("?") for question in questions)


def test_the_same_runs_give_the_same_files(
    outcome: Outcome, out: Path, collection: Path, tmp_path: Path
) -> None:
    again = finish(tmp_path / "again", collection)
    assert again.page.read_bytes() == outcome.page.read_bytes()
    for path in (out / "figures").iterdir():
        assert (tmp_path / "again" / "figures" / path.name).read_bytes() == path.read_bytes()


def test_groups_of_unknown_classes_are_refused(collection: Path, tmp_path: Path) -> None:
    text = STUDY.replace("turns", "turn").replace('turn \\"slow\\"', "no class")
    with pytest.raises(ValueError, match="'no class' is no class of the collection; they are left"):
        finish(tmp_path, collection, text=text)


def test_cost_grows_with_epochs_and_clips() -> None:
    plan = make_plan(read_study(STUDY, "s"), recipe_from)
    runs = {run.name: run for run in plan.runs}
    cost = Cost()
    assert cost.expected(plan.runs, []) is None
    first = runs["st_adapter_seed=0"]  # 20 epochs
    cost.add(first, 40.0)
    half = runs["st_adapter_train_fraction=0.5_seed=1"]
    short = runs["linear_probe_epochs=5_seed=0"]
    assert cost.expected([half], [first]) == pytest.approx(20)
    assert cost.expected([short, half], [first]) == pytest.approx(30)
    probe = runs["linear_probe_seed=0"]
    cost.add(probe, 10.0)
    assert cost.expected([short], [first, probe]) == pytest.approx(2.5)


def test_cost_survives_a_file(tmp_path: Path) -> None:
    cost = Cost({"a": 3.0}, estimate=8.0, estimated_from="a", wall=4.0)
    cost.save(tmp_path / "cost.json")
    assert Cost.load(tmp_path / "cost.json") == cost
    assert json.loads((tmp_path / "cost.json").read_text())["measured"] == 3.0
    (tmp_path / "cost.json").write_text("[1]")
    with pytest.raises(ValueError, match="no record of a study's cost"):
        Cost.load(tmp_path / "cost.json")
    other: Any = Cost.load(tmp_path / "nothing.json")
    assert other == Cost()
