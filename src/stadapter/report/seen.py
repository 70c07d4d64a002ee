"""What one run's model was given: random crops in training, all views in the test."""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

from stadapter.data import (
    AugmentConfig,
    ClipTable,
    Mirror,
    Preprocessing,
    SamplingConfig,
    TrainReader,
    flipped_clips,
    load_collection,
)
from stadapter.report.frames import UNREADABLE, frame_strip, spread, test_reader
from stadapter.report.page import escape, note
from stadapter.report.record import RunRecord
from stadapter.tasks import make_task

NUM_CLIPS = 2
"""Training clips shown."""
EPOCHS = (0, 1)
"""Passes in which they are shown."""
MAX_VIEWS = 9
"""Test views shown of a clip."""


def what_it_was_given(run: RunRecord, *, level: str = "h3") -> str:
    """Training clips with their augmentation, and every view of a test clip."""
    parts = [_training(run), _views(run)]
    text = "".join(part for part in parts if part)
    return f"<{level}>Crops in training and test</{level}>{text}" if text else ""


def _training(run: RunRecord) -> str:
    if not run.recipe or not run.folder.split.is_file() or run.config is None:
        return ""
    try:
        recipe = yaml.safe_load(run.recipe)
        table = load_collection(run.folder.split, space=run.config.info.space).splits["train"]
        seed, augment = recipe["train"]["seed"], AugmentConfig(**recipe["augment"])
        reader = TrainReader(
            SamplingConfig(**recipe["sampling"]),
            Preprocessing.from_dict(run.config.info.preprocessing),
            augment,
            seed,
        )
        items = [
            _crop(reader, table, clip, epoch, Mirror(table.space, swaps=augment.flip == "auto"))
            for clip in _some_clips(table, seed)
            for epoch in EPOCHS
        ]
    except (*UNREADABLE, yaml.YAMLError) as error:
        return note(f"Training clips cannot be shown: {error}")
    return (
        f"<p>Training clips as they were drawn in the first two passes{_mixing(recipe)}.</p>"
        f'<ul class="clips">{"".join(items)}</ul>'
    )


def _some_clips(table: ClipTable, seed: int) -> list[int]:
    """Clips with different labels where there are, drawn by the run's seed."""
    clips = list(range(len(table)))
    Random(f"report {seed}").shuffle(clips)
    by_label = {table.label_name(clip): clip for clip in reversed(clips)}
    different = [clip for clip in clips if by_label[table.label_name(clip)] == clip]
    return (different + [clip for clip in clips if clip not in different])[:NUM_CLIPS]


def _crop(reader: TrainReader, table: ClipTable, clip: int, epoch: int, mirror: Mirror) -> str:
    times = {"start": float(table.starts[clip]), "end": float(table.ends[clip])}
    window = {name: time for name, time in times.items() if time == time}  # not nan
    video = reader(table.paths[clip], (epoch, clip), **window)[0]
    label, note_ = table.label_name(clip), ""
    if reader.augment.flip != "off":
        label_row = torch.as_tensor(table.labels[clip : clip + 1])
        targets = make_task(table.space).targets(label_row)
        chosen = flipped_clips([clip], seed=reader.seed, epoch=epoch)
        _, flipped = mirror.flip(targets, chosen)
        if flipped[0]:
            video, note_ = video.flip(-1), ", mirrored"
    name = escape(Path(table.paths[clip]).name)
    return (
        f'<li><div class="what"><b>{escape(label)}</b><br>pass {epoch + 1}{note_}<br>'
        f'<span class="small" title="{escape(table.paths[clip])}">{name}</span></div>'
        f"{frame_strip(spread(video))}</li>"
    )


def _mixing(recipe: Mapping[str, Any]) -> str:
    names = [
        title
        for key, title in (("mixup", "mixup"), ("cutmix", "CutMix"))
        if recipe["train"].get(key)
    ]
    return f", before {' and '.join(names)} blended them with others" if names else ""


def _views(run: RunRecord) -> str:
    if not run.clips:
        return ""
    clip = next((clip for clip in run.clips if clip.correct), run.clips[0])
    try:
        reader = test_reader(run, all_views=True)
        views = reader(clip.path, (0, 0), **clip.window)
    except UNREADABLE:
        return ""  # the clip says so itself where it is shown as an example
    if len(views) == 1:
        return ""
    crops = reader.num_spatial_views
    items = [
        f'<li><div class="what">View {i + 1}<br><span class="small">part {i // crops + 1} of '
        f"{reader.num_temporal_views} in time, crop {i % crops + 1} of {crops}</span></div>"
        f"{frame_strip(spread(view))}</li>"
        for i, view in enumerate(views[:MAX_VIEWS])
    ]
    more = f" The first {MAX_VIEWS} are shown." if len(views) > MAX_VIEWS else ""
    return (
        f"<p>The {len(views)} views of a test clip ({escape(Path(clip.path).name)}), whose "
        f'probabilities are averaged.{more}</p><ul class="clips">{"".join(items)}</ul>'
    )
