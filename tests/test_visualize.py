"""Where the frozen and the adapted model look: exact maps, honest pictures, whole files."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import CLASS_NAMES
from PIL import Image
from torch import Tensor

from stadapter.backbones import TokenShape, create_backbone
from stadapter.cli.main import run as run_cli
from stadapter.data import VideoError
from stadapter.methods import FullFinetuneConfig, LinearProbeConfig, STAdapterConfig
from stadapter.model import VideoClassifier, create_model
from stadapter.predict import Predictor
from stadapter.recipe import Recipe, train_recipe
from stadapter.visualize import ENDINGS, Observation, VisualizeConfig, observe, visualize
from stadapter.visualize.layers import block_layers, chosen_layers
from stadapter.visualize.maps import (
    Maps,
    clip_maps,
    relative,
)
from stadapter.visualize.motion import motion, motion_seen
from stadapter.visualize.page import _strip
from stadapter.visualize.paint import CHANGE, HEAT, make_layer
from stadapter.visualize.sheet import plain
from stadapter.visualize.words import measured, title

T, DEPTH, HEADS = 3, 4, 4
"""Of `trained_run`: frames, blocks and heads of tiny."""


@pytest.fixture(scope="module")
def clip(collection: Path) -> Path:
    return collection / CLASS_NAMES[1] / "clip 2.mp4"


@pytest.fixture(scope="module")
def shown(trained_run: Path, clip: Path) -> Observation:
    """All blocks, heads and rollouts of the class token."""
    config = VisualizeConfig(map="class_token")
    return observe(trained_run, clip, config, every_block=True, device="cpu")


def _model(id: str) -> tuple[VideoClassifier, Tensor]:
    torch.manual_seed(0)
    backbone = create_backbone(id, pretrained=False)
    model = create_model(backbone, num_classes=3, method=STAdapterConfig(width=8)).eval()
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, torch.randn(1, 2, 3, 64, 64)


# -- maps ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_frozen_maps_are_those_of_the_bare_backbone(
    shown: Observation, trained_run: Path, clip: Path
) -> None:
    """Against the loop written out by hand: no adapters, no head."""
    predictor = Predictor(trained_run, device="cpu")
    video = predictor.reader.preprocessing.normalize(predictor.reader(str(clip)))[0]
    backbone = create_backbone("tiny", pretrained=False)
    tokens, shape = backbone.embed(video), TokenShape(T, 4, 4, 1)
    joint = torch.eye(17)
    for i, block in enumerate(backbone.blocks):
        weights = block.attention_weights(tokens, shape)
        expected = weights[:, :, 0, 1:].reshape(T, HEADS, 4, 4)
        torch.testing.assert_close(shown.frozen[i].heads, expected.transpose(0, 1))
        torch.testing.assert_close(shown.frozen[i].mean, expected.mean(1))
        joint = (weights.mean(1) + torch.eye(17)) / 2 @ joint  # arXiv 2005.00928, equation 1
        rollout = shown.frozen[i].rollout
        assert rollout is not None
        torch.testing.assert_close(rollout, joint[:, 0, 1:].reshape(T, 4, 4))
        tokens = tokens + block.attention(tokens, shape)
        tokens = tokens + block.mlp(tokens)


def test_the_adapted_maps_differ_once_patches_reach_them(shown: Observation) -> None:
    """Even the first attention of the class token sees keys that an adapter has changed."""
    assert set(shown.frozen) == set(shown.adapted) == set(range(DEPTH))
    for i in range(DEPTH):
        assert not torch.allclose(shown.frozen[i].mean, shown.adapted[i].mean)
        assert not any("No difference" in line for line in measured(shown, i))
    assert shown.block == DEPTH - 1


def test_the_prediction_is_that_of_predict(
    shown: Observation, trained_run: Path, clip: Path
) -> None:
    [prediction] = Predictor(trained_run, device="cpu").predict([clip], top_k=1)
    [(label, score)] = shown.ranking
    assert label == prediction.labels[0] and score == pytest.approx(prediction.scores[0])
    assert title(shown) == f"clip 2.mp4: predicted {label} ({score:.1%})"


def test_other_methods_have_the_same_frozen_model(
    collection: Path, recipe: Recipe, shown: Observation, clip: Path, tmp_path: Path
) -> None:
    """Full fine-tuning changes the backbone, a linear probe changes nothing that is drawn."""
    config = VisualizeConfig(map="class_token")
    for method in (FullFinetuneConfig(), LinearProbeConfig()):
        run = tmp_path / method.name
        short = replace(recipe.train, epochs=1)
        train_recipe(replace(recipe, method=method, train=short), collection, run)
        other = observe(run, clip, config, device="cpu")
        assert torch.equal(other.frozen[3].heads, shown.frozen[3].heads)
        same = torch.equal(other.adapted[3].heads, other.frozen[3].heads)
        assert same == (method.name == "linear_probe")
        assert same == any("No difference" in line for line in measured(other, 3))


def test_norms_are_of_what_a_block_adds() -> None:
    """Over all blocks of a plain ViT the additions sum to the way from first to last tokens."""
    model, video = _model("tiny")
    found, _ = clip_maps(model, video, "patch_norm", blocks=range(DEPTH))
    with torch.no_grad():
        tokens, shape = model.embed(video)
        for i, block in enumerate(model.backbone.blocks):
            before = tokens
            tokens = model.adapter_set.adapt(tokens, "attention", i, shape)
            tokens = tokens + block.attention(tokens, shape)
            tokens = model.adapter_set.adapt(tokens, "mlp", i, shape)
            tokens = tokens + block.mlp(tokens)
            expected = (tokens - before)[:, 1:].norm(dim=-1).reshape(2, 8, 8)
            torch.testing.assert_close(found[i].mean, expected)


def test_a_method_that_also_attends_over_time_is_seen_in_space() -> None:
    """As AIM does: the same attention on tokens (N, T, D), beside the one within frames."""

    class OverTime(VideoClassifier):
        def run_blocks(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
            for block in self.backbone.blocks:
                tokens, shape = block.merge(tokens, shape)
                tokens = tokens + block.attention(tokens, shape)
                across = tokens.transpose(0, 1)
                block.attention(across, TokenShape(len(across), 1, across.shape[1], 0))
                block.attention(across, shape)
                tokens = tokens + block.mlp(tokens)
            return tokens, shape

    backbone = create_backbone("tiny")
    method = LinearProbeConfig()
    models = [kind(backbone, method.build(backbone, 2)) for kind in (VideoClassifier, OverTime)]
    video = torch.randn(1, 5, 3, 64, 64)
    plain_maps, over_time = (
        clip_maps(model.eval(), video, "class_token", blocks=[3])[0][3] for model in models
    )
    assert torch.equal(over_time.heads, plain_maps.heads)


def test_watching_leaves_no_trace() -> None:
    model, video = _model("tiny")
    before = [dict(vars(block)) for block in model.backbone.blocks]
    clip_maps(model, video, "class_token", blocks=[0])
    model.adapter_set.adapters["mlp"]["2"] = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError):
        clip_maps(model, video, "class_token", blocks=[0])
    assert [dict(vars(block)) for block in model.backbone.blocks] == before


# -- colours and numbers ---------------------------------------------------------------------------


def test_both_models_have_one_scale_and_even_attention_no_colour() -> None:
    even, peak = torch.full((2, 4, 4), 0.02), torch.full((2, 4, 4), 0.02)
    peak[:, 1, 2] = 0.5
    assert torch.allclose(relative(even), torch.ones(1))
    layer = make_layer(even, peak)
    assert layer.frozen.max() == 0 and HEAT[0, 3] == 0
    assert layer.adapted[0, 1, 2] == 255 and layer.adapted.sum() == 2 * 255
    assert layer.change[0, 1, 2] == 255 and (layer.change < 128).sum() == 2 * 15
    same = make_layer(peak, peak)
    assert (same.change == 128).all() and CHANGE[128, 3] == 0
    assert np.array_equal(same.frozen, same.adapted)


def test_a_map_in_the_page_keeps_its_order() -> None:
    """The brightest patch stays the brightest with a quarter of the colours."""
    numbers = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    data = _strip(numbers, HEAT).partition("base64,")[2]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
    opacity = pixels[..., 3].reshape(-1).astype(int)
    assert opacity[0] == 0 and (np.diff(opacity) >= 0).all() and opacity[-1] > 220


def test_motion_is_where_something_moves() -> None:
    frames = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    for t in range(4):
        frames[t, :, 8:16, 8 * t : 8 * t + 8] = 200
    moved = motion(frames, (4, 4))
    assert moved.shape == (4, 4, 4) and moved[:, [0, 2, 3]].sum() == 0
    assert moved[0, 1].tolist() == [50 * 4, 50 * 4, 0, 0] or moved[0, 1, 2:].sum() == 0
    even = torch.ones(4, 4, 4)
    assert motion_seen(even, frames) == pytest.approx(1)
    assert (motion_seen(moved, frames) or 0) > 4
    elsewhere = torch.zeros(4, 4, 4)
    elsewhere[:, 3] = 1
    assert motion_seen(elsewhere, frames) == 0
    assert motion_seen(even, frames[:1].expand(4, -1, -1, -1)) is None
    assert motion_seen(even[:1], frames[:1]) is None


def test_attention_beside_patches_is_told() -> None:
    maps = torch.full((2, 4, 4), 0.05)
    assert Maps(maps, maps[None]).on_patches == pytest.approx(0.8)


def test_layers_follow_the_settings(shown: Observation) -> None:
    every = ["mean", "rollout", "1", "2", "3", "4"]
    assert list(block_layers(shown, 0)) == every
    for head, names in (("all", every), ("mean", ["mean"]), (2, ["2"])):
        assert list(chosen_layers(shown, VisualizeConfig(head=head))) == names  # type: ignore[arg-type]
    assert list(chosen_layers(shown, VisualizeConfig(rollout=True))) == ["rollout"]
    for head in (0, 5, -1):
        with pytest.raises(ValueError, match=f"head {head} is out of range: .* heads 1 to 4"):
            chosen_layers(shown, VisualizeConfig(head=head))


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["mean", "all"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_each_ending(ending: str, head: str, trained_run: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / f"a picture{ending.upper()}"
    arguments = [str(trained_run), str(clip), "--out", str(out), "--head", head, "--size", "33"]
    assert run_cli(["visualize", *arguments, "--device", "cpu"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    if ending == ".html":
        _check_page(out.read_text(encoding="utf-8"))
    elif ending == ".mp4":
        with av.open(str(out)) as container:
            assert container.streams.video[0].average_rate == 2
            assert len(list(container.decode(video=0))) == T
    else:
        with Image.open(out) as image:
            assert getattr(image, "n_frames", 1) == (T if ending == ".gif" else 1)
            assert image.format == ending[1:].upper()
    assert run_cli(["visualize", *arguments]) == 2  # it is there


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _check_page(page: str) -> None:
    """tiny is averaged, so norms are drawn: no heads, three rows in each block."""
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    tags = [tag for tag, _ in reader.seen]
    assert "script" not in tags and "link" not in tags
    images = [attributes for tag, attributes in reader.seen if tag == "img"]
    assert len(images) == 3 * DEPTH
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in images)
    assert set(re.findall(r"url\((.{5})", page)) == {"data:"}
    [checked] = [a["id"] for tag, a in reader.seen if tag == "input" and "checked" in a]
    assert checked == f"b{DEPTH - 1}"
    assert "How much the block changes each patch" in page


def test_the_page_has_all_heads_of_all_blocks(
    trained_run: Path, clip: Path, tmp_path: Path
) -> None:
    config = VisualizeConfig(map="class_token", block=2)
    visualize(trained_run, clip, tmp_path / "a.html", config, device="cpu")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("<img ") == DEPTH * 3 * (2 + HEADS)
    assert 'id="b1" checked' in page and page.count(" checked>") == 1
    assert page.count("<h3>") == DEPTH * (2 + HEADS) and "Rollout up to this block" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "a.jpg"], r"a\.jpg must end with one of \.html, \.png, \.gif, \.mp4"),
        (["--out", "none/a.png"], "the folder none of --out does not exist"),
        (["--out", "CLIP"], "is the clip itself"),
        (["--block", "5"], "block 5 is out of range: backbone 'tiny' has blocks 1 to 4"),
        (["--block", "0"], "blocks 1 to 4"),
        (["--map", "class_token", "--head", "9"], "head 9 is out of range: .* heads 1 to 4"),
        (["--head", "2"], "no heads, as norms"),
        (["--head", "some"], "head"),
        (["--rollout"], "have none"),
        (["--rollout", "--head", "all"], "rollout averages the heads"),
        (["--map", "attention_pooling"], "has no attention pooling"),
        (["--view", "2"], "view 2 is out of range"),
        (["--view", "0", "--num_temporal_views", "2"], "gives views 1 to 2"),
        (["--size", "7"], r"size \(7\) must be from 16 to 1024"),
        (["--fps", "0"], r"fps \(0.0\) must be from"),
        (["--fps", "nan"], "fps"),
    ],
)
def test_bad_settings_are_told_and_write_nothing(
    arguments: list[str],
    words: str,
    trained_run: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "clip.mp4"
    file.write_bytes(clip.read_bytes())
    (tmp_path / "a.png").write_text("mine")
    chosen = ["--out", "a.png", *arguments] if "--out" not in arguments else arguments
    chosen = [str(file) if word == "CLIP" else word for word in chosen]
    command = ["visualize", str(trained_run), str(file), "--overwrite", *chosen]
    assert run_cli([*command, "--device", "cpu"]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert (tmp_path / "a.png").read_text() == "mine"
    assert file.read_bytes() == clip.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "clip.mp4"]


def test_bad_files_are_told(
    trained_run: Path, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for run, clip, words in (
        (trained_run, text, "text.mp4"),
        (trained_run, tmp_path / "none.mp4", "does not exist"),
        (trained_run, collection, "is a folder; give one video file"),
        (collection, text, "holds no adapter"),
    ):
        out = tmp_path / "a.png"
        assert run_cli(["visualize", str(run), str(clip), "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
        assert not out.exists()
    with pytest.raises(VideoError):
        visualize(trained_run, text, tmp_path / "a.png", device="cpu")


def test_views_are_other_frames_and_the_default_file_is_here(
    trained_run: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = []
    for view in (1, 2):
        config = VisualizeConfig(view=view, num_temporal_views=2)
        frames.append(observe(trained_run, clip, config, device="cpu").frames)
    assert frames[0].shape == frames[1].shape and not torch.equal(*frames)
    monkeypatch.chdir(tmp_path)
    flags = ["--num_frames", "11", "--resolution", "[16,24]", "--device", "cpu"]
    assert run_cli(["visualize", str(trained_run), str(clip), *flags]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["clip 2-attention.html"]
    png = [*flags, "--size", "24", "--out", "a.png"]  # more frames than fit side by side
    assert run_cli(["visualize", str(trained_run), str(clip), *png]) == 0


def test_letters_that_the_font_lacks() -> None:
    assert plain("naïve Übung 日本.mp4") == "naive Ubung ??.mp4"
