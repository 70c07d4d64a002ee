"""The command line: parses and calls, holds no logic.

Flags and YAML come from the same dataclasses. The settings that people change most have short flags
(`SHORT_FLAGS`); every other setting has its place in the tree as its name (`--method.width 192`).
Bad input ends in one sentence and exit code 2, a failed run in one sentence and exit code 1.
"""

import json
import sys
from argparse import ArgumentError
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stadapter import __version__

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from stadapter.data import DataConfig, SamplingConfig

SHORT_FLAGS = {
    "epochs": "train.epochs",
    "lr": "train.lr",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
    "num_workers": "train.num_workers",
    "precision": "train.precision",
    "device": "train.device",
    "on_broken": "train.on_broken",
    "max_broken": "train.max_broken",
    "decode_timeout_seconds": "train.decode_timeout_seconds",
    "num_frames": "sampling.num_frames",
    "frame_stride": "sampling.frame_stride",
    "flip": "augment.flip",
    "method": "method.name",
}
"""Short flag of `train` and `info` -> its place in the recipe."""
DEFAULT_METHOD = "st_adapter"
"""Where neither a flag nor a YAML names one."""


class _UsageError(ValueError):
    """A command line that says something impossible."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run one verb; returns the exit code: 0 done, 1 the run failed, 2 bad input, 130 Ctrl-C."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"stadapter {__version__}")
        return 0
    verb = VERBS.get(argv[0])
    if verb is None:
        return _fail(f"unknown verb {argv[0]!r}; known are {', '.join(VERBS)}", 2)
    try:
        return verb(argv[1:])
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept", 130)
    except ArgumentError as error:
        return _fail(" ".join(str(error).split()), 2)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _fail(str(error), 2)
    except (RuntimeError, ArithmeticError) as error:
        return _fail(str(error), 1)


def _fail(sentence: str, code: int) -> int:
    print(f"stadapter: {sentence}", file=sys.stderr)
    return code


def _overview() -> str:
    verbs = "\n".join(f"  {name:<10} {verb.__doc__}" for name, verb in VERBS.items())
    return (
        "usage: stadapter VERB [...]\n\nTurn an image transformer into a video classifier."
        f"\n\nverbs:\n{verbs}\n\n`stadapter VERB --help` lists the settings of a verb."
    )


def _parser(verb: str, description: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(
        prog=f"stadapter {verb}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


def _demo(argv: list[str]) -> int:
    """make a collection, train three methods on it, score, report and predict"""
    from stadapter.demo import DemoConfig, run_demo

    parser = _parser(
        "demo", "Linear probe, full fine-tuning and ST-Adapter where only order counts."
    )
    parser.add_argument("--out", type=str, default="demo-run", help="Folder to write.")
    _add_overwrite(parser)
    parser.add_class_arguments(DemoConfig, as_group=False)
    settings = parser.parse_args(argv).as_dict()
    out, overwrite = settings.pop("out"), settings.pop("overwrite")
    print(run_demo(Path(out), DemoConfig(**settings), overwrite=overwrite))
    return 0


def _demo_data(argv: list[str]) -> int:
    """write the collection of clips in which only order tells the class"""
    from stadapter.data.order_only import OrderOnlyConfig, write_order_only
    from stadapter.progress import progress_bar

    parser = _parser("demo-data", "MP4 clips in time-reversed pairs of classes, by a seed.")
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
    from stadapter.prepare.transcode import PrepareConfig

    parser = _parser("prepare", "Small files with many key frames; resumes when run again.")
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
    _add_data_flags(parser)
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
        reading=_pop_data_flags(settings),
        config=PrepareConfig(**settings),
    )
    print(summary)
    return 0


def _train(argv: list[str]) -> int:
    """train adapters on labelled clips"""
    from stadapter.recipe import train_recipe

    parser = _recipe_parser("train", "Train adapters on clips and score them.", argv)
    parser.add_argument("data", type=str, help="Folder or list of clips: docs/data-formats.md.")
    _add_data_flags(parser)
    parser.add_argument("--out", type=str, required=True, help="Run folder to write.")
    parser.add_argument("--resume", action="store_true", help="Go on with the run in --out.")
    _add_overwrite(parser)
    settings = parser.parse_args(_expand(argv))
    reading = _pop_data_flags(settings)
    metrics = train_recipe(
        _recipe(parser, settings),
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

    parser = _parser(
        "eval", "Score a trained run; writes metrics.json and predictions.csv into it."
    )
    parser.add_argument("run", type=str, help="Run folder.")
    parser.add_argument("data", type=str, nargs="?", help="Other clips than the run's own.")
    _add_data_flags(parser)
    parser.add_argument("--split", type=str, default="val", help="Which clips: train, val or test.")
    _add_input_flags(parser)
    parser.add_class_arguments(EvalConfig, as_group=False)
    settings = parser.parse_args(argv).as_dict()
    run, data, split = settings.pop("run"), settings.pop("data"), settings.pop("split")
    reading = _pop_data_flags(settings)
    weights, frames, resolution = _pop_input_flags(settings)
    metrics = evaluate_run(
        run,
        data,
        EvalConfig(**settings),
        split=split,
        reading=reading,
        backbone_weights=weights,
        sampling=_sampling(run, frames),
        resolution=resolution,
    )
    print(_summary(metrics, Path(run)))
    return 0


def _predict(argv: list[str]) -> int:
    """label files and folders of videos"""
    from stadapter.predict import Predictor
    from stadapter.tables import predictions_text

    parser = _parser("predict", "Most probable classes of each video.")
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
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, mps.")
    _add_input_flags(parser)
    settings = parser.parse_args(argv).as_dict()
    weights, frames, resolution = _pop_input_flags(settings)
    predictor = Predictor(
        settings["run"],
        backbone_weights=weights,
        num_temporal_views=settings["num_temporal_views"],
        num_spatial_views=settings["num_spatial_views"],
        sampling=_sampling(settings["run"], frames),
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


def _check(argv: list[str]) -> int:
    """look all clips over: damage, duplicates, leaks between splits, classes"""
    from stadapter.check.collection import CheckConfig, check_collection

    parser = _parser(
        "check",
        "Decode every clip; writes check.csv, check.html and skip.csv. Exit code 1: problems.",
    )
    parser.add_argument("data", type=str, help="What `train` takes, or any folder of videos.")
    parser.add_argument("--out", type=str, default="check", help="Folder to write.")
    _add_data_flags(parser, skip={"skip_list"})
    parser.add_class_arguments(CheckConfig, as_group=False)
    settings = parser.parse_args(argv).as_dict()
    reading = _pop_data_flags(settings)
    data, out = settings.pop("data"), settings.pop("out")
    result = check_collection(data, out, CheckConfig(**settings), reading=reading)
    print(result.summary())
    return 0 if result.sound else 1


def _info(argv: list[str]) -> int:
    """parameters, MACs and file size of a recipe's model"""
    from stadapter.info import describe_model, info_table

    parser = _recipe_parser("info", "What a model costs, without training it.", argv)
    parser.add_argument("--num_classes", type=int, default=400, help="K, for the head.")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    settings = parser.parse_args(_expand(argv))
    facts = describe_model(_recipe(parser, settings), settings.num_classes)
    print(json.dumps(facts, indent=2) if settings.format == "json" else info_table(facts))
    return 0


def _backbones(argv: list[str]) -> int:
    """list the backbones whose ids match a pattern"""
    from stadapter.backbones.catalogue import list_backbones
    from stadapter.tables import backbones_text

    parser = _parser("backbones", "Backbones by id, with size and pretraining.")
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
        raise _UsageError(f"convert knows 'official' and 'to-official', not {direction!r}")
    return verb(argv[1:])


def _convert_official(argv: list[str]) -> int:
    from stadapter.official import convert_official

    parser = _parser("convert official", "A published checkpoint becomes a run folder.")
    parser.add_argument("--clip", type=str, required=True, help="OpenAI's CLIP checkpoint.")
    parser.add_argument("--adapter", type=str, required=True, help="Published checkpoint-N.pth.")
    parser.add_argument("--out", type=str, required=True, help="Run folder to write.")
    parser.add_argument("--classes", type=str | None, help="Text file, a class name per line.")
    _add_overwrite(parser)
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

    parser = _parser("convert to-official", "A run becomes a checkpoint of the published code.")
    parser.add_argument("run", type=str, help="Run folder.")
    parser.add_argument("--out", type=str, required=True, help="File to write, checkpoint-0.pth.")
    _add_overwrite(parser)
    settings = parser.parse_args(argv)
    print(f"written: {to_official(settings.run, settings.out, overwrite=settings.overwrite)}")
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "demo": _demo,
    "demo-data": _demo_data,
    "prepare": _prepare,
    "train": _train,
    "eval": _eval,
    "predict": _predict,
    "check": _check,
    "info": _info,
    "backbones": _backbones,
    "convert": _convert,
}


def _add_overwrite(parser: "ArgumentParser") -> None:
    parser.add_argument("--overwrite", action="store_true", help="Replace the run in --out.")


def _add_data_flags(parser: "ArgumentParser", skip: Collection[str] = ()) -> None:
    from stadapter.data import FORMATS, DataConfig

    parser.add_argument("--format", choices=list(FORMATS), help="Of DATA; recognised by default.")
    parser.add_class_arguments(DataConfig, as_group=False, skip={"format", *skip})


def _pop_data_flags(settings: Any) -> "DataConfig":
    from stadapter.data import DataConfig

    names = [field.name for field in fields(DataConfig) if field.name in settings]
    return DataConfig(**{name: settings.pop(name) for name in names})


def _recipe_parser(verb: str, description: str, argv: Sequence[str]) -> "ArgumentParser":
    """Flags of the whole recipe; those under --method are of the method that `argv` names."""
    from stadapter.methods import METHODS
    from stadapter.recipe import Recipe

    short = ", ".join(f"--{flag} = --{place}" for flag, place in SHORT_FLAGS.items())
    parser = _parser(verb, f"{description} Short flags: {short}.")
    name = _method_name(argv)
    parser.add_argument("--config", action="config", help="YAML file with any of the settings.")
    parser.add_class_arguments(Recipe, as_group=False, skip={"method"})
    parser.add_argument(
        "--method.name", choices=list(METHODS), default=name, help="What is trained."
    )
    parser.add_class_arguments(METHODS[name], "method")
    return parser


def _recipe(parser: "ArgumentParser", settings: Any) -> Any:
    from stadapter.methods import method_from_dict
    from stadapter.recipe import Recipe

    method = settings.pop("method").as_dict()
    made = parser.instantiate(settings)
    values = {f.name: made[f.name] for f in fields(Recipe) if f.name != "method"}
    return Recipe(method=method_from_dict(method), **values)


def _method_name(argv: Sequence[str]) -> str:
    """The method that flags or the YAML of --config name, before the parser can be built."""
    from stadapter.methods import METHODS

    names = _flag_values(argv, ("--method", "--method.name"))
    configs = _flag_values(argv, ("--config",))
    name = names[-1] if names else None
    for config in configs:
        found = _method_of(config, _read_config(config))
        if not names and found is not None:
            name = found
    name = name or DEFAULT_METHOD
    if name not in METHODS:
        raise _UsageError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    return name


def _read_config(config: str) -> dict[str, Any]:
    import yaml

    if not Path(config).is_file():
        raise _UsageError(f"--config {config} does not exist")
    try:
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _UsageError(f"--config {config} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise _UsageError(f"--config {config} holds no settings")
    return content


def _method_of(config: str, content: dict[str, Any]) -> str | None:
    """The method that a YAML's settings are of; None if it has none of any."""
    method = content.get("method", {})
    if not isinstance(method, dict):
        raise _UsageError(f"--config {config}: write method: {{name: {method}}}")
    name: str | None = content.get("method.name", method.get("name"))
    settings = any(key.partition(".")[0] == "method" for key in map(str, content))
    return name or (DEFAULT_METHOD if settings else None)


def _config_for(config: str, method: str) -> str:
    """A YAML as a value of --config: its path, or its text without another method's settings."""
    import yaml

    from stadapter.progress import console

    content = _read_config(config)
    other = _method_of(config, content)
    if other in (method, None):
        return config
    note = f"note: --method {method}: the settings of {other} in {config} are not used"
    console.print(note, highlight=False, markup=False)
    rest = {k: v for k, v in content.items() if str(k).partition(".")[0] != "method"}
    return yaml.safe_dump(rest, allow_unicode=True)


def _flag_values(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    values = []
    for i, word in enumerate(argv):
        flag, equals, rest = word.partition("=")
        if flag in flags and (equals or i + 1 < len(argv)):
            values.append(rest if equals else argv[i + 1])
    return values


def _expand(argv: Sequence[str]) -> list[str]:
    """Replace short flags by their place in the recipe, and leave out another method's settings."""
    method = _method_name(argv)
    words = []
    rest = iter(argv)
    for word in rest:
        flag, equals, value = word.partition("=")
        place = SHORT_FLAGS.get(flag[2:]) if flag.startswith("--") else None
        if flag == "--config" and (config := value if equals else next(rest, "")):
            words.append(f"--config={_config_for(config, method)}")
        else:
            words.append(f"--{place}{equals}{value}" if place else word)
    return words


def _add_input_flags(parser: "ArgumentParser") -> None:
    parser.add_argument("--backbone_weights", type=str | None, help="Where they are now.")
    parser.add_argument("--num_frames", type=int | None, help="Other than in training.")
    parser.add_argument("--frame_stride", type=int | None, help="Other than in training.")
    parser.add_argument(
        "--resolution", type=int | tuple[int, int] | None, help="Other than in training."
    )


def _pop_input_flags(
    settings: dict[str, Any],
) -> tuple[str | None, dict[str, int], tuple[int, int] | None]:
    weights, resolution = settings.pop("backbone_weights"), settings.pop("resolution")
    frames = {name: settings.pop(name) for name in ("num_frames", "frame_stride")}
    if isinstance(resolution, int):
        resolution = (resolution, resolution)
    return weights, {k: v for k, v in frames.items() if v is not None}, resolution


def _sampling(run: str, changes: dict[str, int]) -> "SamplingConfig | None":
    from stadapter.checkpoint import load_adapter_config
    from stadapter.data import SamplingConfig

    if not changes:
        return None
    saved = load_adapter_config(Path(run)).info.sampling
    return SamplingConfig(**{**saved, **changes})


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
