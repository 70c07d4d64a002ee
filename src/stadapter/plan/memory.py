"""Bytes: as people write them, as a process uses them, as a backward pass keeps them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakSet

import torch
from torch import Tensor, nn

from stadapter.device import Precision, autocast, peak_memory

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])(i?)b?", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_PROCESS = Path("/proc/self")


def parse_bytes(text: str) -> int:
    """An amount with its unit in bytes: "8GB" (8e9), "500 MB", "8GiB" (8 * 2**30).

    Raises:
        ValueError: it is none, or nothing at all.
    """
    found = _AMOUNT.fullmatch(text.strip())
    amount = 0.0
    if found:
        amount = float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].lower()]
    if amount < 1:
        raise ValueError(
            f"memory {text!r} must be a number above 0 with its unit, such as 8GB, 500MB or 8GiB"
        )
    return int(amount)


def bytes_text(amount: float) -> str:
    """For people: "8.0 GB", "345 MB", in powers of 1000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= size:
            return (
                f"{amount / size:.1f} {unit}"
                if amount < 10 * size
                else f"{amount / size:.0f} {unit}"
            )
    return f"{amount:.0f} B"


def free_memory(device: torch.device) -> int:
    """Bytes that a training could have on this device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    if found:
        return 1024 * int(found[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class MemoryGauge:
    """Most bytes in use since `reset`: of the GPU's memory, or of this process, all included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        """Begin anew; where the system cannot, the peak is that since the process began."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            (_PROCESS / "clear_refs").write_text("5")  # Linux: the resident peak starts again
        except OSError:
            return

    def peak(self) -> int:
        """Bytes at the highest."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _status("VmHWM") or peak_memory(self.device)

    def now(self) -> int:
        """Bytes in use."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return _status("VmRSS") or peak_memory(self.device)


def saved_bytes(model: nn.Module, video: Tensor, precision: Precision) -> int:
    """Bytes that the forward pass of float `video` (B, T, C, H, W) keeps for the backward pass.

    Of each storage once; without the weights and the video, which are there in any case.
    """
    own = {_storage(t) for t in (*model.parameters(), *model.buffers(), video)}
    kept: WeakSet[_Kept] = WeakSet()  # a graph without a way to a trained weight goes at once

    def keep(tensor: Tensor) -> _Kept:
        entry = _Kept(tensor)
        kept.add(entry)
        return entry

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda entry: entry.tensor)
    with hooks, autocast(video.device, precision):
        logits = model(video)
    storages = {_storage(e.tensor): e.tensor.untyped_storage().nbytes() for e in kept}
    del logits  # up to here it keeps the graph
    return sum(size for storage, size in storages.items() if storage not in own)


class _Kept:
    """A tensor in the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors that share nothing."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _status(name: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    found = re.search(rf"{name}:\s+(\d+) kB", _read(_PROCESS / "status"))
    return 1024 * int(found[1]) if found else 0


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
