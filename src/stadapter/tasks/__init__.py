"""What each kind of label means for logits: loss, probabilities, metrics.

A `Task` is made from a `LabelSpace`; training, testing, prediction and reports ask it and know no
label themselves. Files: `task` says what a task is, `exclusive` and `multi_label` are the tasks,
`numbers` are the metrics by themselves.
"""

from collections.abc import Mapping
from typing import Any

from stadapter.data.labels import LabelSpace, TaskName
from stadapter.tasks.exclusive import SingleLabel, VerbNoun
from stadapter.tasks.multi_label import MultiLabel
from stadapter.tasks.numbers import average_precision, wilson_interval
from stadapter.tasks.task import THRESHOLD, Ranking, Task

__all__ = [
    "TASKS",
    "THRESHOLD",
    "MultiLabel",
    "Ranking",
    "SingleLabel",
    "Task",
    "VerbNoun",
    "average_precision",
    "make_task",
    "metrics_text",
    "wilson_interval",
]

TASKS: dict[TaskName, type[Task]] = {
    "single_label": SingleLabel,
    "multi_label": MultiLabel,
    "verb_noun": VerbNoun,
}
"""Task name -> its class."""


def make_task(space: LabelSpace) -> Task:
    """The task of a label space."""
    return TASKS[space.task](space)


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """The numbers of a metrics.json as one line."""
    parts = []
    for name, title in TASKS[metrics["label_space"]["task"]].numbers.items():
        value, interval = metrics[name], metrics.get(f"{name}_interval95")
        if value is not None:
            parts.append(
                f"{title if title.isupper() else title[0].lower() + title[1:]} {value:.1%}"
            )
        if interval is not None:
            parts[-1] += f" (95% interval {interval[0]:.1%} to {interval[1]:.1%})"
    return "  ".join(parts)
