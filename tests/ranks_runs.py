"""What `torchrun` runs for test_ranks.py: python ranks_runs.py COLLECTION DAMAGED OUT.

One start for all of it, because starting processes is what takes the time.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import RECIPE
from method_table import ROWS, T

from stadapter import FullFinetuneConfig, STAdapterConfig
from stadapter.data import SamplingConfig, TooManyBrokenError
from stadapter.evaluate import EvalConfig
from stadapter.interrupt import Terminated
from stadapter.recipe import Recipe, evaluate_run, train_recipe
from stadapter.train.update import Updater


def change(recipe: Recipe, **settings: Any) -> Recipe:
    return replace(recipe, train=replace(recipe.train, **settings))


PLAIN = replace(RECIPE, method=STAdapterConfig(width=8, dropout=0.0))
"""Without dropout, whose numbers are each rank's own, two ranks do what one does."""
FULL = replace(RECIPE, method=FullFinetuneConfig(dropout=0.0))
METHODS = {
    row.method.name: replace(
        RECIPE,
        method=replace(row.method, dropout=0.0),
        sampling=SamplingConfig(num_frames=T),
        train=replace(RECIPE.train, epochs=1),
    )
    for row in ROWS.values()
    if row.method.name not in (PLAIN.method.name, FULL.method.name)  # which are tried harder
}
"""One epoch of every other method, on small data."""
RANK = int(os.environ.get("RANK", "0"))


@contextmanager
def terminated_at(stop: int) -> Iterator[None]:
    """SIGTERM during one step, on the second rank only."""
    update = Updater.update

    def update_and_signal(self: Updater, *arguments: Any, step: int, **more: Any) -> Any:
        if step == stop and RANK == 1:
            signal.raise_signal(signal.SIGTERM)
        return update(self, *arguments, step=step, **more)

    Updater.update = update_and_signal  # type: ignore[method-assign]
    try:
        yield
    finally:
        Updater.update = update  # type: ignore[method-assign]


def main(collection: Path, damaged: Path, out: Path) -> None:
    train_recipe(change(PLAIN, batch_size=2), collection, out / "ddp")
    train_recipe(change(PLAIN, batch_size=2, shard=True), collection, out / "fsdp")
    train_recipe(change(FULL, batch_size=2, shard=True, ema_decay=0.5), collection, out / "full")
    accumulating = change(PLAIN, batch_size=1, accumulation_steps=2)
    train_recipe(accumulating, collection, out / "accumulated")
    train_recipe(change(accumulating, shard=True), collection, out / "accumulated-fsdp")
    for name, recipe in METHODS.items():
        for shard in (False, True):
            split = change(recipe, batch_size=2, shard=shard)
            train_recipe(split, collection, out / f"{name}-{'fsdp' if shard else 'ddp'}")
    broken = change(PLAIN, batch_size=1, max_broken=0.6)
    train_recipe(broken, damaged, out / "broken")
    train_recipe(change(broken, shard=True), damaged, out / "broken-fsdp")
    try:
        train_recipe(change(broken, max_broken=0.1), damaged, out / "too-many")
    except TooManyBrokenError:
        (out / f"too-many-{RANK}").touch()
    with_dropout = change(RECIPE, batch_size=2)
    train_recipe(with_dropout, collection, out / "alone")
    for name in ("stopped", "other"):
        try:
            with terminated_at(5):
                train_recipe(with_dropout, collection, out / name)
        except Terminated:
            (out / f"{name}-{RANK}").touch()
    train_recipe(with_dropout, collection, out / "stopped", resume=True)
    evaluate_run(
        out / "ddp", collection, EvalConfig(num_temporal_views=2, batch_size=4, device="cpu")
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
