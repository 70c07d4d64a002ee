"""Pure tensor functions: no modules, no configuration."""

from stadapter.ops.adapter import (
    AdapterBackend,
    AdapterWeights,
    Placement,
    st_adapter,
    st_adapter_ref,
)
from stadapter.ops.dwconv import Backend, dwconv3d, dwconv3d_ref
from stadapter.ops.products import cast_dtype, frozen_linear, product_dtype
from stadapter.ops.temporal import TimePadding

__all__ = [
    "AdapterBackend",
    "AdapterWeights",
    "Backend",
    "Placement",
    "TimePadding",
    "cast_dtype",
    "dwconv3d",
    "dwconv3d_ref",
    "frozen_linear",
    "product_dtype",
    "st_adapter",
    "st_adapter_ref",
]
