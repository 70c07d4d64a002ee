"""Settings that a method refuses, in code and in files."""

from typing import Any

import pytest

from stadapter.methods import (
    FullFinetuneConfig,
    method_from_dict,
)


def test_a_rate_of_zero_for_the_backbone() -> None:
    with pytest.raises(ValueError, match="backbone_lr_scale"):
        FullFinetuneConfig(backbone_lr_scale=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "prompts"}, "unknown method 'prompts'; known are st_adapter"),
        ({}, "unknown method None"),
        ({"name": "linear_probe", "width": 4}, "method 'linear_probe' has no setting width"),
    ],
)
def test_unknown_methods_and_settings_in_a_file(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_from_dict(settings)
