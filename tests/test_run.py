"""When a folder may be written, and what overwriting removes."""

from pathlib import Path

import pytest

from stadapter.run import RunFolder


def fill(run: RunFolder) -> None:
    """As a finished run leaves it, with two files of the user's."""
    run.state.mkdir(parents=True)
    ours = ("adapter_config.json", "adapter_model.safetensors")
    for path in (run.recipe, run.split, run.log, run.metrics, run.predictions, run.report):
        path.touch()
    for name in (*ours, "state/last.pt", "notes.txt", "plots.png"):
        (run.path / name).touch()
    (run.path / "README.md").write_text("---\nlibrary_name: stadapter\n---\n")


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "run")
    assert not run.exists()
    run.prepare(resume=False, overwrite=False)
    assert list(run.path.iterdir()) == []


def test_a_folder_with_other_files_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    RunFolder(tmp_path).prepare(resume=False, overwrite=False)


@pytest.mark.parametrize("name", ["recipe.yaml", "state", "adapter_config.json"])
def test_what_holds_a_run_is_not_written_unasked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    run = RunFolder(tmp_path)
    assert run.exists()
    with pytest.raises(FileExistsError, match="already holds a run; continue it with --resume"):
        run.prepare(resume=False, overwrite=False)
    run.prepare(resume=True, overwrite=False)
    assert (tmp_path / name).exists()


def test_overwriting_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    fill(run)
    run.prepare(resume=False, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "plots.png"]


def test_overwriting_keeps_somebody_elses_readme(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    fill(run)
    (tmp_path / "README.md").write_text("my notes")
    run.prepare(resume=False, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "my notes"


def test_resuming_needs_a_run_and_excludes_overwriting(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        RunFolder(tmp_path).prepare(resume=True, overwrite=False)
    with pytest.raises(ValueError, match="exclude each other"):
        RunFolder(tmp_path).prepare(resume=True, overwrite=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(PermissionError, match=f"folder {path} cannot be written: "):
            RunFolder(path).prepare(resume=False, overwrite=False)
