"""Fewer training clips: nested, stratified, from a seed, and validation as it was."""

import csv
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASS_NAMES
from hypothesis import given
from hypothesis import strategies as st

from stadapter.cli import run
from stadapter.data import ClipTable, Collection, DataConfig, LabelSpace, load_collection
from stadapter.data.annotations.subset import take_subset

AMOUNTS: list[dict[str, float]] = [
    *({"clips_per_class": count} for count in (1, 2, 4, 8, 1000)),
    *({"train_fraction": share} for share in (1e-6, 0.1, 0.25, 0.5, 0.99)),
]


@st.composite
def collections(draw: st.DrawFn) -> Collection:
    """1 to 40 training clips of any task, some of one file, and as many for validation."""
    task = draw(st.sampled_from(["single_label", "multi_label", "verb_noun"]))
    vocabularies = [tuple("abc"), tuple("wxyz")][: 2 if task == "verb_noun" else 1]
    space = LabelSpace(task, tuple(vocabularies))
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    labels = {
        "single_label": rng.integers(0, 3, n),
        "multi_label": rng.random((n, 3)) < 0.4,
        "verb_noun": np.stack([rng.integers(0, 3, n), rng.integers(0, 4, n)], 1),
    }[task]
    paths = [f"/data/train/{i // 2}.mp4" for i in range(n)]
    table = ClipTable(paths, labels, space, np.arange(n) % 2.0)
    return Collection({"train": table, "val": table}, space, False)


def clips_of(collection: Collection, split: str = "train") -> list[tuple[str, float, str]]:
    table = collection.splits[split]
    return [(path, table.starts[i], table.label_name(i)) for i, path in enumerate(table.paths)]


def classes_of(clip: tuple[str, float, str]) -> list[str]:
    return clip[2].split("|")  # a clip without labels is of class ""


@given(collections(), st.integers(0, 5))
def test_every_class_keeps_what_was_asked(collection: Collection, seed: int) -> None:
    before = clips_of(collection)
    for amount in AMOUNTS:
        subset = take_subset(collection, **amount, seed=seed)
        kept = clips_of(subset)
        assert kept == [clip for clip in before if clip in kept]  # in their order, none new
        assert clips_of(subset, "val") == clips_of(collection, "val")
        assert subset.space == collection.space
        for name in {name for clip in before for name in classes_of(clip)}:
            there = sum(name in classes_of(clip) for clip in before)
            share = there * amount.get("train_fraction", 1)
            wanted = min(there, amount.get("clips_per_class", max(1, round(share))))
            found = sum(name in classes_of(clip) for clip in kept)
            assert found >= wanted
            if collection.space.task == "single_label":
                assert found == wanted


@given(collections(), st.integers(0, 5))
def test_smaller_subsets_lie_in_larger_ones(collection: Collection, seed: int) -> None:
    for kind in ("clips_per_class", "train_fraction"):
        subsets = [take_subset(collection, **a, seed=seed) for a in AMOUNTS if kind in a]
        for small, large in pairwise(subsets):
            assert set(clips_of(small)) <= set(clips_of(large))
    two = take_subset(collection, clips_per_class=2, seed=seed)
    four = take_subset(collection, clips_per_class=4, seed=seed)
    if len(four.splits["train"]) > 1 and len({c[0] for c in clips_of(four)}) > 1:
        assert clips_of(take_subset(four, clips_per_class=2, seed=seed)) == clips_of(two)


def test_the_choice_is_of_the_seed_and_not_of_order_or_place() -> None:
    space = LabelSpace.single_label("ab")
    labels = [i % 2 for i in range(60)]
    names = [f"{'ab'[k]}/{i}.mp4" for i, k in enumerate(labels)]

    def chosen(root: str, order: list[int], seed: int) -> set[str]:
        table = ClipTable([root + names[i] for i in order], [labels[i] for i in order], space)
        subset = take_subset(
            Collection({"train": table}, space, False), clips_per_class=8, seed=seed
        )
        return {path.removeprefix(root) for path in subset.splits["train"].paths}

    order = list(range(60))
    first = chosen("/here/", order, 0)
    shuffled = random.Random(1).sample(order, 60)
    assert chosen("/a/longer/place/", shuffled, 0) == first
    assert chosen("/here/", order, 1) != first
    rest = [i for i in order if names[i] not in first or names[i] == min(first)]
    assert min(first) in chosen("/here/", rest, 0)  # clips that left bring in others, no more


def test_the_share_of_clips_with_several_classes_is_about_the_one_asked() -> None:
    rng = np.random.default_rng(0)
    space = LabelSpace("multi_label", (tuple("abcdefgh"),))
    table = ClipTable([f"/d/{i}" for i in range(4000)], rng.random((4000, 8)) < 0.3, space)
    subset = take_subset(Collection({"train": table}, space, False), train_fraction=0.1)
    assert 400 <= len(subset.splits["train"]) < 480


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train_fraction": 0.0}, "above 0 and at most 1"),
        ({"train_fraction": 1.5}, "above 0 and at most 1"),
        ({"train_fraction": float("nan")}, "above 0 and at most 1"),
        ({"clips_per_class": 0}, "at least 1"),
        ({"clips_per_class": 2, "train_fraction": 0.5}, "exclude each other"),
    ],
)
def test_impossible_amounts(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataConfig(**settings)


def test_the_list_comes_after_the_skip_list(collection: Path, tmp_path: Path) -> None:
    few = DataConfig(clips_per_class=2)
    table = load_collection(collection, few).splits["train"]
    skip = tmp_path / "skip.csv"
    with skip.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split"), *((path, "") for path in table.paths)])
    second = load_collection(collection, DataConfig(clips_per_class=2, skip_list=skip))
    assert len(second.splits["train"]) == len(table) == 2 * len(CLASS_NAMES)
    assert not {*table.paths} & {*second.splits["train"].paths}
    assert "skip list" in second.notes[-2]
    assert second.notes[-1] == (
        "clips_per_class 2, seed 0: 6 of 9 training clips are used, 2 of each class"
    )


def test_a_run_keeps_the_list_that_it_trained_on(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["--pretrained=false", "--method.width=8", "--resolution=16", "--num_frames=2"]
    flags += ["--epochs=1", "--num_workers=0", "--device=cpu", "--out", str(out)]
    assert run(["train", str(collection), *flags, "--clips_per_class", "2", "--seed", "5"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "clips_per_class 2, seed 5: 6 of 15 training clips are used, 2 of each class" in said
    kept = load_collection(out / "split.csv")
    expected = load_collection(collection, DataConfig(clips_per_class=2), seed=5)
    assert kept.list_hash() == expected.list_hash()
    whole = load_collection(collection, seed=5)
    assert kept.splits["val"] == whole.splits["val"]
    again = ["train", str(collection), *flags, "--seed", "5", "--resume"]
    assert run([*again, "--clips_per_class", "3"]) == 2
    assert "other clips" in capsys.readouterr().err
    assert run(["eval", str(out), "--clips_per_class", "2"]) == 2  # eval chooses no training clips
