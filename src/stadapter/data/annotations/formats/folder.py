"""A folder per class, with or without `train/` and `val/` above the classes."""

from collections.abc import Sequence
from pathlib import Path

from stadapter.data.annotations.rows import SPLIT_NAMES, listed
from stadapter.data.annotations.source import Annotations, Format, Lists, Source
from stadapter.data.video import VIDEO_SUFFIXES, find_videos


def _find(data: Path, forced: bool) -> Lists | None:
    return Lists({"": data}) if data.is_dir() else None


def _read(lists: Lists, source: Source) -> Annotations:
    folder = lists.files[""]
    classes = _class_folders(folder)
    # A split folder holds class folders; a class that is really called "test" holds videos.
    splits = [c for c in classes if c.name.lower() in SPLIT_NAMES and not _has_videos(c)]
    if not splits:
        paths, labels = _read_classes(folder, classes)
        return Annotations(paths, "single_label", (labels,))
    others = [c.name for c in classes if c not in splits]
    for child in classes:
        if child.name in others and child.name.lower() in SPLIT_NAMES and _class_folders(child):
            strays = [path.name for path in sorted(child.iterdir()) if _is_video(path)]
            raise ValueError(
                f"{child} has videos beside its class folders: {listed(strays)}; move them into a "
                "class, or away"
            )
    if others:
        raise ValueError(
            f"{folder} mixes split folders with {listed(others)}; put every class below "
            "train/ and val/, or none"
        )
    paths, labels, names = [], [], []
    for split in splits:
        more_paths, more_labels = _read_classes(split, _class_folders(split))
        paths += more_paths
        labels += more_labels
        names += [SPLIT_NAMES[split.name.lower()]] * len(more_paths)
    return Annotations(paths, "single_label", (labels,), names)


FOLDER = Format("a folder per class with videos in them: DATA/CLASS/clip.mp4", _find, _read)


def _read_classes(folder: Path, classes: Sequence[Path]) -> tuple[list[str], list[str]]:
    if not classes:
        raise ValueError(
            f"{folder} has no class folders; expected FOLDER/CLASS/clip.mp4 with at least 2 classes"
        )
    paths: list[str] = []
    labels: list[str] = []
    for class_folder in classes:
        videos = find_videos(class_folder)
        if not videos:
            raise ValueError(
                f"class folder {class_folder} has no videos; known suffixes are "
                f"{' '.join(sorted(VIDEO_SUFFIXES))}"
            )
        # Without the spaces around it, as in a CSV: the split that a run keeps is a CSV.
        label = class_folder.name.strip()
        if not label:
            raise ValueError(f"class folder {str(class_folder)!r} has only spaces for a name")
        paths += [str(path.absolute()) for path in videos]
        labels += [label] * len(videos)
    return paths, labels


def _class_folders(folder: Path) -> list[Path]:
    return sorted(c for c in folder.iterdir() if c.is_dir() and not c.name.startswith("."))


def _has_videos(folder: Path) -> bool:
    return any(map(_is_video, folder.iterdir()))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
