"""Bottleneck adapters within each frame: the plain Adapter, to which ST-Adapter adds time.

`form` says where they stand:
"parallel", AdaptFormer (Chen et al., NeurIPS 2022, arXiv 2205.13535): beside the MLP, with ReLU,
    x + mlp(x) + scale * up(relu(down(x)));
"serial", Houlsby et al. (ICML 2019, arXiv 1902.00751): after attention and after the MLP, with
    GELU, branch + up(gelu(down(branch))).

Trains 2dA + A + d per adapter, for token width d and adapter width A: one per block in the parallel
form (1,189,632 with A = 64 on ViT-B/16), two in the serial form. All tokens are adapted, the class
token too.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import nn

from stadapter.backbones import Backbone
from stadapter.methods.bottleneck import BottleneckConfig, ParallelAdapter, SerialAdapter
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import SITES, AdapterSet, Site

Form = Literal["parallel", "serial"]


@dataclass(frozen=True)
class SpatialAdapterConfig(BottleneckConfig):
    """Settings of spatial adapters; the defaults are AdaptFormer-64."""

    name: ClassVar[str] = "spatial_adapter"

    width: int | float = 64
    """A, channels of the bottleneck; a fraction (0.5) is taken of each block's token width."""
    form: Form = "parallel"
    """Beside the MLP ("parallel", AdaptFormer), or "serial" after attention and MLP (Houlsby)."""
    scale: float = 0.1
    """Factor on what a parallel adapter adds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in get_args(Form):
            raise ValueError(f"form {self.form!r} must be one of {get_args(Form)}")
        if self.scale <= 0:
            raise ValueError(f"scale ({self.scale}) must be above 0")

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """One adapter in each block, or two, and a linear head.

        Raises:
            ValueError: `last_blocks` exceeds the backbone's depth.
        """
        branches: dict[tuple[Site, int], nn.Module] = {}
        for i, (d, width) in self.block_widths(backbone).items():
            if self.form == "parallel":
                branches["mlp", i] = ParallelAdapter(d, width, "relu", self.scale)
            else:
                branches |= {(site, i): SerialAdapter(d, width, "gelu") for site in SITES}
        head = LinearHead(backbone.width, num_classes, dropout=self.dropout)
        return AdapterSet(self, head, branches=branches)
