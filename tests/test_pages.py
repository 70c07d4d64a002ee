"""The report and the comparison in a real browser: nothing broken, nothing beyond the edge."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browser import EXECUTABLE, Browser, browser
from test_report import table, write_run  # noqa: F401  (a fixture)
from test_tasks import MULTI, PAIRS, draw

from stadapter.compare import compare_runs, write_comparison
from stadapter.data import ClipTable, LabelSpace
from stadapter.evaluate import Scores
from stadapter.report import write_report
from stadapter.results import write_results
from stadapter.run import RunFolder
from stadapter.tasks import make_task

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here")
WIDTHS = (1280, 390)
LONG = "a class with <i>markup</i> and a name that goes on and on, " * 4
PAGES = ("run", "runs", "comparison", "400 classes", "multi_label", "verb_noun", "one clip")


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def scored(folder: Path, space: LabelSpace, n: int, seed: int = 0) -> RunFolder:
    """A run folder with results of n made-up clips that do not exist, and no adapter."""
    folder.mkdir()
    task = make_task(space)
    logits, labels = draw(space, n, seed)
    p = task.probabilities(logits + 3 * task.targets(labels))
    paths = [f"/nowhere/{i % 3}/{'long name ' * 9}{i}.mp4" for i in range(n)]
    clips = ClipTable(paths, labels.numpy(), space)
    seconds = torch.arange(n).double()
    scores = Scores(torch.arange(n), p, labels, space, (), 1.0, p.roll(1, 0), seconds)
    write_results(RunFolder(folder), scores, clips, {"split": "val"})
    return RunFolder(folder)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, table: ClipTable) -> dict[str, Path]:  # noqa: F811
    folder = tmp_path_factory.mktemp("pages")
    run = write_run(folder / "first", table, context={"num_temporal_views": 2, "seed": 0})
    (folder / "first" / "split.csv").write_text(
        "path,label,split\n" + "".join(
            f'"{path.replace(chr(34), chr(34) * 2)}",b,train\n' for path in table.paths[:2]
        )
    )  # fmt: skip
    other = write_run(folder / "a second one", table, right=(0, 1, 2, 3))
    names = (LONG, *(f"class {k}" for k in range(1, 400)))
    made = {
        "400 classes": scored(folder / "many", LabelSpace.single_label(names), 2000),
        "multi_label": scored(folder / "multi", MULTI, 40),
        "verb_noun": scored(folder / "pairs", PAIRS, 40),
        "one clip": scored(folder / "one", LabelSpace.single_label("ab"), 1),
    }
    runs = {"run": {"first": run}, "runs": {"first": run, LONG: other}}
    runs |= {name: {name: made_run} for name, made_run in made.items()}
    found = {
        name: write_report(folder / f"{name}.html", own, title=f"{name} {LONG}")
        for name, own in runs.items()
    }
    comparison = compare_runs([run.path, other.path])
    return found | {"comparison": write_comparison(comparison, folder / "comparison.html")}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_at_every_width(tab: Browser, pages: dict[str, Path], name: str) -> None:
    assert pages[name].stat().st_size < 10_000_000
    tab.complaints.clear()
    for width in WIDTHS:
        seen = tab.open(pages[name], width=width)
        assert seen["width"] == width
        assert seen["scroll"] <= width, seen["beyond"]
        assert seen["beyond"] == []
        assert seen["dead"] == []
        assert set(seen["shown"]) <= {1}
    assert tab.complaints == []


def test_the_order_of_a_matrix_can_be_chosen(tab: Browser, pages: dict[str, Path]) -> None:
    tab.open(pages["run"], width=390)
    which = "[...document.querySelectorAll('.choice > .option')].map(o => o.offsetHeight > 0)"
    assert tab.run(which) == [True, False]
    tab.run("document.querySelectorAll('.choice > label')[1].click()")
    assert tab.run(which) == [False, True]


def test_pictures_move(tab: Browser, pages: dict[str, Path]) -> None:
    seen = tab.open(pages["run"], width=1280)
    assert seen["images"] > 15
    moving = [
        part for part in pages["run"].read_text(encoding="utf-8").split('"')
        if part.startswith("data:image/webp")
    ]  # fmt: skip
    assert len(moving) == 3
