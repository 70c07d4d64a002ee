"""Import torchvision beside a CPU-only torch.

torchvision's Linux wheels on PyPI are built against CUDA torch. Beside a CPU-only torch their
compiled operators cannot load, and `import torchvision` (so `import timm`) stops with "operator
torchvision::nms does not exist", because Python code registers shape rules for two of them. None of
those operators is used here, so declaring the two missing schemas is enough. It is done only when
the plain import fails.
"""

import importlib

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # a schema lives as long as its Library object


def ensure_torchvision() -> None:
    """Make `import torchvision` work; call it before importing torchvision or timm.

    Raises:
        ImportError: torchvision is not installed, or fails for another reason than the missing ops.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _libraries.append(library)
        importlib.import_module("torchvision")
