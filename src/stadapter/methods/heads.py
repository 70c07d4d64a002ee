"""Classification heads: pooled features (B, D) -> logits (B, K)."""

from torch import Tensor, nn


class LinearHead(nn.Module):
    """The published head: dropout, then a linear layer with weights from N(0, 0.02) and zero
    bias."""

    def __init__(self, width: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, num_classes)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.linear.out_features

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, K)."""
        logits: Tensor = self.linear(self.dropout(features))
        return logits
