"""Folders and CSVs become one table of clips, or a sentence that says what to mend."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stadapter.data import ClipTable, Collection, LabelSpace, check_trainable, load_collection
from stadapter.data.annotations.table import class_order


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
    file = tmp_path / "clips.csv"
    file.write_bytes(CSV_FORMS[form].encode())
    collection = load_collection(file)
    assert not collection.made_split
    assert clips(collection.splits["train"], tmp_path) == [("a.mp4", "x")]
    assert clips(collection.splits["val"], tmp_path) == [("b.mp4", "y")]


def test_csv_paths_are_relative_to_the_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "elsewhere").mkdir()
    file = write(tmp_path / "lists" / "l.csv", f"path,label\n../v/a.mp4,x\n{tmp_path}/b.mp4,y\n")
    monkeypatch.chdir(tmp_path)
    for data in (file, Path("lists/l.csv")):
        paths = load_collection(data).whole().paths
        assert sorted(paths) == [str(tmp_path / "b.mp4"), str(tmp_path / "v" / "a.mp4")]


def test_csv_quotes(tmp_path: Path) -> None:
    file = write(tmp_path / "l.csv", 'path,label\n"a, b.mp4","x, ""y"""\nc.mp4,[z] é\n')
    assert sorted(clips(load_collection(file).whole(), tmp_path)) == [
        ("a, b.mp4", 'x, "y"'),
        ("c.mp4", "[z] é"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.mp4,x\nb.mp4,\n", r"line 3: label is missing for b\.mp4"),
        ("path,label\na.mp4,x\nb.mp4\n", r"line 3: label is missing for b\.mp4"),
        ("path,label\n,x\n", "line 2: path is missing"),
        ("path,label,split\na.mp4,x,dev\n", "line 2: split 'dev' must be train, val or test"),
        ("path,label,split\na.mp4,x,\n", "line 2: split '' must be train, val or test"),
        ("path,label\na, b.mp4,x\n", "line 2: more columns than the header; quote"),
        ('path,label\n"a.mp4,x\n', r"line \d: "),
        ("file,label\na.mp4,x\n", "line 1: column path is missing; .* is 'file,label'"),
        ("a.mp4,x\nb.mp4,y\n", "line 1: column path and label is missing"),
        ("", "line 1: column path and label is missing"),
        ("path,label\n", "has a header but no clips"),
        ("path,label\na.mp4,x\nb.mp4,x\n", r"one class only \('x'\)"),
    ],
)
def test_csv_errors_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "l.csv", text)
    with pytest.raises(ValueError, match=message) as caught:
        load_collection(file)
    assert str(file) in str(caught.value)


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"l\.csv is no CSV in UTF-8"):
        load_collection(write(tmp_path / "l.csv", "path,label\na.mp4,é\n", encoding="latin-1"))


# -- splits ------------------------------------------------------------------------------------


def csv_text(counts: Sequence[int]) -> str:
    rows = [f"{k}-{i}.mp4,class {k}" for k, count in enumerate(counts) for i in range(count)]
    return "path,label\n" + "\n".join(rows) + "\n"


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_a_made_split_is_stratified_complete_and_repeatable(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], seed: int
) -> None:
    file = write(tmp_path_factory.mktemp("split") / "l.csv", csv_text(counts))
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
    file = write(tmp_path / "a.csv", "\n".join([header, *rows]))
    backwards = write(tmp_path / "b.csv", "\n".join([header, *reversed(rows)]))
    assert load_collection(file, seed=1) == load_collection(backwards, seed=1)
    assert load_collection(file, seed=1) != load_collection(file, seed=2)


labels = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"))
labels = labels.map(str.strip).filter(lambda text: text not in ("", ".", ".."))


@given(names=st.lists(labels, min_size=2, max_size=4, unique=True), file=labels)
def test_a_written_collection_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], file: str
) -> None:
    table = ClipTable(
        [f"/videos/{k}/{file}" for k in range(len(names))],
        range(len(names)),
        LabelSpace("single_label", (class_order(names),)),
    )
    collection = Collection({"train": table, "val": table}, table.space, False)
    written = write(tmp_path_factory.mktemp("csv") / "split.csv", collection.to_csv())
    assert load_collection(written) == collection
    assert load_collection(written).splits["val"].list_hash() == table.list_hash()


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
    file = write(tmp_path / "l.csv", f"path,label,split\n{rows}")
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
