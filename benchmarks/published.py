"""The arithmetic and memory layout of the published implementation, to be measured against.

Written by us from its description: per adapter fc1 on a slice without the class token, permute to
(B, A, T, H, W), contiguous, `nn.Conv3d` with groups = A, permute back, contiguous, fc2, and the
residual added in place to that slice; QuickGELU as x * sigmoid(1.702 x); fused attention; frozen
weights in half precision, everything under autocast.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stadapter.backbones.openai_clip import HEAD_WIDTH, OpenAIClip


class PublishedAdapter(nn.Module):
    """One adapter; writes into its input."""

    def __init__(self, token_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(token_width, width)
        self.conv = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), groups=width)
        self.fc2 = nn.Linear(width, token_width)

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """(B*T, 1+N, D) -> the same tensor, changed."""
        frames, length, _ = tokens.shape
        side = round(math.sqrt(length - 1))
        x = self.fc1(tokens[:, 1:, :])
        x = x.view(-1, num_frames, side, side, x.shape[-1]).permute(0, 4, 1, 2, 3).contiguous()
        x = self.conv(x)
        x = x.permute(0, 2, 3, 4, 1).contiguous().view(frames, length - 1, -1)
        tokens[:, 1:, :] += self.fc2(x)
        return tokens


class PublishedModel(nn.Module):
    """The published classifier over the weights of `tower`, which it does not share."""

    def __init__(self, tower: OpenAIClip, num_classes: int, width: int, sites: list[str]) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False)
        depth = len(tower.transformer.resblocks)
        self.adapters = nn.ModuleDict(
            {
                site: nn.ModuleList(PublishedAdapter(tower.width, width) for _ in range(depth))
                for site in sites
            }
        )
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(tower.width, num_classes)

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, K)."""
        T = video.shape[1]
        x = self.tower.embed(video.flatten(0, 1))
        for i, block in enumerate(self.tower.transformer.resblocks):
            if "attention" in self.adapters:
                x = self.adapters["attention"][i](x, T)
            x = x + _attention(block.attn, block.ln_1(x))
            if "mlp" in self.adapters:
                x = self.adapters["mlp"][i](x, T)
            h = block.mlp.c_fc(block.ln_2(x))
            x = x + block.mlp.c_proj(h * torch.sigmoid(1.702 * h))
        x = x[:, 0].reshape(-1, T, x.shape[-1]).mean(1)
        logits: Tensor = self.fc(self.dropout(self.tower.ln_post(x)))
        return logits


def _attention(attention: nn.Module, x: Tensor) -> Tensor:
    frames, length, width = x.shape
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (
        part.view(frames, length, -1, HEAD_WIDTH).permute(0, 2, 1, 3)
        for part in qkv.split(width, dim=-1)
    )
    y = F.scaled_dot_product_attention(q, k, v)
    projected: Tensor = attention.out_proj(y.permute(0, 2, 1, 3).flatten(2))
    return projected
