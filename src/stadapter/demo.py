"""The whole path on a laptop: a generated collection, three methods, one table, one report.

In the collection only the order of frames tells the class (`data.order_only`). A linear probe and
full fine-tuning average over frames, so they cannot beat one in two; ST-Adapters can.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stadapter.atomic import write_json
from stadapter.checkpoint import TENSORS
from stadapter.data import AugmentConfig, SamplingConfig
from stadapter.data.order_only import OrderOnlyConfig, write_order_only
from stadapter.device import default_num_workers
from stadapter.info import describe_model
from stadapter.methods import (
    FullFinetuneConfig,
    LinearProbeConfig,
    MethodConfig,
    STAdapterConfig,
)
from stadapter.predict import Predictor
from stadapter.progress import console, progress_bar
from stadapter.recipe import Recipe, train_recipe
from stadapter.report import write_report
from stadapter.run import RunFolder
from stadapter.tables import predictions_text, table_text
from stadapter.train import TrainConfig

MARK = "results.json"


@dataclass(frozen=True)
class DemoConfig:
    """Size of the demo; the defaults take some minutes on two cores."""

    epochs: int = 20
    """Passes of ST-Adapter over the training clips."""
    blind_epochs: int = 3
    """Passes of the two methods that average over frames; more would not lift them above 50%."""
    lr: float = 0.32
    """Peak learning rate for 256 clips per step: 0.005 for steps of 4."""
    batch_size: int = 4
    """Clips per step; small, since adapters that begin as the identity need many steps."""
    resolution: int = 48
    """Side of the frames in pixels."""
    num_frames: int = 8
    """Frames per clip."""
    train_clips_per_class: int = 80
    """Training clips of each of the ten classes; even, since clips come in twins."""
    val_clips_per_class: int = 16
    """Validation clips of each class."""
    seed: int = 0
    """Of the collection and of training."""
    num_workers: int | None = None
    """Decoding processes; None takes the number of cores."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""


def demo_methods() -> list[MethodConfig]:
    """Two methods that are blind to order, then ST-Adapter."""
    return [
        LinearProbeConfig(dropout=0.0),
        FullFinetuneConfig(dropout=0.0),
        STAdapterConfig(width=0.25, dropout=0.0),
    ]


def run_demo(out: Path, config: DemoConfig, *, overwrite: bool = False) -> str:
    """Run the demo in `out` and return what it prints.

    Writes `OUT/collection`, a run folder per method, `OUT/results.json` and `OUT/report.html`.

    Raises:
        FileExistsError: `out` already holds a demo and `overwrite` was not asked for.
    """
    if (out / MARK).exists() and not overwrite:
        raise FileExistsError(
            f"{out} already holds a demo; replace it with --overwrite or choose another --out"
        )
    (out / MARK).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    data = _write_collection(out / "collection", config)
    results, runs = [], {}
    for method in demo_methods():
        runs[method.name] = RunFolder(out / method.name)
        results.append(_train(method, data, runs[method.name], config))
    report = write_report(
        out / "report.html", runs, title="stadapter demo: only order tells", results=results
    )
    write_json(out / MARK, results)
    table = table_text([_row(result) for result in results])
    prediction = _predict_one(data, runs["st_adapter"])
    return f"{table}\n{prediction}\nreport: {report}\nresults: {out / MARK}"


def _write_collection(folder: Path, config: DemoConfig) -> Path:
    settings = OrderOnlyConfig(
        train_clips_per_class=config.train_clips_per_class,
        val_clips_per_class=config.val_clips_per_class,
        seed=config.seed,
    )
    console.print(f"rendering {settings.num_clips} clips in which only order tells the class")
    workers = default_num_workers() if config.num_workers is None else config.num_workers
    with progress_bar("rendering clips", settings.num_clips) as bar:
        return write_order_only(folder, settings, progress=bar.advance_to, num_workers=workers)


def _train(method: MethodConfig, data: Path, run: RunFolder, config: DemoConfig) -> dict[str, Any]:
    epochs = config.epochs if isinstance(method, STAdapterConfig) else config.blind_epochs
    recipe = Recipe(
        backbone="tiny",
        method=method,
        resolution=config.resolution,
        sampling=SamplingConfig(num_frames=config.num_frames),
        augment=AugmentConfig(crop_scale=(0.7, 1.0)),
        train=TrainConfig(
            epochs=epochs,
            lr=config.lr,
            batch_size=config.batch_size,
            seed=config.seed,
            num_workers=config.num_workers,
            device=config.device,
            eval_every=8,
        ),
    )
    start = time.perf_counter()
    metrics = train_recipe(recipe, data, run.path, overwrite=True)
    facts = describe_model(recipe, len(metrics["class_names"]))
    return {
        "method": method.name,
        "trained_parameters": facts["trained_parameters"],
        "total_parameters": facts["total_parameters"],
        "adapter_bytes": (run.path / TENSORS).stat().st_size,
        "top1": metrics["top1"],
        "seconds": round(time.perf_counter() - start, 1),
    }


def _row(result: dict[str, Any]) -> dict[str, Any]:
    share = result["trained_parameters"] / result["total_parameters"]
    return {
        "method": result["method"],
        "trained parameters": result["trained_parameters"],
        "of all": f"{share:.1%}",
        "file": f"{result['adapter_bytes'] / 1e6:.2f} MB",
        "top-1": f"{result['top1']:.1%}",
        "seconds": f"{result['seconds']:.0f}",
    }


def _predict_one(data: Path, run: RunFolder) -> str:
    """Predict a held-out clip with the trained ST-Adapter, as `stadapter predict` would."""
    clip = sorted((data / "val").glob("*/*.mp4"))[0]
    prediction = Predictor(run.path).predict([clip], top_k=3)
    return f"a held-out clip of class {clip.parent.name!r}:\n" + predictions_text(
        prediction, "table"
    )
