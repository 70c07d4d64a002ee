"""Folders and CSVs become one table of clips, or a sentence that says what to mend."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stadapter.data import ClipTable, LabelSpace, check_trainable, load_collection


def touch(root: Path, *names: str) -> Path:
    """Empty files; nothing here opens a video."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def csv_with(folder: Path, text: str, *names: str, file: str = "l.csv") -> Path:
    """A CSV and the files that it names."""
    touch(folder, *names)
    return write(folder / file, text)


def clips(table: ClipTable, root: Path) -> list[tuple[str, str]]:
    """(path below root, class name) of each clip."""
    return [
        (str(Path(path).relative_to(root)), table.class_names[label])
        for path, label in zip(table.paths, table.labels, strict=True)
    ]


# -- folders -----------------------------------------------------------------------------------


def test_a_folder_per_class_is_split_by_class(tmp_path: Path) -> None:
    names = [f"{c}/{i}.mp4" for c in ("run", "jump") for i in range(10)]
    collection = load_collection(touch(tmp_path, *names))
    assert collection.made_split
    assert collection.class_names == ("jump", "run")
    assert Counter(collection.splits["train"].labels) == {0: 8, 1: 8}
    assert Counter(collection.splits["val"].labels) == {0: 2, 1: 2}
    assert sorted(clips(collection.whole(), tmp_path)) == sorted((n, n[:-6]) for n in names)


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Training", "validation")])
def test_given_splits_are_kept(tmp_path: Path, train: str, val: str) -> None:
    touch(tmp_path, f"{train}/a/1.mp4", f"{train}/b/2.mkv", f"{val}/a/deep/3.mp4", "notes.txt")
    collection = load_collection(tmp_path)
    assert not collection.made_split
    assert clips(collection.splits["train"], tmp_path) == [
        (f"{train}/a/1.mp4", "a"),
        (f"{train}/b/2.mkv", "b"),
    ]
    assert clips(collection.splits["val"], tmp_path) == [(f"{val}/a/deep/3.mp4", "a")]


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    collection = load_collection(touch(tmp_path, "test/1.mp4", "test/2.mp4", "a/1.mp4", "a/2.mp4"))
    assert collection.class_names == ("a", "test")
    assert collection.made_split


def test_spaces_around_a_class_folder_are_no_part_of_the_name(tmp_path: Path) -> None:
    """As in a CSV, so that the split.csv of a run names the classes that the run knows."""
    collection = load_collection(touch(tmp_path, "a /1.mp4", " b/1.mp4", "c d/1.mp4"))
    assert collection.class_names == ("a", "b", "c d")
    with pytest.raises(ValueError, match="has only spaces for a name"):
        load_collection(touch(tmp_path, " /1.mp4"))


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/1.mp4", ".cache/1.mp4", "a/.thumbs/1.mp4")
    assert len(load_collection(tmp_path).whole()) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.mp4", "b/notes.txt"], r"class folder .*b has no videos; known suffixes are .*\.mp4"),
        (["a/1.mp4", "a/2.mp4"], r"has one class only \('a'\)"),
        (["1.mp4", "2.mp4"], "has no class folders; expected FOLDER/CLASS/clip.mp4"),
        (["train/a/1.mp4", "val/a/1.mp4", "b/1.mp4"], "mixes split folders with 'b'"),
        (["train/a/1.mp4", "train/b/1.mp4", "val/x.txt"], "val has no class folders"),
    ],
)
def test_a_folder_that_is_no_collection(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_collection(touch(tmp_path, *names))


def test_data_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give a folder"):
        load_collection(tmp_path / "nowhere")


# -- CSV ---------------------------------------------------------------------------------------

CSV_FORMS = {
    "plain": "path,label,split\na.mp4,x,train\nb.mp4,y,val\n",
    "byte order mark": "\ufeffpath,label,split\na.mp4,x,train\nb.mp4,y,val\n",
    "Windows line ends": "path,label,split\r\na.mp4,x,train\r\nb.mp4,y,val\r\n",
    "other columns and order": "split,id,label,path\ntrain,1,x,a.mp4\nval,2,y,b.mp4\n",
    "blank lines and spaces": "path,label,split\n\na.mp4, x ,train\n\nb.mp4,y, VALIDATION\n",
    "no newline at the end": "path,label,split\na.mp4,x,train\nb.mp4,y,val",
}


@pytest.mark.parametrize("form", CSV_FORMS)
def test_csv_forms(tmp_path: Path, form: str) -> None:
    file = touch(tmp_path, "a.mp4", "b.mp4") / "clips.csv"
    file.write_bytes(CSV_FORMS[form].encode())
    collection = load_collection(file)
    assert not collection.made_split
    assert clips(collection.splits["train"], tmp_path) == [("a.mp4", "x")]
    assert clips(collection.splits["val"], tmp_path) == [("b.mp4", "y")]


def test_csv_paths_are_relative_to_the_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "lists/x.txt", "v/a.mp4", "b.mp4")
    file = write(tmp_path / "lists" / "l.csv", f"path,label\n../v/a.mp4,x\n{tmp_path}/b.mp4,y\n")
    monkeypatch.chdir(tmp_path)
    for data in (file, Path("lists/l.csv")):
        paths = load_collection(data).whole().paths
        assert sorted(paths) == [str(tmp_path / "b.mp4"), str(tmp_path / "v" / "a.mp4")]


def test_csv_quotes(tmp_path: Path) -> None:
    text = 'path,label\n"a, b.mp4","x, ""y"""\nc.mp4,[z] é\n'
    file = csv_with(tmp_path, text, "a, b.mp4", "c.mp4")
    assert sorted(clips(load_collection(file).whole(), tmp_path)) == [
        ("a, b.mp4", 'x, "y"'),
        ("c.mp4", "[z] é"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.mp4,x\nb.mp4,\n", "line 3, column label: the class is missing"),
        ("path,label\na.mp4,x\n\nb.mp4\n", "line 4, column label: the class is missing"),
        ("path,label\n,x\n", "line 2, column path: the file is missing"),
        ("path,label,split\na.mp4,x,dev\n", "line 2, column split: split 'dev' must be train, val"),
        ("path,label,subset\na.mp4,x,\n", "line 2, column subset: split '' must be train, val"),
        (
            "path,label\na, b.mp4,x\n",
            "line 2: 'a, b.mp4,x' has more columns than the header; quote",
        ),
        ('path,label\n"a.mp4,x\n', r"line \d: "),
        ("what,label\na.mp4,x\n", "line 1: column path is missing; .* is 'what,label'"),
        ("file,video,label\na.mp4,x,y\n", "line 1: columns file and video could both be the path"),
        ("path,label,labels\na.mp4,x,y\n", "line 1: there are several kinds of labels"),
        ("path,verb\na.mp4,x\n", "line 1: column noun is missing"),
        ("x,y\na.mp4,x\nb.mp4,y\n", "line 1: column path and label is missing"),
        ("", "line 1: column path and label is missing"),
        ("path,label\n", "has a header but no clips"),
        ("path,label\na.mp4,x\nb.mp4,x\n", r"one class only \('x'\)"),
        ("path,labels\na.mp4,x||y\n", "line 2, column labels: the class is missing"),
        ("path,label,start\na.mp4,x,soon\n", "line 2, column start: 'soon' is no time"),
        ("path,label,start\na.mp4,x,-1\n", "line 2, column start: '-1' is no time"),
        ("path,label,end\na.mp4,x,nan\n", "line 2, column end: 'nan' is no time"),
        (
            "path,label,start,end\na.mp4,x,1,2\na.mp4,x,0:03,3.0\n",
            "line 3, column end: the clip ends at 3.0, not after its start 0:03",
        ),
        ("path,label,end\na.mp4,x,0\n", "line 2, column end: the clip ends at 0, not after"),
    ],
)
def test_csv_errors_name_file_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    file = csv_with(tmp_path, text, "a.mp4", "b.mp4")
    with pytest.raises(ValueError, match=message) as caught:
        load_collection(file)
    assert str(file) in str(caught.value)


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"l\.csv, line 2: this is no text in UTF-8"):
        load_collection(write(tmp_path / "l.csv", "path,label\na.mp4,é\n", encoding="latin-1"))


# -- splits ------------------------------------------------------------------------------------


def csv_text(counts: Sequence[int]) -> str:
    rows = [f"{k}-{i}.mp4,class {k}" for k, count in enumerate(counts) for i in range(count)]
    return "path,label\n" + "\n".join(rows) + "\n"


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_a_made_split_is_stratified_complete_and_repeatable(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], seed: int
) -> None:
    names = [f"{k}-{i}.mp4" for k, count in enumerate(counts) for i in range(min(count, 1))]
    file = csv_with(tmp_path_factory.mktemp("split"), csv_text(counts), *names)
    collection = load_collection(file, seed=seed)
    assert load_collection(file, seed=seed) == collection
    whole = collection.whole()
    assert len(set(whole.paths)) == len(whole.paths) == sum(counts)
    for k, count in enumerate(counts):
        in_val = sum(collection.splits["val"].labels == k) if "val" in collection.splits else 0
        assert in_val == (0 if count == 1 else max(1, round(count / 5)))


def test_another_seed_makes_another_split_and_the_order_of_lines_does_not_matter(
    tmp_path: Path,
) -> None:
    header, *rows = csv_text([20, 20]).splitlines()
    touch(tmp_path, "0-0.mp4")
    file = write(tmp_path / "a.csv", "\n".join([header, *rows]))
    backwards = write(tmp_path / "b.csv", "\n".join([header, *reversed(rows)]))
    assert load_collection(file, seed=1) == load_collection(backwards, seed=1)
    assert load_collection(file, seed=1) != load_collection(file, seed=2)


# -- use ---------------------------------------------------------------------------------------


def test_scoring_indexes_by_the_models_classes(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.mp4", "b/2.mp4")
    collection = load_collection(tmp_path, space=LabelSpace("single_label", (("a", "b", "c"),)))
    assert set(collection.whole().labels) == {1}
    with pytest.raises(ValueError, match=r"has 'b', which the model does not know; it knows 'a'"):
        load_collection(tmp_path, space=LabelSpace("single_label", (("a", "c"),)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.mp4,x,train\nb.mp4,y,train\n", "no clips in split 'val'"),
        ("a.mp4,x,val\nb.mp4,y,val\n", "no clips in split 'train'"),
        ("a.mp4,x,train\nb.mp4,y,val\n", "no training clips of class 'y'"),
    ],
)
def test_what_training_cannot_use(tmp_path: Path, rows: str, message: str) -> None:
    file = csv_with(tmp_path, f"path,label,split\n{rows}", "a.mp4", "b.mp4")
    with pytest.raises(ValueError, match=message):
        check_trainable(load_collection(file), file)


def test_the_hash_of_a_list_depends_on_names_labels_and_order_not_on_the_folder() -> None:
    space = LabelSpace("single_label", (("x", "y"),))
    table = ClipTable(("/a/1.mp4", "/a/2.mp4"), (0, 1), space)
    assert table.list_hash() == ClipTable(("/b/1.mp4", "/b/2.mp4"), (0, 1), space).list_hash()
    for other in (
        ClipTable(("/a/2.mp4", "/a/1.mp4"), (0, 1), space),
        ClipTable(("/a/1.mp4", "/a/2.mp4"), (1, 1), space),
        ClipTable(("/a/1.mp4",), (0,), space),
        ClipTable(("/a/1.mp4", "/a/2.mp4"), (0, 1), space, starts=(0.5, float("nan"))),
    ):
        assert other.list_hash() != table.list_hash()


def test_a_file_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    for name in (b"a/x.mp4", b"b/\xff.mp4"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir()
        path.touch()
    with pytest.raises(ValueError, match="no UTF-8"):
        load_collection(tmp_path)
