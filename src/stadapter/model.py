"""The video classifier: a frozen image transformer, what a method adds to it, and the loop over
both.

Letters: B clips, T frames, C channels, H W pixels, P prefix tokens, N patch tokens per frame, D
token width, K classes.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stadapter.backbones import Backbone, TokenShape, create_backbone
from stadapter.methods import AdapterSet, MethodConfig, STAdapterConfig


class VideoClassifier(nn.Module):
    """Normalised video (B, T, C, H, W) -> logits (B, K), for any T and any multiple of the patch.

    The stages `embed`, `run_blocks`, `pool` and `head` are callable apart.
    """

    def __init__(self, backbone: Backbone, adapter_set: AdapterSet) -> None:
        """Join the two and freeze every weight that the method does not declare as trained."""
        super().__init__()
        self.backbone = backbone
        self.adapter_set = adapter_set
        # Taken before training: a method may change the weights, and the file must name the origin.
        self.backbone_fingerprint = backbone.fingerprint()
        backbone.requires_grad_(False)
        for _, parameter in adapter_set.trained_backbone_parameters(backbone):
            parameter.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VideoClassifier":
        """As `nn.Module.train`, but a frozen backbone stays in evaluation mode (no DropPath)."""
        super().train(mode)
        self.backbone.train(mode and bool(self.adapter_set.backbone_parameters))
        return self

    def embed(self, video: Tensor) -> tuple[Tensor, TokenShape]:
        """(B, T, C, H, W) -> tokens (B*T, P+N, D) and how to read them.

        Raises:
            ValueError: not five dimensions, not three channels, or sides that do not fit the patch.
        """
        if video.ndim != 5 or video.shape[2] != 3:
            raise ValueError(
                f"video of shape {tuple(video.shape)} must be (B, T, 3, H, W): clips, frames, RGB, "
                "height, width"
            )
        T, H, W = video.shape[1], video.shape[3], video.shape[4]
        shape = TokenShape(T, *self.backbone.grid(H, W), self.backbone.num_prefix_tokens)
        return self.backbone.embed(video.flatten(0, 1)), shape

    def run_blocks(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        """All blocks with the adapters in their slots: (B*T, P+N, D) -> the same."""
        adapt = self.adapter_set.adapt
        for i, block in enumerate(self.backbone.blocks):
            tokens, shape = block.merge(tokens, shape)
            tokens = adapt(tokens, "attention", i, shape)
            tokens = tokens + block.attention(tokens, shape)
            tokens = adapt(tokens, "mlp", i, shape)
            tokens = tokens + block.mlp(tokens)
        return tokens, shape

    def features(self, video: Tensor) -> Tensor:
        """Pooled features before the head: (B, T, C, H, W) -> (B, D)."""
        return self.backbone.pool(*self.run_blocks(*self.embed(video)))

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) -> logits (B, K)."""
        logits: Tensor = self.adapter_set.head(self.features(video))
        return logits

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything that training changes, by the name it has in `adapter_model.safetensors`."""
        yield from self.adapter_set.named_parameters()
        for name, parameter in self.adapter_set.trained_backbone_parameters(self.backbone):
            yield f"backbone.{name}", parameter

    def num_parameters(self) -> tuple[int, int]:
        """(total, trained): weights of backbone, adapters and head; those of them that train."""
        trained = sum(p.numel() for _, p in self.trained_parameters())
        return sum(p.numel() for p in self.parameters()), trained

    def count_macs(self, num_frames: int, resolution: tuple[int, int]) -> int:
        """Multiply-accumulate operations for one view of `num_frames` at (height, width).

        Video papers print these MACs as "GFLOPs"; one MAC is two floating-point operations. Counted
        on the meta device, where fused attention is counted too.
        """
        meta = {name: t.detach().to("meta") for name, t in self.state_dict().items()}
        video = torch.empty(1, num_frames, 3, *resolution, device="meta")
        mode = self.training
        self.eval()
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                torch.func.functional_call(self, meta, (video,))
        finally:
            self.train(mode)
        return int(counter.get_total_flops()) // 2


def create_model(
    backbone: str | Backbone = "tiny",
    *,
    num_classes: int,
    method: MethodConfig | None = None,
    backbone_weights: str | Path | None = None,
    pretrained: bool = True,
) -> VideoClassifier:
    """Put a method's adapters and a fresh head on a frozen image transformer.

    Args:
        backbone: "tiny", "timm/NAME", or a module that fulfils `Backbone`.
        num_classes: K, at least 2.
        method: what to add; `STAdapterConfig()` by default.
        backbone_weights: local file with the pretrained weights, for a backbone given by name.
        pretrained: False takes random weights (the same each time) instead of the Hub's.

    Raises:
        ValueError: unknown backbone, impossible settings.
        FileNotFoundError: `backbone_weights` does not exist.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes ({num_classes}) must be at least 2")
    if isinstance(backbone, str):
        backbone = create_backbone(backbone, weights=backbone_weights, pretrained=pretrained)
    elif backbone_weights is not None:
        raise ValueError("backbone_weights goes with a backbone given by name, not with a module")
    method = method or STAdapterConfig()
    return VideoClassifier(backbone, method.build(backbone, num_classes))
