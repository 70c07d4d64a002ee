"""What is taken for what: the matrix in two orders, and the most frequent mistakes."""

from collections.abc import Sequence

from stadapter.data.labels import VOCABULARIES
from stadapter.report.charts import confusion_matrix
from stadapter.report.order import similarity_order
from stadapter.report.page import choice, escape, percent, table
from stadapter.report.plots import matrix_picture
from stadapter.report.record import RunRecord

MAX_MATRIX = 60
"""Classes up to which the whole matrix has names; of more, a picture and a matrix of the
`NUM_WORST` most confused."""
NUM_WORST = 30

Counts = Sequence[Sequence[int]]


def confusion_section(run: RunRecord, kind: str, name: str) -> str:
    """Matrix and pairs of one vocabulary; `name` is unique on the page."""
    counts = run.confusions[kind]
    vocabularies = zip(VOCABULARIES[run.space.task], run.space.vocabularies, strict=True)
    names = dict(vocabularies)[kind]
    of = "" if kind == "label" else f" of {kind}s"
    word = "class" if kind == "label" else kind
    pairs = sorted(
        (-count, i, j)
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if count and i != j
    )
    few = len(names) <= MAX_MATRIX
    show = _whole_matrix if few else _large_matrix
    rows = [
        [escape(names[i]), escape(names[j]), f"{-n:,}", percent(-n / sum(counts[i]))]
        for n, i, j in pairs[: 6 if few else 30]
    ]
    header = [f"True {word}", "Predicted as", "Clips", f"Of the {word}"]
    box = table(header, rows, kinds=["", "", "num", "num"]) if rows else "<p>None.</p>"
    return f"<h3>Confusion{of}</h3>{show(counts, names, name)}<h3>Most confused pairs{of}</h3>{box}"


def _whole_matrix(counts: Counts, names: Sequence[str], name: str) -> str:
    numbers = "numbers are clips, " if len(names) <= NUM_WORST else ""
    text = f"True classes down, predictions across; {numbers}colour is the share of the row."
    return f"<p>{text}</p>" + _two_orders(counts, names, name)


def _two_orders(counts: Counts, names: Sequence[str], name: str) -> str:
    order = similarity_order(counts)
    listed = _box(confusion_matrix(counts, names))
    if order == list(range(len(names))):  # nothing to choose from
        return listed
    similar = _box(confusion_matrix(_reordered(counts, order), [names[k] for k in order]))
    return choice(name, "Order", [("By similarity", similar), ("As listed", listed)])


def _large_matrix(counts: Counts, names: Sequence[str], name: str) -> str:
    order = similarity_order(counts)
    pictures = [
        ("By similarity", _box(matrix_picture(_reordered(counts, order)))),
        ("As listed", _box(matrix_picture(counts))),
    ]
    mistakes = [
        sum(row) + sum(other[k] for other in counts) - 2 * row[k] for k, row in enumerate(counts)
    ]
    worst = sorted(range(len(names)), key=lambda k: (-mistakes[k], k))[:NUM_WORST]
    worst = [k for k in order if k in set(worst)]
    part = [[*row, rest] for row, rest in _with_rest(counts, worst)]
    columns = [*(names[k] for k in worst), "all others"]
    picture = confusion_matrix(part, [names[k] for k in worst], columns)
    return (
        f"<p>All {len(names):,} classes, a pixel for each pair: true classes down, predictions "
        "across, the colour is the share of the row. Blocks beside the diagonal are classes that "
        f"are mistaken for each other.</p>{choice(name, 'Order', pictures)}"
        f"<p>The {len(worst)} classes with the most mistakes, with names and numbers of clips.</p>"
        f"{_box(picture)}"
    )


def _with_rest(counts: Counts, classes: Sequence[int]) -> list[tuple[list[int], int]]:
    """Rows of some classes: their columns, and the sum of the other columns."""
    rows = [[counts[i][j] for j in classes] for i in classes]
    return [(row, sum(counts[i]) - sum(row)) for i, row in zip(classes, rows, strict=True)]


def _reordered(counts: Counts, order: Sequence[int]) -> list[list[int]]:
    return [[counts[i][j] for j in order] for i in order]


def _box(picture: str) -> str:
    return f'<div class="scroll pad" tabindex="0">{picture}</div>'
