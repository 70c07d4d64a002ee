"""Pure tensor functions: no modules, no configuration."""

from stadapter.ops.adapter import (
    AdapterBackend,
    AdapterWeights,
    Placement,
    st_adapter,
    st_adapter_ref,
)
from stadapter.ops.dwconv import Backend, dwconv3d, dwconv3d_ref
from stadapter.ops.temporal import TimePadding

__all__ = [
    "AdapterBackend",
    "AdapterWeights",
    "Backend",
    "Placement",
    "TimePadding",
    "dwconv3d",
    "dwconv3d_ref",
    "st_adapter",
    "st_adapter_ref",
]
