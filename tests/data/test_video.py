"""The frames that are asked for come out, whatever the file looks like inside.

What is no video says why.
"""

import io
import itertools
import pickle
import shutil
from pathlib import Path
from random import Random

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from videos import (
    CODECS,
    FPS,
    numbered_frame,
    numbered_frames,
    shown_numbers,
    write_audio,
    write_video,
)

import stadapter.data.video as video_module
from stadapter.data.matroska import first_damage
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


def test_pixels_are_rgb_bytes(tmp_path: Path) -> None:
    red = np.zeros((24, 32, 3), dtype=np.uint8)
    red[..., 0] = 250
    frames = read_clip(write_video(tmp_path / "red.mp4", [red] * 3), all_frames)
    assert frames.shape == (3, 3, 24, 32)
    assert frames.dtype.is_floating_point is False
    assert frames.is_contiguous(memory_format=torch.channels_last)
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


# -- the same pixels ---------------------------------------------------------------------------


def decode_everything(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return np.stack(frames).transpose(0, 3, 1, 2)


def moving_frames() -> list[np.ndarray]:
    """48 frames; every sixteenth the scene changes."""
    rng = np.random.default_rng(0)
    scenes = np.kron(
        rng.integers(0, 256, (3, 12, 16, 3), np.uint8), np.ones((1, 4, 4, 1), np.uint8)
    )
    return [np.roll(scenes[number // 16], 2 * number, axis=1) for number in range(48)]


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind in which every frame predicts from others: a scene that moves."""
    folder = tmp_path_factory.mktemp("moving")
    kinds = {
        **CODECS,
        "h264, many B-frames": {"suffix": ".mp4", "options": {"bf": "6", "refs": "5"}, "gop": 24},
        "h264, interlaced": {"suffix": ".ts", "options": {"x264-params": "tff=1:keyint=12"}},
        "h264, no key frames": {"suffix": ".mp4", "options": {"x264-params": "intra-refresh=1"}},
        "h264 in ASF, which has no times": {"suffix": ".asf", "options": {"bf": "2"}, "gop": 6},
        "vp8": {"suffix": ".webm", "codec": "libvpx", "gop": 12},
    }
    made = {}
    for number, (kind, settings) in enumerate(kinds.items()):
        arguments = {k: v for k, v in settings.items() if k != "suffix"}
        made[kind] = write_video(
            folder / f"{number}{settings['suffix']}", moving_frames(), **arguments
        )
    return made


@pytest.mark.parametrize("in_memory", [True, False])
def test_any_frames_equal_those_of_decoding_everything(
    moving: dict[str, Path], in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, whichever pictures were left out on the way and however the file is read."""
    if not in_memory:
        monkeypatch.setattr(video_module, "KEPT_BYTES", 0)
    rng = Random(1)
    for kind, path in moving.items():
        expected = decode_everything(path)
        with VideoReader(path) as reader:
            assert reader.num_frames == len(expected), kind
            for size in (1, 1, 2, 3, 8, 20):
                indices = [rng.randrange(len(expected)) for _ in range(size)]
                assert np.array_equal(reader.read(indices).numpy(), expected[indices]), kind


def test_a_file_that_changes_while_it_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "KEPT_BYTES", 0)  # so that it is read again
    settings = dict(CODECS["h264 in AVI, which has no times"])
    path = write_video(tmp_path / f"a{settings.pop('suffix')}", numbered_frames(20), **settings)
    shorter = write_video(tmp_path / "shorter.avi", numbered_frames(10), **settings)
    with VideoReader(path) as reader:
        shorter.replace(path)
        assert shown_numbers(reader.read([9])) == [9]
        with pytest.raises(VideoError, match="changed while it was read"):
            reader.read([9, 19])


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_points_from_which_a_picture_is_refreshed_are_no_key_frames(
    tmp_path: Path, suffix: str
) -> None:
    """Containers mark them so; the pictures after them are whole only when the refresh is over."""
    options = {"x264-params": "bframes=0:ref=7:intra-refresh=1"}
    path = write_video(tmp_path / f"a{suffix}", moving_frames(), gop=8, options=options)
    expected = decode_everything(path)
    for number in range(len(expected)):
        shown = read_clip(path, lambda _, number=number: [number])
        assert np.array_equal(shown.numpy(), expected[[number]]), number


# -- windows -----------------------------------------------------------------------------------


@given(a=st.integers(0, 24), b=st.integers(0, 24), offset=st.sampled_from([0.0, 0.05]))
@hypothesis_settings(max_examples=10)
@pytest.mark.parametrize("kind", CODECS)
def test_a_window_holds_the_frames_shown_from_start_to_before_end(
    videos: dict[str, Path], kind: str, a: int, b: int, offset: float
) -> None:
    start, end = a / FPS - offset, b / FPS - offset
    expected = [n for n in range(COUNT) if start <= n / FPS < end]
    if start >= end:
        with pytest.raises(ValueError, match=r"start .* must be before end"):
            VideoReader(videos[kind], start=start, end=end)
    elif not expected:
        with pytest.raises(VideoError, match="no frame is shown from"):
            VideoReader(videos[kind], start=start, end=end)
    else:
        frames = read_clip(videos[kind], all_frames, start=start, end=end)
        assert shown_numbers(frames) == expected


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_windows_go_by_time_where_the_rate_varies(tmp_path: Path, suffix: str) -> None:
    times = [0, 33, 50, 200, 210, 900, 933, 1000, 1500, 1501, 3000, 3100]
    path = write_video(
        tmp_path / f"vfr{suffix}", numbered_frames(12), times_ms=times, gop=4, options={"bf": "2"}
    )
    for start, end in itertools.combinations([0.0, 0.05, 0.3, 0.9, 1.5, 3.05, 9.0], 2):
        expected = [n for n, time in enumerate(times) if start <= time / 1000 < end]
        if expected:
            assert shown_numbers(read_clip(path, all_frames, start=start, end=end)) == expected


def test_half_open_windows_share_a_video_without_gap_or_overlap(videos: dict[str, Path]) -> None:
    cuts = [None, 0.3, 0.7, 1.1, 1.65, None]
    shown = [
        number
        for start, end in itertools.pairwise(cuts)
        for number in shown_numbers(
            read_clip(videos["h264 with B-frames"], all_frames, start=start, end=end)
        )
    ]
    assert shown == list(range(COUNT))


def test_a_window_of_a_long_file_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    """What is damaged elsewhere costs nothing."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(80), gop=5, faststart=True)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = path.read_bytes()
    path.write_bytes(content[: packets[60][0]])
    frames = read_clip(path, all_frames, start=2.0, end=3.0)
    assert shown_numbers(frames) == list(range(20, 30))
    with pytest.raises(VideoError, match="truncated"):
        read_clip(path, all_frames, start=5.0, end=8.0)


# -- lost frames, and what is left before the damage -------------------------------------------


def damaged(path: Path, how: str, share: float) -> bytes:
    content = bytearray(path.read_bytes())
    start = int(share * len(content))
    length = len(content) // 10
    if how == "cut":
        return bytes(content[:start])
    filler = bytes(length) if how == "zeroed" else Random(0).randbytes(length)
    content[start : start + length] = filler
    return bytes(content[: len(path.read_bytes())])


@pytest.fixture(scope="module")
def grainy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files in which pictures, not headers, take the room: 60 numbered frames with grain."""
    folder = tmp_path_factory.mktemp("grainy")
    rng = np.random.default_rng(0)
    images = [
        np.clip(np.kron(image, np.ones((4, 4, 1))) + rng.integers(-20, 20, (96, 128, 3)), 0, 255)
        for image in numbered_frames(60)
    ]
    made = {}
    for kind in ("vp9", "h264, open GOP", "h264 with B-frames", "h264 in AVI, which has no times"):
        arguments = {k: v for k, v in CODECS[kind].items() if k not in ("suffix", "gop")}
        path = folder / f"{len(made)}{CODECS[kind]['suffix']}"
        faststart = path.suffix == ".mp4"
        frames = [image.astype(np.uint8) for image in images]
        made[kind] = write_video(path, frames, gop=20, faststart=faststart, **arguments)
    return made


def numbers_of_grainy(frames: Tensor) -> list[int]:
    return shown_numbers(torch.nn.functional.avg_pool2d(frames.float(), 4))


@pytest.mark.parametrize("how", ["zeroed", "overwritten", "cut"])
@pytest.mark.parametrize("share", [0.3, 0.85])
def test_no_frame_is_lost_silently_and_salvage_keeps_those_before(
    grainy: dict[str, Path], tmp_path: Path, how: str, share: float
) -> None:
    """A reader that skips what it cannot parse would show other frames under the same numbers."""
    for kind, path in grainy.items():
        broken = tmp_path / path.name
        broken.write_bytes(damaged(path, how, share))
        with pytest.raises(VideoError):
            read_clip(broken, all_frames)
        try:
            salvaged = numbers_of_grainy(read_clip(broken, all_frames, salvage=True))
        except VideoError as error:
            assert share < 0.6, (kind, error)
        else:
            assert 30 <= len(salvaged) < 60
            if "AVI" not in kind:  # where an AVI has its hole is not known
                assert salvaged == list(range(len(salvaged))), kind
        assert numbers_of_grainy(read_clip(path, all_frames, salvage=True)) == list(range(60))


def test_damage_in_a_later_picture_that_a_wanted_one_refers_to_is_found(tmp_path: Path) -> None:
    """The decoder marks that picture alone, and gives it out last."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 96, 128, 3), dtype=np.uint8)
    structure = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=none:scenecut=0"}
    path = write_video(tmp_path / "a.mp4", list(noise), options=structure, faststart=True)
    with av.open(str(path)) as container:
        later = [(p.pos, p.size) for p in container.demux(video=0) if p.size][1]
    content = bytearray(path.read_bytes())
    middle = later[0] + later[1] // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    assert len(read_clip(path, lambda _: [0])) == 1
    with pytest.raises(VideoError, match=r"damaged at 0\.40 s"):
        read_clip(path, lambda _: [2])


def test_elements_of_matroska_are_walked_to_the_end(grainy: dict[str, Path]) -> None:
    content = grainy["vp9"].read_bytes()
    assert first_damage(io.BytesIO(content)) is None
    assert first_damage(io.BytesIO(content[:-9])) is None  # cut is not damaged
    middle = len(content) // 2
    found = first_damage(io.BytesIO(content[:middle] + bytes(9999) + content[middle:]))
    assert found is not None
    assert found >= middle
    assert first_damage(io.BytesIO(bytes(10))) == 0
