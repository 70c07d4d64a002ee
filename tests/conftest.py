"""What many tests share: a small collection, and a run trained on it."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from videos import write_collection

from stadapter.data import AugmentConfig, SamplingConfig
from stadapter.methods import STAdapterConfig
from stadapter.recipe import Recipe, train_recipe
from stadapter.train import TrainConfig

torch.set_num_threads(1)  # the tensors are tiny, and other processes use the cores too

settings.register_profile("stadapter", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("stadapter")

CLASS_NAMES = ("left [fast]", "right, então", 'turn "slow"')
"""Names that brackets of markup, commas of CSV and quotes could break."""

RECIPE = Recipe(
    backbone="tiny",
    pretrained=False,
    method=STAdapterConfig(width=8, dropout=0.1),
    resolution=32,
    sampling=SamplingConfig(num_frames=3),
    augment=AugmentConfig(),
    train=TrainConfig(epochs=2, lr=0.1, batch_size=4, num_workers=0, device="cpu", seed=3),
)
"""A run of a second or two; 15 training clips make 4 steps an epoch."""


@pytest.fixture(autouse=True)
def _no_random_state_leaks() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class, 6 clips each, without a split. Not to be changed."""
    return write_collection(tmp_path_factory.mktemp("data") / "clips", CLASS_NAMES, 6)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The recipe of `trained_run`."""
    return RECIPE


@pytest.fixture(scope="session")
def trained_run(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on `collection`. Not to be changed; see `run_copy`."""
    run = tmp_path_factory.mktemp("runs") / "first"
    train_recipe(RECIPE, collection, run)
    return run


@pytest.fixture
def run_copy(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of `trained_run` that a test may change."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))
