"""Kill a training run again and again, resume it, and compare it with one that was left alone.

    python tools/kill_runs.py --kills 20 --seed 0

Both runs train on the generated order-only collection, with augmentation, dropout, mixing and two
data workers. One of them gets SIGKILL at random moments: in steps, while a state is written, during
validation, while it starts. At the end the losses of all steps and all bits of the weights must be
the same. The last line is JSON.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

RECIPE = """
backbone: tiny
pretrained: false
method: {name: st_adapter, width: 8, dropout: 0.2}
resolution: 32
sampling: {num_frames: 4}
augment: {flip: auto, rand_augment: 1}
train: {epochs: 8, lr: 0.1, batch_size: 4, num_workers: 2, device: cpu, seed: 3, mixup: 0.4,
        ema_decay: 0.9, save_every_minutes: 0.01}
"""
"""Settings that draw random numbers in every place where training does."""
COMPUTED = ("step", "epoch", "loss", "lr", "grad_norm")
"""Entries of a step's line in the log that do not depend on time."""


def train(recipe: Path, data: Path, run: Path) -> "subprocess.Popen[str]":
    """Start `stadapter train`, or go on with the run that is there."""
    command = [sys.executable, "-m", "stadapter", "train", str(data), "--config", str(recipe)]
    command += ["--out", str(run)]
    if (run / "recipe.yaml").exists():
        command.append("--resume")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]") -> None:
    """Wait for a run that nobody kills.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    text, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a run ended with {process.returncode}:\n{text}")


def kill_after(process: "subprocess.Popen[str]", log: Path, lines: int, seconds: float) -> bool:
    """SIGKILL, `seconds` after the log has grown by `lines`; False if the run ended before."""
    before = count_lines(log)
    while count_lines(log) < before + lines:
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def count_lines(log: Path) -> int:
    """Whole lines of a file that may not exist yet."""
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def steps(run: Path) -> list[tuple[object, ...]]:
    """What each step of a run computed."""
    lines = [json.loads(text) for text in (run / "log.jsonl").read_text().splitlines()]
    return [tuple(line.get(name) for name in COMPUTED) for line in lines if "loss" in line]


def differences(run: Path, alone: Path) -> list[str]:
    """In what a run that was killed differs from the one that was left alone."""
    found = []
    if steps(run) != steps(alone):
        found.append("losses of the steps")
    for name in ("adapter_model.safetensors", "state/best/adapter_model.safetensors"):
        # Not the bytes: safetensors writes its metadata in any order.
        tensors, wanted = load_file(run / name), load_file(alone / name)
        if tensors.keys() != wanted.keys() or not all(
            torch.equal(tensors[key], wanted[key]) for key in wanted
        ):
            found.append(name)
    if (run / "predictions.csv").read_text() != (alone / "predictions.csv").read_text():
        found.append("predictions.csv")
    return found


def kill_and_resume(
    data: Path, folder: Path, *, kills: int, seed: int, recipe: str = RECIPE
) -> dict[str, object]:
    """Train twice in `folder`, once killed `kills` times; what happened and what differs."""
    settings = folder / "settings.yaml"
    settings.write_text(recipe, encoding="utf-8")
    alone, run = folder / "alone", folder / "killed"
    finish(train(settings, data, alone))
    draw = random.Random(seed)
    killed_at = []
    for _ in range(kills):
        process = train(settings, data, run)
        # After a new line or two there is progress, so that any number of kills comes to an end.
        lines = draw.choice((0, 1, 1, 2, 2))
        wait = draw.uniform(0, 6) if lines == 0 else draw.uniform(0, 0.2)
        if not kill_after(process, run / "log.jsonl", lines, wait):
            break
        killed_at.append(count_lines(run / "log.jsonl"))
    finish(train(settings, data, run))
    return {
        "kills": len(killed_at),
        "lines_of_the_log_when_killed": killed_at,
        "steps": len(steps(alone)),
        "differences": differences(run, alone),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["-m", "stadapter", "demo-data", str(folder / "clips")]
        sizes = ["--train_clips_per_class", "4", "--val_clips_per_class", "2"]
        subprocess.run([sys.executable, *command, *sizes], check=True)
        found = kill_and_resume(
            folder / "clips", folder, kills=arguments.kills, seed=arguments.seed
        )
    print(json.dumps(found))
    return 1 if found["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
