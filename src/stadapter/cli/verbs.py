"""What each verb takes, and what it calls."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stadapter.cli.flags import (
    SUBSET_FLAGS,
    UsageError,
    add_data_flags,
    add_input_flags,
    add_overwrite,
    make_parser,
    pop_data_flags,
    pop_input_flags,
    sampling_of,
)
from stadapter.cli.recipe_flags import expand, pop_recipe, recipe_from, recipe_parser
from stadapter.cli.recipe_verbs import plan, recipes


def _demo(argv: list[str]) -> int:
    """make a collection, train three methods on it, score, report and predict"""
    from stadapter.demo import DemoConfig, run_demo

    parser = make_parser(
        "demo", "Linear probe, full fine-tuning and ST-Adapter where only order counts."
    )
    parser.add_argument("--out", type=str, default="demo-run", help="Folder to write.")
    add_overwrite(parser)
    parser.add_class_arguments(DemoConfig, as_group=False)
    settings = parser.parse_args(argv).as_dict()
    out, overwrite = settings.pop("out"), settings.pop("overwrite")
    print(run_demo(Path(out), DemoConfig(**settings), overwrite=overwrite))
    return 0


def _demo_data(argv: list[str]) -> int:
    """write the collection of clips in which only order tells the class"""
    from stadapter.data.order_only import OrderOnlyConfig, write_order_only
    from stadapter.progress import progress_bar

    parser = make_parser("demo-data", "MP4 clips in time-reversed pairs of classes, by a seed.")
    parser.add_argument("dir", type=str, help="Folder to write.")
    parser.add_argument("--num_workers", type=int, default=2, help="Processes that render.")
    parser.add_class_arguments(OrderOnlyConfig, as_group=False)
    settings = parser.parse_args(argv).as_dict()
    out, workers = Path(settings.pop("dir")), settings.pop("num_workers")
    config = OrderOnlyConfig(**settings)
    with progress_bar("rendering clips", config.num_clips) as bar:
        write_order_only(out, config, progress=bar.advance_to, num_workers=workers)
    print(f"{config.num_clips} clips in {out}; train with: stadapter train {out} --out RUN")
    return 0


def _prepare(argv: list[str]) -> int:
    """transcode a collection once, so that training reads it fast"""
    from stadapter.device import default_num_workers
    from stadapter.prepare.collection import prepare_collection
    from stadapter.prepare.config import PrepareConfig

    parser = make_parser("prepare", "Small files with many key frames; resumes when run again.")
    parser.add_argument("data", type=str, help="Folder per class, or CSV; only read.")
    parser.add_argument("out", type=str, help="Folder to write, or to go on with.")
    parser.add_argument("--shards", action="store_true", help="Pack the clips into tar shards.")
    parser.add_argument("--shard_megabytes", type=int, default=512, help="Most of each shard.")
    parser.add_argument("--num_workers", type=int | None, help="Processes; default: the cores.")
    parser.add_argument(
        "--timeout_seconds", type=float, default=120.0, help="End a process silent for so long."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the split, where none is given.")
    parser.add_class_arguments(PrepareConfig, as_group=False)
    add_data_flags(parser, skip=SUBSET_FLAGS)
    settings = parser.parse_args(argv).as_dict()
    workers = settings.pop("num_workers")
    shards, megabytes = settings.pop("shards"), settings.pop("shard_megabytes")
    summary = prepare_collection(
        settings.pop("data"),
        settings.pop("out"),
        shard_megabytes=megabytes if shards else None,
        num_workers=default_num_workers() if workers is None else workers,
        timeout_seconds=settings.pop("timeout_seconds"),
        seed=settings.pop("seed"),
        reading=pop_data_flags(settings),
        config=PrepareConfig(**settings),
    )
    print(summary)
    return 0


def _train(argv: list[str]) -> int:
    """train adapters on labelled clips"""
    from stadapter.recipe import train_recipe

    parser = recipe_parser("train", "Train adapters on clips and score them.", argv)
    parser.add_argument("data", type=str, help="Folder or list of clips: docs/data-formats.md.")
    add_data_flags(parser)
    parser.add_argument("--out", type=str, required=True, help="Run folder to write.")
    parser.add_argument("--resume", action="store_true", help="Go on with the run in --out.")
    add_overwrite(parser)
    settings = parser.parse_args(expand(argv))
    reading = pop_data_flags(settings)
    metrics = train_recipe(
        pop_recipe(parser, settings),
        settings.data,
        settings.out,
        reading=reading,
        resume=settings.resume,
        overwrite=settings.overwrite,
    )
    print(_summary(metrics, Path(settings.out)))
    return 0


def _eval(argv: list[str]) -> int:
    """score a run, with several views per clip"""
    from stadapter.evaluate import EvalConfig
    from stadapter.recipe import evaluate_run

    parser = make_parser(
        "eval", "Score a trained run; writes metrics.json and predictions.csv into it."
    )
    parser.add_argument("run", type=str, help="Run folder.")
    parser.add_argument("data", type=str, nargs="?", help="Other clips than the run's own.")
    add_data_flags(parser, skip=SUBSET_FLAGS)
    parser.add_argument("--split", type=str, default="val", help="Which clips: train, val or test.")
    add_input_flags(parser)
    parser.add_class_arguments(EvalConfig, as_group=False)
    settings = parser.parse_args(argv).as_dict()
    run, data, split = settings.pop("run"), settings.pop("data"), settings.pop("split")
    reading = pop_data_flags(settings)
    weights, frames, resolution = pop_input_flags(settings)
    metrics = evaluate_run(
        run,
        data,
        EvalConfig(**settings),
        split=split,
        reading=reading,
        backbone_weights=weights,
        sampling=sampling_of(run, frames),
        resolution=resolution,
    )
    print(_summary(metrics, Path(run)))
    return 0


def _compare(argv: list[str]) -> int:
    """runs on the same clips: differences, intervals, who is right where"""
    from stadapter.compare import compare_runs, comparison_text, write_comparison

    parser = make_parser("compare", "Scored runs beside each other; the first is the baseline.")
    parser.add_argument("runs", type=str, nargs="+", help="Run folders, at least two.")
    parser.add_argument(
        "--common",
        action="store_true",
        help="Where the runs were scored on different clips, compare those that all scored.",
    )
    parser.add_argument("--out", type=str | None, help="HTML file to write, with plots and clips.")
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")
    parser.add_argument("--resamples", type=int | None, help="Of the bootstrap; default 1000.")
    parser.add_argument("--seed", type=int, default=0, help="Of the resamples.")
    settings = parser.parse_args(argv)
    comparison = compare_runs(
        settings.runs, common=settings.common, resamples=settings.resamples, seed=settings.seed
    )
    if settings.out is not None:
        write_comparison(comparison, Path(settings.out))
    print(comparison_text(comparison, settings.format), end="")
    if settings.out is not None and settings.format == "table":
        print(f"written: {settings.out}")
    return 0


def _predict(argv: list[str]) -> int:
    """label files and folders of videos"""
    from stadapter.predict import Predictor
    from stadapter.tables import predictions_text

    parser = make_parser("predict", "Most probable classes of each video.")
    parser.add_argument("run", type=str, help="Run folder.")
    parser.add_argument("files", type=str, nargs="+", help="Videos, or folders of them.")
    parser.add_argument("--top_k", type=int, default=5, help="Classes per video.")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="Several labels per clip: tell all classes above this probability, however many.",
    )
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")
    parser.add_argument("--num_temporal_views", type=int, default=1, help="Clips per video.")
    parser.add_argument("--num_spatial_views", type=int, default=1, help="Crops per clip, 1 or 3.")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, mps.")
    add_input_flags(parser)
    settings = parser.parse_args(argv).as_dict()
    weights, frames, resolution = pop_input_flags(settings)
    predictor = Predictor(
        settings["run"],
        backbone_weights=weights,
        num_temporal_views=settings["num_temporal_views"],
        num_spatial_views=settings["num_spatial_views"],
        sampling=sampling_of(settings["run"], frames),
        resolution=resolution,
        precision=settings["precision"],
        device=settings["device"],
    )
    predictions = predictor.predict(
        settings["files"], top_k=settings["top_k"], threshold=settings["threshold"]
    )
    print(predictions_text(predictions, settings["format"]), end="")
    unread = [p for p in predictions if p.error]
    for prediction in unread:
        print(f"stadapter: {prediction.path}: {prediction.error}", file=sys.stderr)
    return 1 if len(unread) == len(predictions) else 0


def _visualize(argv: list[str]) -> int:
    """draw where the frozen and the adapted model look in a clip"""
    from stadapter.data import VideoError
    from stadapter.visualize import ENDINGS, VisualizeConfig, visualize
    from stadapter.visualize.words import summary

    parser = make_parser(
        "visualize", "Attention before and after adaptation, over the frames of a clip."
    )
    parser.add_argument("run", type=str, help="Run folder.")
    parser.add_argument("clip", type=str, help="Video file.")
    parser.add_argument(
        "--out",
        type=str | None,
        help=f"File to write, ending with {', '.join(ENDINGS)}; default: CLIP-attention.html here.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace the file in --out.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, mps.")
    add_input_flags(parser)
    parser.add_argument(
        "--rollout",
        action="store_true",
        help="Attention followed through all blocks up to the chosen one (arXiv 2005.00928).",
    )
    parser.add_class_arguments(VisualizeConfig, as_group=False, skip={"rollout"})
    settings = parser.parse_args(argv).as_dict()
    run, clip, out = settings.pop("run"), settings.pop("clip"), settings.pop("out")
    overwrite, device = settings.pop("overwrite"), settings.pop("device")
    weights, frames, resolution = pop_input_flags(settings)
    config = VisualizeConfig(**settings)
    out = out or f"{Path(clip).stem}-attention.html"
    try:
        shown = visualize(
            run,
            clip,
            out,
            config,
            overwrite=overwrite,
            backbone_weights=weights,
            sampling=sampling_of(run, frames),
            resolution=resolution,
            device=device,
        )
    except VideoError as error:
        raise UsageError(str(error)) from error
    print(f"{summary(shown)}\nwritten: {out}")
    return 0


def _check(argv: list[str]) -> int:
    """look all clips over: damage, duplicates, leaks between splits, classes"""
    from stadapter.check.collection import CheckConfig, check_collection

    parser = make_parser(
        "check",
        "Decode every clip; writes check.csv, check.html and skip.csv. Exit code 1: problems.",
    )
    parser.add_argument("data", type=str, help="What `train` takes, or any folder of videos.")
    parser.add_argument("--out", type=str, default="check", help="Folder to write.")
    add_data_flags(parser, skip={"skip_list", *SUBSET_FLAGS})
    parser.add_class_arguments(CheckConfig, as_group=False)
    settings = parser.parse_args(argv).as_dict()
    reading = pop_data_flags(settings)
    data, out = settings.pop("data"), settings.pop("out")
    result = check_collection(data, out, CheckConfig(**settings), reading=reading)
    print(result.summary())
    return 0 if result.sound else 1


def _study(argv: list[str]) -> int:
    """a grid of runs: methods, fractions, ablations; tables and figures"""
    from stadapter.study import find_study, run_study

    parser = make_parser("study", "Methods compared on one collection; resumes run by run.")
    parser.add_argument(
        "study", type=str, help="YAML of the study, or one of ours: quick, paper, small_data."
    )
    parser.add_argument("--out", type=str, default="study-run", help="Folder to write.")
    parser.add_argument("--resume", action="store_true", help="Go on with the study in --out.")
    parser.add_argument(
        "--data",
        nargs="+",
        type=str,
        help="Clips instead of its own; several: folds. Stands after STUDY.",
    )
    parser.add_argument("--backbone_weights", type=str | None, help="Local file for all runs.")
    parser.add_argument("--num_processes", type=int | None, help="Runs at a time.")
    settings = parser.parse_args(argv)
    study, text = find_study(settings.study)
    study = study.with_flags(
        data=settings.data,
        backbone_weights=settings.backbone_weights,
        num_processes=settings.num_processes,
    )
    outcome = run_study(
        study, Path(settings.out), text=text, parse=recipe_from, resume=settings.resume
    )
    print(outcome.summary())
    return 1 if outcome.failed else 0


def _info(argv: list[str]) -> int:
    """parameters, MACs and file size of a recipe's model"""
    from stadapter.info import describe_model, info_table

    parser = recipe_parser("info", "What a model costs, without training it.", argv)
    parser.add_argument("--num_classes", type=int, default=400, help="K, for the head.")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    settings = parser.parse_args(expand(argv))
    facts = describe_model(pop_recipe(parser, settings), settings.num_classes)
    print(json.dumps(facts, indent=2) if settings.format == "json" else info_table(facts))
    return 0


def _backbones(argv: list[str]) -> int:
    """list the backbones whose ids match a pattern"""
    from stadapter.backbones.catalogue import list_backbones
    from stadapter.tables import backbones_text

    parser = make_parser("backbones", "Backbones by id, with size and pretraining.")
    parser.add_argument(
        "pattern", type=str, nargs="?", default="", help="Part of an id, or a glob."
    )
    parser.add_argument("--format", choices=["table", "json"], default="table")
    settings = parser.parse_args(argv)
    print(backbones_text(list_backbones(settings.pattern), settings.format), end="")
    return 0


def _convert(argv: list[str]) -> int:
    """published ST-Adapter checkpoints to run folders, and back"""
    direction = argv[0] if argv else "--help"
    verb = {"official": _convert_official, "to-official": _convert_to_official}.get(direction)
    if verb is None:
        print("usage: stadapter convert official|to-official [...]")
        if direction in ("-h", "--help"):
            return 0
        raise UsageError(f"convert knows 'official' and 'to-official', not {direction!r}")
    return verb(argv[1:])


def _convert_official(argv: list[str]) -> int:
    from stadapter.official import convert_official

    parser = make_parser("convert official", "A published checkpoint becomes a run folder.")
    parser.add_argument("--clip", type=str, required=True, help="OpenAI's CLIP checkpoint.")
    parser.add_argument("--adapter", type=str, required=True, help="Published checkpoint-N.pth.")
    parser.add_argument("--out", type=str, required=True, help="Run folder to write.")
    parser.add_argument("--classes", type=str | None, help="Text file, a class name per line.")
    add_overwrite(parser)
    settings = parser.parse_args(argv)
    names = None
    if settings.classes is not None:
        names = Path(settings.classes).read_text(encoding="utf-8-sig").splitlines()
    run = convert_official(
        clip=settings.clip,
        adapter=settings.adapter,
        out=settings.out,
        class_names=names,
        overwrite=settings.overwrite,
    )
    print(f"written: {run}; use it with: stadapter predict {run} FILE")
    return 0


def _convert_to_official(argv: list[str]) -> int:
    from stadapter.official import to_official

    parser = make_parser("convert to-official", "A run becomes a checkpoint of the published code.")
    parser.add_argument("run", type=str, help="Run folder.")
    parser.add_argument("--out", type=str, required=True, help="File to write, checkpoint-0.pth.")
    add_overwrite(parser)
    settings = parser.parse_args(argv)
    print(f"written: {to_official(settings.run, settings.out, overwrite=settings.overwrite)}")
    return 0


def _summary(metrics: dict[str, Any], run: Path) -> str:
    from stadapter.tasks import metrics_text

    text = (
        f"{metrics_text(metrics)}\n"
        f"{metrics['num_clips']} clips scored ({metrics['split']}), "
        f"{metrics['num_broken']} could not be read"
    )
    for clip in [*metrics["broken"], *metrics.get("broken_train", [])]:
        text += f"\n  not read: {clip['path']}: {clip['reason']}"
    return text + f"\nwritten: {run / 'metrics.json'}, {run / 'predictions.csv'}"


VERBS: dict[str, Callable[[list[str]], int]] = {
    "demo": _demo,
    "demo-data": _demo_data,
    "prepare": _prepare,
    "train": _train,
    "eval": _eval,
    "compare": _compare,
    "predict": _predict,
    "visualize": _visualize,
    "check": _check,
    "study": _study,
    "info": _info,
    "plan": plan,
    "recipes": recipes,
    "backbones": _backbones,
    "convert": _convert,
}
