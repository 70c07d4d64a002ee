"""What a plan measures is what a training takes; what it proposes fits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from stadapter.cli import run
from stadapter.data import LabelSpace, SamplingConfig, load_collection
from stadapter.methods import METHODS, FullFinetuneConfig, LinearProbeConfig, STAdapterConfig
from stadapter.model import create_model
from stadapter.plan import Plan, PlanConfig, make_plan, parse_bytes, plan_json, plan_text
from stadapter.plan.memory import bytes_text, saved_bytes
from stadapter.plan.probe import Probe
from stadapter.plan.reading import measure_reading
from stadapter.recipe import Recipe
from stadapter.train import TrainConfig

RECIPE = Recipe(
    pretrained=False,
    method=STAdapterConfig(width=32),
    resolution=64,
    sampling=SamplingConfig(num_frames=8),
    train=TrainConfig(epochs=3, batch_size=6, device="cpu", num_workers=0),
)
SPACE = LabelSpace.single_label("abc")
MB = 10**6


# -- amounts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("8G", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("0.5TB", 5 * 10**11),
        (" 500 MB ", 500 * MB),
        ("64kB", 64_000),
    ],
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount
    assert parse_bytes(bytes_text(amount)) == pytest.approx(amount, rel=0.05)


@pytest.mark.parametrize(
    "text", ["8 GBB", "8", "GB", "", "-8GB", "0GB", "0.0001kB", "nanGB", "1e3GB", "8,5GB", "8GB!"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="8GB, 500MB or 8GiB"):
        parse_bytes(text)


# -- what the backward pass needs --------------------------------------------------------------


def test_saved_bytes_of_a_known_layer() -> None:
    """A frozen linear layer keeps nothing for its input's gradient; GELU keeps its input."""
    frozen, trained = nn.Linear(8, 16), nn.Linear(16, 4)
    frozen.requires_grad_(False)
    video = torch.zeros(5, 8)
    assert saved_bytes(nn.Sequential(frozen, nn.GELU()), video, "fp32") == 0
    assert saved_bytes(nn.Sequential(frozen, trained), video, "fp32") == 5 * 16 * 4
    whole = nn.Sequential(nn.Linear(8, 16), nn.GELU(), trained)  # before and after GELU
    assert saved_bytes(whole, video, "fp32") == 2 * 5 * 16 * 4


@pytest.mark.parametrize("checkpoint_every", [0, 2, 1])
def test_fewer_adapted_blocks_and_recomputed_ones_keep_less(checkpoint_every: int) -> None:
    kept = []
    for last in (4, 2, 1):
        method = STAdapterConfig(width=8, last_blocks=last)
        model = create_model("tiny", num_classes=3, method=method, pretrained=False)
        model.checkpoint_every = checkpoint_every
        kept.append(saved_bytes(model, torch.zeros(1, 4, 3, 32, 32), "fp32"))
    assert kept == sorted(kept, reverse=True)
    if checkpoint_every == 0:
        assert kept[1] < 0.6 * kept[0]
    head = create_model("tiny", num_classes=3, method=LinearProbeConfig(), pretrained=False)
    assert saved_bytes(head, torch.zeros(1, 4, 3, 32, 32), "fp32") < kept[-1] / 10


# -- measuring ---------------------------------------------------------------------------------


def test_a_probe_measures_what_steps_take() -> None:
    space = LabelSpace("verb_noun", (("take", "put"), ("cup", "pan", "lid")))
    with Probe(RECIPE, space) as probe:
        facts = probe.facts
        large, small = probe.measure(6), probe.measure(1)  # what the larger left does not count
        two = probe.measure(2, accumulation_steps=2)
    model = create_model("tiny", num_classes=5, method=RECIPE.method, pretrained=False)
    assert (facts.parameters, facts.trained) == model.num_parameters()
    assert facts.macs == model.count_macs(8, (64, 64))
    assert facts.weight_bytes >= 4 * facts.parameters
    assert facts.depth == 4
    # Gradient, and mean and variance of AdamW, of each trained weight, and a count per tensor.
    assert 12 * facts.trained <= small.gradient_bytes <= 12 * facts.trained + 1000
    assert large.saved_bytes == pytest.approx(6 * small.saved_bytes, rel=0.05)
    base = facts.process_bytes + facts.weight_bytes
    assert large.peak_bytes > base + large.saved_bytes
    assert small.peak_bytes < large.peak_bytes - 3 * small.saved_bytes
    assert large.seconds > small.seconds > 0
    assert two.clips_per_second == 4 / two.seconds


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"peft"}))  # an extra, and slow to import
def test_every_method_is_measured(name: str) -> None:
    recipe = replace(RECIPE, method=METHODS[name](), resolution=16)
    with Probe(recipe, SPACE) as probe:
        measurement = probe.measure(1)
    assert measurement.gradient_bytes > 0
    assert measurement.peak_bytes > probe.facts.weight_bytes


def test_what_training_refuses_a_probe_refuses() -> None:
    with pytest.raises(ValueError, match="multiple"):
        Probe(replace(RECIPE, resolution=63), SPACE)


@pytest.fixture(scope="module")
def tight() -> Plan:
    """A memory that holds three clips, for a recipe of six at once."""
    with Probe(RECIPE, SPACE) as probe:
        one, three = probe.measure(1), probe.measure(3)
    limit = (one.peak_bytes + 3 * three.peak_bytes) // 4
    return make_plan(RECIPE, SPACE, PlanConfig(memory_bytes=limit, num_clips=1000))


def test_what_is_proposed_fits_and_keeps_the_step(tight: Plan) -> None:
    first = tight.options[0]
    assert (first.batch_size, first.accumulation_steps, first.flags) == (6, 1, ())
    assert not first.fits
    assert tight.fits
    names = [option.name for option in tight.options]
    assert len(set(names)) == len(names) == 7
    for option in tight.options[1:]:
        assert option.batch_size * option.accumulation_steps == 6
        assert option.fits == (option.measurement.peak_bytes <= tight.memory_bytes)
        assert option.measured
        assert option.flags
        text = " ".join(option.flags)
        assert (f"batch_size {option.batch_size} " in text) == (option.batch_size < 6)
    by_name = {split.name: split for split in tight.splits}
    own = by_name[names[0]].measurement
    assert by_name["checkpoint all blocks"].measurement.saved_bytes < own.saved_bytes / 3
    half = by_name["adapt the last 2 of 4 blocks"]
    assert half.measurement.saved_bytes < 0.6 * own.saved_bytes
    assert half.trained < tight.facts.trained
    assert first.hours(1000, 3) == 3000 / first.measurement.clips_per_second / 3600


def test_a_plan_reads_as_text_and_json(tight: Plan) -> None:
    text = plan_text(tight)
    for option in tight.options:
        assert option.name in text
        if option.fits:
            assert " ".join(option.flags) in text
    assert "does not fit" in text
    assert "Freezing" in text
    content = json.loads(json.dumps(plan_json(tight)))
    assert content["options"][1]["measurement"]["peak_bytes"] > MB
    assert content["recipe"]["train"]["batch_size"] == 6


def test_a_batch_too_slow_to_try_is_worked_out_and_marked() -> None:
    recipe = replace(RECIPE, train=replace(RECIPE.train, batch_size=10**6))
    recipe = replace(recipe, method=LinearProbeConfig())
    plan = make_plan(recipe, SPACE, PlanConfig(max_seconds=20))
    first, smaller = plan.options
    assert not first.measured
    assert first.measurement.peak_bytes > 100 * plan.splits[0].measurement.peak_bytes
    assert not first.fits
    assert smaller.batch_size * smaller.accumulation_steps == 10**6
    assert " *" in plan_text(plan)
    assert "keeps nothing" in plan_text(plan)


def test_a_method_without_a_setting_for_the_last_blocks() -> None:
    recipe = replace(RECIPE, method=FullFinetuneConfig(), train=replace(RECIPE.train, batch_size=2))
    plan = make_plan(recipe, SPACE)
    assert plan.facts.trained == plan.facts.parameters
    assert [o.name for o in plan.options[1:]] == [
        "recompute each MLP",
        "checkpoint every 2nd block",
        "checkpoint all blocks",
    ]
    assert "Freezing" not in plan_text(plan)


def test_less_memory_than_the_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="less than the weights"):
        make_plan(RECIPE, SPACE, PlanConfig(memory_bytes=2 * MB))


# -- the verb ----------------------------------------------------------------------------------


def test_reading_is_measured_on_the_clips_of_a_collection(collection: Path) -> None:
    table = load_collection(collection).splits["train"]
    with Probe(RECIPE, SPACE) as probe:
        preprocessing = probe.facts.preprocessing
    reading = measure_reading(table, RECIPE, preprocessing)
    assert (reading.num_clips, reading.num_broken, reading.num_processes) == (8, 0, 1)
    assert reading.total == reading.clips_per_second > 0
    lost = replace(table, paths=[f"{path}.gone" for path in table.paths])
    with pytest.raises(ValueError, match="none of 8 clips could be read"):
        measure_reading(lost, RECIPE, preprocessing)


def test_plan_on_the_command_line(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(replace(RECIPE, method=LinearProbeConfig()).to_dict()))
    words = ["plan", str(own), str(collection), "--batch_size", "2", "--epochs", "5"]
    assert run([*words, "--num_frames=2", "--memory", "50GB", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["recipe"]["train"]["batch_size"] == 2
    assert made["num_classes"] == 3
    assert made["num_clips"] == 15
    [option] = made["options"]
    assert option["fits"]
    assert option["hours"] == pytest.approx(15 * 5 / option["clips_per_second"] / 3600)
    assert made["reading"]["num_clips"] == 8


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["tiny", "--memory", "8 GBB"], "8 GBB"),
        (["tiney"], "tiney does not exist"),
        (["tiny", "--num_clips", "0"], "num_clips (0)"),
        (["tiny", "--max_seconds", "0"], "max_seconds"),
        (["tiny", "/nowhere"], "/nowhere does not exist"),
    ],
)
def test_impossible_questions(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", *words]) == 2
    assert error in capsys.readouterr().err
