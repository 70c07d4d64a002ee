"""Whatever ends a run between two of its lines, it goes on as if nothing had been."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train import assert_same_run, change, log_lines

from stadapter.checkpoint import TENSORS
from stadapter.data import AugmentConfig
from stadapter.interrupt import Terminated
from stadapter.model import VideoClassifier
from stadapter.recipe import Recipe, train_recipe
from stadapter.train import Trainer
from stadapter.train.state import read_state
from stadapter.train.update import Updater

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from kill_runs import kill_and_resume, steps

KILLED = """
backbone: tiny
pretrained: false
method: {name: st_adapter, width: 8, dropout: 0.2}
resolution: 32
sampling: {num_frames: 3}
augment: {rand_augment: 1}
train: {epochs: 3, lr: 0.1, batch_size: 4, num_workers: 2, device: cpu, seed: 3, mixup: 0.4,
        ema_decay: 0.9, save_every_minutes: 0.0}
"""


@pytest.fixture
def every_step(recipe: Recipe) -> Recipe:
    """A recipe that draws random numbers wherever it can, and has a state after each step."""
    augment = AugmentConfig(rand_augment=1, flip="on")
    return replace(
        change(recipe, save_every_minutes=0.0, mixup=0.4, ema_decay=0.9), augment=augment
    )


def stop_at(stop: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM) -> None:
    """A real signal during the step of that number, once."""
    update, sent = Updater.update, []

    def update_and_signal(self: Updater, *arguments: Any, step: int, **more: Any) -> Any:
        if step == stop and not sent:
            sent.append(number)
            signal.raise_signal(number)
        return update(self, *arguments, step=step, **more)

    monkeypatch.setattr(Updater, "update", update_and_signal)


def test_three_kills_change_nothing(collection: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, with two workers, augmentation, dropout, mixing and average."""
    found = kill_and_resume(collection, tmp_path, kills=3, seed=1, recipe=KILLED)
    assert found["differences"] == []
    assert found["kills"] == 3
    assert found["steps"] == 12


def test_sigterm_saves_and_the_command_ends_well(
    collection: Path, every_step: Recipe, tmp_path: Path
) -> None:
    """As before a preemption; it comes to the whole group, data workers and all."""
    (tmp_path / "settings.yaml").write_text(KILLED.replace("epochs: 3", "epochs: 300"))
    command = [sys.executable, "-m", "stadapter", "train", str(collection)]
    command += ["--config", str(tmp_path / "settings.yaml"), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log = tmp_path / "run" / "log.jsonl"
    while not log.is_file() or log.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "go on with --resume" in said
    content, problems = read_state(*states(tmp_path / "run"))
    assert not problems
    assert content is not None
    assert content["state"]["log_lines"] == len(log_lines(tmp_path / "run"))


def states(run: Path) -> tuple[Path, Path]:
    return run / "state/last.pt", run / "state/previous.pt"


@pytest.mark.parametrize("step", [1, 3, 6])
def test_sigterm_and_resume_equals_an_uninterrupted_run(
    collection: Path,
    every_step: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    train_recipe(every_step, collection, tmp_path / "alone")
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(Terminated):
            train_recipe(every_step, collection, tmp_path / "run")
    train_recipe(change(every_step, num_workers=2), collection, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "alone")
    losses = [
        [line["train_loss"] for line in log_lines(tmp_path / run) if "train_loss" in line]
        for run in ("run", "alone")
    ]
    assert losses[0] == losses[1]


def test_a_signal_during_validation_loses_no_step(
    trained_run: Path,
    collection: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eval_forward = VideoClassifier.forward

    def forward(self: VideoClassifier, video: torch.Tensor) -> torch.Tensor:
        if not self.training:
            signal.raise_signal(signal.SIGTERM)
        return eval_forward(self, video)

    with monkeypatch.context() as patch:
        patch.setattr(VideoClassifier, "forward", forward)
        with pytest.raises(Terminated):
            train_recipe(recipe, collection, tmp_path)
    content, _ = read_state(*states(tmp_path))
    assert content is not None
    assert (content["state"]["epoch"], content["state"]["step_in_epoch"]) == (0, 4)
    train_recipe(recipe, collection, tmp_path, resume=True)
    assert_same_run(tmp_path, trained_run)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, Path.unlink])
def test_a_damaged_state_falls_back_to_the_one_before(
    collection: Path,
    every_step: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Any,
) -> None:
    train_recipe(every_step, collection, tmp_path / "alone")
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        with pytest.raises(Terminated):
            train_recipe(every_step, collection, tmp_path / "run")
    damage(tmp_path / "run/state/last.pt")
    capsys.readouterr()
    train_recipe(every_step, collection, tmp_path / "run", resume=True)
    said = " ".join(capsys.readouterr().err.split())
    if damage is not Path.unlink:
        assert "last.pt is truncated or damaged" in said
        assert "going on from the state before" in said
    assert "resuming at epoch 2 of 2, step 5" in said
    assert_same_run(tmp_path / "run", tmp_path / "alone")


def test_two_damaged_states_are_an_error_and_change_nothing(
    run_copy: Path, collection: Path, recipe: Recipe
) -> None:
    for path in states(run_copy):
        cut(path)
    before = {p: p.read_bytes() for p in run_copy.rglob("*.safetensors")}
    with pytest.raises(ValueError, match=r"last\.pt is truncated.*previous\.pt is truncated"):
        train_recipe(recipe, collection, run_copy, resume=True)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_full_disk_keeps_the_states_that_were_there(
    collection: Path, every_step: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses to let files grow beyond some thousand bytes, from a step on."""
    train_recipe(every_step, collection, tmp_path / "alone")
    save, limits = Trainer.save_state, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(self: Trainer) -> None:
        if self.step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        save(self)

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "save_state", save_on_a_full_disk)
            with pytest.raises(OSError, match=r"is the disk full\?|too large") as caught:
                train_recipe(every_step, collection, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value
    assert not list((tmp_path / "run").rglob("*.tmp"))
    content, problems = read_state(*states(tmp_path / "run"))
    assert not problems
    assert content is not None
    assert content["state"]["step_in_epoch"] == 1
    train_recipe(every_step, collection, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "alone")


def test_the_average_is_that_of_the_weights_after_each_step(
    collection: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    update = Updater.update

    def note(self: Updater, *arguments: Any, step: int, **more: Any) -> Any:
        if not seen:
            seen.append({n: p.detach().clone() for n, p in self.model.trained_parameters()})
        line = update(self, *arguments, step=step, **more)
        seen.append({n: p.detach().clone() for n, p in self.model.trained_parameters()})
        return line

    monkeypatch.setattr(Updater, "update", note)
    train_recipe(change(recipe, ema_decay=0.8, epochs=1), collection, tmp_path)
    expected = seen[0]
    for weights in seen[1:]:
        expected = {name: 0.8 * expected[name] + 0.2 * weights[name] for name in weights}
    kept = load_file(tmp_path / TENSORS)
    for name, tensor in expected.items():
        torch.testing.assert_close(kept[name], tensor)
        assert torch.equal(seen[-1][name], kept[name]) == torch.equal(seen[0][name], tensor)
    model = VideoClassifier.from_pretrained(tmp_path)
    assert model.adapter_set.info.scores["val_top1"] == log_lines(tmp_path)[-1]["val_top1"]


def test_the_log_of_steps_is_in_order_after_kills(run_copy: Path) -> None:
    assert [step[0] for step in steps(run_copy)] == list(range(8))
    assert json.loads((run_copy / "metrics.json").read_text())["training"]["num_processes"] == 1
    shutil.rmtree(run_copy)
