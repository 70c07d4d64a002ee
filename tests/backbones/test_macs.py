"""Counting multiply-accumulates must work for every backbone."""

import pytest
from families import ROWS, Row

from stadapter.methods import STAdapterConfig
from stadapter.model import create_model


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family)
def test_multiply_accumulates_grow_with_frames(row: Row) -> None:
    model = create_model(row.make(), num_classes=3, method=STAdapterConfig(width=8))
    one, two = (model.count_macs(num_frames, row.native) for num_frames in (1, 2))
    assert 0 < one < two
