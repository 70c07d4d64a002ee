"""A flipped clip has the label that its mirror image deserves, or is not flipped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stadapter.data import LabelSpace, Mirror, flipped_clips
from stadapter.data.mirror import mirror_classes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("push left", "push right"),
        ("Push Left", "push RIGHT"),
        ("push_left", "Push-Right"),
        ("PushLeft", "PushRight"),
        ("swipeLEFT2", "swipeRIGHT2"),
        ("left", "right"),
        (
            "Moving something from left to right",
            "Moving something from right to left",
        ),
        ("Moving [something] left", "Moving [something] right"),
        ("turn clockwise", "turn counterclockwise"),
        ("turn clockwise", "turn counter-clockwise"),
        ("Turning Hand Clockwise", "Turning Hand Anti Clockwise"),
        ("TurnClockwise", "TurnAnticlockwise"),
        ("turnclockwise", "turncounterclockwise"),
        ("rotate CW", "rotate CCW"),
        ("pushleft", "pushright"),
        ("lean leftwards", "lean rightwards"),
        ("the left-hand door", "the right-hand door"),
        ("left hand clockwise", "right hand counterclockwise"),
    ],
)
def test_names_of_sides_swap(one: str, other: str) -> None:
    assert mirror_classes([one, "wave", other]) == [2, 1, 0]
    assert mirror_classes([one, "wave"]) == [None, 1]
    assert mirror_classes([other, "wave"]) == [None, 1]


@pytest.mark.parametrize(
    "name", ["bright light", "stand upright", "leftover", "wave", "", "123", "playwright", "então"]
)
def test_names_of_no_side_stay(name: str) -> None:
    assert mirror_classes([name, "right x"]) == [0, None]


def test_a_mirror_class_that_is_not_the_only_one_is_none() -> None:
    assert mirror_classes(["push left", "push right", "push_right"]) == [None, None, None]


NAMES = st.lists(
    st.lists(
        st.sampled_from(["left", "right", "up", "clockwise", "counter", "bright", "bleft", "wave"]),
        min_size=1,
        max_size=3,
    ).map(" ".join),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(names=NAMES)
def test_a_mirror_image_of_a_mirror_image_is_the_thing(names: list[str]) -> None:
    mirror = mirror_classes(names)
    assert all(k is None or mirror[k] == own for own, k in enumerate(mirror))


def test_single_labels() -> None:
    mirror = Mirror(LabelSpace.single_label(["left", "right", "turn left", "wave"]))
    targets = torch.eye(4)
    flipped, chosen = mirror.flip(targets, torch.ones(4, dtype=torch.bool))
    assert chosen.tolist() == [True, True, False, True]
    assert flipped.argmax(1).tolist() == [1, 0, 2, 3]
    untouched, chosen = mirror.flip(targets, torch.zeros(4, dtype=torch.bool))
    assert torch.equal(untouched, targets) and not chosen.any()


def test_several_labels() -> None:
    """A clip is flipped only if all its classes have a mirror."""
    mirror = Mirror(LabelSpace("multi_label", (("left", "right", "turn left", "wave"),)))
    targets = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]).float()
    flipped, chosen = mirror.flip(targets, torch.ones(4, dtype=torch.bool))
    assert chosen.tolist() == [True, True, False, True]
    assert flipped.tolist() == [[0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_verbs_and_nouns_swap_by_themselves() -> None:
    space = LabelSpace("verb_noun", (("open", "turn left", "turn right"), ("left", "right")))
    labels = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 0, 1]])
    flipped, chosen = Mirror(space).flip(labels.float(), torch.tensor([True, True]))
    assert chosen.all()
    assert flipped.tolist() == [[0, 0, 1, 0, 1], [1, 0, 0, 1, 0]]


def test_without_swaps_every_clip_flips_and_keeps_its_label() -> None:
    mirror = Mirror(LabelSpace.single_label(["left", "wave"]), swaps=False)
    targets, chosen = mirror.flip(torch.eye(2), torch.tensor([True, True]))
    assert torch.equal(targets, torch.eye(2)) and chosen.all()
    assert str(mirror) == "half of the clips are mirrored left to right, labels stay"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "b"], ["half of the clips", "no class names a side"]),
        (["go left", "go right", "b"], ["labels swap between 'go left' and 'go right'"]),
        (["go left", "b"], ["half of the clips", "never clips of 'go left'"]),
        (["go left", "turn right"], ["no clip is mirrored"]),
        ([f"go left {k}" for k in range(9)] + ["b"], ["'go left 4', 4 more: a side"]),
    ],
)
def test_it_says_what_it_does(names: list[str], says: list[str]) -> None:
    text = str(Mirror(LabelSpace.single_label(names)))
    assert all(part in text for part in says), text


def test_nothing_is_mirrored_where_every_verb_lacks_its_mirror() -> None:
    space = LabelSpace("verb_noun", (("push left", "lean right"), ("cup", "jar")))
    assert str(Mirror(space)).startswith("no clip is mirrored")
    _, chosen = Mirror(space).flip(torch.tensor([[1.0, 0, 1, 0]]), torch.tensor([True]))
    assert not chosen.any()


def test_half_of_the_clips_are_chosen_anew_each_epoch() -> None:
    first, again, second, other = (
        flipped_clips(range(400), seed=seed, epoch=epoch)
        for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert torch.equal(first, again)
    assert 150 < int(first.sum()) < 250
    assert 100 < int((first != second).sum()) < 300
    assert 100 < int((first != other).sum()) < 300
    assert flipped_clips([7, 3], seed=1, epoch=0).tolist() == first[[7, 3]].tolist()
