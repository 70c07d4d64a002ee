"""Clips as strips of frames: one of each class, and the worst.

Frames are read by the code and with the settings of the test, so they show what the model saw.
"""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stadapter.data import Preprocessing, SamplingConfig, TestReader, VideoError
from stadapter.report.page import escape, note, percent, plural
from stadapter.report.record import RunRecord, ScoredClip, best_run

MAX_FRAMES = 8
"""Frames shown of a clip."""
MAX_FRAME_SIDE = 112
"""Longer side of an embedded frame, in pixels; larger inputs are shown smaller."""
MAX_EXAMPLES = 24
"""Classes of which a clip is shown."""
MAX_WORST = 12
"""Wrong clips shown of each run."""

Strip = Callable[[RunRecord, str], str]
"""Run and path of a clip -> HTML that shows its frames."""


def class_examples(group: Sequence[RunRecord], strip: Strip) -> str:
    """A clip of each class as the best run saw it: the first correct one, not the surest."""
    run = best_run(group)
    by_class: dict[str, ScoredClip] = {}
    for clip in sorted(run.clips, key=lambda clip: not clip.correct):
        classes = run.space.split_label_name(clip.label)
        for name in classes[:1] if run.task.exclusive else classes:  # of a pair, the verb
            by_class.setdefault(name, clip)
    names = [name for name in run.space.vocabularies[0] if name in by_class]
    if not names:
        return ""
    items = [_clip_item(run, by_class[name], strip, title=name) for name in names[:MAX_EXAMPLES]]
    left_out = len(names) - MAX_EXAMPLES
    more = f" {plural(left_out, 'more class', 'more classes')} left out." if left_out > 0 else ""
    by = f" by {escape(run.name)}" if len(group) > 1 else ""
    return (
        "<h2>What the model sees</h2><p>The first clip of each class that was classified correctly"
        f"{by} (any clip where there is none), at the resolution, crop and frames of the test."
        f'{more}</p><ul class="clips">{"".join(items)}</ul>'
    )


def worst_clips(run: RunRecord, strip: Strip) -> str:
    """Wrong clips, the lowest probability of the true label first."""
    if not run.clips:
        return ""
    wrong = [clip for clip in run.clips if not clip.correct]
    wrong.sort(key=lambda clip: (clip.label_score, clip.path))
    if not wrong:
        return "<h3>Worst clips</h3><p>Every clip was classified correctly.</p>"
    items = [_clip_item(run, clip, strip, title=None) for clip in wrong[:MAX_WORST]]
    shown = f"{len(items)} of " if len(wrong) > len(items) else ""
    return (
        f"<h3>Worst clips</h3><p>{shown}{plural(len(wrong), 'misclassified clip')}, the lowest "
        f'probability of the true label first.</p><ul class="clips">{"".join(items)}</ul>'
    )


def _clip_item(run: RunRecord, clip: ScoredClip, strip: Strip, *, title: str | None) -> str:
    file = f'<span class="small" title="{escape(clip.path)}">{escape(Path(clip.path).name)}</span>'
    prediction = escape(clip.prediction or "no class")
    if title is None:
        what = (
            f"<b>{escape(clip.label or 'no class')}</b> at {percent(clip.label_score)}<br>"
            f"predicted {prediction} at {percent(clip.score)}<br>{file}"
        )
    else:
        whole = "" if clip.label == title else f"{escape(clip.label)}<br>"
        wrong = "" if clip.correct else f"predicted {prediction}<br>"
        what = f"<b>{escape(title)}</b><br>{whole}{wrong}{file}"
    return f'<li><div class="what">{what}</div>{strip(run, clip.path)}</li>'


def make_strips() -> Strip:
    """A function that shows a clip as its run's test saw it, and reads each clip once."""
    done: dict[tuple[TestReader, str], str] = {}

    def strip(run: RunRecord, path: str) -> str:
        try:
            reader = _reader(run)
        except (ValueError, TypeError, KeyError) as error:
            return note(f"No frames: the run's settings cannot be used ({error}).")
        if (reader, path) not in done:
            done[reader, path] = _strip(reader, path)
        return done[reader, path]

    return strip


def _reader(run: RunRecord) -> TestReader:
    """As in the run's last test, which may have had another resolution or other frames."""
    if run.config is None:
        raise ValueError("there is no adapter_config.json")
    info, metrics = run.config.info, run.metrics
    preprocessing: dict[str, Any] = {**info.preprocessing}
    preprocessing["resolution"] = metrics.get("resolution") or preprocessing["resolution"]
    preprocessing["resolution"] = tuple(preprocessing["resolution"])
    sampling = {key: metrics.get(key, value) for key, value in info.sampling.items()}
    num_views = metrics.get("num_temporal_views", 1)
    return TestReader(SamplingConfig(**sampling), Preprocessing.from_dict(preprocessing), num_views)


def _strip(reader: TestReader, path: str) -> str:
    try:
        views = reader(path)  # (V, T, C, H, W)
    except VideoError as error:
        return note(f"No frames: {error.reason}.")
    except (ValueError, TypeError) as error:
        return note(f"No frames: the run's settings cannot be used ({error}).")
    frames = views[len(views) // 2]
    T = len(frames)
    if T > MAX_FRAMES:
        frames = frames[[(2 * i + 1) * T // (2 * MAX_FRAMES) for i in range(MAX_FRAMES)]]
    return frame_strip(list(frames))


def frame_strip(frames: Sequence[Tensor]) -> str:
    """Frames, uint8 (C, H, W) each, side by side as small embedded pictures."""
    n = len(frames)
    images = "".join(_image(frame) for frame in frames)
    return (
        f'<div class="strip" style="--n:{n};--few:{min(n, 4)}" role="img" '
        f'aria-label="{n} frames in order">{images}</div>'
    )


def _image(frame: Tensor) -> str:
    """uint8 (C, H, W) as a small embedded JPEG."""
    from PIL import Image

    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((MAX_FRAME_SIDE, MAX_FRAME_SIDE))
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=82, optimize=True)
    data = base64.b64encode(memory.getvalue()).decode("ascii")
    w, h = image.size
    return f'<img src="data:image/jpeg;base64,{data}" width="{w}" height="{h}" alt="">'
