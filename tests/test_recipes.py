"""Every recipe that ships says what it is, builds the model that it names, and runs as it says."""

import csv
import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from videos import write_collection

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones.timm import creation_options, view_timm
from stadapter.cli import run
from stadapter.methods import method_from_dict
from stadapter.recipes import copy_recipe, find_recipe, read_head, recipe_names, recipe_path

NAMES = recipe_names()
REDUCED = (
    *("--backbone=tiny", "--pretrained=false", "--resolution=16", "--epochs=1", "--device=cpu"),
    *("--precision=fp32", "--num_workers=0", "--batch_size=2", "--method.width=4"),
)
"""What turns a recipe into one step of a small random model; everything else is as it ships."""
TRAINED = {
    "k400_vit_b16": (400, 7_417_744),
    "k400_vit_l14": (400, 19_355_024),
    "ssv2_vit_b16": (174, 14_354_094),
    "ssv2_vit_l14": (174, 38_068_398),
}
"""Kind of recipe -> classes, trained parameters by the formula of the published model."""


def content_of(name: str) -> dict:
    return yaml.safe_load(recipe_path(name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def two_clips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a recipe -> lists of two training and two validation clips of its task."""
    folder = tmp_path_factory.mktemp("clips")
    write_collection(folder, ["take cup", "put pan"], 2)
    lists = {"label": folder / "classes.csv", "verb,noun": folder / "verbs.csv"}
    for columns, file in lists.items():
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["path", *columns.split(","), "split"])
            for label in ("take cup", "put pan"):
                words = label.split() if columns == "verb,noun" else [label]
                for split, clip in (("train", 0), ("val", 1)):
                    writer.writerow([f"{label}/clip {clip}.mp4", *words, split])
    return lambda name: lists["verb,noun" if name.startswith("epic") else "label"]


@pytest.mark.parametrize("name", NAMES)
def test_the_head_says_what_one_must_know(name: str) -> None:
    head = read_head(name)
    for text in (head.what, head.hardware, head.time, head.expected):
        assert len(text) > 8
        assert "#" not in text
    assert any(f"--config {name} " in line and "stadapter train" in line for line in head.command)
    assert any(line.startswith("stadapter eval RUN") for line in head.command)
    # A score is either measured here or has someone's name beside it.
    assert "easured here" in head.expected
    lines = recipe_path(name).read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_the_head_run(
    name: str, two_clips: Callable[[str], Path], tmp_path: Path
) -> None:
    """One step, with random weights at reduced size; scored as the head says."""
    data, out = str(two_clips(name)), tmp_path / "run"
    paths = {"DATA": data, "order_only": data, "RUN": str(out)}
    for line in read_head(name).command:
        words = shlex.split(re.sub(r"^torchrun --nproc_per_node \d+ -m ", "", line))
        assert words.pop(0) == "stadapter"
        words = [paths.get(word, word) for word in words]
        if words[0] == "train":
            last = (
                ["--method.last_blocks=2"] if content_of(name)["method"].get("last_blocks") else []
            )
            assert run([*words, *REDUCED, *last]) == 0
        elif words[0] == "eval":
            assert run([*words, "--device=cpu", "--num_workers=0", "--precision=fp32"]) == 0
    log = [json.loads(text) for text in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [0]
    assert json.loads((out / "metrics.json").read_text())["num_clips"] == 2
    ran, shipped = yaml.safe_load((out / "recipe.yaml").read_text()), content_of(name)
    for part in ("sampling", "augment"):  # nothing of the file was lost on the way
        given = shipped.get(part, {}).items()
        assert {key: ran[part][key] for key, _ in given} == dict(given)
    assert ran["train"]["lr"] == shipped["train"]["lr"]


@pytest.mark.parametrize(("kind", "classes", "trained"), [(k, *v) for k, v in TRAINED.items()])
def test_published_models_have_the_published_size(kind: str, classes: int, trained: int) -> None:
    ensure_torchvision()
    import timm

    first, *others = [content_of(name) for name in NAMES if name.startswith(kind)]
    assert len(others) == 2
    for content in others:
        assert content["backbone"] == first["backbone"]
        assert content["method"] == first["method"]
    library, _, architecture = first["backbone"].partition("/")
    assert library == "timm"
    with torch.device("meta"):
        options = creation_options(architecture)
        model = timm.create_model(architecture.partition(".")[0], **options)
        added = method_from_dict(first["method"]).build(view_timm(model, id=""), classes)
    assert sum(p.numel() for p in added.parameters()) == trained
    text = f"{trained:,}"
    for name in NAMES:
        if name.startswith(kind):
            assert text in recipe_path(name).read_text(encoding="utf-8")


def test_the_frames_and_the_batch_are_those_of_the_name() -> None:
    published = [name for name in NAMES if name.startswith(("k400", "ssv2"))]
    assert len(published) == 12
    for name in published:
        content = content_of(name)
        assert f"_{content['sampling']['num_frames']}f" in name
        assert content["augment"]["flip"] == ("on" if name.startswith("k400") else "off")


# -- the verb ----------------------------------------------------------------------------------


def test_recipes_are_listed_shown_and_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def said(words: Sequence[str], code: int = 0) -> str:
        capsys.readouterr()
        assert run(["recipes", *words]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    table = said([])
    assert all(name in table and read_head(name).what in table for name in NAMES)
    assert [entry["name"] for entry in json.loads(said(["--format=json"]))] == NAMES
    text = recipe_path("tiny").read_text(encoding="utf-8")
    assert said(["show", "tiny"]) == text
    assert "tiny.yaml" in said(["copy", "tiny"])
    own = tmp_path / "tiny.yaml"
    assert own.read_text(encoding="utf-8") == text
    own.write_text("mine")
    assert "--overwrite" in said(["copy", "tiny"], code=2)
    assert own.read_text() == "mine"
    said(["copy", "tiny", str(own), "--overwrite"])
    assert own.read_text(encoding="utf-8") == text
    said(["copy", "tiny", "other.yaml"])
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "other.yaml"}
    assert "does not exist" in said(["copy", "tiny", "nowhere/tiny.yaml"], code=2)
    for words in (["show", "nope"], ["copy", "nope"]):
        error = said(words, code=2)
        assert "'nope'" in error
        assert all(name in error for name in NAMES)
    assert "'show' and 'copy'" in said(["delete"], code=2)


def test_a_recipe_goes_by_its_name_or_a_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["info", "--num_classes=3", "--format=json"]

    def frames(config: str) -> int:
        assert run([*words, f"--config={config}"]) == 0
        return json.loads(capsys.readouterr().out)["num_frames"]

    assert frames("tiny") == 4
    (tmp_path / "tiny").mkdir()  # a folder of that name is no recipe
    assert find_recipe("tiny") == recipe_path("tiny")
    own = copy_recipe("tiny", tmp_path / "own.yaml")
    own.write_text(own.read_text().replace("num_frames: 4", "num_frames: 6"))
    assert frames("own.yaml") == 6
    assert run([*words, "--config", "tiney"]) == 2
    assert "tiney does not exist" in (error := capsys.readouterr().err)
    assert all(name in error for name in NAMES)
