"""Flags of a whole recipe: short ones, a YAML or a recipe that ships, the settings of the method.

Which flags there are under `--method` depends on the method, so that is found out first.
"""

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from stadapter.cli.flags import UsageError, make_parser

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


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


def recipe_parser(verb: str, description: str, argv: Sequence[str]) -> "ArgumentParser":
    """Flags of the whole recipe; those under --method are of the method that `argv` names."""
    from stadapter.methods import METHODS
    from stadapter.recipe import Recipe

    short = ", ".join(f"--{flag} = --{place}" for flag, place in SHORT_FLAGS.items())
    parser = make_parser(verb, f"{description} Short flags: {short}.")
    name = _method_name(argv)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of the settings, or a name that `stadapter recipes` lists.",
    )
    parser.add_class_arguments(Recipe, as_group=False, skip={"method"})
    parser.add_argument(
        "--method.name", choices=list(METHODS), default=name, help="What is trained."
    )
    parser.add_class_arguments(METHODS[name], "method")
    return parser


def pop_recipe(parser: "ArgumentParser", settings: Any) -> Any:
    """The `Recipe` that the parsed settings say."""
    from stadapter.methods import method_from_dict
    from stadapter.recipe import Recipe

    method = settings.pop("method").as_dict()
    made = parser.instantiate(settings)
    values = {f.name: made[f.name] for f in fields(Recipe) if f.name != "method"}
    return Recipe(method=method_from_dict(method), **values)


def recipe_from(settings: Mapping[str, Any]) -> Any:
    """The `Recipe` that nested settings say, as a YAML has them.

    Raises:
        ValueError: a setting that no recipe has, or a value that makes no sense.
    """
    method = settings.get("method")
    name = method.get("name", DEFAULT_METHOD) if isinstance(method, Mapping) else method
    parser = _parser_of(str(name or DEFAULT_METHOD))
    try:
        return pop_recipe(parser, parser.parse_object(dict(settings)))
    except (ArgumentError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


@cache
def _parser_of(method: str) -> "ArgumentParser":
    return recipe_parser("study", "", ["--method", method])


def expand(argv: Sequence[str]) -> list[str]:
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
        raise UsageError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    return name


def _read_config(config: str) -> dict[str, Any]:
    import yaml

    from stadapter.recipes import find_recipe

    try:
        content = yaml.safe_load(find_recipe(config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {config} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {config} holds no settings")
    return content


def _method_of(config: str, content: dict[str, Any]) -> str | None:
    """The method that a YAML's settings are of; None if it has none of any."""
    method = content.get("method", {})
    if not isinstance(method, dict):
        raise UsageError(f"--config {config}: write method: {{name: {method}}}")
    name: str | None = content.get("method.name", method.get("name"))
    settings = any(key.partition(".")[0] == "method" for key in map(str, content))
    return name or (DEFAULT_METHOD if settings else None)


def _config_for(config: str, method: str) -> str:
    """A YAML as a value of --config: its path, or its text without another method's settings."""
    import yaml

    from stadapter.progress import console
    from stadapter.recipes import find_recipe

    content = _read_config(config)
    other = _method_of(config, content)
    if other in (method, None):
        return str(find_recipe(config))
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
