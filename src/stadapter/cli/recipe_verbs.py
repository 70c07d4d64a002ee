"""Verbs about recipes before anything is trained."""

import json
from dataclasses import asdict
from pathlib import Path

from stadapter.cli.flags import UsageError, make_parser


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
