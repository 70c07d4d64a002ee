"""The generated collection with order-only and appearance classes."""

from pathlib import Path

import av
import numpy as np
import pytest

from stadapter.data.looks import LOOKS
from stadapter.data.order_only import OrderOnlyConfig, write_order_only
from stadapter.data.two_cues import GROUNDS, TwoCuesConfig, write_two_cues

SMALL = TwoCuesConfig(
    train_clips_per_class=2,
    train_clips_per_ground=4,
    val_clips_per_class=2,
    motions=("vertical",),
    grounds=("blue_ground", "red_ground"),
    width=64,
    height=64,
)


def decode(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """RGB frames (T, H, W, 3)."""
    with av.open(path) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_cues(tmp_path_factory.mktemp("made") / "clips", SMALL)


def test_what_is_there(collection: Path) -> None:
    clips = {p.relative_to(collection).parent.as_posix() for p in collection.rglob("*.mp4")}
    classes = ("blue_ground", "move_down", "move_up", "red_ground")
    assert clips == {f"{split}/{name}" for split in ("train", "val") for name in classes}
    assert len(list(collection.rglob("*.mp4"))) == SMALL.num_clips == 2 * 2 + 2 * 4 + 4 * 2
    assert SMALL.class_groups == {
        "order-only": ["move_down", "move_up"],
        "appearance": ["blue_ground", "red_ground"],
    }


def test_order_means_nothing_in_appearance_classes(collection: Path) -> None:
    """Each clip's reverse, frame by frame, is in the same class."""
    for name in SMALL.grounds:
        for first in sorted((collection / "train" / name).glob("*a.mp4")):
            second = first.with_name(first.name.replace("a.mp4", "b.mp4"))
            assert np.array_equal(decode(first), decode(second)[::-1])


def test_order_alone_tells_order_only_classes(collection: Path) -> None:
    for first in sorted((collection / "val" / "move_down").iterdir()):
        second = collection / "val" / "move_up" / first.name
        assert np.array_equal(decode(first), decode(second)[::-1])
        assert not np.array_equal(decode(first), decode(second))


def test_every_frame_tells_an_appearance_class(collection: Path) -> None:
    """The rim of each frame, where the thing hardly comes, has the ground's colour."""
    for split in ("train", "val"):
        for name, channel in (("red_ground", 0), ("blue_ground", 2)):
            for path in (collection / split / name).iterdir():
                rim = np.concatenate([decode(path)[:, :4], decode(path)[:, -4:]], axis=1)
                colours = np.median(rim.reshape(len(rim), -1, 3), axis=1)  # (T, 3)
                assert (colours.argmax(1) == channel).all()


def test_no_tone_is_in_both_splits_or_in_order_only_clips() -> None:
    for tones in GROUNDS.values():
        grounds = [*tones["train"], *tones["val"]]
        assert len(set(grounds)) == len(grounds) == 8
        for look in LOOKS.values():
            assert not set(grounds) & set(look.backgrounds)


def test_the_order_only_scenes_are_those_of_the_other_collection(
    collection: Path, tmp_path: Path
) -> None:
    """Byte for byte, so what was measured on one holds for the other."""
    config = OrderOnlyConfig(train_clips_per_class=1, val_clips_per_class=1, width=64, height=64)
    other = write_order_only(tmp_path / "clips", config)
    name = "train/move_up/scene_train_vertical_0000.mp4"
    assert (other / name).read_bytes() == (collection / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"motions": ("sideways",)}, "motions .* must be some of horizontal"),
        ({"grounds": ("red_ground", "red_ground")}, "each once"),
        ({"motions": (), "grounds": ("red_ground",)}, "at least two classes"),
        ({"train_clips_per_class": 3}, r"under train/ \(3\) must be an even number"),
        ({"train_clips_per_ground": 0}, "even number from 2 on"),
        ({"val_clips_per_class": 5}, "under val/"),
        ({"width": 63}, "width"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TwoCuesConfig(**settings)  # type: ignore[arg-type]


def test_another_collection_is_left_alone(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="holds another collection"):
        write_two_cues(collection, TwoCuesConfig())
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no two-cues collection"):
        write_two_cues(tmp_path, SMALL)
