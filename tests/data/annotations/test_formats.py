"""Each format, written in the shape of the real files: what is read, and what is refused."""

import csv
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stadapter.data import FORMATS, ClipTable, Collection, DataConfig, LabelSpace, load_collection

SHARED = Path(__file__).parents[4] / "shared" / "data" / "annotations"


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Text files; a video is an empty one, as nothing here opens videos."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def videos(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "")


def clips(table: ClipTable, root: Path) -> list[tuple[str, str]]:
    """(path below root, label) of each clip, sorted."""
    paths = [str(Path(path).relative_to(root)) for path in table.paths]
    return sorted((path, table.label_name(i)) for i, path in enumerate(paths))


KINETICS_HEAD = "label,youtube_id,time_start,time_end,split"
KINETICS = {
    "train.csv": f"{KINETICS_HEAD},is_cc\nriding a bike,aaa-_aaaaaa,10,20,train,0\n"
    '"eating, fast",bbbbbbbbbbb,0,10,train,1\nriding a bike,ccccccccccc,107,117,train,0\n',
    "val.csv": f"{KINETICS_HEAD}\nriding a bike,ddddddddddd,3,13,validate\n",
    "test.csv": "youtube_id,time_start,time_end,split\neeeeeeeeeee,0,10,test\n",
    **videos(
        "train/riding a bike/aaa-_aaaaaa_000010_000020.mp4",
        "train/eating,_fast/bbbbbbbbbbb.mp4",
        "train/riding_a_bike/ccccccccccc_000107_000117.mkv",
        "val/ddddddddddd_000003_000013.MP4",
    ),
}
SOMETHING_V2 = {
    "labels/train.json": """[
  {"id": "78687", "label": "holding potato next to cup", "template": "Holding [something] next to [something]", "placeholders": ["potato", "cup"]},
  {"id": "42326", "label": "closing box", "template": "Closing [something]", "placeholders": ["box"]}
]""",  # noqa: E501
    "labels/validation.json": '[{"id": "7", "template": "Closing [something]"}]',
    "labels/test.json": '[{"id": "9"}]',
    "labels/labels.json": '{"Closing something": "1", "Holding something next to something": "0", '
    '"Opening something": "2"}',
    **videos("20bn-something-something-v2/78687.webm", "20bn-something-something-v2/42326.webm"),
    **videos("20bn-something-something-v2/7.mp4", "20bn-something-something-v2/9.webm"),
}
SOMETHING_V1 = {
    "something-something-v1-train.csv": "100218;Something falling\n24413;Opening something\n",
    "something-something-v1-validation.csv": "id;label\n1;Opening something\n",
    "something-something-v1-test.csv": "5\n6\n",
    "something-something-v1-labels.csv": "Something falling\nOpening something\n",
    **videos("videos/100218.mp4", "videos/24413.mp4", "videos/1.webm"),
}
EPIC_HEAD = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
EPIC = {
    "EPIC_100_train.csv": f"{EPIC_HEAD}\n"
    "P01_01_0,P01,P01_01,00:00:01.08,00:00:00.14,00:00:03.37,8,202,open door,open,1,door,2,"
    "\"['door', 'bag']\",\"[2, 0]\"\n"
    "P01_01_1,P01,P01_01,00:00:02.62,01:02:03.50,01:02:06.17,1,2,take bag,take,0,bag,0,"
    "['bag'],[0]\n"
    "P02_03_0,P02,P02_03,00:00:00.00,00:00:01.00,00:00:02.00,1,2,take bag,take,0,bag,0,"
    "['bag'],[0]\n",
    "EPIC_100_validation.csv": f"{EPIC_HEAD}\n"
    "P03_101_0,P03,P03_101,00:00:00.00,00:00:01.00,00:00:02.00,1,2,take box,take,0,box,1,x,[1]\n",
    "EPIC_100_verb_classes.csv": "id,key,instances,category\n0,take,\"['take', 'get']\",retrieve\n"
    "1,open,['open'],access\n",
    "EPIC_100_noun_classes.csv": "id,key,instances,category\n0,bag,[],x\n1,box,[],x\n2,door,[],x\n",
    "EPIC_100_test_timestamps.csv": "narration_id,participant_id,video_id\nP01_11_0,P01,P01_11\n",
    **videos("P01/videos/P01_01.MP4", "P02/P02_03.mp4", "P03_101.MP4"),
}
UCF = {
    "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\n2 Archery\n",
    "ucfTrainTestlist/trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
    "Archery/v_Archery_g08_c01.avi 2\r\n",
    "ucfTrainTestlist/testlist01.txt": "Archery/v_Archery_g01_c01.avi\n",
    "ucfTrainTestlist/trainlist02.txt": "Archery/v_Archery_g01_c01.avi 2\n",
    "ucfTrainTestlist/testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n",
    **videos("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"),
    **videos("UCF-101/Archery/v_Archery_g08_c01.avi", "UCF-101/Archery/v_Archery_g01_c01.avi"),
}
HMDB = {
    "splits/brush_hair_test_split1.txt": "a_brush_f_cm 1.avi 1 \nb.avi 2 \nc.avi 0 \n",
    "splits/wave_test_split1.txt": "b.avi 1 \n#d_wave.avi 2 \n",
    "splits/brush_hair_test_split2.txt": "a_brush_f_cm 1.avi 2 \nb.avi 1 \nc.avi 1 \n",
    "splits/wave_test_split2.txt": "b.avi 2 \n#d_wave.avi 1 \n",
    **videos("hmdb/brush_hair/a_brush_f_cm 1.avi", "hmdb/brush_hair/b.avi"),
    **videos("hmdb/brush_hair/c.avi", "hmdb/wave/b.avi", "hmdb/wave/#d_wave.avi"),
}
CHARADES_HEAD = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions"
CHARADES = {
    "Charades_v1_train.csv": f"{CHARADES_HEAD},length\n"
    '46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking.",food;stove,x,'
    "c002 11.90 21.20;c000 0.00 5.00,24\n"
    "N11GT,0KZ7,Stairs,6,7,Yes,x,x,x,,10.5\n",
    "Charades_v1_test.csv": f"{CHARADES_HEAD},length\n"
    "YSKX3,A,B,6,7,Yes,x,x,x,c000 0 5;c000 7 9,8\n",
    "Charades_v1_classes.txt": "c000 Holding some clothes\nc001 Sitting\n"
    "c002 Putting clothes down\n",
    "Charades_v1_objectclasses.txt": "o000 None\n",
    **videos("Charades_v1_480/46GP8.mp4", "Charades_v1_480/N11GT.mp4", "Charades_v1_480/YSKX3.mp4"),
}
LISTS = {
    "lists/kinetics_train_list_videos.txt": "a b/one two.mp4 1\nthree.mp4 0\n\nfour.mp4  1\n",
    "lists/kinetics_val_list_videos.txt": "sub/five.mp4 0\n",
    **videos("videos/a b/one two.mp4", "videos/three.mp4", "videos/four.mp4"),
    **videos("videos/sub/five.mp4"),
}
TABLES = {
    "train.tsv": "Video_Path\tclass\tnote\na, b.mp4\trun\tx\nc.mp4\tsit down\ty\n",
    "validation.tsv": "Video_Path\tclass\tnote\nd.mp4\trun\tx\n",
    "test.tsv": "Video_Path\nd.mp4\n",
    **videos("videos/a, b.mp4", "videos/c.mp4", "videos/d.mp4"),
}

EXPECTED: dict[str, tuple[dict[str, str], str, str, dict[str, list[tuple[str, str]]]]] = {
    # name: (files, format, the training list, split -> clips)
    "kinetics": (
        KINETICS,
        "kinetics",
        "train.csv",
        {
            "train": [
                ("train/eating,_fast/bbbbbbbbbbb.mp4", "eating, fast"),
                ("train/riding a bike/aaa-_aaaaaa_000010_000020.mp4", "riding a bike"),
                ("train/riding_a_bike/ccccccccccc_000107_000117.mkv", "riding a bike"),
            ],
            "val": [("val/ddddddddddd_000003_000013.MP4", "riding a bike")],
        },
    ),
    "something v2": (
        SOMETHING_V2,
        "something_v2",
        "labels/train.json",
        {
            "train": [
                ("20bn-something-something-v2/42326.webm", "Closing something"),
                ("20bn-something-something-v2/78687.webm", "Holding something next to something"),
            ],
            "val": [("20bn-something-something-v2/7.mp4", "Closing something")],
        },
    ),
    "something v1": (
        SOMETHING_V1,
        "something_v1",
        "something-something-v1-train.csv",
        {
            "train": [
                ("videos/100218.mp4", "Something falling"),
                ("videos/24413.mp4", "Opening something"),
            ],
            "val": [("videos/1.webm", "Opening something")],
        },
    ),
    "epic kitchens": (
        EPIC,
        "epic_kitchens",
        "EPIC_100_train.csv",
        {
            "train": [
                ("P01/videos/P01_01.MP4", "open|door"),
                ("P01/videos/P01_01.MP4", "take|bag"),
                ("P02/P02_03.mp4", "take|bag"),
            ],
            "val": [("P03_101.MP4", "take|box")],
        },
    ),
    "ucf101": (
        UCF,
        "ucf101",
        "ucfTrainTestlist/trainlist01.txt",
        {
            "train": [
                ("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup"),
                ("UCF-101/Archery/v_Archery_g08_c01.avi", "Archery"),
            ],
            "val": [("UCF-101/Archery/v_Archery_g01_c01.avi", "Archery")],
        },
    ),
    "hmdb51": (
        HMDB,
        "hmdb51",
        "splits/wave_test_split1.txt",
        {
            "train": [
                ("hmdb/brush_hair/a_brush_f_cm 1.avi", "brush_hair"),
                ("hmdb/wave/b.avi", "wave"),
            ],
            "val": [("hmdb/brush_hair/b.avi", "brush_hair"), ("hmdb/wave/#d_wave.avi", "wave")],
        },
    ),
    "charades": (
        CHARADES,
        "charades",
        "Charades_v1_train.csv",
        {
            "train": [
                ("Charades_v1_480/46GP8.mp4", "Holding some clothes|Putting clothes down"),
                ("Charades_v1_480/N11GT.mp4", ""),
            ],
            "val": [("Charades_v1_480/YSKX3.mp4", "Holding some clothes")],
        },
    ),
    "list": (
        LISTS,
        "list",
        "lists/kinetics_train_list_videos.txt",
        {
            "train": [
                ("videos/a b/one two.mp4", "1"),
                ("videos/four.mp4", "1"),
                ("videos/three.mp4", "0"),
            ],
            "val": [("videos/sub/five.mp4", "0")],
        },
    ),
    "tsv": (
        TABLES,
        "tsv",
        "train.tsv",
        {
            "train": [("videos/a, b.mp4", "run"), ("videos/c.mp4", "sit down")],
            "val": [("videos/d.mp4", "run")],
        },
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_collection_as_it_is_published(tmp_path: Path, name: str) -> None:
    """The folder and the training list give the same; so does what a run keeps of it."""
    files, format, train, expected = EXPECTED[name]
    root = write_tree(tmp_path / "root", files)
    collection = load_collection(root)
    assert collection.format == format
    assert not collection.made_split
    assert {split: clips(t, root) for split, t in collection.splits.items()} == expected
    for data in (root / train, root):
        again = load_collection(data, DataConfig(format=format), seed=7)
        assert again == collection
    moved = tmp_path / "elsewhere"
    (root / train).parent.rename(moved) if "/" in train else shutil.copytree(root, moved)
    below = root / "videos" if name in ("list", "tsv") else root  # lists of paths start there
    given = load_collection(moved / Path(train).name, DataConfig(videos=below))
    assert given.list_hash() == collection.list_hash()
    kept = write_tree(tmp_path, {"split.csv": collection.to_csv()}) / "split.csv"
    assert load_collection(kept) == collection


@pytest.mark.parametrize("name", ["kinetics", "epic kitchens", "charades", "list", "tsv"])
def test_a_validation_list_alone(tmp_path: Path, name: str) -> None:
    files, format, train, _ = EXPECTED[name]
    root = write_tree(tmp_path, files)
    places = {"charades": "test", "epic kitchens": "validation", "tsv": "validation"}
    val = root / train.replace("train", places.get(name, "val"))
    whole = load_collection(root)
    collection = load_collection(val, space=whole.space)
    assert (collection.format, list(collection.splits)) == (format, ["val"])
    assert collection.splits["val"] == whole.splits["val"]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    for name in ("kinetics", "something v2", "something v1", "tsv"):
        notes = load_collection(write_tree(tmp_path / name, EXPECTED[name][0])).notes
        assert any("has no labels and is left out" in note for note in notes), name
    notes = load_collection(tmp_path / "something v2").notes
    assert "1 of 3 label classes have no clips" in notes
    notes = load_collection(write_tree(tmp_path / "ucf", UCF)).notes
    assert notes == ("split 1; its test list is used as val",)


def test_class_order_is_the_collections_own(tmp_path: Path) -> None:
    names = {
        name: (load_collection(write_tree(tmp_path / name, EXPECTED[name][0]))) for name in EXPECTED
    }
    v2 = names["something v2"].class_names
    assert v2 == ("Holding something next to something", "Closing something", "Opening something")
    assert names["epic kitchens"].space.vocabularies == (("take", "open"), ("bag", "box", "door"))
    assert names["epic kitchens"].space.task == "verb_noun"
    assert names["charades"].space.task == "multi_label"
    assert names["charades"].class_names[1] == "Sitting"
    assert names["charades"].splits["train"].labels.tolist() == [[True, False, True], [False] * 3]


def test_epic_kitchens_times(tmp_path: Path) -> None:
    table = load_collection(write_tree(tmp_path, EPIC)).splits["train"]
    assert table.starts.tolist() == [0.14, 3723.5, 1.0]
    assert table.ends.tolist() == [3.37, 3726.17, 2.0]
    assert table.labels.tolist() == [[1, 2], [0, 0], [0, 0]]


def test_epic_kitchens_without_class_names(tmp_path: Path) -> None:
    files = {name: text for name, text in EPIC.items() if "classes" not in name}
    collection = load_collection(write_tree(tmp_path, files))
    assert collection.space.vocabularies == (("0", "1"), ("0", "1", "2"))
    assert "EPIC_100_verb_classes.csv is not beside the list" in collection.notes[0]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/annotations")
def test_real_epic_kitchens_lines(tmp_path: Path) -> None:
    source = SHARED / "EPIC_100_validation_first40.csv"
    shutil.copy(source, tmp_path / "EPIC_100_validation.csv")
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    write_tree(tmp_path / "v", videos(*(f"{row['video_id']}.MP4" for row in rows)))
    table = load_collection(tmp_path, DataConfig(videos=tmp_path / "v")).splits["val"]
    assert len(table) == len(rows) == 40
    assert [table.label_name(i) for i in range(40)] == [
        f"{row['verb_class']}|{row['noun_class']}" for row in rows
    ]
    assert (table.ends > table.starts).all()
    for kind in ("verb", "noun"):
        name = f"EPIC_100_{kind}_classes"
        shutil.copy(SHARED / f"{name}_first19.csv", tmp_path / f"{name}.csv")
    with pytest.raises(ValueError, match=r"line \d+, column \w+_class: class index \d+ is out of"):
        load_collection(tmp_path, DataConfig(videos=tmp_path / "v"))


def test_the_second_split(tmp_path: Path) -> None:
    ucf, hmdb = write_tree(tmp_path / "ucf", UCF), write_tree(tmp_path / "hmdb", HMDB)
    space = LabelSpace("single_label", (("ApplyEyeMakeup", "Archery"),))
    second = load_collection(ucf / "ucfTrainTestlist" / "trainlist02.txt", space=space)
    assert {k: len(t) for k, t in second.splits.items()} == {"train": 1, "val": 1}
    only = load_collection(ucf / "ucfTrainTestlist" / "testlist02.txt", space=space)
    assert only.splits == {"val": second.splits["val"]}
    second = load_collection(hmdb / "splits" / "wave_test_split2.txt")
    assert {k: len(t) for k, t in second.splits.items()} == {"train": 3, "val": 2}
    assert "split 2" in second.notes[0]


# -- lists of paths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a b.mp4 1\nc.mp4 0\n", ["1", "0"]),
        ("a b.mp4\trun fast\nc.mp4\tsit\n", ["run fast", "sit"]),
        ("a b.mp4,run fast\nc.mp4,sit\n", ["run fast", "sit"]),
        ("a b.mp4 run\r\nc.mp4   sit\r\n", ["run", "sit"]),
        ("\ufeffa b.mp4 10\nc.mp4 9", ["10", "9"]),
    ],
)
@pytest.mark.parametrize("name", ["clips.txt", "clips.csv"])
def test_the_label_is_the_last_field(
    tmp_path: Path, text: str, labels: list[str], name: str
) -> None:
    root = write_tree(tmp_path, {name: text, **videos("a b.mp4", "c.mp4")})
    collection = load_collection(root / name)
    assert collection.format == "list"
    assert clips(collection.whole(), root) == list(zip(("a b.mp4", "c.mp4"), labels, strict=True))
    if labels == ["10", "9"]:
        assert collection.class_names == ("9", "10")


@pytest.mark.parametrize("class_file", ["classes.txt", "label_map.txt", "elsewhere/names.txt"])
def test_class_numbers_get_names(tmp_path: Path, class_file: str) -> None:
    files = {
        "train.txt": "a.mp4 1\nb.mp4 0\n",
        "val.txt": "a.mp4 sit\n",
        **videos("a.mp4", "b.mp4"),
    }
    root = write_tree(tmp_path, {**files, class_file: "run\nsit\nstand up\n"})
    classes = root / class_file if "/" in class_file else None
    collection = load_collection(root, DataConfig(classes=classes))
    assert collection.class_names == ("run", "sit", "stand up")
    assert collection.splits["train"].labels.tolist() == [1, 0]
    assert collection.splits["val"].label_name(0) == "sit"


# -- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "task", "labels"),
    [
        ("path,labels\na.mp4,run|laugh\nb.mp4,\n", "multi_label", ["laugh|run", ""]),
        ("path,tags\na.mp4,x \nb.mp4, y | x\n", "multi_label", ["x", "x|y"]),
        ("file,verb,noun\na.mp4,take,cup\nb.mp4,put,cup\n", "verb_noun", ["take|cup", "put|cup"]),
        ("PATH;Label;Start\na.mp4;x|y;1.5\nb.mp4;z;2\n", "single_label", ["x|y", "z"]),
    ],
)
def test_kinds_of_labels(tmp_path: Path, text: str, task: str, labels: list[str]) -> None:
    root = write_tree(tmp_path, {"l.csv": text, **videos("a.mp4", "b.mp4")})
    collection = load_collection(root / "l.csv")
    assert (collection.space.task, collection.format) == (task, "csv")
    assert [label for _, label in clips(collection.whole(), root)] == labels


def test_parquet_is_read_as_the_same_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns: dict[str, Any] = {
        "file": ["a.mp4", "b.mp4", "b.mp4"],
        "start": [None, 1.5, 20.0],
        "end": [3, None, 21],
        "split": ["train", "train", "val"],
    }
    write_tree(tmp_path, videos("a.mp4", "b.mp4"))
    for name, values in (
        ("label", ["x", "y", "x"]),
        ("label", [10, 9, 10]),
        ("labels", [["x", "y|z"], [], ["x"]]),
    ):
        parquet.write_table(pyarrow.table({**columns, name: values}), tmp_path / "l.parquet")
        collection = load_collection(tmp_path / "l.parquet")
        assert collection.format == "parquet"
        kept = write_tree(tmp_path, {"kept.csv": collection.to_csv()}) / "kept.csv"
        assert load_collection(kept) == collection
        table = collection.splits["train"]
        np.testing.assert_array_equal(table.starts, [np.nan, 1.5])
        np.testing.assert_array_equal(table.ends, [3, np.nan])
    parquet.write_table(pyarrow.table({**columns, "label": [b"x", b"y", b"z"]}), tmp_path / "l.pq")
    with pytest.raises(ValueError, match=r"l\.pq, row 1, column label: a value of type bytes"):
        load_collection(tmp_path / "l.pq")
    with pytest.raises(ValueError, match=r"kept\.parquet is no Parquet file"):
        load_collection(kept.rename(tmp_path / "kept.parquet"))


# -- what is refused ---------------------------------------------------------------------------


def replaced(files: dict[str, str], name: str, old: str, new: str) -> dict[str, str]:
    assert old in files[name]
    return {**files, name: files[name].replace(old, new)}


BAD: dict[str, tuple[Callable[[], dict[str, str]], str]] = {
    "kinetics number": (
        lambda: replaced(KINETICS, "train.csv", ",0,10,", ",x,10,"),
        r"train\.csv, line 3, column time_start: 'x' is no time",
    ),
    "kinetics order": (
        lambda: replaced(KINETICS, "train.csv", ",107,117,", ",117,107,"),
        r"train\.csv, line 4, column time_end: the clip ends at 107, not after its start 117",
    ),
    "kinetics column": (
        lambda: replaced(KINETICS, "train.csv", "time_end", "until"),
        r"train\.csv, line 1: column time_end is missing; the header is 'label,youtube_id,",
    ),
    "kinetics without id": (
        lambda: replaced(KINETICS, "val.csv", "ddddddddddd", ""),
        r"val\.csv, line 2, column youtube_id: the video is missing",
    ),
    "something template": (
        lambda: replaced(SOMETHING_V2, "labels/train.json", "Closing [", "Shutting ["),
        r"train\.json, entry 2, column template: unknown class 'Shutting something'; labels\.json",
    ),
    "something key": (
        lambda: replaced(SOMETHING_V2, "labels/train.json", '"id": "42326"', '"ID": "42326"'),
        r"train\.json, entry 2, column id: a text is expected, not None",
    ),
    "something JSON": (
        lambda: replaced(SOMETHING_V2, "labels/train.json", '["box"]}', '["box"]'),
        r"train\.json, line 4, column 1: this is no JSON",
    ),
    "something class number": (
        lambda: replaced(SOMETHING_V2, "labels/labels.json", '"2"', '"3"'),
        r"labels\.json has 3 classes, but none of them is number 2",
    ),
    "something v1 line": (
        lambda: replaced(SOMETHING_V1, "something-something-v1-train.csv", "24413;", "24413,"),
        r"v1-train\.csv, line 2: '24413,Opening something' must be `id;label`",
    ),
    "epic class": (
        lambda: replaced(EPIC, "EPIC_100_validation.csv", "box,1,x", "box,300,x"),
        r"EPIC_100_validation\.csv, line 2, column noun_class: class index 300 is out of range; "
        r"EPIC_100_noun_classes\.csv has 3 classes, 0 to 2",
    ),
    "epic time": (
        lambda: replaced(EPIC, "EPIC_100_train.csv", "01:02:06.17", "01:02"),
        r"train\.csv, line 3, column stop_timestamp: the clip ends at 01:02, not after its start",
    ),
    "epic class file": (
        lambda: replaced(EPIC, "EPIC_100_noun_classes.csv", "\n1,box", "\n4,box"),
        r"noun_classes\.csv, line 3, column id: class 4 stands where class 1 is expected",
    ),
    "ucf index": (
        lambda: replaced(
            UCF, "ucfTrainTestlist/trainlist01.txt", "g08_c01.avi 2", "g08_c01.avi 102"
        ),
        r"trainlist01\.txt, line 2: class index 102 is out of range; classInd\.txt has 1 to 2",
    ),
    "ucf folder": (
        lambda: replaced(UCF, "ucfTrainTestlist/testlist01.txt", "Archery/", "Archer/"),
        r"testlist01\.txt, line 1, column class: unknown class 'Archer'; classInd\.txt has",
    ),
    "hmdb role": (
        lambda: replaced(HMDB, "splits/brush_hair_test_split1.txt", "b.avi 2", "b.avi 3"),
        r"brush_hair_test_split1\.txt, line 2, column role: '3' must be 1 \(train\)",
    ),
    "charades action": (
        lambda: replaced(CHARADES, "Charades_v1_train.csv", "11.90 21.20", "11.90"),
        r"train\.csv, line 2, column actions: 'c002 11\.90' must be `class start end`",
    ),
    "charades order": (
        lambda: replaced(CHARADES, "Charades_v1_train.csv", "0.00 5.00", "6.00 5.00"),
        r"train\.csv, line 2, column actions: action 'c000 6\.00 5\.00' ends before it starts",
    ),
    "charades class": (
        lambda: replaced(CHARADES, "Charades_v1_test.csv", "c000 7 9", "c157 7 9"),
        r"test\.csv, line 2, column actions: unknown class 'c157'; Charades_v1_classes\.txt has 3",
    ),
    "list without label": (
        lambda: replaced(LISTS, "lists/kinetics_train_list_videos.txt", "three.mp4 0", "three.mp4"),
        r"train_list_videos\.txt, line 2: 'three\.mp4' must be `path label`, separated by a blank",
    ),
    "list number": (
        lambda: {**LISTS, "lists/classes.txt": "run\n"},
        r"train_list_videos\.txt, line 1, column label: class index 1 is out of range; "
        r"classes\.txt has 1 classes, 0 to 0",
    ),
    "class twice": (
        lambda: {**LISTS, "lists/classes.txt": "run\nsit\nrun\n"},
        r"classes\.txt, line 3: class 'run' stands on line 1 too",
    ),
    "two training lists": (
        lambda: {**LISTS, "lists/other_train.txt": "three.mp4 0\n"},
        r"lists has several lists \(kinetics_train_list_videos\.txt, other_train\.txt\); say which",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_file_the_line_and_the_column(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        load_collection(write_tree(tmp_path, make()))


# -- missing videos ----------------------------------------------------------------------------


def without_videos(files: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in files.items() if text}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_list_without_videos_is_refused(tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path / "root", without_videos(EXPECTED[name][0]))
    with pytest.raises(FileNotFoundError, match="with --videos DIR"):
        load_collection(root)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_missing_video_stays_in_the_table_and_is_named(tmp_path: Path, name: str) -> None:
    files, _, _, expected = EXPECTED[name]
    gone = expected["val"][0][0]
    whole = load_collection(write_tree(tmp_path / "whole", files))
    root = write_tree(tmp_path / "root", {k: v for k, v in files.items() if k != gone})
    collection = load_collection(root)
    assert {s: t.labels.tolist() for s, t in collection.splits.items()} == {
        s: t.labels.tolist() for s, t in whole.splits.items()
    }
    missing = [path for path in collection.whole().paths if not Path(path).exists()]
    assert [Path(path).stem for path in missing] == [Path(gone).stem]
    note = next(note for note in collection.notes if "missing" in note)
    number = len(set(collection.whole().paths))
    assert f"1 of {number} videos are missing" in note
    assert missing[0] in note


def test_a_video_that_is_there_twice(tmp_path: Path) -> None:
    files = {**SOMETHING_V2, **videos("small/7.mp4")}
    root = write_tree(tmp_path, files)
    with pytest.raises(ValueError, match=r"video 7 is there 2 times .* with --videos DIR"):
        load_collection(root)
    found = load_collection(root, DataConfig(videos=root / "20bn-something-something-v2"))
    assert len(found.whole()) == 3


# -- which format ------------------------------------------------------------------------------


def test_a_format_can_be_named(tmp_path: Path) -> None:
    """Class folders beside lists: the lists are more specific, and the folders can be asked for."""
    files = {
        "train.csv": "path,label\nrun/1.mp4,x\nsit/2.mp4,y\n",
        "val.csv": "path,label\nrun/1.mp4,x\n",
    }
    root = write_tree(tmp_path, {**files, **videos("run/1.mp4", "sit/2.mp4")})
    assert load_collection(root).format == "csv"
    folder = load_collection(root, DataConfig(format="folder"))
    assert (folder.format, folder.class_names) == ("folder", ("run", "sit"))
    with pytest.raises(ValueError, match=r"is not in format ucf101: trainlist01\.txt and"):
        load_collection(root, DataConfig(format="ucf101"))
    with pytest.raises(ValueError, match="unknown format 'json'; known are kinetics, "):
        load_collection(root, DataConfig(format="json"))


def test_a_file_of_no_format(tmp_path: Path) -> None:
    path = write_tree(tmp_path, {"notes.md": "x"}) / "notes.md"
    with pytest.raises(ValueError, match=r"notes\.md is in no known format") as caught:
        load_collection(path)
    assert all(f"\n  {name}: " in str(caught.value) for name in FORMATS)


def test_other_files_beside_class_folders_do_no_harm(tmp_path: Path) -> None:
    files = {
        "README.txt": "hello world 3\n",
        "test_results.csv": "name,score\na,3\n",
        "info.json": '{"id": 3}',
        "annotations/notes.csv": "a,b\n1,2\n",
        **videos("run/1.mp4", "sit/2.mp4", "annotations/3.mp4"),
    }
    collection: Collection = load_collection(write_tree(tmp_path, files))
    assert collection.format == "folder"
    assert collection.class_names == ("annotations", "run", "sit")


@pytest.mark.parametrize("task", ["single_label", "multi_label", "verb_noun"])
def test_labels_of_another_task_than_the_models(tmp_path: Path, task: str) -> None:
    root = write_tree(tmp_path, {"l.csv": "path,label\na.mp4,x\nb.mp4,y\n", **videos("a.mp4")})
    names: tuple[tuple[str, ...], ...] = (("x", "y"),) * (2 if task == "verb_noun" else 1)
    space = LabelSpace(task, names)  # type: ignore[arg-type]
    if task == "single_label":
        assert load_collection(root / "l.csv", space=space).space == space
    else:
        with pytest.raises(
            ValueError, match=f"task single_label, but the model .* {task}; a table"
        ):
            load_collection(root / "l.csv", space=space)
