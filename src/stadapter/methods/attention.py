"""Multi-head attention that a method learns itself."""

import torch.nn.functional as F
from torch import Tensor, nn

HEAD_WIDTH = 64


class Attention(nn.Module):
    """Queries from one set of tokens, keys and values from another; 4 (d^2 + d) parameters.

    Heads are about 64 wide, as in CLIP; tokens narrower than that have one.
    """

    def __init__(self, width: int) -> None:
        """Make the projections for tokens of `width`.

        Raises:
            ValueError: the width cannot be divided into heads.
        """
        super().__init__()
        self.num_heads = max(1, width // HEAD_WIDTH)
        if width % self.num_heads:
            raise ValueError(
                f"tokens of width {width} cannot be divided among {self.num_heads} attention heads"
            )
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, Q, d) over context (B, S, d) -> (B, Q, d)."""
        q = self._heads(self.query(x))
        k, v = (self._heads(part) for part in self.key_value(context).chunk(2, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return projected

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # (B, heads, S, d/heads)
