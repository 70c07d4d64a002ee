"""Two processes train and score as one does with twice the batch, and stop and resume together."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks_runs import FULL, METHODS, PLAIN, change
from safetensors.torch import load_file
from test_train import assert_same_run, log_lines
from videos import numbered_frames, write_video

from stadapter.checkpoint import TENSORS
from stadapter.data import EpochSampler
from stadapter.evaluate import EvalConfig
from stadapter.ranks import Ranks, join_ranks
from stadapter.recipe import Recipe, evaluate_run, train_recipe


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine training clips of which four cannot be read: some step of two has none at all."""
    folder = tmp_path_factory.mktemp("damaged") / "clips"
    for split, count in (("train", 3), ("val", 1)):
        for label in ("clap", "wave"):
            for i in range(count):
                write_video(folder / split / label / f"{i}.mp4", numbered_frames(12 + i))
    for i in range(4):
        (folder / "train" / "clap" / f"broken{i}.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def runs(collection: Path, damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ranks_runs.py` leaves, run by two processes."""
    out = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("ranks_runs.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(collection), str(damaged), str(out)]
    result = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return out


def assert_close_runs(run: Path, expected: Path) -> None:
    """The same losses and weights, but for the order of additions."""
    found = [[line for line in log_lines(path) if "loss" in line] for path in (run, expected)]
    assert len(found[0]) == len(found[1])
    for line, wanted in zip(*found, strict=True):
        assert line["step"] == wanted["step"]
        assert line["lr"] == pytest.approx(wanted["lr"])
        assert line["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
        assert line["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-4)
    tensors, weights = load_file(run / TENSORS), load_file(expected / TENSORS)
    assert tensors.keys() == weights.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, weights[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "accumulated", "accumulated-fsdp"])
def test_two_processes_do_what_one_does_with_twice_the_batch(
    runs: Path, collection: Path, tmp_path: Path, name: str
) -> None:
    """Also in the last step of an epoch, with three clips for batches of two and two."""
    train_recipe(PLAIN, collection, tmp_path)
    assert_close_runs(runs / name, tmp_path)


def test_a_backbone_that_trains_can_be_split(runs: Path, collection: Path, tmp_path: Path) -> None:
    train_recipe(change(FULL, ema_decay=0.5), collection, tmp_path)
    assert_close_runs(runs / "full", tmp_path)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_every_method(
    runs: Path, collection: Path, tmp_path: Path, name: str
) -> None:
    train_recipe(METHODS[name], collection, tmp_path)
    assert_close_runs(runs / f"{name}-ddp", tmp_path)
    assert_close_runs(runs / f"{name}-fsdp", tmp_path)


@pytest.mark.parametrize("name", ["broken", "broken-fsdp"])
def test_broken_clips_weigh_nothing_on_any_rank(
    runs: Path, damaged: Path, tmp_path: Path, name: str
) -> None:
    """A rank whose batch cannot be read does not keep the others waiting."""
    train_recipe(change(PLAIN, batch_size=2, max_broken=0.6), damaged, tmp_path)
    assert_close_runs(runs / name, tmp_path)
    assert (runs / name / "broken.csv").read_text() == (tmp_path / "broken.csv").read_text()
    reasons = [
        json.loads((run / "metrics.json").read_text())["broken_train_reasons"]
        for run in (runs / name, tmp_path)
    ]
    assert reasons[0] == reasons[1]
    assert sum(reasons[0].values()) == 4


def test_all_ranks_stop_at_too_many_broken_clips(runs: Path) -> None:
    assert (runs / "too-many-0").exists()
    assert (runs / "too-many-1").exists()
    assert len((runs / "too-many" / "broken.csv").read_text().splitlines()) > 1


def test_a_signal_to_one_rank_saves_all_and_resuming_repeats_the_run(runs: Path) -> None:
    """With dropout, of which every rank draws its own."""
    assert (runs / "stopped-0").exists()
    assert (runs / "stopped-1").exists()
    assert_same_run(runs / "stopped", runs / "alone")


def test_another_number_of_processes_goes_on_and_says_what_is_lost(
    runs: Path, collection: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six steps of four clips and three are done: in the second epoch, seven clips are left."""
    before = len(log_lines(runs / "other"))
    metrics = train_recipe(change(recipe, batch_size=2), collection, runs / "other", resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "begun with 2 processes and goes on with 1" in said
    lines = log_lines(runs / "other")[before:]
    assert len([line for line in lines if "loss" in line]) == math.ceil(7 / 2)
    assert metrics["training"]["num_processes"] == 1
    assert metrics["num_clips"] == 3


def test_scores_over_ranks_are_those_of_one_process(runs: Path, collection: Path) -> None:
    """Each clip is scored once, also when their number does not divide."""
    assert json.loads((runs / "fsdp" / "metrics.json").read_text())["num_clips"] == 3
    config = EvalConfig(num_temporal_views=2, batch_size=4, device="cpu")
    with (runs / "ddp" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        over_ranks = list(csv.DictReader(file))
    metrics = evaluate_run(runs / "ddp", collection, config)
    with (runs / "ddp" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        alone = list(csv.DictReader(file))
    assert len(alone) == metrics["num_clips"] == 18
    assert [row["path"] for row in over_ranks] == [row["path"] for row in alone]
    for row, wanted in zip(over_ranks, alone, strict=True):
        assert float(row["score"]) == pytest.approx(float(wanted["score"]), abs=1e-5)


@pytest.mark.parametrize("num_clips", [1, 2, 7, 8, 100])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_ranks_share_the_clips_of_an_epoch(num_clips: int, num_ranks: int) -> None:
    for skip in (0, 1, num_clips // 2, num_clips):
        samplers = [
            EpochSampler(num_clips, shuffle=True, seed=5, rank=rank, num_ranks=num_ranks)
            for rank in range(num_ranks)
        ]
        for sampler in samplers:
            sampler.skip = skip
        alone = EpochSampler(num_clips, shuffle=True, seed=5)
        alone.skip = skip
        parts = [list(sampler) for sampler in samplers]
        assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
        assert sorted(key for part in parts for key in part) == sorted(alone)
        for step in range(0, num_clips - skip, num_ranks):  # together, the same steps
            rows = [part[step // num_ranks] for part in parts if len(part) > step // num_ranks]
            assert rows == list(alone)[step : step + num_ranks]


def test_one_process_alone_exchanges_nothing() -> None:
    alone = join_ranks("cpu")
    assert alone == Ranks(0, 1, torch.device("cpu"))
    assert alone.sum(1, 2.5) == [1, 2.5]
    assert alone.gather("x") == ["x"]
    assert not alone.any(False)
    alone.wait()


def test_splitting_needs_processes(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torchrun"):
        train_recipe(change(PLAIN, shard=True), collection, tmp_path / "run")
    assert not (tmp_path / "run").exists()
