"""Visual prompt tuning (VPT; Jia et al., ECCV 2022, arXiv 2203.12119): learned tokens per frame.

p prompts stand between the prefix tokens and the patches of every frame. "shallow" (§3.2): they
enter the first block and go through all of them. "deep": each block has its own, which replace what
the block before made of its prompts. Prompts are not pooled. Trains p d, or L p d in the deep form,
with L blocks of token width d: 7,680 and 92,160 on ViT-B/16 with p = 10.

Prompts change what attention sees from the first step on, so the function of the bare backbone is
not kept. Windows of a patch grid have no room for them: Swin is refused. Rotary position leaves
them unrotated, as it does class tokens.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stadapter.backbones import Backbone, TokenShape
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, MethodConfig, Site


@dataclass(frozen=True)
class PromptTuningConfig(MethodConfig):
    """Settings of visual prompt tuning."""

    name: ClassVar[str] = "prompt_tuning"
    starts_unchanged: ClassVar[bool] = False

    num_prompts: int = 10
    """p, learned tokens in each frame."""
    deep: bool = True
    """New prompts before every block (VPT-deep), or before the first only (VPT-shallow)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_prompts < 1:
            raise ValueError(f"num_prompts ({self.num_prompts}) must be at least 1")

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """Prompts before the first block or before each, and a linear head.

        Raises:
            ValueError: a backbone that attends within windows.
        """
        if any(block.positions == "windows" for block in backbone.blocks):
            raise ValueError(
                f"method 'prompt_tuning' adds tokens to each frame, but backbone {backbone.id!r} "
                "attends within windows of the patch grid, which have no room for them; take a "
                "ViT, or another method"
            )
        bound = math.sqrt(6 / (3 * math.prod(backbone.patch_size) + backbone.width))
        slots: dict[tuple[Site, int], nn.Module] = {}
        if self.deep:
            for i in range(1, len(backbone.blocks)):
                slots["attention", i] = ReplacePrompts(self.num_prompts, backbone.width, bound)
        return AdapterSet(
            self,
            LinearHead(backbone.width, num_classes, dropout=self.dropout),
            adapters=slots,
            preparation=AddPrompts(self.num_prompts, backbone.width, bound),
        )


class Prompts(nn.Module):
    """p learned tokens, uniform within `bound` at first (the authors' Xavier rule)."""

    def __init__(self, num_prompts: int, width: int, bound: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_prompts, width).uniform_(-bound, bound))

    def between(self, prefix: Tensor, patches: Tensor) -> Tensor:
        """Prefix (B*T, P, D) and patches (B*T, N, D) -> (B*T, P+p+N, D)."""
        prompts = self.tokens.to(patches.dtype).expand(len(patches), -1, -1)
        return torch.cat([prefix, prompts, patches], dim=1)


class AddPrompts(Prompts):
    """Prompts before the first block."""

    def forward(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        """(B*T, P+N, D) -> (B*T, P+p+N, D)."""
        P = shape.num_prefix
        tokens = self.between(tokens[:, :P], tokens[:, P:])
        return tokens, shape._replace(num_prefix=P + len(self.tokens))


class ReplacePrompts(Prompts):
    """New prompts in the place of those that came through the block before."""

    def forward(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """(B*T, P+p+N, D) -> the same."""
        P = shape.num_prefix
        return self.between(tokens[:, : P - len(self.tokens)], tokens[:, P:])
