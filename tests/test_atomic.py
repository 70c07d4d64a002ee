"""A write that fails leaves what was there, and no litter."""

from pathlib import Path

import pytest

from stadapter.atomic import atomic_path, write_json, write_text


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename within one disk
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    with pytest.raises(TypeError):
        write_json(path, {"no": object()})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(OSError, match=r"a\.txt"):
            write_text(folder / "a.txt", "new")


def test_text_is_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"class": "então"})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "class": "ent\xc3\xa3o"\n}\n'
