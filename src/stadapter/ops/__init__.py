"""Pure tensor functions: no modules, no configuration."""

from stadapter.ops.dwconv import dwconv3d, dwconv3d_ref

__all__ = ["dwconv3d", "dwconv3d_ref"]
