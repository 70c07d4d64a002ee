"""A comparison as one self-contained HTML page: a choice of blocks, and all heads of each.

No script: the choice is made of radio buttons and style rules. The frames are embedded twice, in
colour and dimmed; every map is a tiny picture with a pixel per patch, laid over them.
"""

import base64
import io

import numpy as np
from PIL import Image

from stadapter.report.page import document, escape
from stadapter.visualize.layers import block_layers
from stadapter.visualize.observe import Observation
from stadapter.visualize.paint import CHANGE, HEAT, Layer, Pixels, colour_frames, dimmed
from stadapter.visualize.words import KINDS, ROLES, layer_name, measured, models, title

_LEVELS = 64
"""Colours of a map in the page: a quarter of the palette makes small files."""
_MAX_STRIP = 60_000
"""JPEG holds no longer sides than 65,535 pixels."""

_STYLE = """
fieldset { border: 0; margin: 24px 0 8px; padding: 0; }
legend { float: left; padding: 6px 12px 6px 0; font-weight: 600; }
.pick { position: absolute; opacity: 0; pointer-events: none; }
.picks { display: flex; flex-wrap: wrap; gap: 6px; }
.picks label { min-width: 40px; padding: 5px 10px; border: 1px solid var(--line);
  border-radius: 6px; background: var(--card); text-align: center; cursor: pointer;
  font-variant-numeric: tabular-nums; }
.block { display: none; }
.maps { padding: 12px; }
.maps > *, .block > * { min-width: calc(var(--n) * 76px + 84px); }
.maps .block > p { position: sticky; left: 0; min-width: 0; width: fit-content;
  max-width: min(72ch, 100vw - 72px); }
.maps h3 { margin: 24px 0 4px; }
.maps h3 .pin { max-width: calc(100vw - 72px); }
.maps h3 span { font-weight: 400; font-size: 14px; color: var(--muted); }
.pin { position: sticky; left: 0; display: inline-block; }
.row { display: grid; grid-template-columns: 72px 1fr; gap: 12px; align-items: center;
  margin: 4px 0; font-size: 14px; }
.seen { position: relative; aspect-ratio: var(--ratio); background-size: 100% 100%; }
.seen img { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated; }
.seen::after { content: ""; position: absolute; inset: 0;
  background: repeating-linear-gradient(90deg, transparent 0 calc(100%/var(--n) - 3px),
  var(--card) calc(100%/var(--n) - 3px) calc(100%/var(--n))); }
.numbers { display: grid; grid-template-columns: repeat(var(--n), 1fr); text-align: center;
  color: var(--muted); font-size: 13px; }
.keys { display: grid; gap: 4px; margin: 8px 0 16px; font-size: 14px; color: var(--muted); }
.ramp { display: inline-block; width: 150px; max-width: 40%; height: 14px; vertical-align: -2px;
  margin: 0 8px; border-radius: 3px; background-color: #464646; background-size: 100% 100%; }
@media (max-width: 640px) {
  .row { grid-template-columns: 1fr; gap: 0; }
  .maps > *, .block > * { min-width: calc(var(--n) * 88px); }
}
"""


def observation_page(shown: Observation, size: int) -> str:
    """The whole page, opened at the chosen block; frames at most `size` pixels high."""
    blocks = sorted(shown.frozen)
    pooling = shown.kind == "attention_pooling"
    body = (
        f"<h1>{escape(title(shown))}</h1>"
        f'<p class="lead">{escape(KINDS[shown.kind].capitalize())}.</p>'
        f"<p>{escape(models(shown))} Both rows of a pair have the same scale, so they can be "
        "compared; in the row <b>change</b> orange patches got more by the training and blue ones "
        f"less.</p>{_keys()}"
        + ("" if pooling else _choice(shown, blocks))
        + f'<div class="scroll maps" tabindex="0">{_input_row(shown)}'
        + "".join(_block(shown, block) for block in blocks)
        + "</div>"
    )
    return document(title(shown), body, style=_STYLE + _rules(shown, blocks, size))


def _rules(shown: Observation, blocks: list[int], size: int) -> str:
    """Rules that depend on the clip and on the number of blocks."""
    T, _, H, W = shown.frames.shape
    pictures = colour_frames(shown.frames, max(1, min(size, _MAX_STRIP * H // (W * T))))
    rules = [
        f":root {{ --n: {T}; --ratio: {T * W} / {H}; }}",
        f".seen {{ background-image: url({_jpeg([dimmed(p) for p in pictures])}); }}",
        f".seen.colour {{ background-image: url({_jpeg(pictures)}); }}",
    ]
    ramp = np.arange(256, dtype=np.uint8)[None]
    for name, palette in (("heat", HEAT), ("change", CHANGE)):
        rules.append(f".ramp.{name} {{ background-image: url({_png(ramp, palette)}); }}")
    for b in blocks:
        rules.append(f"#b{b}:checked ~ .maps .b{b} {{ display: block; }}")
        rules.append(
            f"#b{b}:checked ~ fieldset label[for=b{b}] {{ background: var(--accent); "
            "border-color: var(--accent); color: var(--on-accent); }"
        )
        rules.append(
            f"#b{b}:focus-visible ~ fieldset label[for=b{b}] {{ outline: 2px solid var(--text); }}"
        )
    if len(blocks) == 1:
        rules.append(".block { display: block; }")
    return "\n".join(rules)


def _keys() -> str:
    return (
        '<div class="keys"><div>1<span class="ramp heat"></span>frozen and adapted: times the even '
        "share (1 = every patch alike), up to the number beside each name</div>"
        '<div>less<span class="ramp change"></span>more: change, adapted less frozen</div></div>'
    )


def _choice(shown: Observation, blocks: list[int]) -> str:
    """Radio buttons before everything that they govern."""
    inputs = "".join(
        f'<input class="pick" type="radio" name="block" id="b{b}"'
        f"{' checked' if b == shown.block else ''}>"
        for b in blocks
    )
    labels = "".join(f'<label for="b{b}">{b + 1}</label>' for b in blocks)
    return f'{inputs}<fieldset><legend>Block</legend><div class="picks">{labels}</div></fieldset>'


def _input_row(shown: Observation) -> str:
    numbers = "".join(f"<span>{t + 1}</span>" for t in range(len(shown.frames)))
    label = f"The {len(shown.frames)} frames that the model saw"
    return (
        f'<div class="row"><span></span><div class="numbers">{numbers}</div></div>'
        f'<div class="row"><span class="pin">{ROLES[0]}</span>'
        f'<div class="seen colour" role="img" aria-label="{label}"></div></div>'
    )


def _block(shown: Observation, block: int) -> str:
    layers = block_layers(shown, block)
    facts = "".join(f'<p class="small">{escape(fact)}</p>' for fact in measured(shown, block))
    rows = "".join(_layer(shown, block, name, layer) for name, layer in layers.items())
    return f'<section class="block b{block}">{facts}{rows}</section>'


def _layer(shown: Observation, block: int, name: str, layer: Layer) -> str:
    names = {"mean": "Mean of the heads", "rollout": "Rollout up to this block"}
    if shown.kind == "patch_norm":
        names["mean"] = "Length of the change"
    heading = names.get(name, layer_name(name).capitalize())
    scale = f"up to {layer.top:.3g} times the even share; change ±{layer.most_change:.2g}"
    rows = "".join(
        f'<div class="row"><span class="pin">{role}</span><div class="seen">'
        f'<img src="{_strip(numbers, palette)}" alt="{escape(f"{heading}, block {block + 1}")}, '
        f'{role}"></div></div>'
        for role, (numbers, palette) in zip(ROLES[1:], layer.rows(), strict=True)
    )
    return f'<h3><span class="pin"><b>{heading}</b> · {scale}</span></h3>{rows}'


def _strip(numbers: Pixels, palette: Pixels) -> str:
    """Maps (T, H, W) side by side, a pixel per patch."""
    step = 256 // _LEVELS
    return _png(np.concatenate(list(numbers), axis=1) // step, palette[::step])


def _png(numbers: Pixels, palette: Pixels) -> str:
    """Palette numbers (H, W) as a data URI."""
    image = Image.fromarray(numbers)
    image.putpalette(palette.tobytes(), "RGBA")
    memory = io.BytesIO()
    image.save(memory, "PNG", optimize=True)
    return _data("png", memory)


def _jpeg(pictures: list[Image.Image]) -> str:
    """Pictures of one size side by side as a data URI."""
    width, height = pictures[0].size
    strip = Image.new("RGB", (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (i * width, 0))
    memory = io.BytesIO()
    strip.save(memory, "JPEG", quality=85)
    return _data("jpeg", memory)


def _data(kind: str, memory: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(memory.getvalue()).decode('ascii')}"
