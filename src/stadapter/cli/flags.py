"""Flags that several verbs share."""

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from stadapter.data import DataConfig, SamplingConfig


SUBSET_FLAGS = frozenset({"train_fraction", "clips_per_class"})
"""Which training clips are used; only for verbs that train."""


class UsageError(ValueError):
    """A command line that says something impossible."""


def make_parser(verb: str, description: str) -> "ArgumentParser":
    """A parser of one verb that raises instead of exiting."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(
        prog=f"stadapter {verb}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_overwrite(parser: "ArgumentParser") -> None:
    """Whether what is there is replaced."""
    parser.add_argument("--overwrite", action="store_true", help="Replace the run in --out.")


def add_data_flags(parser: "ArgumentParser", skip: Collection[str] = ()) -> None:
    """How DATA is read, without the settings in `skip`."""
    from stadapter.data import FORMATS, DataConfig

    parser.add_argument("--format", choices=list(FORMATS), help="Of DATA; recognised by default.")
    parser.add_class_arguments(DataConfig, as_group=False, skip={"format", *skip})


def pop_data_flags(settings: Any) -> "DataConfig":
    """Take the settings of `add_data_flags` out of the parsed ones."""
    from stadapter.data import DataConfig

    names = [field.name for field in fields(DataConfig) if field.name in settings]
    return DataConfig(**{name: settings.pop(name) for name in names})


def add_input_flags(parser: "ArgumentParser") -> None:
    """What may differ from training when a run is used."""
    parser.add_argument("--backbone_weights", type=str | None, help="Where they are now.")
    parser.add_argument("--num_frames", type=int | None, help="Other than in training.")
    parser.add_argument("--frame_stride", type=int | None, help="Other than in training.")
    parser.add_argument(
        "--resolution", type=int | tuple[int, int] | None, help="Other than in training."
    )


def pop_input_flags(
    settings: dict[str, Any],
) -> tuple[str | None, dict[str, int], tuple[int, int] | None]:
    """Take those out: (weights, changes to the sampling, height and width)."""
    weights, resolution = settings.pop("backbone_weights"), settings.pop("resolution")
    frames = {name: settings.pop(name) for name in ("num_frames", "frame_stride")}
    if isinstance(resolution, int):
        resolution = (resolution, resolution)
    return weights, {k: v for k, v in frames.items() if v is not None}, resolution


def sampling_of(run: str, changes: dict[str, int]) -> "SamplingConfig | None":
    """The run's own sampling with these changes; None without changes."""
    from stadapter.checkpoint import load_adapter_config
    from stadapter.data import SamplingConfig

    if not changes:
        return None
    saved = load_adapter_config(Path(run)).info.sampling
    return SamplingConfig(**{**saved, **changes})
