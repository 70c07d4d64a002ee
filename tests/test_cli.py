"""What is typed and what comes back: exit codes, one sentence, the same from flags and YAML."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CLASS_NAMES
from videos import numbered_frames, write_collection, write_video

from stadapter import __version__
from stadapter.cli import VERBS, run
from stadapter.data import load_collection

TRAIN_FLAGS = (
    *("--pretrained=false", "--method.width=8", "--resolution=32", "--num_frames=3", "--epochs=1"),
    *("--lr", "0.1", "--batch_size", "4", "--num_workers", "0", "--device", "cpu", "--seed", "3"),
)
Output = tuple[int, str, str]


@pytest.fixture
def stadapter(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Run a verb: (exit code, stdout, stderr)."""

    def call(*argv: str | Path) -> Output:
        capsys.readouterr()
        code = run([str(word) for word in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def assert_refused(output: Output, *words: str, code: int = 2) -> None:
    """One sentence on stderr with these words, nothing on stdout, no traceback."""
    found, out, err = output
    assert found == code, err
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("stadapter: ")
    assert err.endswith("\n")
    for word in words:
        assert word in err
    assert err.count("\n") == 1


# -- the four verbs ----------------------------------------------------------------------------


def test_train_eval_predict(
    stadapter: Callable[..., Output], collection: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'runs of "today"' / "prümier"
    code, text, err = stadapter("train", collection, "--out", out, *TRAIN_FLAGS)
    assert code == 0, err
    assert "top-1" in text
    assert "3 clips scored (val), 0 could not be read" in text
    assert "15 train, 3 val" in " ".join(err.split())
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert recipe["train"]["epochs"] == 1
    assert recipe["train"]["lr"] == 0.1
    assert recipe["method"]["width"] == 8
    assert recipe["sampling"] == {"num_frames": 3, "frame_stride": None}
    assert (recipe["resolution"], recipe["pretrained"]) == (32, False)

    views = ["--num_temporal_views", "2", "--num_spatial_views", "3"]
    code, text, err = stadapter("eval", out, collection, *views, "--num_workers=0", "--device=cpu")
    assert code == 0, err
    assert "18 clips scored (all), 0 could not be read" in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["num_clips"] == 18
    assert (metrics["num_temporal_views"], metrics["num_spatial_views"]) == (2, 3)
    assert {"top1", "top5", "mean_class", "num_clips", "num_broken"} <= metrics.keys()

    clip = collection / CLASS_NAMES[0] / "clip 0.mp4"
    code, text, err = stadapter("predict", out, clip, "--top_k", "2", "--format", "json")
    assert (code, err) == (0, "")
    [prediction] = json.loads(text)
    assert prediction["path"] == str(clip)
    assert len(prediction["predictions"]) == 2


def test_predict_formats_and_broken_files(
    stadapter: Callable[..., Output], trained_run: Path, collection: Path, tmp_path: Path
) -> None:
    clip = collection / CLASS_NAMES[0] / "clip 0.mp4"
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    code, out, err = stadapter("predict", trained_run, clip, broken, "--format=csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["label"] for row in rows[:-1]] == sorted(
        CLASS_NAMES, key=[row["label"] for row in rows].index
    )
    assert "cannot be opened" in rows[-1]["error"]
    assert err == f"stadapter: {broken}: {rows[-1]['error']}\n"
    code, out, _ = stadapter("predict", trained_run, clip)
    assert code == 0
    assert "left [fast]" in out
    code, out, err = stadapter("predict", trained_run, broken)
    assert code == 1
    assert "cannot be opened" in err


def test_info(stadapter: Callable[..., Output]) -> None:
    words = ["info", "--backbone", "tiny", "--pretrained=false", "--method.width", "8"]
    code, out, err = stadapter(*words, "--num_classes", "3", "--format", "json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    adapters = 8 * (128 * 8 + 8 + 3 * 8 + 8 + 8 * 128 + 128)
    assert facts["trained_parameters"] == adapters + 128 * 3 + 3
    assert facts["trained_percent"] == round(
        100 * facts["trained_parameters"] / facts["total_parameters"], 2
    )
    assert facts["adapter_bytes"] == 4 * facts["trained_parameters"]
    assert facts["gflops_per_view"] == pytest.approx(2 * facts["gmacs_per_view"], abs=2e-3)
    code, out, _ = stadapter(*words)
    assert code == 0
    for word in ("MACs per view", "FLOPs per view", "trained", "adapter file"):
        assert word in out


def test_help_and_version(stadapter: Callable[..., Output]) -> None:
    assert stadapter("--version") == (0, f"stadapter {__version__}\n", "")
    code, out, _ = stadapter("--help")
    assert code == 0
    assert all(f"  {verb} " in out for verb in VERBS)
    assert stadapter()[0] == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = run([verb, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    out = capsys.readouterr().out
    assert f"stadapter {verb}" in out
    if verb == "train":
        assert "Peak learning rate for 256 clips" in " ".join(out.split())


def test_the_module_runs_and_bad_input_leaves_no_traceback() -> None:
    command = [sys.executable, "-m", "stadapter"]
    done = subprocess.run([*command, "fly"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("stadapter: unknown verb 'fly'; known are demo, ")
    assert done.stderr.count("\n") == 1


# -- settings ----------------------------------------------------------------------------------


def made_recipe(run: Path) -> Any:
    return yaml.safe_load((run / "recipe.yaml").read_text())


def test_yaml_equals_flags(
    stadapter: Callable[..., Output], collection: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(
        "pretrained: false\nresolution: 32\nmethod: {width: 8}\nsampling: {num_frames: 3}\n"
        "train: {epochs: 1, lr: 1e-1, batch_size: 4, num_workers: 0, device: cpu, seed: 3}\n"
    )
    assert stadapter("train", collection, "--out", tmp_path / "a", *TRAIN_FLAGS)[0] == 0
    config = ["--config", tmp_path / "r.yaml"]
    assert stadapter("train", collection, "--out", tmp_path / "b", *config)[0] == 0
    assert made_recipe(tmp_path / "a") == made_recipe(tmp_path / "b")
    for name in ("predictions.csv", "split.csv", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


def test_the_recipe_of_a_run_is_a_config_and_flags_go_before_it(
    stadapter: Callable[..., Output], trained_run: Path, collection: Path, tmp_path: Path
) -> None:
    config = ["--config", trained_run / "recipe.yaml"]
    data = trained_run / "split.csv"
    code, _, err = stadapter("train", data, "--out", tmp_path / "same", *config)
    assert code == 0, err
    assert made_recipe(tmp_path / "same") == made_recipe(trained_run)
    same = (tmp_path / "same" / "predictions.csv").read_text()
    assert same == (trained_run / "predictions.csv").read_text()
    changed = [*config, "--epochs", "1", "--method.width=4"]
    code, _, err = stadapter("train", data, "--out", tmp_path / "other", *changed)
    assert code == 0, err
    expected = made_recipe(trained_run)
    expected["train"]["epochs"], expected["method"]["width"] = 1, 4
    assert made_recipe(tmp_path / "other") == expected


@pytest.mark.parametrize("method", ["method: {name: linear_probe}", "method.name: linear_probe"])
def test_a_config_names_the_method(
    stadapter: Callable[..., Output], tmp_path: Path, method: str
) -> None:
    (tmp_path / "r.yaml").write_text(f"pretrained: false\n{method}\n")
    code, out, err = stadapter("info", "--config", tmp_path / "r.yaml", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["method"] == "linear_probe"


@pytest.mark.parametrize("text", ["", "method: {width: 8}\n", "method.width: 8\n"])
def test_a_flag_takes_another_method_than_the_config(
    stadapter: Callable[..., Output], trained_run: Path, tmp_path: Path, text: str
) -> None:
    """Its own defaults count then, and everything else of the config."""
    config = tmp_path / "r.yaml"
    rest = "pretrained: false\nsampling: {num_frames: 5}\n"
    config.write_text(text + rest if text else (trained_run / "recipe.yaml").read_text())
    words = ["info", "--format", "json"]
    code, out, err = stadapter(*words, "--config", config, "--method", "linear_probe")
    assert code == 0, err
    assert "settings of st_adapter in" in err
    (tmp_path / "bare.yaml").write_text(rest)
    bare = ["--config", tmp_path / "bare.yaml", "--method", "linear_probe"]
    assert (json.loads(out) == json.loads(stadapter(*words, *bare)[1])) == bool(text)
    assert json.loads(out)["method"] == "linear_probe"
    code, out, err = stadapter(*words, f"--config={config}", "--method=st_adapter")
    assert (code, err) == (0, "")
    assert json.loads(out)["method"] == "st_adapter"


def test_a_config_with_a_bare_method_says_how_to_write_it(
    stadapter: Callable[..., Output], tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text("method: linear_probe\n")
    code, _, err = stadapter("info", "--config", tmp_path / "r.yaml")
    assert code == 2
    assert "write method: {name: linear_probe}" in err


def test_short_flags_are_long_ones(stadapter: Callable[..., Output]) -> None:
    words = ["info", "--pretrained", "false", "--format", "json"]
    short = ["--num_frames", "2", "--method", "linear_probe"]
    long = ["--sampling.num_frames=2", "--method.name=linear_probe"]
    assert stadapter(*words, *short) == stadapter(*words, *long)
    assert json.loads(stadapter(*words, *short)[1])["num_frames"] == 2


def test_resolution_may_be_two_numbers(stadapter: Callable[..., Output]) -> None:
    words = ["info", "--pretrained=false", "--format=json", "--resolution"]
    assert json.loads(stadapter(*words, "[32,48]")[1])["resolution"] == [32, 48]
    assert json.loads(stadapter(*words, "40")[1])["resolution"] == [40, 40]


# -- bad input ---------------------------------------------------------------------------------


@pytest.fixture
def train(
    stadapter: Callable[..., Output], collection: Path, tmp_path: Path
) -> Callable[..., Output]:
    """`stadapter train` with good settings, then these words; by default into an empty folder."""

    def call(*words: str | Path, data: Path = collection, out: Path = tmp_path / "out") -> Output:
        return stadapter("train", data, "--out", out, *TRAIN_FLAGS, *words)

    return call


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--backbone", "tinny"], ["unknown backbone 'tinny'", "did you mean tiny"]),
        (["--backbone", "timm/vit_bas_patch16_224"], ["did you mean", "vit_base_patch16_224"]),
        (["--backbone_weights", "/no.safetensors"], ["/no.safetensors do not exist"]),
        (["--method", "prompts"], ["unknown method 'prompts'", "known are st_adapter"]),
        (["--method.name=prompts"], ["unknown method 'prompts'"]),
        (["--epoch", "3"], ["--epoch"]),
        (["--train.epoch", "3"], ["--train.epoch"]),
        (["--method.depth", "3"], ["method.depth"]),
        (["--flap"], ["--flap"]),
        (["--flip", "sideways"], ["flip", "sideways"]),
        (["--train.balance", "more"], ["train.balance", "more"]),
        (["--train.mixup", "-1"], ["mixup (-1.0) must be at least 0"]),
        (["--lr", "fast"], ["lr", "fast"]),
        (["--lr", "0"], ["lr (0.0) must be above 0"]),
        (["--epochs", "0"], ["epochs (0) must be at least 1"]),
        (["--num_frames", "0"], ["num_frames (0) must be at least 1"]),
        (["--precision", "fp8"], ["precision", "fp8"]),
        (["--device", "abacus"], ["device 'abacus' is not usable"]),
        (["--resolution", "33"], ["height 33 does not fit", "nearest is 32"]),
        (["--resolution", "[32,20]"], ["width 20 does not fit"]),
        (["--method.kernel_size", "[2,1,1]"], ["kernel_size (2, 1, 1) must be three odd"]),
        (["--method.last_blocks", "5"], ["last_blocks (5) exceeds the 4 blocks"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml does not exist"]),
        (["--resume"], ["holds no run to resume"]),
        (["--resume", "--overwrite"], ["--resume and --overwrite exclude each other"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else str(value),
)
def test_settings_that_cannot_be_used(
    train: Callable[..., Output], tmp_path: Path, words: list[str], expected: list[str]
) -> None:
    assert_refused(train(*words), *expected)
    assert not list(tmp_path.rglob("recipe.yaml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {epoch: 3}\n", ["'train'", "'epoch'"]),
        ("trian: {epochs: 3}\n", ["trian"]),
        ("method: {name: linear_probe, width: 3}\n", ["width"]),
        ("method: {name: prompts}\n", ["unknown method 'prompts'"]),
        ("train: {lr: fast}\n", ["lr"]),
        ("train: [\n", ["is no YAML"]),
        ("just a text\n", ["holds no settings"]),
        ("", ["holds no settings"]),
    ],
)
def test_a_config_that_cannot_be_used(
    train: Callable[..., Output], tmp_path: Path, text: str, expected: list[str]
) -> None:
    (tmp_path / "r.yaml").write_text(text)
    code, out, err = train("--config", tmp_path / "r.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("stadapter: ")
    assert "Traceback" not in err
    assert all(word in err for word in expected)


def make_tree(folder: Path, **clips: int) -> Path:
    for name, count in clips.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (folder / name / f"{i}.mp4").touch()
    return folder


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda d: make_tree(d, a=2, b=0), ["class folder", "b has no videos"]),
        (lambda d: make_tree(d, a=2), ["one class only ('a')"]),
        (
            lambda d: make_tree(d, **{"val/a": 1, "train/a": 1, "train/b": 1, "train": 1}),
            ["train has videos beside its class folders: '0.mp4'"],
        ),
        (lambda d: make_tree(d), ["does not exist"]),
        (lambda d: d, ["does not exist"]),
        (
            lambda d: write(d, "path,label\na.mp4,x\nb.mp4,\n"),
            ["line 3, column label: the class is missing"],
        ),
        (lambda d: write(d, "path,label\na.mp4,x\nb.mp4,x\n"), ["one class only ('x')"]),
        (lambda d: write(d, "path,label,split\na.mp4,x,train\nb.mp4,y,train\n"), ["'val'"]),
        (lambda d: write(d, "path,label\na.mp4,x\nb.mp4,y\n"), ["no clips in split 'val'"]),
    ],
)
def test_data_that_cannot_be_used(
    train: Callable[..., Output],
    tmp_path: Path,
    make: Callable[[Path], Path],
    expected: list[str],
) -> None:
    data = make(tmp_path / "my data")
    assert_refused(train(data=data), str(data), *expected)
    assert not (tmp_path / "out").exists()


def write(path: Path, text: str) -> Path:
    """A list beside two videos."""
    for name in ("a.mp4", "b.mp4"):
        (path.parent / name).touch()
    path = path.with_suffix(".csv")
    path.write_text(text)
    return path


def test_an_existing_run_and_a_folder_that_cannot_be_written(
    train: Callable[..., Output], run_copy: Path, tmp_path: Path
) -> None:
    before = {p: p.read_bytes() for p in run_copy.rglob("*") if p.is_file()}
    assert_refused(train(out=run_copy), "already holds a run", "--resume", "--overwrite")
    assert_refused(train("--resume", out=run_copy), "begun with other settings", "train.epochs")
    assert {p: p.read_bytes() for p in run_copy.rglob("*") if p.is_file()} == before
    (tmp_path / "file").touch()
    assert_refused(train(out=tmp_path / "file" / "run"), "cannot be written")
    assert_refused(train(out=tmp_path / "file"), "cannot be written")


def test_missing_arguments_and_unknown_verbs(stadapter: Callable[..., Output]) -> None:
    assert_refused(stadapter("fly"), "unknown verb 'fly'", "train")
    assert_refused(stadapter("train"), "data")
    assert_refused(stadapter("train", "clips"), "out")
    assert_refused(stadapter("predict", "run"), "files")


def test_runs_that_cannot_be_used(
    stadapter: Callable[..., Output], run_copy: Path, collection: Path, tmp_path: Path
) -> None:
    clip = collection / CLASS_NAMES[0] / "clip 0.mp4"
    assert_refused(stadapter("eval", tmp_path / "nowhere"), "does not exist")
    assert_refused(stadapter("predict", tmp_path, clip), "holds no adapter")
    assert_refused(stadapter("predict", run_copy, tmp_path / "gone.mp4"), "gone.mp4 does not exist")
    assert_refused(stadapter("predict", run_copy, clip, "--top_k", "0"), "top_k (0)")
    assert_refused(stadapter("predict", run_copy, clip, "--num_spatial_views=2"), "must be 1 or 3")
    assert_refused(stadapter("eval", run_copy, "--resolution", "30"), "height 30 does not fit")
    assert_refused(stadapter("eval", run_copy, "--split", "test"), "has no split 'test'")
    assert_refused(stadapter("eval", run_copy, tmp_path / "no.csv"), "no.csv does not exist")
    tensors = run_copy / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    for words in (["eval", run_copy], ["predict", run_copy, clip]):
        assert_refused(stadapter(*words), "truncated or damaged")


def test_an_adapter_on_another_backbone(
    stadapter: Callable[..., Output], run_copy: Path, collection: Path, tmp_path: Path
) -> None:
    """All differences are listed, so this message has several lines."""
    import torch
    from safetensors.torch import save_file

    from stadapter import create_backbone

    state = create_backbone("tiny", pretrained=False).model.state_dict()
    save_file({name: torch.zeros_like(t) for name, t in state.items()}, tmp_path / "0.safetensors")
    clip = collection / CLASS_NAMES[0] / "clip 0.mp4"
    for words in (["eval", run_copy], ["predict", run_copy, clip]):
        code, out, err = stadapter(*words, "--backbone_weights", tmp_path / "0.safetensors")
        assert (code, out) == (2, "")
        assert "cannot be loaded:\n  - frozen weights: trained on fingerprint" in err


# -- how DATA is read --------------------------------------------------------------------------


def test_every_verb_reads_data_by_the_same_flags(
    train: Callable[..., Output], stadapter: Callable[..., Output], tmp_path: Path
) -> None:
    data, videos, skip = (tmp_path / name for name in ("lists", "videos", "skip.csv"))
    for i in range(5):
        write_video(videos / f"{i}.mp4", numbered_frames(60)[8 * i :][:8], gop=4)
    data.mkdir()
    (data / "train.txt").write_text("0.mp4 0\n1.mp4 1\n4.mp4 1\n")
    (data / "val.txt").write_text("2.mp4 0\n3.mp4 1\n")
    (tmp_path / "names").write_text("left\nright\n")
    skip.write_text(f"path,split\n{videos / '4.mp4'},\nno such.mp4,\n")
    where = ["--format", "list", "--videos", videos, "--classes", tmp_path / "names"]
    without = [*where, "--skip_list", skip]

    def one_line(text: str) -> str:
        return " ".join(text.split())

    code, _, err = train(*without, data=data)
    assert code == 0, err
    assert "read as list; 2 classes; clips: 2 train, 2 val" in one_line(err)
    assert "leaves out 1 clips (1 train); 1 of its entries match no clip" in one_line(err)
    assert train(*without, "--resume", data=data)[0] == 0
    assert_refused(train(*where, "--resume", data=data), "was begun with other clips")
    for words, scored in ((without, 2), (where, 3)):
        flags = ["--split", "train", "--num_workers", "0", "--device", "cpu"]
        code, out, err = stadapter("eval", tmp_path / "out", data, *words, *flags)
        assert code == 0, err
        assert f"{scored} clips scored (train)" in out

    made = tmp_path / "made"
    prepare = ["prepare", data, made, "--num_workers", "1", "--preset", "ultrafast"]
    code, out, err = stadapter(*prepare, *without)
    assert code == 0, err
    assert "4 clips: 4 prepared" in out
    assert "1 of its entries match no clip: no such.mp4" in one_line(err)
    assert {s: len(t) for s, t in load_collection(made).splits.items()} == {"train": 2, "val": 2}
    assert load_collection(made).class_names == ("left", "right")
    code, out, err = stadapter(*prepare, *where)  # goes on, with one clip more
    assert (code, "5 clips: 5 prepared" in out) == (0, True), err
    (tmp_path / "other").write_text("up\ndown\n")
    assert_refused(
        stadapter(*prepare, *where[:-1], tmp_path / "other"), "was prepared with classes"
    )
    inside = ["prepare", data, videos / "made", *where]
    assert_refused(stadapter(*inside), "inside the data", str(videos))

    check = ["check", data, "--out", tmp_path / "check", "--num_workers", "1"]
    code, out, err = stadapter(*check, *where)
    assert code == 0, out + err
    assert "read as list" in one_line(err)
    with (tmp_path / "check" / "check.csv").open(newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"left", "right"}
    assert_refused(stadapter(*check, "--format", "ucf101"), "is not in format ucf101")
    assert_refused(stadapter(*check, *without), "--skip_list")


# -- broken clips ------------------------------------------------------------------------------


def test_broken_clips_from_train_to_eval(
    train: Callable[..., Output],
    stadapter: Callable[..., Output],
    collection: Path,
    tmp_path: Path,
) -> None:
    kept = load_collection(collection, seed=3)
    extra = "".join(f'gone{i}.mp4,"{CLASS_NAMES[0]}",{s}\n' for i, s in enumerate(["train", "val"]))
    data = write(tmp_path / "clips.csv", kept.to_csv() + extra)
    code, out, err = train(data=data)
    assert (code, out) == (1, "")
    assert "1 of 16 clips could not be read, more than the 1.0% that --max_broken allows" in err
    assert f"\n  - {tmp_path / 'gone0.mp4'}: no such file" in err
    code, out, err = train("--max_broken", "0.3", "--overwrite", data=data)
    assert code == 0, err
    assert "3 clips scored (val), 1 could not be read" in out
    assert f"not read: {tmp_path / 'gone0.mp4'}: no such file" in out
    assert f"not read: {tmp_path / 'gone1.mp4'}: no such file" in out
    assert stadapter("eval", tmp_path / "out", "--num_workers", "0")[0] == 1
    code, out, err = stadapter("eval", tmp_path / "out", "--max_broken=0.3", "--num_workers=0")
    assert code == 0, err
    assert "1 could not be read" in out


# -- names -------------------------------------------------------------------------------------


def test_paths_with_spaces_quotes_and_accents(
    train: Callable[..., Output],
    stadapter: Callable[..., Output],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ['it\'s "a"', "100% ünï #1", "視頻, [x]"]
    data = write_collection(tmp_path / "my 'clips' & co", names, 2)
    out = tmp_path / "-run: {1}"
    code, _, err = train(data=data, out=out)
    assert code == 0, err
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "-i %d.mp4", numbered_frames(5))
    code, text, err = stadapter("predict", out, data, "./-i %d.mp4", "--format", "json")
    assert code == 0, err
    predictions = json.loads(text)
    assert len(predictions) == 7
    assert {label["label"] for p in predictions for label in p["predictions"]} == set(names)


def test_the_report_holds_the_class_names(trained_run: Path) -> None:
    text = (trained_run / "report.html").read_text(encoding="utf-8")
    assert "left [fast]" in text
    assert "turn &quot;slow&quot;" in text or 'turn "slow"' in text


@pytest.mark.skipif(
    shutil.which("stadapter") is None and not hasattr(os, "fork"), reason="no script"
)
def test_the_script_is_installed() -> None:
    script = Path(sys.executable).with_name("stadapter")
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert done.stdout == f"stadapter {__version__}\n"
