"""What a label may be: one class per clip, any number of classes, or a verb with a noun.

A `LabelSpace` names the classes and says how they are laid out in the logits; annotations fill it,
the model's head is as wide as it, tasks score in it, and it travels in the adapter file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

TaskName = Literal["single_label", "multi_label", "verb_noun"]

VOCABULARIES: dict[TaskName, tuple[str, ...]] = {
    "single_label": ("label",),
    "multi_label": ("label",),
    "verb_noun": ("verb", "noun"),
}
"""Names of each task's vocabularies, in the order of the logits."""
_PLURALS: dict[TaskName, tuple[str, ...]] = {
    "single_label": ("classes",),
    "multi_label": ("classes",),
    "verb_noun": ("verbs", "nouns"),
}


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a task. The logits of its vocabularies lie side by side."""

    task: TaskName
    """single_label: exactly one class per clip; multi_label: any number, also none; verb_noun: one
    verb and one noun."""
    vocabularies: tuple[tuple[str, ...], ...]
    """Class names of each vocabulary of the task, in the order of the logits."""

    def __post_init__(self) -> None:
        if self.task not in VOCABULARIES:
            raise ValueError(f"task {self.task!r} must be one of {', '.join(VOCABULARIES)}")
        vocabularies = tuple(tuple(names) for names in self.vocabularies)
        object.__setattr__(self, "vocabularies", vocabularies)  # JSON gives lists
        if len(vocabularies) != len(VOCABULARIES[self.task]):
            raise ValueError(
                f"task {self.task} has vocabularies {', '.join(VOCABULARIES[self.task])}, but "
                f"{len(vocabularies)} are given"
            )

    @property
    def num_outputs(self) -> int:
        """K, width of the logits."""
        return sum(len(names) for names in self.vocabularies)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each logit; with several vocabularies as "verb:take", "noun:cup"."""
        if len(self.vocabularies) == 1:
            return self.vocabularies[0]
        prefixes = VOCABULARIES[self.task]
        pairs = zip(prefixes, self.vocabularies, strict=True)
        return tuple(f"{prefix}:{name}" for prefix, names in pairs for name in names)

    def named_vocabularies(self) -> dict[str, tuple[str, ...]]:
        """What the names of each vocabulary are called ("classes", "verbs", "nouns") -> names."""
        return dict(zip(_PLURALS[self.task], self.vocabularies, strict=True))

    def summary(self) -> str:
        """For people: "3 classes", "157 classes, any number per clip", "97 verbs, 300 nouns"."""
        vocabularies = self.named_vocabularies().items()
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in vocabularies)
        return counts + (", any number per clip" if self.task == "multi_label" else "")

    @classmethod
    def single_label(cls, names: Sequence[str]) -> "LabelSpace":
        """Exactly one of these classes per clip."""
        return cls("single_label", (tuple(names),))

    def label_names(self, label: ArrayLike) -> tuple[str, ...]:
        """Names of one label's classes: one, any number, or verb and noun.

        `label` is an index, a bool for each class, or an index for each vocabulary.
        """
        row = np.atleast_1d(np.asarray(label))
        if row.dtype == bool:
            return tuple(self.class_names[k] for k in np.flatnonzero(row))
        return tuple(names[k] for names, k in zip(self.vocabularies, row, strict=True))

    def classes_of(self, label: ArrayLike) -> tuple[str, ...]:
        """Those of `class_names` that one label names; laid out as for `label_names`."""
        row = np.atleast_1d(np.asarray(label))
        sizes = [len(names) for names in self.vocabularies]
        firsts = np.cumsum([0, *sizes[:-1]])
        outputs = np.flatnonzero(row) if row.dtype == bool else firsts + row
        return tuple(self.class_names[k] for k in outputs)

    def label_name(self, label: ArrayLike) -> str:
        """One label to read: "cup", "run|laugh" (empty for no class), "take|cup"."""
        names = self.label_names(label)
        return names[0] if self.task == "single_label" else join_names(names)

    def split_label_name(self, text: str) -> tuple[str, ...]:
        """The `label_names` of a `label_name`."""
        return (text,) if self.task == "single_label" else tuple(split_names(text))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"task": self.task, "vocabularies": [list(names) for names in self.vocabularies]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LabelSpace":
        """The inverse of `to_dict`.

        Raises:
            ValueError: an entry is missing or impossible.
        """
        if set(content) != {"task", "vocabularies"}:
            raise ValueError(f"a label space has entries task, vocabularies, not {sorted(content)}")
        return cls(content["task"], content["vocabularies"])


def join_names(names: Sequence[str]) -> str:
    """Names in one cell: "a|b"; a bar or backslash inside a name is written after a backslash.

    >>> join_names(["run", "yes|no"])
    'run|yes\\\\|no'
    """
    return "|".join(name.replace("\\", "\\\\").replace("|", "\\|") for name in names)


def split_names(text: str) -> list[str]:
    """The inverse of `join_names`; a backslash before anything else stands for itself.

    >>> split_names("run|laugh")
    ['run', 'laugh']
    """
    if "\\" not in text:
        return text.split("|") if text else []
    names = [""]
    for piece in re.findall(r"\\[\\|]|[^|]|\|", text):
        if piece == "|":
            names.append("")
        else:
            names[-1] += piece[-1]  # without the backslash before it
    return names
