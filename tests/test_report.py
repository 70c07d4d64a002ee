"""The report, from run folders made of real parts and made-up scores."""

import json
import re
from dataclasses import asdict, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from stadapter.data import ClipTable, LabelSpace, Preprocessing, SamplingConfig
from stadapter.data.dataset import BrokenClip
from stadapter.evaluate import Scores
from stadapter.methods import LinearProbeConfig
from stadapter.model import create_model
from stadapter.report import write_report
from stadapter.report.charts import confusion_matrix, nice_ticks, shortened
from stadapter.results import write_results
from stadapter.run import RunFolder

NAMES = ('ärger <b>&"x"', "b", "c")
VOID = {"meta", "img", "br", "circle", "line", "polyline", "rect", "input", "source"}


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.loads: list[str] = []
        self.titles: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attributes):
        self._note(tag, attributes)

    def handle_starttag(self, tag, attributes):
        self._note(tag, attributes)
        if tag not in VOID or tag == "circle":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def _note(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        self.titles += [v for k, v in attributes if k == "title"]


def write_video(path, brightness):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(12):
            picture = np.full((32, 48, 3), brightness + 5 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Four clips: two of the first class, one of each other; the last file does not exist."""
    folder = tmp_path_factory.mktemp("clips <&>")
    paths = [folder / f'clip{i} é&"<.mp4' for i in range(4)]
    for i, path in enumerate(paths[:3]):
        write_video(path, 40 + 40 * i)
    return ClipTable(tuple(map(str, paths)), (0, 0, 1, 2), LabelSpace("single_label", (NAMES,)))


@cache
def tiny_model(num_classes):
    return create_model(
        "tiny", num_classes=num_classes, method=LinearProbeConfig(), pretrained=False
    )


def write_run(path, table, *, log="whole", right=(0, 2), context=None):
    run = RunFolder(path)
    K = len(table.class_names)
    model = tiny_model(K)
    preprocessing = Preprocessing((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model.adapter_set.info = replace(
        model.adapter_set.info,
        space=table.space,
        preprocessing=preprocessing.to_dict(),
        sampling=asdict(SamplingConfig(num_frames=4)),
    )
    model.save_pretrained(path)
    labels = torch.tensor(table.labels)
    said = [y if i in right else (y + 1) % K for i, y in enumerate(table.labels)]
    probabilities = torch.full((len(labels), K), 0.1 / (K - 1))
    probabilities[torch.arange(len(labels)), said] = 0.9
    broken = (BrokenClip(9, "/v/gone <1>.mp4", "no such file & more"),)
    scores = Scores(torch.arange(len(labels)), probabilities, labels, table.space, broken, 1.5)
    write_results(run, scores, table, {"split": "val", "num_frames": 4} | (context or {}))
    lines = []
    for epoch in range(3):
        lines += [{"step": 2 * epoch + i, "epoch": epoch, "loss": 1.0 - epoch / 4} for i in (0, 1)]
        done = {"step": 2 * epoch + 2, "epoch": epoch + 1, "train_loss": 1.0, "val_top1": 0.5}
        lines.append(done)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if log != "none":
        run.log.write_text(text if log == "whole" else text[:-12], encoding="utf-8")
    run.recipe.write_text("# data: /videos/<mine>\nbackbone: tiny\n", encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory, table):
    return write_run(tmp_path_factory.mktemp("run"), table)


def report(tmp_path, runs, **settings) -> tuple[Page, str]:
    out = write_report(tmp_path / "report.html", runs, title='A <report> & "more"', **settings)
    text = out.read_text(encoding="utf-8")
    return Page(text), text


def test_says_what_was_trained_and_how_well(tmp_path, run):
    page, _ = report(tmp_path, {"mine": run})
    assert "linear_probe on backbone tiny" in page.text
    assert "from /videos/<mine>" in page.text
    assert "50.0%" in page.text and "95% interval 15.0% to 85.0%" in page.text
    assert "4 clips scored, 1 broken" in page.text
    assert "no such file & more" in page.text
    assert "torch " in page.text.rpartition("Scored with")[2]
    # Loss and top-1; confusion in two orders; calibration and the two keys of its legend.
    assert page.counts["svg"] == 2 + 2 + 1 + 2
    # Three classes have an example, two clips are wrong and two right; one of them has no file.
    assert page.counts["img"] == 4 * 2 + 3


def test_is_self_contained(tmp_path, run):
    page, text = report(tmp_path, {"mine": run})
    assert page.loads and all(load.startswith(("data:image/", "#")) for load in page.loads)
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert "default-src 'none'" in text


def test_names_are_escaped(tmp_path, table, run):
    page, text = report(tmp_path, {'<i>&"': run})
    assert "<report>" not in text and "<b>&" not in text and "<i>" not in text
    assert NAMES[0] in page.text
    assert table.paths[1] in page.titles
    assert Path(table.paths[1]).name in page.text


def test_same_bytes_each_time(tmp_path, run):
    assert report(tmp_path, {"a": run})[1] == report(tmp_path, {"a": run})[1]


def test_frames_are_those_of_the_test(tmp_path, table):
    run = write_run(tmp_path, table, context={"num_frames": 2, "resolution": [24, 32]})
    page, text = report(tmp_path, {"a": run})
    assert page.counts["img"] == 2 * 2 + 3
    assert set(re.findall(r'width="\d+" height="\d+" alt', text)) == {'width="32" height="24" alt'}


def test_videos_that_are_all_gone_are_noted_once_a_section(tmp_path):
    space = LabelSpace("single_label", (NAMES,))
    gone = ClipTable([f"/nowhere/{i}.mp4" for i in range(6)], [0, 0, 1, 1, 2, 2], space)
    page, text = report(tmp_path, {"a": write_run(tmp_path, gone)})
    assert text.count("No frames: no such file.") == 3  # examples, worst, best
    assert "img" not in page.counts


def test_missing_video_is_noted(tmp_path, run):
    page, _ = report(tmp_path, {"a": run})
    assert "No frames: no such file." in page.text


@pytest.mark.parametrize(
    ("log", "says"),
    [("none", "log.jsonl does not exist"), ("cut", "1 of 9 lines of log.jsonl cannot be read")],
)
def test_missing_or_truncated_log_is_noted(tmp_path, table, log, says):
    page, _ = report(tmp_path, {"a": write_run(tmp_path, table, log=log)})
    assert says in page.text
    assert ("nothing to draw" in page.text) == (log == "none")


def test_loss_of_an_unfinished_epoch_is_the_mean_of_its_steps(tmp_path, table):
    run = write_run(tmp_path, table)
    with run.log.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "epoch": 3, "loss": 0.25}\n{"step": 7, "epoch": 3, "loss": null}\n')
    page, _ = report(tmp_path, {"a": run})
    assert "a, epoch 4: 0.25" in page.text


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"top1": "x", "confusion_matrix": [[1]]}'])
def test_unusable_metrics_are_noted(tmp_path, table, content):
    run = write_run(tmp_path, table)
    run.metrics.unlink() if content is None else run.metrics.write_text(content)
    page, _ = report(tmp_path, {"a": run})
    assert "not scored" in page.text
    assert "metrics.json" in page.text


@pytest.mark.parametrize(
    "content", [None, "path,label\nx,y\n", "path,label,prediction,score\n,,,z\n"]
)
def test_unusable_predictions_are_noted(tmp_path, table, content):
    run = write_run(tmp_path, table)
    run.predictions.unlink() if content is None else run.predictions.write_text(content)
    page, _ = report(tmp_path, {"a": run})
    assert "No clips are shown: predictions.csv" in page.text
    assert page.counts["svg"] == 2 + 2 + 1 + 2


def test_empty_folder_gives_a_page_of_notes(tmp_path):
    page, _ = report(tmp_path, {"a": RunFolder(tmp_path / "nothing")})
    assert "not scored" in page.text
    assert "adapter_config.json is missing" in page.text


def test_several_runs_share_charts_and_recall(tmp_path, table, run):
    better = write_run(tmp_path / "better", table, right=(0, 1, 2, 3))
    results = [
        {"method": "a", "trained_parameters": 387, "total_parameters": 1223427, "top1": 0.5}
        | {"adapter_bytes": 1_250_000, "seconds": 61.0},
        {
            "method": "b <",
            "trained_parameters": 5,
            "total_parameters": 10,
            "top1": 1.0,
            "gpu": None,
        },
    ]
    page, text = report(tmp_path, {"a": run, "b": better}, results=results)
    assert text.count('class="matrix"') == 2 + 1  # where all is right there is one order
    assert text.count("Recall of each class") == 1
    assert "0.03%" in page.text and "1.25 MB" in page.text and "1 min 01 s" in page.text
    assert "trains 387 parameters, 0.03% of 1,223,427" in page.text
    assert "Every clip was classified correctly." in page.text
    assert {"#results", "#curves", "#run0", "#run1"} <= set(page.loads)


def test_runs_with_other_classes_have_a_recall_table_each(tmp_path, table, run):
    other = write_run(
        tmp_path / "other", replace(table, space=LabelSpace("single_label", (("x", "y", "z"),)))
    )
    _, text = report(tmp_path, {"a": run, "b": other})
    assert text.count("Recall of each class") == 2


@pytest.mark.parametrize(
    ("num_classes", "pictures", "numbers"), [(30, 0, True), (31, 0, False), (101, 2, True)]
)
def test_many_classes(tmp_path, num_classes, pictures, numbers):
    names = tuple(f"class {k:03d}" for k in range(num_classes))
    labels = tuple(range(num_classes))
    space = LabelSpace("single_label", (names,))
    many = ClipTable([f"/nowhere/{k}.mp4" for k in labels], labels, space)
    page, text = report(tmp_path, {"a": write_run(tmp_path, many)})
    assert text.count('class="matrix"') == (1 if pictures else 2)
    assert text.count('class="pixels"') == pictures
    assert ('text-anchor="middle">1</text>' in text.partition("Confusion matrix")[2]) == numbers
    assert f"{num_classes - 24} more classes left out" in page.text
    assert f"12 of {num_classes - 2} misclassified clips" in page.text
    assert "Most confused pairs" in page.text


def test_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        write_report(tmp_path / "r.html", {}, title="x")


def test_confusion_colour_is_the_share_of_the_row():
    svg = confusion_matrix([[3, 1], [0, 0]], ["a", "b"])
    assert svg.count('class="cell"') == 2
    assert "a, predicted b: 1 of 4 (25.0%)" in svg


@pytest.mark.parametrize("largest", [1e-7, 0.31, 1, 7, 99, 12345])
def test_ticks_cover_the_largest_value(largest):
    ticks = nice_ticks(largest, 5)
    assert ticks[0] == 0 and ticks[-2] < largest <= ticks[-1] and len(ticks) <= 7


def test_long_names_are_cut_by_width():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("動画分類器", 6) == "動画…"
