"""Pure tensor functions: no modules, no configuration."""

from stadapter.ops.dwconv import TimePadding, dwconv3d, dwconv3d_ref

__all__ = ["TimePadding", "dwconv3d", "dwconv3d_ref"]
