"""Every kind of map, for every backbone: there, or refused with words."""

import pytest
import torch
from families import ROWS, Row

from stadapter.methods import STAdapterConfig
from stadapter.model import create_model
from stadapter.visualize.maps import MAP_KINDS, can_roll_out, check_kind, clip_maps, default_kind

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family)


@every_row
def test_every_kind_of_map(row: Row) -> None:
    torch.manual_seed(1)
    model = create_model(row.make(), num_classes=3, method=STAdapterConfig(width=8)).eval()
    backbone = model.backbone
    video = torch.randn(1, 2, 3, *row.other)
    check_kind(backbone, default_kind(backbone))
    assert (default_kind(backbone) == "patch_norm") == (backbone.readout == "mean")
    last = len(backbone.blocks) - 1
    for kind in MAP_KINDS:
        try:
            check_kind(backbone, kind)
        except ValueError as error:
            assert "leave --map out for" in str(error)
            continue
        rolls = can_roll_out(backbone, kind)
        found, logits = clip_maps(model, video, kind, blocks=[last], rollout=rolls)
        assert list(found) == [last] and logits.shape == (3,)
        maps = found[last]
        assert maps.mean.ndim == 3 and maps.mean.shape[0] == 2 and maps.mean.min() > 0
        assert maps.heads.shape[1:] == maps.mean.shape
        assert (maps.rollout is not None) == rolls
        if kind != "patch_norm":
            torch.testing.assert_close(maps.heads.mean(0), maps.mean)
            assert 0 < maps.on_patches < 1 + 1e-5
        else:
            assert len(maps.heads) == 0
        if maps.rollout is not None:
            assert maps.rollout.shape == maps.mean.shape and maps.rollout.min() > 0
            assert maps.rollout.sum((1, 2)).max() < 1 + 1e-5


def test_rollout_is_refused_where_patches_merge_or_nothing_attends() -> None:
    [row] = [row for row in ROWS if row.family == "Swin"]
    model = create_model(row.make(), num_classes=3).eval()
    video = torch.randn(1, 1, 3, *row.other)
    assert not can_roll_out(model.backbone, "received")
    with pytest.raises(ValueError, match="merges patches"):
        clip_maps(model, video, "received", blocks=[4], rollout=True)
    with pytest.raises(ValueError, match="have none"):
        clip_maps(model, video, "patch_norm", blocks=[4], rollout=True)
