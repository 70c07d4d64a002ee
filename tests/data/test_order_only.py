"""The guarantee of the order-only collection: twins differ in the order of their frames alone."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stadapter.data.looks import LOOKS
from stadapter.data.order_only import (
    CLASSES,
    NUM_FRAMES,
    PAIRS,
    OrderOnlyConfig,
    write_order_only,
)
from stadapter.data.scenes import MOTIONS, Track, _local, draw_progress

TINY = OrderOnlyConfig(train_clips_per_class=1, val_clips_per_class=1, width=80, height=64)


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def decode(path: Path) -> NDArray[np.uint8]:
    """The planes of each frame as stored, (T, 3H/2, W), without conversion to RGB."""
    with av.open(path) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


def centres(num_frames: int, num_segments: int) -> list[int]:
    return [(2 * i + 1) * num_frames // (2 * num_segments) for i in range(num_segments)]


def draw_track(motion: str, seed: int) -> Track:
    rng = np.random.default_rng(seed)
    return MOTIONS[motion](draw_progress(rng, 30), rng, 112, 96)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_order_only(tmp_path_factory.mktemp("made") / "clips", TINY)


def twins(collection: Path) -> list[tuple[Path, Path]]:
    found = []
    for split in ("train", "val"):
        for first, second in PAIRS.values():
            for path in sorted((collection / split / first).iterdir()):
                found.append((path, collection / split / second / path.name))
    return found


# -- the guarantee -----------------------------------------------------------------------------


def test_a_twin_is_the_other_backwards_to_the_bit(collection: Path) -> None:
    assert len(twins(collection)) == 10
    for first, second in twins(collection):
        frames, reverse = decode(first), decode(second)
        assert np.array_equal(frames, reverse[::-1])
        assert not np.array_equal(frames, reverse)
        assert first.stat().st_size == second.stat().st_size


def test_frames_at_segment_centres_are_the_same_set_for_both_twins(collection: Path) -> None:
    first, second = (decode(path) for path in twins(collection)[0])
    for num_segments in (2, 4, 8, 16):
        chosen = centres(len(first), num_segments)
        assert np.array_equal(first[chosen], second[chosen][::-1])


@pytest.mark.parametrize("num_segments", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("num_frames", NUM_FRAMES)
def test_segment_centres_mirror_under_reversal(num_frames: int, num_segments: int) -> None:
    chosen = centres(num_frames, num_segments)
    assert [num_frames - 1 - i for i in reversed(chosen)] == chosen


def test_every_frame_is_an_intra_frame_without_the_encoders_signature(collection: Path) -> None:
    for path in (path for pair in twins(collection) for path in pair):
        with av.open(path) as container:
            kinds = {(frame.pict_type, frame.key_frame) for frame in container.decode(video=0)}
        assert kinds == {(av.video.frame.PictureType.I, True)}
        assert b"x264" not in path.read_bytes()


@pytest.mark.parametrize("field", [field.name for field in fields(LOOKS["train"])])
def test_nothing_of_the_training_look_is_in_the_validation_look(field: str) -> None:
    train, val = (getattr(LOOKS[split], field) for split in ("train", "val"))
    assert train and val
    assert not set(train) & set(val)


def test_progress_is_drawn_alike_for_both_directions() -> None:
    rng = np.random.default_rng(0)
    curves = np.stack([draw_progress(rng, 30) for _ in range(2000)])
    assert np.all(np.diff(curves) >= 0)
    assert np.allclose(curves[:, 0], 0) and np.allclose(curves[:, -1], 1)
    mirrored = 1 - curves[:, ::-1]
    assert np.allclose(curves.mean(0), mirrored.mean(0), atol=0.01)
    assert np.allclose(curves.std(0), mirrored.std(0), atol=0.01)


# -- motion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_motion_is_large_enough_to_be_seen(seed: int) -> None:
    moved = {motion: draw_track(motion, seed) for motion in MOTIONS}
    assert moved["horizontal"].x[-1] - moved["horizontal"].x[0] >= 0.4 * 112
    assert moved["vertical"].y[-1] - moved["vertical"].y[0] >= 0.4 * 96
    assert moved["depth"].radius[-1] / moved["depth"].radius[0] >= 1.8
    turned = np.degrees(moved["turn"].angle[-1] - moved["turn"].angle[0])
    assert 100 <= turned <= 300
    gap = moved["gate"].gap
    assert gap is not None and gap[-1] - gap[0] >= 0.6


def test_things_stay_in_the_frame() -> None:
    for motion in MOTIONS:
        for seed in range(20):
            track = draw_track(motion, seed)
            assert np.all(np.abs(track.x) < 56 - 8) and np.all(np.abs(track.y) < 48 - 8)


def test_a_growing_angle_turns_clockwise_on_the_screen() -> None:
    quarter = np.full(1, np.pi / 2, dtype=np.float32)
    zero, ten = 0 * quarter, np.full(1, 10, dtype=np.float32)
    below = np.full((1, 1, 1), 10, dtype=np.float32)
    u, v = _local(0 * below, below, Track(zero, zero, ten, quarter), 1.0)
    # What pointed to the right, u = 1, now points down, y = 10.
    assert np.allclose([u.item(), v.item()], [1, 0], atol=1e-6)


def thing_path(path: Path) -> NDArray[np.float64]:
    """Centre (x, y) of what differs from the clip's median picture, in each frame."""
    with av.open(path) as container:
        gray = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
    change = np.abs(gray - np.median(gray, axis=0))
    change[change < 40] = 0
    rows, columns = np.indices(gray.shape[1:])
    total = change.sum((1, 2))
    sums = np.stack([(change * columns).sum((1, 2)), (change * rows).sum((1, 2))])
    centre: NDArray[np.float64] = sums / total
    return centre


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [("move_right", 0, 1), ("move_left", 0, -1), ("move_down", 1, 1), ("move_up", 1, -1)],
)
def test_moves_go_where_their_name_says(collection: Path, name: str, axis: int, sign: int) -> None:
    for path in (collection / "train" / name).iterdir():
        place = thing_path(path)[axis]
        assert sign * (place[-1] - place[0]) > 16


# -- files -------------------------------------------------------------------------------------


def test_layout_and_record(collection: Path) -> None:
    assert len(CLASSES) == 10 == len(set(CLASSES))
    for split in ("train", "val"):
        assert sorted(p.name for p in (collection / split).iterdir()) == list(CLASSES)
        assert all(len(list((collection / split / name).glob("*.mp4"))) == 1 for name in CLASSES)
    record = json.loads((collection / "collection.json").read_text())
    assert record["num_clips"] == TINY.num_clips == 20 == len(files(collection)) - 1
    names = [first.name for first, _ in twins(collection)]
    assert len(set(names)) == len(names)


def test_the_number_of_workers_does_not_change_a_byte(collection: Path, tmp_path: Path) -> None:
    assert files(write_order_only(tmp_path / "again", TINY, num_workers=2)) == files(collection)


def test_a_larger_collection_keeps_the_scenes_of_a_smaller(
    collection: Path, tmp_path: Path
) -> None:
    larger = files(write_order_only(tmp_path, replace(TINY, train_clips_per_class=2)))
    kept = {name: data for name, data in files(collection).items() if name.endswith(".mp4")}
    assert len(larger) == 31
    assert kept.items() <= larger.items()


def test_another_seed_gives_other_scenes(collection: Path, tmp_path: Path) -> None:
    other = files(write_order_only(tmp_path, replace(TINY, seed=1)))
    assert other.keys() == files(collection).keys()
    assert all(other[name] != data for name, data in files(collection).items())


def test_a_complete_collection_is_left_as_it_is(collection: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in collection.rglob("*")}
    write_order_only(collection, TINY, progress=lambda *_: pytest.fail("nothing is left to do"))
    assert {path: path.stat().st_mtime_ns for path in collection.rglob("*")} == before


def test_an_interrupted_collection_is_continued(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"

    def interrupt(done: int, total: int) -> None:
        assert total == 20
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_order_only(out, TINY, progress=interrupt)
    assert not (out / "collection.json").exists()

    seen: list[int] = []
    write_order_only(out, TINY, progress=lambda done, _: seen.append(done))
    assert seen == list(range(6, 21, 2))
    assert files(out) == files(collection)


def test_files_missing_from_a_complete_collection_are_made_again(
    collection: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(collection, tmp_path / "copy")
    twins(out)[3][1].unlink()
    write_order_only(out, TINY)
    assert files(out) == files(collection)


# -- refusals ----------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="not empty and holds no order-only collection"):
        write_order_only(tmp_path, TINY)
    assert list(files(tmp_path)) == ["thesis.txt"]


def test_a_collection_of_another_config_is_refused(collection: Path) -> None:
    with pytest.raises(FileExistsError, match="seed=0 there, seed=7 wanted"):
        write_order_only(collection, replace(TINY, seed=7))


def test_a_file_and_a_broken_record_are_refused(tmp_path: Path) -> None:
    record = tmp_path / "collection.json"
    record.write_text("{")
    with pytest.raises(FileExistsError, match="is not JSON"):
        write_order_only(tmp_path, TINY)
    with pytest.raises(FileExistsError, match="is a file"):
        write_order_only(record, TINY)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("train_clips_per_class", 0, "from 1 to 9999"),
        ("val_clips_per_class", -3, "from 1 to 9999"),
        ("seed", -1, "from 0"),
        ("width", 101, "even"),
        ("height", 32, "from 64"),
        ("fps", 0, "from 1"),
        ("quantiser", 52, "to 51"),
    ],
)
def test_config_names_the_field_and_the_rule(field: str, value: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} \({value}\) must be .*{rule}"):
        replace(TINY, **{field: value})


def test_negative_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"num_workers \(-1\)"):
        write_order_only(tmp_path, TINY, num_workers=-1)
