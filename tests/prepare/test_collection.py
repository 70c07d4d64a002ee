"""A prepared collection is the collection: labels and splits; kills and changes lose nothing."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from videos import numbered_frames, shown_numbers, write_audio, write_video

from stadapter.data import ClipTable, VideoReader, load_collection
from stadapter.prepare import PrepareConfig
from stadapter.prepare.collection import PrepareSummary, prepare_collection
from stadapter.prepare.manifest import Manifest, read_manifest

CONFIG = PrepareConfig(preset="ultrafast")
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "awkward"


def prepare(data: Path, out: Path, **settings: int) -> PrepareSummary:
    return prepare_collection(data, out, CONFIG, **settings)


def files(folder: Path) -> dict[str, str]:
    """Relative path -> checksum of everything in a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def listed(data: Path) -> list[tuple[str, str, str]]:
    """(split, label, what the clip shows first and last) of each clip, in order."""
    collection = load_collection(data)
    result = []
    for split, table in collection.splits.items():
        for path, label in zip(table.paths, table.labels, strict=True):
            with VideoReader(path) as reader:
                shown = shown_numbers(reader.read([0, reader.num_frames - 1]))
            result.append((split, table.class_names[label], str(shown)))
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 clips, 2 of them broken, of names that collide, are long and odd. Not to be changed."""
    folder = tmp_path_factory.mktemp("prepare") / "data é"
    names = ["a.mp4", "a.mkv", "a b.mp4", "a_b.mp4", "x" * 200 + ".mp4", "ü, \"q\" 'n'.mp4"]
    for k, label in enumerate(("one, two", "three-three")):
        for i, name in enumerate(names):
            frames = numbered_frames(60)[20 * k + 3 * i :][:12]
            write_video(folder / label / name, frames)
    (folder / "one, two" / "empty.mp4").touch()
    write_audio(folder / "three-three" / "audio.mp4")
    return folder


@pytest.fixture(scope="module")
def prepared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, prepared without interruption. Not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    summary = prepare(data, out, num_workers=1)
    assert summary.counts == {"prepared": 12, "failed": 2}
    return out


def test_the_output_is_the_collection(data: Path, prepared: Path) -> None:
    rows = read_manifest(prepared / "manifest.csv")
    bad = {Path(row.source).name: row.file.reason for row in rows if not row.is_usable}
    assert bad == {"empty.mp4": "the file is empty", "audio.mp4": "no video stream"}
    good = [row for row in rows if row.is_usable]
    for row in good:
        output = prepared / row.output
        assert hashlib.sha256(output.read_bytes()).hexdigest() == row.file.sha256
        assert output.stat().st_size == row.file.output_bytes
        assert (row.file.num_frames, row.file.width, row.file.height) == (12, 32, 24)
        status = Path(row.source).stat()
        assert (row.source_bytes, row.source_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert len({row.output.lower() for row in good}) == 12
    assert all(row.output.isascii() and "." not in Path(row.output).stem for row in good)
    # Whoever moves the folder takes everything along.
    moved = Path(shutil.copytree(prepared, prepared.parent / "moved"))
    sources = {row.source for row in good}
    expected = []
    for split, table in load_collection(data).splits.items():
        for path, label in zip(table.paths, table.labels, strict=True):
            if path in sources:
                with VideoReader(path) as reader:
                    shown = shown_numbers(reader.read([0, reader.num_frames - 1]))
                expected.append((split, table.class_names[label], str(shown)))
    assert listed(moved) == listed(moved / "split.csv") == expected


def test_the_number_of_processes_changes_nothing_and_a_second_run_does_nothing(
    data: Path, prepared: Path, tmp_path: Path
) -> None:
    before = files(data)
    prepare(data, tmp_path / "out", num_workers=3)
    made = files(tmp_path / "out")
    assert made == files(prepared)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    summary = prepare(data, tmp_path / "out")
    assert summary.counts == {"prepared": 12, "failed": 2}
    assert files(tmp_path / "out") == made
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == times
    assert files(data) == before


def command(data: Path, out: Path, *flags: str) -> list[str]:
    verb = ["-m", "stadapter", "prepare", str(data), str(out), "--preset", "ultrafast"]
    return [sys.executable, *verb, "--num_workers", "2", *flags]


def test_a_kill_in_the_middle_is_made_good(tmp_path: Path) -> None:
    data, out, whole = (tmp_path / name for name in ("data", "out", "whole"))
    for label in "ab":
        for i in range(3):
            write_video(data / label / f"{i}, {label}.mp4", numbered_frames(250) * 3, gop=250)
    prepare(data, whole)
    run = subprocess.Popen(command(data, out), stderr=subprocess.PIPE, start_new_session=True)
    while run.poll() is None and not list(out.glob("videos/*/*.mp4")):
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert not (out / "split.csv").exists()
    # What a kill at a worse moment would leave:
    (out / "videos" / "a" / ".half.mp4.1.tmp").write_bytes(b"half")
    with (out / "manifest.csv").open("a") as manifest:
        manifest.write('"/some/where, far,12,')
    next(out.glob("videos/*/*.mp4")).unlink()
    prepare(data, out)
    assert files(out) == files(whole)


def test_a_killed_and_a_hung_worker_cost_their_clips_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for label in "ab":
        for i in range(3):
            write_video(data / label / f"{i}.mp4", numbered_frames(200) * 8)
    out = tmp_path / "out"
    run = subprocess.Popen(
        command(data, out, "--timeout_seconds", "10"), stdout=subprocess.PIPE, text=True
    )
    hit: set[int] = set()
    while run.poll() is None and len(hit) < 2:
        for path in out.glob("videos/*/.*.tmp"):
            process = int(path.name.split(".")[-2])  # who writes it
            if process not in hit and path.exists():
                os.kill(process, signal.SIGKILL if not hit else signal.SIGSTOP)
                hit.add(process)
                break
        time.sleep(0.005)
    printed, _ = run.communicate()
    assert run.returncode == 0
    assert len(hit) == 2
    rows = read_manifest(out / "manifest.csv")
    lost = [row.file.reason for row in rows if row.file.status == "unfinished"]
    assert len(lost) == 2, printed
    assert any("signal 9" in reason for reason in lost)
    assert any("no progress for 10 seconds" in reason for reason in lost)
    assert "2 unfinished" in printed and "tried again" in printed
    assert not list(out.rglob(".*"))
    assert prepare(data, out).counts == {"prepared": 6}


def test_a_full_disk_is_a_clean_stop(data: Path, prepared: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    big = tmp_path / "data"
    shutil.copytree(data, big)
    stopper = write_video(big / "one, two" / "big.mp4", numbered_frames(250) * 3)
    out = tmp_path / "out"
    run = subprocess.run(command(big, out), capture_output=True, text=True, preexec_fn=limit)
    assert run.returncode == 2
    assert "cannot be written further" in run.stderr and "run the same command again" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(out.rglob(".*")) and not (out / "split.csv").exists()
    stopper.unlink()
    prepare(big, out)
    made, whole = files(out / "videos"), files(prepared / "videos")
    assert made == whole  # names and bytes do not depend on where the data lies


def test_only_what_changed_is_made_again(data: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, copy)
    prepare(copy, out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    by_source = {row.source: out / row.output for row in read_manifest(out / "manifest.csv")}
    better = write_video(copy / "one, two" / "empty.mp4", numbered_frames(9))
    other = write_video(copy / "one, two" / "a.mp4", numbered_frames(250)[100:120])
    broken = copy / "three-three" / "a b.mp4"
    broken.write_bytes(b"broken")
    gone = copy / "three-three" / "a_b.mp4"
    gone.unlink()
    assert prepare(copy, out).counts == {"prepared": 11, "failed": 2}
    changed = {p for p, t in times.items() if not p.exists() or p.stat().st_mtime_ns != t}
    assert changed == {by_source[str(other)], by_source[str(broken)]}
    assert not by_source[str(broken)].exists()
    assert by_source[str(better)].exists()
    assert len(load_collection(out).whole()) == 11
    assert str(gone) not in {row.source for row in read_manifest(out / "manifest.csv")}


def test_places_and_settings_that_do_not_fit_are_refused(
    data: Path, prepared: Path, tmp_path: Path
) -> None:
    before = files(data), files(prepared)
    for out in (data, data / "inside", data / "deep" / "inside"):
        with pytest.raises(ValueError, match="the data"):
            prepare(data, out)
    link = tmp_path / "link"
    link.symlink_to(data)
    with pytest.raises(ValueError, match="inside the data"):
        prepare(data, link / "inside")
    with pytest.raises(ValueError, match=r"lies inside .*; name another"):
        prepare(prepared / "split.csv", prepared)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        prepare(data, other)
    with pytest.raises(FileExistsError, match="is a file"):
        prepare(data, other / "thesis.txt")
    with pytest.raises(ValueError, match=r"crf 23 \(now 30\), .*preset"):
        prepare_collection(data, prepared, PrepareConfig(crf=30, preset="slow"))
    with pytest.raises(ValueError, match=r"shard_megabytes None \(now 3\)"):
        prepare(data, prepared, shard_megabytes=3)
    for name in ("num_workers", "timeout_seconds", "shard_megabytes"):
        with pytest.raises(ValueError, match=name):
            prepare(data, tmp_path / "new", **{name: 0})
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path / "nothing", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert (files(data), files(prepared)) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_two_runs_do_not_write_to_one_folder(data: Path, prepared: Path) -> None:
    import fcntl

    descriptor = os.open(prepared, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(ValueError, match="another run is writing"):
            prepare(data, prepared)
    finally:
        os.close(descriptor)


def test_when_nothing_can_be_used_it_says_so(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        write_audio(tmp_path / "data" / label / "a.mp4")
    with pytest.raises(RuntimeError, match=r"not one of 2 clips .* no video stream"):
        prepare(tmp_path / "data", tmp_path / "out")
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 2


def test_rows_of_the_manifest_survive_the_file(prepared: Path, tmp_path: Path) -> None:
    rows = read_manifest(prepared / "manifest.csv")
    with Manifest(tmp_path / "manifest.csv") as manifest:
        for row in rows:
            manifest.add(row)
    assert read_manifest(tmp_path / "manifest.csv") == rows
    content = (tmp_path / "manifest.csv").read_bytes()
    for cut in range(0, len(content), 97):  # killed at any byte
        (tmp_path / "cut.csv").write_bytes(content[:cut])
        with Manifest(tmp_path / "cut.csv") as manifest:
            manifest.add(rows[0])
        kept = read_manifest(tmp_path / "cut.csv")
        assert kept[-1] == rows[0]
        assert set(kept) <= set(rows)


def test_a_worker_process_imports_no_torch() -> None:
    code = "import sys, stadapter.prepare.task; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("False", "")


# -- shards ----------------------------------------------------------------------------------------


def test_shards_hold_the_same_clips_and_go_on_after_a_stop(
    data: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare(data, out, shard_megabytes=1)
    assert not list(out.rglob("*.mp4"))
    assert sorted(path.name for path in (out / "shards").iterdir()) == [
        "train-000000.tar",
        "val-000000.tar",
    ]
    assert listed(out) == listed(prepared)
    loose = {Path(row.output).name: row for row in read_manifest(prepared / "manifest.csv")}
    for row in read_manifest(out / "manifest.csv"):
        assert row.file == loose[Path(row.output).name].file
    with tarfile.open(out / "shards" / "train-000000.tar") as tar:  # as other tools read it
        names = tar.getnames()
        videos = [name for name in names if name.endswith(".mp4")]
        assert names == [n for v in videos for n in (v, v.replace(".mp4", ".json"))]
        for name in videos:
            video, text = map(tar.extractfile, (name, name.replace(".mp4", ".json")))
            assert video and text
            assert hashlib.sha256(video.read()).hexdigest() == loose[name].file.sha256
            record = json.load(text)
            assert record["source"] == loose[name].source
            assert record["labels"] == [Path(record["source"]).parent.name]
            assert record["split"] == "train"
    made = files(out)
    summary = prepare(data, out, shard_megabytes=1)
    assert summary.counts == {"prepared": 12, "failed": 2}
    assert files(out) == made


def test_shards_follow_changes(data: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, copy)
    prepare(copy, out, shard_megabytes=1)
    write_video(copy / "one, two" / "a.mp4", numbered_frames(250)[100:120])
    (copy / "three-three" / "a b.mp4").write_bytes(b"broken")
    write_video(copy / "three-three" / "new.mp4", numbered_frames(7))
    prepare(copy, out, shard_megabytes=1)
    fresh = tmp_path / "fresh"
    prepare(copy, fresh, shard_megabytes=1)
    assert listed(out) == listed(fresh)
    records = {}
    for folder in (out, fresh):
        members = {}
        for path in (folder / "shards").glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file
                    key = (path.name.partition("-")[0], member.name)
                    assert key not in members
                    members[key] = file.read()
        records[folder] = members
    assert records[out] == records[fresh]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_awkward_files_are_prepared_salvaged_or_listed(tmp_path: Path) -> None:
    sources = sorted(SHARED.iterdir())
    lines = [
        f"{path},{'ab'[i % 2]},{('train', 'val')[i // 2 % 2]}" for i, path in enumerate(sources)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    config = PrepareConfig(short_side=64, preset="ultrafast")
    prepare_collection(tmp_path / "list.csv", tmp_path / "out", config, num_workers=2)
    rows = {Path(row.source): row for row in read_manifest(tmp_path / "out" / "manifest.csv")}
    assert sorted(rows) == sources
    for row in rows.values():
        if row.is_usable:
            with VideoReader(tmp_path / "out" / row.output) as reader:
                assert reader.num_frames == row.file.num_frames
                assert torch.is_tensor(reader.read([row.file.num_frames - 1]))
        assert row.is_usable or row.file.reason


@pytest.mark.skipif(
    "starts" not in {field.name for field in fields(ClipTable)}, reason="clips have no times yet"
)
def test_trimmed_clips_become_whole_files(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", numbered_frames(60))
    rows = ["path,start,end,label,split", "long.mp4,0.5,1.5,a,train", "long.mp4,3.2,,b,train"]
    rows += ["long.mp4,0.5,1.5,a,val", "long.mp4,,0.4,b,val"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    assert prepare(tmp_path / "list.csv", tmp_path / "out").counts == {"prepared": 3}
    assert listed(tmp_path / "out") == [
        ("train", "a", "[5, 14]"),
        ("train", "b", "[32, 59]"),
        ("val", "a", "[5, 14]"),
        ("val", "b", "[0, 3]"),
    ]
    whole = load_collection(tmp_path / "out").whole()
    assert len(set(whole.paths)) == 3
