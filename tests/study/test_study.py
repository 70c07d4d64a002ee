"""Studies that really train: killed, continued, grown, and with a run that fails."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stadapter.cli.recipe_flags import recipe_from
from stadapter.recipe import train_recipe
from stadapter.study import Outcome, read_study, run_study
from stadapter.study.lock import locked
from stadapter.study.plan import make_plan
from stadapter.study.pool import num_slots

STUDY = """
recipe:
  backbone: tiny
  pretrained: false
  resolution: 32
  sampling: {num_frames: 3}
  train: {epochs: 12, lr: 0.1, batch_size: 4, num_workers: 0, device: cpu, eval_every: 12}
methods:
  st_adapter: {method: {width: 8}}
  wild: {method: linear_probe, train: {lr: 1.0e+38, epochs: 2}}
seeds: [0]
"""
ONLY = STUDY.replace("  wild: {method: linear_probe, train: {lr: 1.0e+38, epochs: 2}}\n", "")


def run(text: str, out: Path, data: Path, *, resume: bool = False) -> Outcome:
    study = read_study(text, "s.yaml").with_flags(data=[str(data)])
    return run_study(study, out, text=text, parse=recipe_from, resume=resume)


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None, "the study ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(text: str, folder: Path, data: Path) -> "subprocess.Popen[bytes]":
    """`stadapter study` in a process of its own, which writes into `folder`/out."""
    (folder / "s.yaml").write_text(text)
    words = ["study", str(folder / "s.yaml"), "--out", str(folder / "out"), "--data", str(data)]
    return subprocess.Popen(
        [sys.executable, "-m", "stadapter", *words], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


@pytest.fixture(scope="module")
def killed(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was killed in the middle of its first run."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(STUDY, folder, collection)
    out = folder / "out"
    wait_for(out / "runs" / "st_adapter_seed=0" / "state" / "last.pt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return out


@pytest.fixture(scope="module")
def continued(killed: Path, collection: Path) -> Outcome:
    folder = killed / "runs" / "st_adapter_seed=0"
    assert not (folder / "metrics.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return run(STUDY, killed, collection, resume=True)


def test_a_killed_study_goes_on_as_if_nothing_had_been(
    killed: Path, continued: Outcome, collection: Path, tmp_path: Path
) -> None:
    log = (killed / "logs" / "st_adapter_seed=0.log").read_text(encoding="utf-8")
    assert "resuming at epoch" in log
    planned = make_plan(read_study(STUDY, "s"), recipe_from).runs[0]
    whole = train_recipe(planned.recipe, collection, tmp_path / "whole")
    result = continued.results[0]
    assert result.metrics is not None
    assert result.metrics["top1"] == whole["top1"]
    one = load_file(killed / "runs" / planned.name / "adapter_model.safetensors")
    other = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    for name, tensor in other.items():
        assert (one[name] - tensor).abs().max() <= 1e-6


def test_a_study_that_is_asked_to_end_saves_its_run_and_writes_its_tables(
    collection: Path, tmp_path: Path
) -> None:
    text = STUDY.replace("  wild: {method: linear_probe, train: {lr: 1.0e+38, epochs: 2}}\n", "")
    text = text.replace(
        "methods:\n", "methods:\n  quick: {method: linear_probe, train: {epochs: 1}}\n"
    )
    process = start(text.replace("epochs: 12", "epochs: 1000"), tmp_path, collection)
    out = tmp_path / "out"
    begun = out / "runs" / "st_adapter_seed=0" / "log.jsonl"
    wait_for(begun, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    with (out / "runs.csv").open(encoding="utf-8") as file:
        statuses = {row["run"]: row["status"] for row in csv.DictReader(file)}
    assert statuses == {"quick_seed=0": "finished", "st_adapter_seed=0": "not run"}
    assert "1 of 2 runs finished" in (out / "study.html").read_text(encoding="utf-8")
    steps = len(begun.read_text(encoding="utf-8").splitlines())
    assert (begun.parent / "state" / "last.pt").is_file()  # to go on from
    with locked(out / "lock"):  # and nobody trains on
        time.sleep(1)
        assert len(begun.read_text(encoding="utf-8").splitlines()) == steps


def test_a_run_that_fails_is_listed_and_stops_no_other(killed: Path, continued: Outcome) -> None:
    assert [(r.run.name, r.status) for r in continued.results] == [
        ("st_adapter_seed=0", "finished"),
        ("wild_seed=0", "failed"),
    ]
    assert "the loss is" in (continued.results[1].reason or "")
    with (killed / "runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert rows[1]["reason"] == continued.results[1].reason
    assert "wild_seed=0 failed: the loss is" in continued.page.read_text(encoding="utf-8")
    assert "failed: wild_seed=0: the loss is" in continued.summary()


def test_another_seed_uses_the_finished_runs_again(
    killed: Path, continued: Outcome, collection: Path
) -> None:
    first = killed / "runs" / "st_adapter_seed=0"
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    text = ONLY.replace("seeds: [0]", "seeds: [1, 0]").replace("epochs: 12", "epochs: 12", 1)
    grown = run(text, killed, collection, resume=True)
    assert not grown.failed
    assert grown.material.cells["st_adapter"].n == 2
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    cost = json.loads((killed / "cost.json").read_text(encoding="utf-8"))
    assert set(cost["runs"]) == {"st_adapter_seed=0", "st_adapter_seed=1", "wild_seed=0"}
    assert cost["estimate"] > 0


def test_runs_of_other_settings_are_not_mixed(
    killed: Path, continued: Outcome, collection: Path
) -> None:
    with pytest.raises(ValueError, match=r"method.width: 8 before, 16 now.*another name"):
        run(STUDY.replace("width: 8", "width: 16"), killed, collection, resume=True)


def test_scores_on_other_clips_are_not_mixed(
    killed: Path, continued: Outcome, collection: Path, tmp_path: Path
) -> None:
    shutil.copytree(collection, tmp_path / "clips")
    for folder in (tmp_path / "clips").iterdir():
        next(folder.iterdir()).rename(folder / "another.mp4")
    with pytest.raises(ValueError, match="scored on other clips"):
        run(STUDY, killed, tmp_path / "clips", resume=True)


def test_an_old_study_is_not_written_over(killed: Path, collection: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="--resume"):
        run(STUDY, killed, collection)
    with pytest.raises(FileNotFoundError, match="no study to resume"):
        run(STUDY, tmp_path, collection, resume=True)
    with pytest.raises(FileNotFoundError):
        run(STUDY, tmp_path / "new", tmp_path / "nothing")
    with pytest.raises(ValueError, match="names no clips"):
        run_study(read_study(STUDY, "s"), tmp_path / "new", text=STUDY, parse=recipe_from)
    assert not (tmp_path / "new").exists()


def test_a_folder_has_one_study_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stadapter.study.lock._WAIT_SECONDS", 0.0)
    with locked(tmp_path / "lock"):  # noqa: SIM117 - the second must fail inside the first
        with pytest.raises(RuntimeError, match="another study is running"):
            with locked(tmp_path / "lock"):
                pass
    with locked(tmp_path / "lock"):
        pass


def test_slots() -> None:
    assert num_slots("cpu", None) == 1
    assert num_slots("cpu", 3) == 3
