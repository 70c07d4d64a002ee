"""ST-Adapter with a frequency branch: the spectrum of the whole clip beside the local filter.

    y = x + up(dwconv3d(h) + inverse(gain * spectrum(h))),  h = down(x)

where `spectrum` is the discrete Fourier transform over the T frames and `gain` a learned complex
number per channel and frequency, zero at first. It is a global filter (Rao et al., NeurIPS 2021,
arXiv 2107.00645, §3.2, there over space) in time; after Frame2Freq (arXiv 2602.18977), which adds
windowed spectra of several lengths and is known here at second hand only, so this is its idea and
not its design. Time wraps around in this branch; the convolution pads with zeros.

Trains, with d token width, A adapter width, a convolution of k frames and F = num_frames // 2 + 1
frequencies: (dA + A) + (kA + A) + 2FA + (Ad + d) per adapter. Gains are resampled where a clip has
another number of frames.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stadapter.methods.bottleneck import ACTIVATIONS, FilteredBottleneck, StreamConfig
from stadapter.methods.positions import check_num_frames
from stadapter.ops import dwconv3d


@dataclass(frozen=True)
class FrequencySTAdapterConfig(StreamConfig):
    """Settings of ST-Adapter with a frequency branch."""

    name: ClassVar[str] = "st_adapter_frequency"

    kernel_frames: int = 3
    """k, frames that the convolution sees; odd."""
    num_frames: int = 8
    """T for which there is one gain per frequency."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_frames(self.num_frames)
        if self.kernel_frames < 1 or self.kernel_frames % 2 == 0:
            raise ValueError(f"kernel_frames ({self.kernel_frames}) must be odd and at least 1")

    @property
    def sees_order(self) -> bool:
        """By its filters."""
        return True

    def make_adapter(self, token_width: int, width: int) -> nn.Module:
        """A `FrequencySTAdapter`."""
        return FrequencySTAdapter(token_width, width, self)


class FrequencySTAdapter(FilteredBottleneck):
    """One adapter; the identity as long as filter and gains are zero, as they are at first."""

    def __init__(self, token_width: int, width: int, config: FrequencySTAdapterConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation] if config.activation else None
        self.down = nn.Linear(token_width, width)
        self.conv = nn.Conv3d(width, width, (config.kernel_frames, 1, 1), groups=width)
        self.gain = nn.Parameter(torch.zeros(2, width, config.num_frames // 2 + 1))
        self.up = nn.Linear(width, token_width)
        for zero in (self.conv.weight, self.conv.bias, self.down.bias, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def filter(self, h: Tensor) -> Tensor:
        """(B, T, H, W, A) -> the same, by convolution and frequency branch."""
        assert self.conv.bias is not None
        return dwconv3d(h, self.conv.weight, self.conv.bias) + self._gained(h)

    def _gained(self, h: Tensor) -> Tensor:
        """The frequency branch on (B, T, H, W, A); in float32, as transforms know no bfloat16."""
        T = h.shape[1]
        gain = self.gain.float()
        if gain.shape[-1] != T // 2 + 1:
            gain = F.interpolate(gain, size=T // 2 + 1, mode="linear", align_corners=True)
        spectrum = torch.fft.rfft(h.float(), dim=1)  # (B, F, H, W, A)
        gains = torch.complex(gain[0].T, gain[1].T)[:, None, None]  # (F, 1, 1, A)
        filtered: Tensor = torch.fft.irfft(spectrum * gains, n=T, dim=1)
        return filtered.to(h.dtype)
