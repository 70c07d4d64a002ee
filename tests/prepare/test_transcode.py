"""The output shows the source's frames, smaller, with the promised key frames, or says why not."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from videos import CODECS, FPS, numbered_frames, shown_numbers, write_audio, write_video

from stadapter.data import VideoReader
from stadapter.prepare import PrepareConfig, prepare_file
from stadapter.prepare.mp4 import scaled_size

CONFIG = PrepareConfig(preset="ultrafast")


def numbers(path: Path) -> list[int]:
    """What all frames of a file show."""
    with VideoReader(path) as reader:
        return shown_numbers(reader.read(range(reader.num_frames)))


def packets(path: Path) -> list[tuple[Fraction, bool]]:
    """(time in seconds, whether it is a key frame) of each frame, as they are shown."""
    with av.open(str(path)) as container:
        found = [p for p in container.demux(video=0) if p.size]
        return sorted((p.pts * p.time_base, p.is_keyframe) for p in found)


def scene(count: int, width: int, height: int) -> list[np.ndarray[Any, Any]]:
    """Saturated colours and a disc that moves: what wrong matrices, turns and scales would show."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    frames = []
    for i in range(count):
        disc = (x - 0.2 - 0.6 * i / count) ** 2 + (y - 0.3) ** 2 < 0.02
        channels = (np.where(disc, 1, x), np.where(disc, 0.1, y), 0.5 - 0.4 * x * disc)
        frames.append((np.stack(channels, axis=-1) * 255).astype(np.uint8))
    return frames


@pytest.mark.parametrize("kind", CODECS)
def test_every_frame_is_kept_and_every_nth_is_a_key_frame(kind: str, tmp_path: Path) -> None:
    settings = dict(CODECS[kind])
    source = write_video(tmp_path / f"in{settings.pop('suffix')}", numbered_frames(20), **settings)
    target = tmp_path / "out.mp4"
    made = prepare_file(source, target, replace(CONFIG, keyframe_interval=6))
    assert (made.status, made.reason, made.num_frames) == ("prepared", "", 20)
    assert numbers(target) == list(range(20))
    found = packets(target)
    assert [key for _, key in found] == [i % 6 == 0 for i in range(20)]
    assert [float(time) for time, _ in found] == pytest.approx([i / FPS for i in range(20)])
    assert (made.fps, made.duration_seconds) == pytest.approx((FPS, 20 / FPS), rel=1e-3)


@pytest.mark.parametrize(
    ("width", "height", "settings"),
    [
        (480, 300, {}),
        (300, 420, {}),
        (481, 301, {"pixels": "yuv444p"}),
        (480, 300, {"rotation": 90}),
        (160, 90, {"rotation": -90}),
        (480, 300, {"pixels": "yuv420p10le", "options": {"x264-params": "colormatrix=bt709"}}),
        (480, 300, {"pixels": "yuvj420p", "codec": "mjpeg"}),
        (480, 300, {"options": {"x264-params": "colormatrix=bt709:fullrange=on"}}),
    ],
)
def test_pictures_are_those_of_the_source_smaller(
    width: int, height: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    suffix = ".avi" if settings.get("codec") == "mjpeg" else ".mp4"
    source = write_video(tmp_path / f"in{suffix}", scene(4, width, height), **settings)
    made = prepare_file(source, tmp_path / "out.mp4", PrepareConfig(short_side=128, crf=12))
    with VideoReader(source) as reader:
        before = reader.read(range(4))
    with VideoReader(tmp_path / "out.mp4") as reader:
        after = reader.read(range(4))
    assert tuple(after.shape[2:]) == (made.height, made.width)
    assert made.width % 2 == made.height % 2 == 0
    assert min(made.width, made.height) == min(128, min(before.shape[2:]))
    assert made.width / made.height == pytest.approx(before.shape[3] / before.shape[2], rel=0.02)
    small = torch.nn.functional.interpolate(
        before.float(), (made.height, made.width), mode="bicubic", antialias=True
    )
    error = (small.clamp(0, 255) - after.float()).square().mean()
    psnr = float(10 * torch.log10(255**2 / error))
    assert psnr > 30, f"{psnr:.1f} dB"


def test_sizes_are_even_and_never_above_the_source() -> None:
    for width in range(2, 700, 13):
        for height in range(2, 700, 17):
            w, h = scaled_size(width, height, 256)
            assert w % 2 == h % 2 == 0
            assert w <= width + 1 and h <= height + 1
            assert min(w, h) == min(256, min(width, height) // 2 * 2)
    assert scaled_size(1280, 720, 256) == (456, 256)
    assert scaled_size(321, 181, 256) == (320, 180)


def test_most_pictures_can_be_left_out_on_the_way_to_another(tmp_path: Path) -> None:
    """Whatever the picture, first and last of a group and every fourth are all that others need."""
    source = write_video(tmp_path / "in.mp4", scene(32, 64, 48))
    prepare_file(source, tmp_path / "out.mp4", PrepareConfig())
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        shown = [round(float(frame.time) * FPS) for frame in container.decode(stream)]
    assert shown == [number for number in range(32) if number % 8 in (0, 4, 7)]


def test_varying_times_are_kept_or_made_constant(tmp_path: Path) -> None:
    times = [0, 100, 150, 700, 720, 1000, 1600]
    source = write_video(tmp_path / "in.mp4", numbered_frames(7), times_ms=times)
    prepare_file(source, tmp_path / "kept.mp4", CONFIG)
    assert numbers(tmp_path / "kept.mp4") == list(range(7))
    kept = [round(1000 * float(time)) for time, _ in packets(tmp_path / "kept.mp4")]
    assert kept == times
    made = prepare_file(source, tmp_path / "constant.mp4", replace(CONFIG, fps=5))
    assert made.fps == pytest.approx(5)
    shown = numbers(tmp_path / "constant.mp4")
    expected = [max(i for i, t in enumerate(times) if t <= 200 * k) for k in range(9)]
    assert shown[:9] == expected
    assert set(shown[9:]) <= {6}
    assert [float(time) for time, _ in packets(tmp_path / "constant.mp4")] == pytest.approx(
        [k / 5 for k in range(len(shown))]
    )


@pytest.mark.parametrize("kind", ["h264, open GOP", "h264 in a transport stream", "vp9", "mpeg4"])
@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, 0.5, range(5)),
        (3.3, 4.1, range(33, 41)),
        (3.25, 4.15, range(33, 42)),
        (4.55, 4.58, [45]),  # between two frames: the one that is shown
        (5.5, None, range(55, 60)),
        (5.0, 99.0, range(50, 60)),
        (float("nan"), float("nan"), range(60)),
    ],
)
def test_a_trimmed_clip_holds_its_frames_and_no_others(
    kind: str, start: float | None, end: float | None, expected: range, tmp_path: Path
) -> None:
    settings = dict(CODECS[kind])
    source = write_video(tmp_path / f"in{settings.pop('suffix')}", numbered_frames(60), **settings)
    made = prepare_file(source, tmp_path / "out.mp4", CONFIG, start_seconds=start, end_seconds=end)
    assert made.status == "prepared", made.reason
    assert numbers(tmp_path / "out.mp4") == list(expected)
    assert packets(tmp_path / "out.mp4")[0] == (0, True)


def test_a_clip_beyond_the_end_is_named(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", numbered_frames(30))
    made = prepare_file(source, tmp_path / "out.mp4", CONFIG, start_seconds=60.0)
    assert (made.status, made.num_frames) == ("failed", 0)
    assert "begins at 60 s" in made.reason and "2.9 s" in made.reason
    with pytest.raises(ValueError, match=r"end_seconds \(1\) must be after start_seconds \(2\)"):
        prepare_file(source, tmp_path / "out.mp4", CONFIG, start_seconds=2, end_seconds=1)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("kind", [".mp4", ".mkv", ".webm", ".ts", ".avi", ".mpg"])
def test_a_cut_file_is_kept_up_to_the_cut_or_named(kind: str, tmp_path: Path) -> None:
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4", ".mpg": "mpeg2video"}.get(kind, "libx264")
    whole = write_video(
        tmp_path / f"in{kind}", numbered_frames(60), codec=codec, gop=6, faststart=kind == ".mp4"
    ).read_bytes()
    cut, target = tmp_path / f"cut{kind}", tmp_path / "out.mp4"
    for share in (0.75, 0.2):
        cut.write_bytes(whole[: int(len(whole) * share)])
        made = prepare_file(cut, target, replace(CONFIG, min_share=0.3))
        if kind in (".ts", ".mpg"):  # streams: nothing in them says how long they were
            assert made.status in ("prepared", "salvaged")
        else:
            assert made.status == ("salvaged" if share > 0.5 else "failed"), made
            assert made.reason
        assert target.exists() == (made.num_frames > 0)
        if target.exists():
            assert 5 < made.num_frames <= 60
            shown = numbers(target)  # the last picture of a stream may refer to one that is cut off
            assert shown[:-1] == list(range(made.num_frames - 1))
            assert len(set(shown)) == len(shown)
            target.unlink()
    assert not list(tmp_path.glob(".*"))


def test_damage_in_the_middle_ends_the_clip_before_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    source = write_video(tmp_path / "in.mp4", scene(60, 160, 120), gop=10, faststart=True)
    prepare_file(source, tmp_path / "whole.mp4", CONFIG)
    content = bytearray(source.read_bytes())
    begin = int(len(content) * 0.8)
    for place in rng.integers(begin, len(content), 200):
        content[place] ^= 1 << int(rng.integers(8))
    source.write_bytes(content)
    made = prepare_file(source, tmp_path / "out.mp4", replace(CONFIG, min_share=0.1))
    assert made.status == "salvaged" and made.reason
    assert 5 < made.num_frames < 60
    with VideoReader(tmp_path / "whole.mp4") as whole, VideoReader(tmp_path / "out.mp4") as out:
        kept = range(made.num_frames)
        difference = (whole.read(kept).float() - out.read(kept).float()).abs().mean((1, 2, 3))
    assert float(difference.max()) < 3  # nothing painted over
    refused = prepare_file(source, tmp_path / "no.mp4", replace(CONFIG, min_share=1))
    assert refused.status == "failed" and "of the clip comes before it" in refused.reason


def test_a_hole_over_which_the_container_leaps_ends_the_clip_before_it(tmp_path: Path) -> None:
    source = write_video(
        tmp_path / "in.webm", numbered_frames(250)[:240], codec="libvpx-vp9", gop=10
    )
    with av.open(str(source)) as container:
        places = [packet.pos for packet in container.demux() if packet.size]
    content = bytearray(source.read_bytes())
    # From one key frame to another, so that every packet that is left decodes.
    content[places[160] : places[190]] = bytes(places[190] - places[160])
    source.write_bytes(content)
    made = prepare_file(source, tmp_path / "out.mp4", replace(CONFIG, min_share=0.1))
    assert made.status == "salvaged" and "Matroska" in made.reason
    with VideoReader(tmp_path / "out.mp4") as out:
        shown = shown_numbers(out.read(range(out.num_frames)))
    assert shown == list(range(len(shown)))
    assert 100 < len(shown) <= 160


def test_a_stream_that_begins_between_key_frames_begins_at_the_first(tmp_path: Path) -> None:
    source = write_video(
        tmp_path / "in.ts", numbered_frames(40), gop=8, options={"bf": "2", "sc_threshold": "0"}
    )
    content = source.read_bytes()
    source.write_bytes(content[188 * (len(content) // 188 // 4) :])
    prepare_file(source, tmp_path / "out.mp4", replace(CONFIG, min_share=0))
    shown = numbers(tmp_path / "out.mp4")
    assert shown[-1] == 39
    assert shown == list(range(shown[0], 40))


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("<html>not found</html>")
    (tmp_path / "folder.mp4").mkdir()
    write_audio(tmp_path / "audio.mp4")
    write_audio(tmp_path / "cover.mp4", cover=True)
    reasons = {
        "empty.mp4": ("failed", "the file is empty"),
        "text.mp4": ("failed", "cannot be opened"),
        "audio.mp4": ("failed", "no video stream"),
        "cover.mp4": ("failed", "no video stream"),
        "folder.mp4": ("unfinished", "not a file"),
        "gone.mp4": ("unfinished", "no such file"),
    }
    for name, (status, reason) in reasons.items():
        made = prepare_file(tmp_path / name, tmp_path / "out.mp4", CONFIG)
        assert (made.status, made.num_frames) == (status, 0)
        assert reason in made.reason
    assert not (tmp_path / "out.mp4").exists()


def test_equal_input_gives_equal_bytes_and_the_source_stays(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mkv", scene(12, 300, 280))
    before = source.read_bytes(), source.stat().st_mtime_ns
    first = prepare_file(source, tmp_path / "a.mp4")
    second = prepare_file(source, tmp_path / "b.mp4")
    assert first == second
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before
    assert first.output_bytes == (tmp_path / "a.mp4").stat().st_size


def test_a_target_that_cannot_be_written_is_no_fault_of_the_source(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", numbered_frames(3))
    with pytest.raises(OSError, match=r"out\.mp4"):
        prepare_file(source, tmp_path / "nowhere" / "out.mp4")


@pytest.mark.parametrize(
    "wrong",
    [
        {"short_side": 255},
        {"short_side": 8},
        {"keyframe_interval": 0},
        {"fps": 0},
        {"crf": 0},
        {"preset": "best"},
        {"min_share": 1.5},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PrepareConfig(**wrong)
