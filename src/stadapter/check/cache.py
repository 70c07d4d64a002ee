"""What was found out about files, kept on disk, so that a check goes on where it was killed.

One JSON line per file, added when the file is done. A line that a kill cut off is not taken.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av

from stadapter.atomic import write_text
from stadapter.check.decode import CHECK_VERSION, FileFacts
from stadapter.check.files import Stamp, stamp


def stamp_or_none(path: str) -> Stamp | None:
    """`stamp`, or None where there is nothing to reach."""
    try:
        return stamp(path)
    except OSError:
        return None


class FactsCache:
    """Facts by path, as long as size and time of the file and the decoder stay the same."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one; it is written by `add` and `keep`.

        Raises:
            OSError: it cannot be read or written.
        """
        self.path = path
        self._tool = f"{CHECK_VERSION} {av.__version__} {av.library_versions['libavcodec']}"
        self._entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                entry = _entry(line)
                if entry is not None and entry["tool"] == self._tool:
                    self._entries[entry["path"]] = entry
        self.keep(self._entries)

    def get(self, path: str) -> FileFacts | None:
        """What is known of the file as it is now."""
        entry = self._entries.get(path)
        now = stamp_or_none(path)
        if entry is None or now is None or entry["stamp"] != list(now):
            return None
        return FileFacts.from_dict(entry["facts"])

    def add(self, path: str, before: Stamp | None, facts: FileFacts) -> None:
        """Keep the facts, unless the file is missing or has changed since `before`."""
        if before is None or stamp_or_none(path) != before:
            return
        entry = {"path": path, "stamp": before, "tool": self._tool, "facts": facts.to_dict()}
        self._entries[path] = entry
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def keep(self, paths: Iterable[str]) -> None:
        """Write the file anew with these paths alone."""
        self._entries = {path: self._entries[path] for path in paths if path in self._entries}
        lines = (json.dumps(entry) + "\n" for entry in self._entries.values())
        write_text(self.path, "".join(lines))


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:  # cut off by a kill
        return None
    whole = isinstance(entry, dict) and {"path", "stamp", "tool", "facts"} <= entry.keys()
    return entry if whole else None
