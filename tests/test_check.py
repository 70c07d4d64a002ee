"""Every planted defect is found, no sound file is flagged, and nothing but the files decides."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, get_args

import av
import numpy as np
import pytest
from videos import CODECS, FPS, numbered_frames, write_audio, write_video

from stadapter.check.cache import FactsCache, stamp
from stadapter.check.clips import Clip, Clips, load_clips
from stadapter.check.collection import COLUMNS, CheckConfig, CheckResult, check_collection
from stadapter.check.container import structure_faults
from stadapter.check.decode import FileFacts, Problem, frames_shown, inspect_file
from stadapter.check.findings import PROBLEMS, judge
from stadapter.cli import run
from stadapter.data import DataConfig, leave_out, load_collection
from stadapter.data.shards import open_member, shard_index
from stadapter.prepare import PrepareConfig
from stadapter.prepare.collection import prepare_collection
from stadapter.recipe import Recipe, train_recipe
from stadapter.workers import LostKind

SHARED = Path(__file__).parents[2] / "shared" / "data"
ONE = CheckConfig(num_workers=1)


def kinds(facts: FileFacts) -> set[str]:
    return {problem.kind for problem in facts.problems}


def textured(count: int, seed: int) -> list[Any]:
    """Moving noise, RGB (72, 96, 3): every byte of the file counts."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 255, (72, 96 + 2 * count, 3), dtype=np.uint8)
    return [np.ascontiguousarray(wide[:, 2 * t : 2 * t + 96]) for t in range(count)]


def write_clip(path: Path, seed: int, **more: Any) -> Path:
    return write_video(path, textured(16, seed), gop=8, **more)


def flip(path: Path, count: int, seed: int = 0) -> None:
    data, rng = bytearray(path.read_bytes()), Random(seed)
    for _ in range(count):
        data[rng.randrange(len(data) // 4, len(data) // 2)] ^= rng.randrange(1, 256)
    path.write_bytes(data)


def zero_middle(path: Path) -> None:
    data = path.read_bytes()
    start, stop = len(data) * 2 // 5, len(data) * 3 // 5
    path.write_bytes(data[:start] + bytes(stop - start) + data[stop:])


def cut(path: Path, share: float = 0.7) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


# -- one file --------------------------------------------------------------------------------------

SOUND = {
    **CODECS,
    "hevc": {"suffix": ".mp4", "codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "vp8 with hidden frames": {
        "suffix": ".webm",
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "b": "100k"},
    },
    "vp9 in mp4": {"suffix": ".mp4", "codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "av1": {"suffix": ".mkv", "codec": "libsvtav1", "options": {"preset": "12"}},
    "wmv": {"suffix": ".wmv", "codec": "wmv2"},
    "gif": {"suffix": ".gif", "codec": "gif", "pixels": "rgb8"},
    "blu-ray stream": {"suffix": ".m2ts"},
    "index in front": {"suffix": ".mp4", "faststart": True},
    "cover": {"suffix": ".mp4", "cover": True},
    "rotated": {"suffix": ".mov", "rotation": 90},
}
"""Kind -> suffix and arguments of `write_video`."""

EVERYWHERE = (
    *("h264 with B-frames", "h264 in a transport stream", "h264 in AVI, which has no times"),
    *("hevc", "vp9", "vp9 in mp4", "mpeg4", "mpeg2", "mjpeg", "av1", "wmv", "gif"),
)
"""Kinds in which large damage must always be found."""


def write_kind(folder: Path, kind: str, frames: list[Any]) -> Path:
    arguments = dict(SOUND[kind])
    return write_video(folder / f"clip{arguments.pop('suffix')}", frames, **arguments)


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_file_has_no_problem(kind: str, tmp_path: Path) -> None:
    facts = inspect_file(str(write_kind(tmp_path, kind, numbered_frames(20))))
    assert facts.problems == ()
    assert facts.frames_decoded == 20
    assert facts.duration_seconds == pytest.approx(20 / FPS, abs=0.06)
    assert facts.variable_rate is False
    assert facts.frames_declared in (None, 20)


@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize("damage", [zero_middle, cut, lambda path: flip(path, 60)])
def test_large_damage_is_found(kind: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = write_kind(tmp_path, kind, textured(16, 0))
    assert kinds(inspect_file(str(path))) == set()
    damage(path)
    assert kinds(inspect_file(str(path)))


@pytest.mark.parametrize("kind", ["vp9", "vp9 in mp4", "av1", "h264, open GOP"])
def test_a_flipped_byte_is_found_where_decoder_or_container_can_tell(
    kind: str, tmp_path: Path
) -> None:
    path = write_kind(tmp_path, kind, textured(16, 0))
    sound = path.read_bytes()
    content = inspect_file(str(path)).content
    for seed in range(4):
        path.write_bytes(sound)
        flip(path, 1, seed)
        facts = inspect_file(str(path))
        assert facts.problems or facts.content == content


def test_facts(tmp_path: Path) -> None:
    times = [0, 100, 200, 900, 1000]
    path = write_video(
        tmp_path / "a.mp4", numbered_frames(5), times_ms=times, rotation=90, cover=True
    )
    facts = inspect_file(str(path))
    assert (facts.problems, facts.codec, facts.width, facts.height) == ((), "h264", 32, 24)
    assert (facts.rotation, facts.audio, facts.variable_rate) == (90, False, True)
    assert facts.longest_gap_seconds == pytest.approx(0.7)
    assert facts.bytes == path.stat().st_size


def test_content_is_of_frames_not_of_files(tmp_path: Path) -> None:
    frames, plain = numbered_frames(8), {"bf": "0"}
    content = {
        name: inspect_file(str(write_video(tmp_path / name, shown, options=plain, **more))).content
        for name, shown, more in [
            ("a.mp4", frames, {}),
            ("b.mkv", frames, {}),
            ("turned.mp4", frames, {"rotation": 90}),
            ("backwards.mp4", frames[::-1], {}),
            ("shorter.mp4", frames[:-1], {}),
        ]
    }
    assert content["a.mp4"] == content["b.mkv"]
    assert len(set(content.values())) == 4


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<html>404</html>" * 99)
    (tmp_path / "folder.mp4").mkdir()
    write_audio(tmp_path / "sound.mp4", cover=True)
    expected = {
        "empty.mp4": "empty",
        "page.mp4": "unreadable",
        "folder.mp4": "missing",
        "none.mp4": "missing",
        "sound.mp4": "no_video",
    }
    assert {name: kinds(inspect_file(str(tmp_path / name))) for name in expected} == {
        name: {kind} for name, kind in expected.items()
    }


def test_frames_for_the_page(tmp_path: Path) -> None:
    for count in (1, 5, 50):
        path = write_video(tmp_path / f"{count}.mp4", numbered_frames(count), rotation=90)
        frames = frames_shown(str(path))
        assert len(frames) == min(8, count)
        assert {frame.shape for frame in frames} == {(32, 24, 3)}
        assert all((a != b).any() for a, b in pairwise(frames))


@pytest.mark.skipif(not SHARED.exists(), reason="data from outside the repository is not there")
def test_awkward_files() -> None:
    """Sound ones are not flagged, the others are; the manifest says which."""
    with (SHARED / "awkward" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        facts = inspect_file(str(SHARED / "awkward" / row["file"]))
        sound = int(row["frames_decoded_pyav"]) > 0 and "Error" not in row["notes"]
        assert (not facts.problems) == sound, (row["file"], facts.problems)
        if sound:
            assert facts.frames_decoded == int(row["frames_decoded_pyav"])


# -- a collection ----------------------------------------------------------------------------------

PLANTED = {
    "train/clap/flipped.mp4": "damaged",
    "train/clap/cut.mp4": "truncated",
    "train/clap/zero.mp4": "empty",
    "train/clap/audio.mp4": "no_video",
    "train/clap/zeroed middle.webm": "damaged",
    "train/clap/wrong label.mp4": "label_conflict",
    "train/wave/true label.mp4": "label_conflict",
    "train/wave/z copy.mkv": "duplicate",
    "train/wave/leak.mp4": "leak",
    "val/wave/held out.mp4": "leak",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection with sound clips and every defect of `PLANTED`. Not to be changed."""
    data = tmp_path_factory.mktemp("planted") / "data"
    seed = 0
    for split, count in (("train", 3), ("val", 2)):
        for name in ("clap", "wave"):
            for i in range(count):
                seed += 1
                write_clip(data / split / name / f"sound {i}, <b>.mp4", seed)
    clap, wave, val = data / "train" / "clap", data / "train" / "wave", data / "val" / "wave"
    flip(write_clip(clap / "flipped.mp4", 90), 30)
    cut(write_clip(clap / "cut.mp4", 91, faststart=True))
    (clap / "zero.mp4").touch()
    write_audio(clap / "audio.mp4")
    zero_middle(write_clip(clap / "zeroed middle.webm", 92, codec="libvpx-vp9"))
    shutil.copy(write_clip(clap / "wrong label.mp4", 93), wave / "true label.mp4")
    write_clip(wave / "a first.mp4", 94)
    write_clip(wave / "z copy.mkv", 94)
    shutil.copy(write_clip(wave / "leak.mp4", 95), val / "held out.mp4")
    return data


@pytest.fixture(scope="module")
def result(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckResult:
    return check_collection(planted, tmp_path_factory.mktemp("check") / "out", ONE)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_planted_defect_and_no_sound_file(planted: Path, result: CheckResult) -> None:
    found = {
        Path(one.clip.path).relative_to(planted).as_posix(): kinds_of(one.problems)
        for one in result.clips
        if one.problems
    }
    assert found.keys() == PLANTED.keys()
    for name, kind in PLANTED.items():
        assert kind in found[name]
    assert not result.sound


def test_a_lost_process_is_a_problem_of_its_file() -> None:
    assert set(get_args(LostKind)) <= PROBLEMS.keys()


def kinds_of(problems: tuple[Problem, ...]) -> set[str]:
    return {problem.kind for problem in problems}


def test_tables(planted: Path, result: CheckResult) -> None:
    rows = rows_of(result.out / "check.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [row["path"] for row in rows] == [one.clip.path for one in result.clips]
    sound = next(row for row in rows if row["path"].endswith("sound 0, <b>.mp4"))
    assert (sound["problems"], sound["frames_decoded"], sound["codec"]) == ("", "16", "h264")
    skipped = {Path(row["path"]).name: row["split"] for row in rows_of(result.out / "skip.csv")}
    kept = {"held out.mp4"}  # of a leak the clip outside train stays
    assert skipped.keys() == {Path(name).name for name in PLANTED} - kept
    assert set(skipped.values()) == {"train"}
    text = result.summary()
    assert "21 clips, 10 with problems" in text
    assert str(result.out / "skip.csv") in text


def test_page(result: CheckResult) -> None:
    page = (result.out / "check.html").read_text(encoding="utf-8")
    assert "sound 0, &lt;b&gt;.mp4" in page
    assert "<b>.mp4" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/jpeg") > 5
    for kind in set(PLANTED.values()):
        assert kind.replace("_", " ") in page


def test_processes_and_a_kill_change_nothing(
    planted: Path, result: CheckResult, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "stadapter", "check", str(planted), "--out", str(tmp_path)]
    process = subprocess.Popen([*command, "--num_workers", "2"], stderr=subprocess.DEVNULL)
    cache = tmp_path / "cache.jsonl"
    while not (cache.exists() and cache.read_text().count("\n") >= 4):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "check.csv").exists()
    with cache.open("a") as file:
        file.write('{"path": "half a li')
    known = len(cache.read_text().splitlines()) - 1
    assert check_collection(planted, tmp_path, CheckConfig(num_workers=2)).out == tmp_path
    assert known >= 4
    for name in ("check.csv", "skip.csv", "check.html"):
        assert (tmp_path / name).read_bytes() == (result.out / name).read_bytes()
    assert all(json.loads(line) for line in cache.read_text().splitlines())


def test_what_is_known_is_used_until_the_file_changes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(4))
    facts = replace(inspect_file(str(path)), codec="remembered")
    cache = FactsCache(tmp_path / "cache.jsonl")
    cache.add(str(path), stamp(str(path)), facts)
    cache.add(str(path), (1, 2), replace(facts, codec="of a file that changed meanwhile"))
    assert FactsCache(cache.path).get(str(path)) == facts
    os.utime(path, (0, 0))
    assert FactsCache(cache.path).get(str(path)) is None


# -- what is compared ------------------------------------------------------------------------------


def judged(*clips: Clip, same: bool = True) -> list[tuple[set[str], bool]]:
    """Problems of clips whose files all show the same, or each its own."""
    facts = {c.path: FileFacts((), content="c" if same else c.path) for c in clips}
    return [(kinds_of(c.problems), c.left_out) for c in judge(Clips(clips), facts)]


def test_copies_leaks_and_labels() -> None:
    a, b = Clip("/a", "x", "train"), Clip("/b", "x", "train")
    nothing = (set[str](), False)
    assert judged(a, b, same=False) == [nothing, nothing]
    assert judged(a, b) == [nothing, ({"duplicate"}, True)]
    assert judged(a, a) == [nothing, ({"listed_twice"}, False)]
    assert judged(a, replace(b, split="test")) == [({"leak"}, True), ({"leak"}, False)]
    assert judged(a, replace(a, split="val")) == [({"leak"}, True), ({"leak"}, False)]
    conflict = ({"label_conflict"}, True)
    assert judged(a, replace(a, path="/c", label="y", split="train"))[0] == conflict


def test_segments_of_one_file() -> None:
    first = Clip("/a", "x", "train", 0, 2)
    assert judged(first, replace(first, label="y", start=2, end=4)) == [(set(), False)] * 2
    apart = replace(first, split="val", start=2, end=4)
    assert judged(first, apart) == [(set(), False)] * 2
    over = replace(first, split="val", start=1, end=4)
    assert judged(first, over) == [({"leak"}, True), ({"leak"}, False)]


def test_a_folder_without_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        write_clip(tmp_path / "flat" / f"{i}.mp4", i)
    out = tmp_path / "out"
    assert run(["check", str(tmp_path / "flat"), "--out", str(out), "--num_workers", "1"]) == 0
    assert "2 clips, 0 with problems" in capsys.readouterr().out
    assert [row["label"] for row in rows_of(out / "check.csv")] == ["", ""]
    assert (out / "skip.csv").read_text() == "path,split,reason\n"


def test_labels_without_clips_and_missing_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "data" / "clap" / "a.mp4", 1)
    (tmp_path / "data" / "wave").mkdir()
    argv = ["check", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--num_workers", "1"]
    assert run(argv) == 1
    assert "class 'wave' has no clips" in capsys.readouterr().out
    table = tmp_path / "data.csv"
    table.write_text(
        "path,label,split\ndata/clap/a.mp4,clap,train\ngone.mp4,wave,train\ngone.mp4,wave,val\n"
    )
    result = check_collection(table, tmp_path / "out", ONE)
    assert [kinds_of(one.problems) for one in result.clips[1:]] == [
        {"missing", "leak"},
        {"missing", "leak"},
    ]
    assert result.faults == ("class 'wave' has no clip that can be used",)


def test_a_folder_that_train_refuses_keeps_its_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("clap", "wave"):
            (tmp_path / split / name).mkdir(parents=True)
    (tmp_path / "train" / "wave" / "a.mp4").write_bytes(b"1")
    (tmp_path / "val" / "clap" / "b.mp4").write_bytes(b"1")
    clips = load_clips(tmp_path)
    assert [(clip.split, clip.label) for clip in clips.rows] == [("train", "wave"), ("val", "clap")]
    assert clips.class_names == ("clap", "wave")
    assert clips.refusal is not None


@pytest.mark.parametrize("live", ["0", "1"])
def test_matroska_is_followed_through_all_clusters(live: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", options={"live": live, "cluster_time_limit": "300"}) as container:
        stream: Any = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for image in textured(16, 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    sound = path.read_bytes()
    assert structure_faults(str(path)) == []
    last = sound.rindex(b"\xa3", 0, sound.rindex(b"\x1f\x43\xb6\x75") + 40)
    path.write_bytes(sound[:last] + b"\0" + sound[last + 1 :])
    assert [fault.truncated for fault in structure_faults(str(path))] in ([False], [False, False])
    path.write_bytes(sound + b"\0" * 100)
    assert live == "1" or structure_faults(str(path)) == []


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "data" / "a.mp4", 1)
    for argv, words in [
        ([str(tmp_path / "none")], "does not exist"),
        ([str(tmp_path / "data"), "--out", str(tmp_path / "data" / "out")], "lies in"),
        ([str(tmp_path / "data"), "--num_workers", "0"], "num_workers (0)"),
        ([str(tmp_path / "data"), "--timeout_seconds", "0"], "timeout_seconds"),
    ]:
        assert run(["check", *argv]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "data" / "out").exists()


# -- shards ----------------------------------------------------------------------------------------


def test_clips_in_shards_are_checked_like_files(tmp_path: Path) -> None:
    for i in range(6):
        write_clip(tmp_path / "data" / "ab"[i % 2] / f"{i}.mp4", i)
    made = tmp_path / "made"
    config = PrepareConfig(preset="ultrafast")
    prepare_collection(tmp_path / "data", made, config, shard_megabytes=1)
    [tar] = (made / "shards").glob("train-*.tar")
    result = check_collection(made, tmp_path / "check", ONE)
    assert result.sound
    assert len(result.clips) == 6
    for one in result.clips:
        assert one.facts.frames_decoded == 16
        member = open_member(one.clip.path)
        assert member is not None
        assert one.facts.bytes == len(member.getvalue())

    names = [name.decode() for name in shard_index(tar).names if name.endswith(b".mp4")]
    offset, size = shard_index(tar).find(names[0]) or (0, 0)
    data = bytearray(tar.read_bytes())
    for at in range(offset + size // 4, offset + size // 2, 7):
        data[at] ^= 0x55
    tar.write_bytes(data)
    rows = (made / "split.csv").read_text().splitlines()
    (made / "split.csv").write_text(
        "\n".join([*rows, f"shards/{tar.name}/gone.mp4,a,train"]) + "\n"
    )
    result = check_collection(made, tmp_path / "check", ONE)
    found = {Path(one.clip.path).name: kinds_of(one.problems) for one in result.clips}
    assert {name for name, kinds in found.items() if kinds} == {names[0], "gone.mp4"}
    assert found[names[0]] & {"damaged", "lost_frames"}
    assert found["gone.mp4"] == {"missing"}
    kept, left_out = leave_out(load_collection(made), tmp_path / "check" / "skip.csv")
    assert (len(kept.whole()), left_out.unmatched) == (5, ())

    tar.write_bytes(data[: offset + size // 2])  # its last members, and part of this one
    cut = inspect_file(f"{tar}/{names[0]}")
    assert kinds(cut) == {"unreadable"}
    assert "the shard is truncated" in cut.problems[0].detail


# -- the skip list ---------------------------------------------------------------------------------


def test_leave_out(planted: Path, result: CheckResult) -> None:
    collection = load_collection(planted)
    kept, left_out = leave_out(collection, result.out / "skip.csv")
    assert left_out.counts == {"train": 9}
    assert left_out.unmatched == ()
    assert {Path(path).name for path in kept.splits["train"].paths} == {
        *(f"sound {i}, <b>.mp4" for i in range(3)),
        "a first.mp4",
    }
    assert kept.splits["val"] == collection.splits["val"]


def test_skip_lists_of_people(planted: Path, tmp_path: Path) -> None:
    collection = load_collection(planted)
    path = Path(collection.splits["val"].paths[0])
    skip = tmp_path / "mine.csv"
    relative = os.path.relpath(path, tmp_path)
    skip.write_text(f'path,split\n"{relative}",\n"{path}",train\nno such.mp4,\n')
    kept, left_out = leave_out(collection, skip)
    assert left_out.counts == {"val": 1}
    assert left_out.unmatched == (str(path), "no such.mp4")
    assert str(path) not in kept.splits["val"].paths
    assert "no such.mp4" in str(left_out)
    for text, words in [
        ("path,label\na,b\n", "line 1: the header must be path,split"),
        ("path,split\na,somewhere\n", "line 2: split 'somewhere'"),
        ("path,split\n,train\n", "line 2: path is missing"),
        ("path,split\na\n", "line 2: 1 columns"),
        ('path,split\n"a', "line 2"),
    ]:
        skip.write_text(text)
        with pytest.raises(ValueError, match="skip list") as error:
            leave_out(collection, skip)
        assert words in str(error.value)
    with pytest.raises(FileNotFoundError):
        leave_out(collection, tmp_path / "none.csv")


def test_train_and_eval_leave_out(
    planted: Path,
    result: CheckResult,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one_epoch = replace(recipe, train=replace(recipe.train, epochs=1))
    skip = result.out / "skip.csv"
    metrics = train_recipe(one_epoch, planted, tmp_path / "run", reading=DataConfig(skip_list=skip))
    assert "the skip list leaves out 9 clips (9 train)" in capsys.readouterr().err
    assert (metrics["num_broken"], metrics["broken_train"]) == (0, [])
    held_out = tmp_path / "one.csv"
    held_out.write_text(f'path,split\n"{planted / "val" / "wave" / "held out.mp4"}",val\n')
    assert run(["eval", str(tmp_path / "run"), str(planted), "--skip_list", str(held_out)]) == 0
    assert "4 clips scored (val)" in capsys.readouterr().out
