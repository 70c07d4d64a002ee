"""A run and a clip in, one file out: PNG, GIF, MP4 or HTML, by the file's ending."""

from pathlib import Path

from stadapter.atomic import atomic_path, write_text
from stadapter.data import SamplingConfig
from stadapter.visualize.animation import write_gif, write_mp4
from stadapter.visualize.config import VisualizeConfig
from stadapter.visualize.layers import chosen_layers
from stadapter.visualize.observe import Observation, observe
from stadapter.visualize.page import observation_page
from stadapter.visualize.picture import moving, still

ENDINGS = (".html", ".png", ".gif", ".mp4")
"""What --out may end with."""


def visualize(
    run: str | Path,
    clip: str | Path,
    out: str | Path,
    config: VisualizeConfig | None = None,
    *,
    overwrite: bool = False,
    backbone_weights: str | Path | None = None,
    sampling: SamplingConfig | None = None,
    resolution: tuple[int, int] | None = None,
    device: str = "auto",
) -> Observation:
    """Draw where the frozen and the adapted model look in a clip; returns what was drawn.

    Args:
        run: a run folder, or ORG/NAME on the Hub.
        clip: a video file, or a member of a tar shard.
        out: the file to write, whole or not at all; its ending is one of `ENDINGS`.
        config: what is drawn; `VisualizeConfig()` by default.
        overwrite: replace `out`.
        backbone_weights: where the pretrained weights are now, if not where they were.
        sampling: other frames than in training.
        resolution: other (height, width) than in training.
        device: auto, cpu, cuda, mps.

    Raises:
        FileExistsError: `out` is there and `overwrite` is not set, or `out` is the clip.
        OSError: `out` cannot be written.
        ValueError: another ending; a block or head that is not there; and as `observe`.
    """
    out = Path(out)
    ending = out.suffix.lower()
    _check_out(out, ending, Path(clip), overwrite)
    config = config or VisualizeConfig()
    shown = observe(
        run,
        clip,
        config,
        every_block=ending == ".html",
        backbone_weights=backbone_weights,
        sampling=sampling,
        resolution=resolution,
        device=device,
    )
    layers = chosen_layers(shown, config)
    if ending == ".html":
        write_text(out, observation_page(shown, config.size))
        return shown
    with atomic_path(out) as temporary:
        if ending == ".png":
            still(shown, layers, config.size).save(temporary, "PNG", optimize=True)
        else:
            write = write_gif if ending == ".gif" else write_mp4
            write(temporary, moving(shown, layers, config.size), config.fps)
    return shown


def _check_out(out: Path, ending: str, clip: Path, overwrite: bool) -> None:
    """Before anything is computed."""
    if ending not in ENDINGS:
        raise ValueError(f"--out {out} must end with one of {', '.join(ENDINGS)}, which says how")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} of --out does not exist")
    if not out.exists():
        return
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; give a file")
    if clip.exists() and out.samefile(clip):
        raise FileExistsError(f"--out {out} is the clip itself; choose another name")
    if not overwrite:
        raise FileExistsError(f"--out {out} exists; choose another name or give --overwrite")
