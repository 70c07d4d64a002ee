"""Where the videos of a list lie.

The files of a large collection are not looked at one by one: paths that a list gives are tried on a
sample, and files that a list gives by id are found in one walk over the names in a folder. Missing
videos stay in the table, where reading them reports them as broken; a list of which nothing is
found is refused.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from stadapter.data.annotations.source import Source
from stadapter.data.video import VIDEO_SUFFIXES

SAMPLE = 100
"""Paths of a list that are looked for when it is loaded."""
MAX_DEPTH = 4
"""Folders below the first in which videos are looked for: ROOT/NAME/train/CLASS/clip.mp4."""
MAX_OTHER_FILES = 1000
"""Files without a video among them after which a folder, two or more below the first, is taken for
one of extracted frames and left."""


def resolve(names: Sequence[str], source: Source, home: Path) -> tuple[list[str], tuple[str, ...]]:
    """Absolute paths of files that a list names, and notes on what is missing.

    Relative ones start at `source.videos`; without it at the list's folder, or `videos/` in it, or
    the same one folder up: wherever more of a sample lie.

    Raises:
        FileNotFoundError: none of the sample exists.
    """
    home = home.absolute()
    sample = [names[i * len(names) // SAMPLE] for i in range(SAMPLE)]
    sample = list(dict.fromkeys(sample))
    roots = [home, home / "videos", home.parent, home.parent / "videos"]
    if source.videos is not None:
        roots = [source.videos.absolute()]
    missing: list[str] = []
    for root in roots:
        gone = [path for path in absolute(sample, root) if not exists(path)]
        if root is roots[0] or len(gone) < len(missing):
            missing, home = gone, root
        if not missing:
            break
    notes = missing_notes(missing, len(sample), roots, sampled=len(names) > SAMPLE)
    return absolute(names, home), notes


def absolute(names: Sequence[str], root: Path) -> list[str]:
    """`names` below `root`, or as they are if absolute; without "." and ".." """
    prefix = os.path.join(root, "")  # noqa: PTH118
    text = "\n" + "\n".join(names) + "\n"
    if not any(odd in text for odd in ("//", "/.", "\n.", "/\n")):
        if "\n/" not in text:
            return [prefix + name for name in names]
        return [name if name.startswith("/") else prefix + name for name in names]
    folders: dict[str, str] = {}  # most files share theirs
    paths = []
    for name in names:
        head, slash, file = name.rpartition("/")
        folder = head + slash
        if file in ("", ".", ".."):
            folder, file = name, ""
        base = folders.get(folder)
        if base is None:
            base = os.path.normpath(folder if folder.startswith("/") else prefix + folder)
            base = folders[folder] = os.path.join(base, "") if file else base  # noqa: PTH118
        paths.append(base + file)
    return paths


def exists(path: str) -> bool:
    """Whether a file is there; for a path through a shard (x.tar/clip.mp4), the shard."""
    shard, tar, _ = path.partition(".tar/")
    return os.path.exists(path) or bool(tar and os.path.isfile(f"{shard}.tar"))  # noqa: PTH110, PTH113


def missing_notes(
    missing: Sequence[str], looked_for: int, roots: Sequence[Path], *, sampled: bool = False
) -> tuple[str, ...]:
    """What to tell the user of missing videos.

    Raises:
        FileNotFoundError: all are missing.
    """
    if not missing:
        return ()
    first = ", ".join(missing[:3])
    if len(missing) == looked_for:
        places = ", ".join(map(str, dict.fromkeys(roots)))
        raise FileNotFoundError(
            f"none of the {looked_for} videos {'tried' if sampled else 'listed'} exists; looked in "
            f"{places}; say where they are with --videos DIR. The first: {first}"
        )
    kind = "videos tried" if sampled else "videos"
    return (
        f"{len(missing):,} of {looked_for:,} {kind} are missing and will count as broken; the "
        f"first: {first}",
    )


class VideoIndex:
    """The videos below a folder, by name without suffix."""

    def __init__(self, source: Source) -> None:
        """Walk `source.videos`; without it DATA's folder, or the one above if that has no videos.

        Raises:
            FileNotFoundError: there are no videos.
        """
        home = source.home.absolute()
        self.roots = [home, home.parent] if source.videos is None else [source.videos.absolute()]
        self.files: dict[str, list[str]] = {}
        for root in self.roots:
            self.root = root
            self._walk(str(root), MAX_DEPTH)
            if self.files:
                return
        places = " or ".join(map(str, self.roots))
        raise FileNotFoundError(
            f"there are no videos below {places}; say where they are with --videos DIR"
        )

    def find(self, stem: str, folder: str = "") -> str | None:
        """The video of this name, in the folder of that name if there are several.

        Raises:
            ValueError: there are several nevertheless.
        """
        found = self.files.get(stem, [])
        if len(found) > 1:
            near = [path for path in found if _plain(Path(path).parent.name) == _plain(folder)]
            if len(near) != 1:
                raise ValueError(
                    f"video {stem} is there {len(found)} times ({', '.join(found[:3])}); say in "
                    "which folder to look with --videos DIR"
                )
            found = near
        return found[0] if found else None

    def locate(
        self, stems: Sequence[Sequence[str]], folders: Sequence[str] | None = None
    ) -> tuple[list[str], tuple[str, ...]]:
        """Absolute path for each clip, and notes on what is missing.

        Args:
            stems: for each clip, names without suffix that its file may have, best first.
            folders: for each clip, the folder that decides between files of the same name.

        Raises:
            FileNotFoundError: nothing was found.
            ValueError: a file is there several times.
        """
        paths, missing = [], []
        for i, names in enumerate(stems):
            folder = folders[i] if folders else ""
            found = (self.find(name, folder) for name in names)
            path = next((path for path in found if path), None)
            if path is None:
                path = str(self.root / folder / f"{names[0]}.mp4")
                missing.append(path)
            paths.append(path)
        missing = list(dict.fromkeys(missing))
        return paths, missing_notes(missing, len(set(paths)), [self.root])

    def _walk(self, folder: str, depth: int) -> None:
        below, other_files, found = [], 0, False
        try:
            entries = os.scandir(folder)
        except PermissionError:
            return
        with entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122
                if entry.name.startswith("."):
                    continue
                if suffix.lower() in VIDEO_SUFFIXES and entry.is_file():
                    self.files.setdefault(stem, []).append(entry.path)
                    found = True
                elif entry.is_dir():
                    below.append(entry.path)
                else:
                    other_files += 1
                    if other_files > MAX_OTHER_FILES and not found and depth <= MAX_DEPTH - 2:
                        return
        for path in sorted(below) if depth else ():
            self._walk(path, depth - 1)


def _plain(name: str) -> str:
    """A folder's name in the one spelling in which copies of a collection agree."""
    return name.replace("_", " ").strip().lower()
