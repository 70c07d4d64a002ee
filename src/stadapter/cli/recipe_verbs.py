"""Verbs about recipes before anything is trained."""

import json
from dataclasses import asdict
from pathlib import Path

from stadapter.cli.flags import UsageError, add_data_flags, make_parser, pop_data_flags
from stadapter.cli.recipe_flags import expand, pop_recipe, recipe_parser


def recipes(argv: list[str]) -> int:
    """list, show or copy the recipes that ship"""
    verbs = {"show": _show, "copy": _copy}
    if argv and not argv[0].startswith("-"):
        if argv[0] not in verbs:
            raise UsageError(f"recipes knows 'show' and 'copy', not {argv[0]!r}")
        return verbs[argv[0]](argv[1:])
    from stadapter.recipes import read_head, recipe_names
    from stadapter.tables import table_text

    parser = make_parser(
        "recipes",
        "Recipes for --config, with the score to expect; `recipes show NAME` prints one, "
        "`recipes copy NAME [DEST]` writes it to a file.",
    )
    parser.add_argument("--format", choices=["table", "json"], default="table")
    settings = parser.parse_args(argv)
    heads = [read_head(name) for name in recipe_names()]
    if settings.format == "json":
        print(json.dumps([asdict(head) for head in heads], indent=2))
        return 0
    rows = [{"name": h.name, "what": h.what, "expected": h.expected} for h in heads]
    print(table_text(rows), end="")
    return 0


def _show(argv: list[str]) -> int:
    from stadapter.recipes import recipe_path

    parser = make_parser("recipes show", "Print a recipe that ships.")
    parser.add_argument("name", type=str, help="As `stadapter recipes` lists it.")
    print(recipe_path(parser.parse_args(argv).name).read_text(encoding="utf-8"), end="")
    return 0


def _copy(argv: list[str]) -> int:
    from stadapter.recipes import copy_recipe

    parser = make_parser("recipes copy", "Copy a recipe that ships, to change it.")
    parser.add_argument("name", type=str, help="As `stadapter recipes` lists it.")
    parser.add_argument("dest", type=str, nargs="?", default=".", help="File or folder.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the file.")
    settings = parser.parse_args(argv)
    path = copy_recipe(settings.name, Path(settings.dest), overwrite=settings.overwrite)
    print(f"written: {path}; use it with: stadapter train DATA --config {path} --out RUN")
    return 0


def plan(argv: list[str]) -> int:
    """memory and hours of a recipe on this machine, measured, and how to make it fit"""
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    from stadapter.data import LabelSpace, load_collection
    from stadapter.plan import PlanConfig, make_plan, parse_bytes, plan_json, plan_text

    parser = recipe_parser(
        "plan", "`plan RECIPE [DATA]`: two real steps on made-up clips, and ways to fit.", argv
    )
    parser.add_argument("data", type=str, nargs="?", help="Clips: some are read, all are counted.")
    add_data_flags(parser)
    parser.add_argument("--memory", type=str | None, help="Such as 8GB; default: what is free.")
    parser.add_argument("--num_classes", type=int, default=400, help="K, without DATA.")
    parser.add_argument("--num_clips", type=int | None, help="Training clips, without DATA.")
    parser.add_argument("--max_seconds", type=float, default=60.0, help="Longest measurement.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of tables.")
    settings = parser.parse_args(expand(argv))
    reading = pop_data_flags(settings)
    memory = None if settings.memory is None else parse_bytes(settings.memory)
    config = PlanConfig(memory, settings.num_clips, settings.max_seconds)
    recipe = pop_recipe(parser, settings)
    space, table = LabelSpace.single_label([str(k) for k in range(settings.num_classes)]), None
    if settings.data is not None:
        collection = load_collection(settings.data, reading, seed=recipe.train.seed)
        space, table = collection.space, collection.splits.get("train", collection.whole())
    made = make_plan(recipe, space, config, table=table)
    print(json.dumps(plan_json(made), indent=2) if settings.json else plan_text(made))
    return 0 if made.fits else 1
