"""Frames of clips as small embedded pictures: strips, and animations.

Frames are read by the code and with the settings of the run's test, so they show what the model
saw. Each clip is read once.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stadapter.data import Preprocessing, SamplingConfig, TestReader, VideoError
from stadapter.report.page import note
from stadapter.report.record import RunRecord, ScoredClip

MAX_FRAMES = 8
"""Frames shown of a clip."""
MAX_FRAME_SIDE = 112
"""Longer side of an embedded frame, in pixels; larger inputs are shown smaller."""
MAX_ANIMATION_SIDE = 176
"""The same of an animation."""
FRAME_MS, LAST_FRAME_MS = 200, 700
"""How long a frame of an animation is shown."""

UNREADABLE = (VideoError, ValueError, TypeError, KeyError, OSError)
"""What reading a clip of an unknown run may raise."""


class Frames:
    """Shows clips as the test of their run saw them, from the middle view."""

    def __init__(self) -> None:
        self._done: dict[tuple[TestReader, str, float | None, float | None], list[Tensor] | str]
        self._done = {}

    def strip(self, run: RunRecord, clip: ScoredClip) -> str:
        """Frames side by side; a note where they cannot be read."""
        frames = self._read(run, clip)
        return note(frames) if isinstance(frames, str) else frame_strip(frames)

    def animation(self, run: RunRecord, clip: ScoredClip) -> str:
        """Frames one after the other; a note where they cannot be read."""
        frames = self._read(run, clip)
        return note(frames) if isinstance(frames, str) else _animation(frames)

    def _read(self, run: RunRecord, clip: ScoredClip) -> list[Tensor] | str:
        try:
            reader = test_reader(run)
        except (ValueError, TypeError, KeyError) as error:
            return f"No frames: the run's settings cannot be used ({error})."
        key = (reader, clip.path, clip.start, clip.end)
        if key not in self._done:
            self._done[key] = _middle_view(reader, clip)
        return self._done[key]


def test_reader(run: RunRecord, *, all_views: bool = False) -> TestReader:
    """As in the run's last test, which may have had another resolution or other frames.

    Args:
        run: whose adapter_config.json was read.
        all_views: with the test's spatial views too, instead of the centre crop alone.

    Raises:
        ValueError, TypeError, KeyError: settings that cannot be used.
    """
    if run.config is None:
        raise ValueError("there is no adapter_config.json")
    metrics = run.metrics
    preprocessing: dict[str, Any] = {**run.config.info.preprocessing}
    preprocessing["resolution"] = metrics.get("resolution") or preprocessing["resolution"]
    preprocessing["resolution"] = tuple(preprocessing["resolution"])
    sampling = {key: metrics.get(key, value) for key, value in run.config.info.sampling.items()}
    num_views = metrics.get("num_temporal_views", 1)
    num_crops = metrics.get("num_spatial_views", 1) if all_views else 1
    return TestReader(
        SamplingConfig(**sampling), Preprocessing.from_dict(preprocessing), num_views, num_crops
    )


test_reader.__test__ = False  # type: ignore[attr-defined]  # no test, whatever pytest thinks


def _middle_view(reader: TestReader, clip: ScoredClip) -> list[Tensor] | str:
    try:
        views = reader(clip.path, (0, 0), **clip.window)  # (V, T, C, H, W)
    except VideoError as error:
        return f"No frames: {error.reason}."
    except UNREADABLE as error:
        return f"No frames: the run's settings cannot be used ({error})."
    return spread(views[len(views) // 2])


def spread(frames: Tensor) -> list[Tensor]:
    """At most `MAX_FRAMES` of the frames (T, C, H, W), evenly spread."""
    T = len(frames)
    if T > MAX_FRAMES:
        frames = frames[[(2 * i + 1) * T // (2 * MAX_FRAMES) for i in range(MAX_FRAMES)]]
    return list(frames)


def frame_strip(frames: Sequence[Tensor]) -> str:
    """Frames, uint8 (C, H, W) each, side by side as small embedded pictures."""
    n = len(frames)
    images = "".join(_still(frame, MAX_FRAME_SIDE) for frame in frames)
    return (
        f'<div class="strip" style="--n:{n};--few:{min(n, 4)}" role="img" '
        f'aria-label="{n} frames in order">{images}</div>'
    )


def _animation(frames: Sequence[Tensor]) -> str:
    """A WebP that repeats; a still for whoever asked their system for less motion."""
    pictures = [_picture(frame, MAX_ANIMATION_SIDE) for frame in frames]
    memory = io.BytesIO()
    times = [FRAME_MS] * (len(pictures) - 1) + [LAST_FRAME_MS]
    first, *others = pictures
    # Pillow refuses a list of times for a single picture.
    many = {"append_images": others, "duration": times, "loop": 0} if others else {}
    first.save(memory, "WEBP", save_all=bool(others), quality=60, method=4, **many)
    data = base64.b64encode(memory.getvalue()).decode("ascii")
    w, h = first.size
    still = _still(frames[len(frames) // 2], MAX_ANIMATION_SIDE)
    source = still.partition('src="')[2].partition('"')[0]
    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{source}">'
        f'<img src="data:image/webp;base64,{data}" width="{w}" height="{h}" '
        f'alt="{len(frames)} frames, moving"></picture>'
    )


def _still(frame: Tensor, side: int) -> str:
    """uint8 (C, H, W) as a small embedded JPEG."""
    image = _picture(frame, side)
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=82, optimize=True)
    data = base64.b64encode(memory.getvalue()).decode("ascii")
    w, h = image.size
    return f'<img src="data:image/jpeg;base64,{data}" width="{w}" height="{h}" alt="">'


def _picture(frame: Tensor, side: int) -> Any:
    from PIL import Image

    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((side, side))
    return image
