"""The frames that are asked for come out, whatever the file looks like inside.

What is no video says why.
"""

import itertools
import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import CODECS, numbered_frame, numbered_frames, shown_numbers, write_audio, write_video

from stadapter.data.video import VideoError, VideoReader, find_videos, read_clip

COUNT = 20


def all_frames(total: int) -> range:
    return range(total)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind, with frames that show 0 to 19."""
    folder = tmp_path_factory.mktemp("videos")
    made = {}
    for number, (kind, settings) in enumerate(CODECS.items()):
        arguments = {k: v for k, v in settings.items() if k != "suffix"}
        path = folder / f"{number}{settings['suffix']}"
        made[kind] = write_video(path, numbered_frames(COUNT), **arguments)
    return made


# -- which frames ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CODECS)
def test_all_frames_come_in_presentation_order(videos: dict[str, Path], kind: str) -> None:
    assert shown_numbers(read_clip(videos[kind], all_frames)) == list(range(COUNT))


@pytest.mark.parametrize("kind", CODECS)
def test_seeking_gives_the_same_frames_as_decoding_everything(
    videos: dict[str, Path], kind: str
) -> None:
    subsets = [[i] for i in range(COUNT)] + [list(p) for p in itertools.pairwise(range(COUNT))]
    subsets += [[i, COUNT - 1] for i in range(0, COUNT, 3)]
    for indices in subsets:
        shown = shown_numbers(read_clip(videos[kind], lambda _, indices=indices: indices))
        assert shown == indices


@given(indices=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=8))
@pytest.mark.parametrize("kind", ["h264 with B-frames", "h264, open GOP", "mpeg4"])
def test_any_order_and_repeats_are_possible(
    videos: dict[str, Path], kind: str, indices: list[int]
) -> None:
    assert shown_numbers(read_clip(videos[kind], lambda _: indices)) == indices


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    times = [0, 33, 50, 200, 210, 900, 933, 1000, 1500, 1501, 3000, 3100]
    path = tmp_path / f"vfr{suffix}"
    write_video(path, numbered_frames(12), times_ms=times, gop=4, options={"bf": "2"})
    assert shown_numbers(read_clip(path, all_frames)) == list(range(12))
    for number in range(12):
        assert shown_numbers(read_clip(path, lambda _, number=number: [number])) == [number]


def test_only_the_span_that_is_needed_is_decoded(tmp_path: Path) -> None:
    """Rubbish in place of the first pictures does not disturb who reads the last ones."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(40), gop=5, faststart=True)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for position, size in packets[:10]:
        content[position : position + size] = bytes(size)
    path.write_bytes(content)
    assert shown_numbers(read_clip(path, lambda total: range(total - 8, total))) == [*range(32, 40)]
    with pytest.raises(VideoError):
        read_clip(path, lambda _: [0])


def test_a_number_outside_the_video_is_refused(videos: dict[str, Path]) -> None:
    with VideoReader(videos["mpeg4"]) as reader:
        assert reader.num_frames == COUNT
        for outside in (-1, COUNT):
            with pytest.raises(IndexError, match=str(outside)):
                reader.read([0, outside])


def test_pixels_are_rgb_in_channel_first_bytes(tmp_path: Path) -> None:
    red = np.zeros((24, 32, 3), dtype=np.uint8)
    red[..., 0] = 250
    frames = read_clip(write_video(tmp_path / "red.mp4", [red] * 3), all_frames)
    assert frames.shape == (3, 3, 24, 32)
    assert frames.dtype.is_floating_point is False
    assert frames.is_contiguous()
    assert frames[:, 0].min() > 200
    assert frames[:, 1:].max() < 50


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, rotation: int) -> None:
    image = np.zeros((24, 32, 3), dtype=np.uint8)
    image[:12, :16] = 255  # one bright quarter, so that every turn looks different
    path = write_video(tmp_path / "turned.mp4", [image] * 2, rotation=rotation)
    shown = read_clip(path, all_frames)[0].float().mean(0).numpy()
    expected = np.rot90(image[..., 0], rotation // 90)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 20


def test_a_cover_image_is_not_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "covered.mp4", numbered_frames(4), cover=True)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    assert shown_numbers(read_clip(path, all_frames)) == [0, 1, 2, 3]


def test_a_video_of_one_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mp4", [numbered_frame(7)])
    assert shown_numbers(read_clip(path, lambda total: [0] * (total + 2))) == [7, 7, 7]


# -- what is no video --------------------------------------------------------------------------


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """What is wrong -> the file, and a word of the reason."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 24, 32, 3), dtype=np.uint8)
    whole = write_video(folder / "whole.mp4", list(noise), gop=8, faststart=True)
    content = whole.read_bytes()
    files: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "empty"),
        "text": (b"a shopping list, and no video at all\n" * 9, "cannot be opened"),
        "only the beginning": (content[: len(content) // 2], "truncated"),
        "only the first bytes": (content[:40], "no video stream"),
        "zeroed middle": (_zero_middle(content), "cannot be decoded"),
    }
    made = {}
    for name, (data, reason) in files.items():
        path = folder / f"{name}.mp4"
        path.write_bytes(data)
        made[name] = path, reason
    path = write_video(folder / "zeroed mpeg4.mp4", list(noise), codec="mpeg4", gop=8)
    path.write_bytes(_zero_middle(path.read_bytes()))
    made["zeroed mpeg4"] = path, "damaged"
    path = write_video(folder / "no index.mp4", list(noise))
    path.write_bytes(path.read_bytes()[:-200])
    made["index cut off"] = path, "cannot be opened"
    made["sound only"] = write_audio(folder / "sound.m4a"), "no video stream"
    made["sound with a cover"] = write_audio(folder / "album.mp4", cover=True), "no video stream"
    (folder / "folder.mp4").mkdir()
    made["a folder"] = folder / "folder.mp4", "not a file"
    made["vanished"] = folder / "vanished.mp4", "no such file"
    (folder / "dangling.mp4").symlink_to(folder / "vanished.mp4")
    made["dangling link"] = folder / "dangling.mp4", "no such file"
    return made


def _zero_middle(content: bytes) -> bytes:
    half, fifth = len(content) // 2, len(content) // 5
    return content[:half] + bytes(fifth) + content[half + fifth :]


KINDS_OF_DAMAGE = (
    "empty",
    "text",
    "only the beginning",
    "only the first bytes",
    "zeroed middle",
    "zeroed mpeg4",
    "index cut off",
    "sound only",
    "sound with a cover",
    "a folder",
    "vanished",
    "dangling link",
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    return broken_files(tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("kind", KINDS_OF_DAMAGE)
def test_a_file_that_cannot_be_read_says_which_and_why(
    broken: dict[str, tuple[Path, str]], kind: str
) -> None:
    path, reason = broken[kind]
    with pytest.raises(VideoError) as caught:
        read_clip(path, all_frames)
    assert caught.value.path == str(path)
    assert reason in caught.value.reason
    assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_a_video_error_survives_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "it is gone")))
    assert (error.path, error.reason) == ("a.mp4", "it is gone")


# -- names -------------------------------------------------------------------------------------

NAMES = (
    "with spaces.mp4",
    "Ünïcødé 視頻 🎬.mp4",
    'it\'s "quoted".mp4',
    "-i.mp4",
    "100%d %s.mp4",
    "http:colon.mp4",
    "hash#1?x=y&z.mp4",
    "[brackets] {braces} (x).mp4",
    "back\\slash.mp4",
    "pipe|semi;dollar$.mp4",
)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_read(
    videos: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(videos["mpeg4"], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, Path(name), name):  # absolute, and as typed beside the file
        assert shown_numbers(read_clip(path, lambda _: [3])) == [3]
    assert find_videos(tmp_path) == [tmp_path / name]


# -- resources ---------------------------------------------------------------------------------


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_file_stays_open(videos: dict[str, Path], broken: dict[str, tuple[Path, str]]) -> None:
    before = num_open_files()
    for path in videos.values():
        read_clip(path, lambda total: [0, total - 1])
    for path, _ in broken.values():
        with pytest.raises(VideoError):
            read_clip(path, all_frames)
    assert num_open_files() == before


def test_find_videos_goes_by_suffix_and_leaves_hidden_things_out(tmp_path: Path) -> None:
    wanted = ["a.mp4", "b.AVI", "deep/er/c.webm"]
    for name in [*wanted, "notes.txt", ".hidden.mp4", ".trash/d.mp4", "._a.mp4", "mp4"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.mp4").mkdir()
    assert [str(p.relative_to(tmp_path)) for p in find_videos(tmp_path)] == wanted


@pytest.mark.parametrize("kind", ["vp9", "h264, open GOP"])
def test_a_matroska_file_cut_short_is_refused(
    videos: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Its header says how long it should be; what is left would read as a shorter video."""
    content = videos[kind].read_bytes()
    cut = tmp_path / f"cut{videos[kind].suffix}"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match=r"truncated: .* declared seconds"):
        read_clip(cut, lambda total: [0])
    assert len(read_clip(videos[kind], lambda total: [0])) == 1
