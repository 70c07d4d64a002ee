"""Every recipe that ships is understood, and says how to use it."""

from pathlib import Path

import pytest

from stadapter.cli import run

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_makes_a_model(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--pretrained", "false", "--num_classes", "4"]
    assert run(["info", "--config", str(recipe), *flags]) == 0
    assert "timm/" in capsys.readouterr().out
    head = recipe.read_text(encoding="utf-8").partition("backbone:")[0]
    assert f"--config recipes/{recipe.name}" in head


def test_there_are_recipes() -> None:
    assert RECIPES
