"""Losses and scores against counting by hand, for every kind of label."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stadapter.data import LabelSpace
from stadapter.tasks import (
    MultiLabel,
    SingleLabel,
    Task,
    VerbNoun,
    average_precision,
    make_task,
    metrics_text,
)

SINGLE = LabelSpace.single_label([f"class {k}" for k in range(7)])
MULTI = LabelSpace("multi_label", (("a", "b", "c", "d"),))
PAIRS = LabelSpace("verb_noun", (("take", "put", "open"), ("cup", "door", "egg", "jar")))
SPACES = (SINGLE, MULTI, PAIRS)


def draw(space: LabelSpace, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits and labels of n clips."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, space.num_outputs, generator=generator)
    if space.task == "multi_label":
        return logits, torch.rand(n, space.num_outputs, generator=generator) < 0.4
    columns = [torch.randint(len(names), (n,), generator=generator) for names in space.vocabularies]
    return logits, torch.stack(columns, -1).squeeze(-1)


clips_and_seeds = given(n=st.integers(1, 20), seed=st.integers(0, 10**6))


# -- loss and probabilities --------------------------------------------------------------------


@clips_and_seeds
def test_hard_targets_give_the_usual_losses(n: int, seed: int) -> None:
    logits, labels = draw(SINGLE, n, seed)
    task = make_task(SINGLE)
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            task.loss(logits, task.targets(labels), smoothing=smoothing),
            F.cross_entropy(logits, labels, label_smoothing=smoothing),
        )
    logits, labels = draw(MULTI, n, seed)
    task = make_task(MULTI)
    expected = F.binary_cross_entropy_with_logits(logits, labels.float())
    torch.testing.assert_close(task.loss(logits, task.targets(labels)), expected)
    logits, labels = draw(PAIRS, n, seed)
    task = make_task(PAIRS)
    verb, noun = logits[:, :3], logits[:, 3:]
    expected = F.cross_entropy(verb, labels[:, 0]) + F.cross_entropy(noun, labels[:, 1])
    torch.testing.assert_close(task.loss(logits, task.targets(labels)), expected)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.task)
@clips_and_seeds
def test_the_loss_is_how_improbable_the_labels_are(space: LabelSpace, n: int, seed: int) -> None:
    logits, labels = draw(space, n, seed)
    task = make_task(space)
    probability = task.label_probability(task.probabilities(logits), labels)
    loss = task.loss(logits, task.targets(labels))
    per_class = 1 if task.exclusive else space.num_outputs
    torch.testing.assert_close(loss, -probability.log().mean() / per_class)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.task)
@clips_and_seeds
def test_the_prediction_is_the_most_probable_of_all_labels(
    space: LabelSpace, n: int, seed: int
) -> None:
    logits, labels = draw(space, n, seed)
    task = make_task(space)
    probabilities = task.probabilities(logits)
    said = task.predict(probabilities)
    assert said.shape == labels.shape and said.dtype == labels.dtype
    best = task.label_probability(probabilities, said)
    everything = all_labels(space)
    total = torch.zeros(n)
    for label in everything:
        p = task.label_probability(probabilities, label.expand(n, *label.shape))
        assert (p <= best + 1e-6).all()
        total += p
    torch.testing.assert_close(total, torch.ones(n))
    equal = [np.array_equal(a, b) for a, b in zip(said.numpy(), labels.numpy(), strict=True)]
    assert task.correct(probabilities, labels).tolist() == equal


def all_labels(space: LabelSpace) -> list[Tensor]:
    if space.task == "multi_label":
        rows = itertools.product([False, True], repeat=space.num_outputs)
        return [torch.tensor(row) for row in rows]
    rows = itertools.product(*(range(len(names)) for names in space.vocabularies))
    return [torch.tensor(row).squeeze() for row in rows]


def test_smoothing_where_classes_do_not_exclude_each_other_is_refused() -> None:
    logits, labels = draw(MULTI, 3, 0)
    with pytest.raises(ValueError, match=r"label_smoothing \(0.1\) is for classes that exclude"):
        make_task(MULTI).loss(logits, labels.float(), smoothing=0.1)
    make_task(MULTI).check_smoothing(0.0)
    make_task(PAIRS).check_smoothing(0.1)


# -- metrics -----------------------------------------------------------------------------------


def plain_average_precision(scores: list[float], labels: list[bool]) -> float | None:
    """The mean, over the clips with the class, of the precision at their score."""
    values = []
    for score, label in zip(scores, labels, strict=True):
        if label:
            above = [y for s, y in zip(scores, labels, strict=True) if s >= score]
            values.append(sum(above) / len(above))
    return sum(values) / len(values) if values else None


@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), min_size=3, max_size=3),  # few values: many ties
            st.lists(st.booleans(), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=15,
    )
)
def test_map_equals_counting(rows: list[tuple[list[int], list[bool]]]) -> None:
    scores = torch.tensor([row for row, _ in rows]) / 8
    labels = torch.tensor([row for _, row in rows])
    expected = [
        plain_average_precision(scores[:, k].tolist(), labels[:, k].tolist()) for k in range(3)
    ]
    found = average_precision(scores, labels)
    assert [x is None for x in found] == [x is None for x in expected]
    known = [x for x in expected if x is not None]
    assert [x for x in found if x is not None] == pytest.approx(known)
    task = make_task(LabelSpace("multi_label", (("a", "b", "c"),)))
    metrics = task.metrics(scores, labels)
    json.dumps(metrics)
    if known:
        assert metrics["mAP"] == pytest.approx(sum(known) / len(known))
        assert task.headline(scores, labels) == metrics["mAP"]
        micro = plain_average_precision(scores.flatten().tolist(), labels.flatten().tolist())
        assert metrics["micro_AP"] == pytest.approx(micro)
    else:
        assert metrics["mAP"] is metrics["micro_AP"] is task.headline(scores, labels) is None
    assert metrics["clips_per_class"] == [sum(column) for column in labels.T.tolist()]
    assert "mAP" in metrics_text(metrics | {"label_space": MULTI.to_dict()}) or not known


@clips_and_seeds
def test_f1_equals_counting(n: int, seed: int) -> None:
    logits, labels = draw(MULTI, n, seed)
    task = make_task(MULTI)
    p = task.probabilities(logits)
    metrics = task.metrics(p, labels)
    f1 = []
    all_hits = all_counts = 0
    for k in range(4):
        said, true = {i for i in range(n) if p[i, k] > 0.5}, {i for i in range(n) if labels[i, k]}
        all_hits += len(said & true)
        all_counts += len(said) + len(true)
        if true:
            f1.append(2 * len(said & true) / (len(said) + len(true)))
    assert metrics["micro_F1"] == pytest.approx(2 * all_hits / max(1, all_counts))
    if f1:
        assert metrics["macro_F1"] == pytest.approx(sum(f1) / len(f1))


@given(
    num_verbs=st.integers(1, 8),
    num_nouns=st.integers(2, 9),
    n=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_actions_equal_ranking_all_pairs(num_verbs: int, num_nouns: int, n: int, seed: int) -> None:
    verbs, nouns = (tuple(f"{kind}{k}" for k in range(size)) for kind, size in
                    (("v", num_verbs), ("n", num_nouns)))  # fmt: skip
    space = LabelSpace("verb_noun", (verbs, nouns))
    task = make_task(space)
    assert isinstance(task, VerbNoun)
    logits, labels = draw(space, n, seed)
    p = task.probabilities(logits)
    metrics = task.metrics(p, labels)
    json.dumps(metrics)
    hits = {1: 0, 5: 0}
    for i, (verb, noun) in enumerate(labels.tolist()):
        ranked = sorted(
            itertools.product(range(num_verbs), range(num_nouns)),
            key=lambda pair: -float(p[i, pair[0]] * p[i, num_verbs + pair[1]]),
        )
        for k in hits:
            hits[k] += (verb, noun) in ranked[:k]
        told = task.rank(p[i], top_k=5)
        assert [name for name, _ in told["action"]] == [
            f"{verbs[v]}|{nouns[m]}" for v, m in ranked[:5]
        ]
        assert told["verb"][0][0] == verbs[int(p[i, :num_verbs].argmax())]
        assert len(told["noun"]) == min(5, num_nouns)
    assert metrics["action_top1"] == pytest.approx(hits[1] / n)
    if num_verbs * num_nouns > 5:
        assert metrics["action_top5"] == pytest.approx(hits[5] / n)
    else:
        assert metrics["action_top5"] is None
    assert metrics["action_top1"] == task.headline(p, labels)
    right_verbs = (p[:, :num_verbs].argmax(1) == labels[:, 0]).float().mean()
    assert metrics["verb_top1"] == pytest.approx(float(right_verbs))
    right = int((p[:, num_verbs:].argmax(1) == labels[:, 1]).sum())
    assert metrics["noun_top1"] == pytest.approx(right / n)
    assert sum(map(sum, metrics["noun_confusion_matrix"])) == n
    assert metrics["action_top1"] <= min(metrics["verb_top1"], metrics["noun_top1"]) + 1e-6


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.task)
def test_every_number_that_is_shown_is_there(space: LabelSpace) -> None:
    logits, labels = draw(space, 9, 1)
    task = make_task(space)
    metrics = task.metrics(task.probabilities(logits), labels)
    assert task.numbers.keys() <= metrics.keys()
    headline = next(iter(task.numbers))
    assert metrics[headline] == pytest.approx(task.headline(task.probabilities(logits), labels))
    assert f"{metrics[headline]:.1%}" in metrics_text(metrics | {"label_space": space.to_dict()})


def test_what_is_told_about_a_clip() -> None:
    p = torch.tensor([0.1, 0.9, 0.6, 0.55])
    task = make_task(MULTI)
    names = [(name, pytest.approx(score)) for name, score in (("b", 0.9), ("c", 0.6), ("d", 0.55))]
    assert task.rank(p, top_k=1) == {"label": names}
    assert task.rank(p, top_k=1, threshold=0.58) == {"label": names[:2]}
    assert task.rank(p, top_k=1, threshold=0.95) == {"label": []}
    ranking = make_task(SINGLE).rank(torch.arange(7.0), top_k=2)
    assert ranking == {"label": [("class 6", 6.0), ("class 5", 5.0)]}


# -- rare classes ------------------------------------------------------------------------------


def rare(space: LabelSpace, n: int, seed: int) -> Tensor:
    """Labels in which low numbers are frequent."""
    generator = random.Random(seed)
    if space.task == "multi_label":
        return torch.tensor(
            [[generator.random() < 0.5 / (k + 1) for k in range(4)] for _ in range(n)]
        )
    rows = [
        [int(len(names) * generator.random() ** 3) for names in space.vocabularies]
        for _ in range(n)
    ]
    return torch.tensor(rows).squeeze(-1)


@given(n=st.integers(2, 50), seed=st.integers(0, 10**6))
def test_loss_weights_make_classes_count_the_same(n: int, seed: int) -> None:
    labels = rare(SINGLE, n, seed)
    weights = SingleLabel(SINGLE).class_weights(labels)
    totals = torch.zeros(7).index_add(0, labels, weights[labels])
    present = torch.bincount(labels, minlength=7) > 0
    torch.testing.assert_close(
        totals[present], torch.full((int(present.sum()),), n / present.sum())
    )
    labels = rare(PAIRS, n, seed)
    verb = SingleLabel(LabelSpace.single_label(PAIRS.vocabularies[0])).class_weights(labels[:, 0])
    torch.testing.assert_close(VerbNoun(PAIRS).class_weights(labels)[:3], verb)
    labels = rare(MULTI, n, seed)
    weights = MultiLabel(MULTI).class_weights(labels)
    for k, positives in enumerate(labels.sum(0).tolist()):
        if 0 < positives < n:
            assert float(weights[k]) * positives == pytest.approx(n - positives)
    assert (weights > 0).all()


@given(n=st.integers(2, 50), seed=st.integers(0, 10**6))
def test_drawing_by_clip_weights_makes_classes_come_equally_often(n: int, seed: int) -> None:
    labels = rare(SINGLE, n, seed)
    weights = make_task(SINGLE).clip_weights(labels)
    shares = torch.zeros(7, dtype=torch.float64).index_add(0, labels, weights)
    torch.testing.assert_close(shares[shares > 0], torch.ones_like(shares[shares > 0]))
    pairs = rare(PAIRS, n, seed)
    expected = [
        sum(1 / int((column == column[i]).sum()) for column in pairs.T) / 2 for i in range(n)
    ]
    assert make_task(PAIRS).clip_weights(pairs).tolist() == pytest.approx(expected)
    many = rare(MULTI, n, seed)
    classes = [set(np.flatnonzero(row)) or {"none"} for row in many.numpy()]
    count = {c: sum(c in other for other in classes) for own in classes for c in own}
    expected = [sum(1 / count[c] for c in own) / len(own) for own in classes]
    assert make_task(MULTI).clip_weights(many).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.task)
def test_balanced_labels_weigh_the_same(space: LabelSpace) -> None:
    task: Task = make_task(space)
    rows = all_labels(space)
    labels = torch.stack(rows)
    torch.testing.assert_close(task.class_weights(labels), torch.ones(space.num_outputs))
    if task.exclusive:
        weights = task.clip_weights(labels)
        torch.testing.assert_close(weights, torch.full_like(weights, float(weights[0])))
    logits, labels = draw(space, 5, 3)
    weighted = task.loss(
        logits, task.targets(labels), class_weights=torch.full((space.num_outputs,), 1.0)
    )
    torch.testing.assert_close(weighted, task.loss(logits, task.targets(labels)))
    assert not math.isnan(float(weighted))
