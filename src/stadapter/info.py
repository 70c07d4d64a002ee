"""What a model costs: parameters, operations, bytes of the adapter file."""

from collections.abc import Mapping
from typing import Any

from stadapter.data import LabelSpace
from stadapter.recipe import Recipe, build_model
from stadapter.tables import table_text


def describe_model(recipe: Recipe, num_classes: int) -> dict[str, Any]:
    """Count a recipe's model for one view (`num_frames` at the recipe's resolution).

    MACs are multiply-accumulate operations, what video papers print as "GFLOPs"; FLOPs count the
    multiplication and the addition apart.
    """
    space = LabelSpace.single_label([str(k) for k in range(num_classes)])
    model, preprocessing = build_model(recipe, space)
    total, trained = model.num_parameters()
    macs = model.count_macs(recipe.sampling.num_frames, preprocessing.resolution)
    return {
        "backbone": model.backbone.id,
        "method": recipe.method.name,
        "num_classes": num_classes,
        "num_frames": recipe.sampling.num_frames,
        "resolution": list(preprocessing.resolution),
        "total_parameters": total,
        "trained_parameters": trained,
        "trained_percent": round(100 * trained / total, 2),
        "gmacs_per_view": round(macs / 1e9, 3),
        "gflops_per_view": round(2 * macs / 1e9, 3),
        "adapter_bytes": sum(p.numel() * p.element_size() for _, p in model.trained_parameters()),
    }


def info_table(facts: Mapping[str, Any]) -> str:
    """The facts of `describe_model` for people."""
    H, W = facts["resolution"]
    lines = {
        "backbone": facts["backbone"],
        "method": facts["method"],
        "input": f"{facts['num_frames']} frames of {H} x {W} pixels",
        "classes": str(facts["num_classes"]),
        "parameters": f"{facts['total_parameters']:,}",
        "trained": f"{facts['trained_parameters']:,} ({facts['trained_percent']}%)",
        "MACs per view": f"{facts['gmacs_per_view']:.2f} G (what video papers call GFLOPs)",
        "FLOPs per view": f"{facts['gflops_per_view']:.2f} G (two per MAC)",
        "adapter file": f"{facts['adapter_bytes'] / 1e6:.2f} MB",
    }
    return table_text([{"": name, "value": value} for name, value in lines.items()])
