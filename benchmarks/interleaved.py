"""Timing of several cases side by side: warm-up, then round after round, each case once per round.

Machines change their speed within minutes, so a ratio is taken inside each round and the median of
these ratios is the result.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from stadapter.ops.products import product_dtype

Case = Callable[[], Callable[[], object]]
"""Prepares one run, untimed, and returns what is timed."""


def measure(
    cases: Mapping[str, Case], *, rounds: int, device: torch.device, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every round by case. On one CPU thread, processor time; else time on the clock."""
    own_time = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if own_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(warmup + rounds):
        for name, prepare in cases.items():
            run = prepare()
            _wait(device)
            start = clock()
            run()
            _wait(device)
            if i >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and range in milliseconds."""
    ms = [1000 * s for s in seconds]
    return {
        "median_ms": round(statistics.median(ms), 3),
        "min_ms": round(min(ms), 3),
        "max_ms": round(max(ms), 3),
    }


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as long `slow` takes: median over rounds."""
    return round(statistics.median(s / f for s, f in zip(slow, fast, strict=True)), 3)


def product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that a large matrix product reaches: what computation can be held against.

    A CPU without instructions for `dtype` is held against float32, which it multiplies faster.
    """
    dtype = product_dtype(device, dtype)
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    runs = measure({"product": lambda: lambda: a @ b}, rounds=3, device=device)["product"]
    return 2 * n**3 / min(runs)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of a large copy, read and written."""
    a = torch.zeros(2**28 if device.type == "cuda" else 2**24, device=device)
    b = torch.empty_like(a)
    runs = measure({"copy": lambda: lambda: b.copy_(a)}, rounds=5, device=device)["copy"]
    return 2 * a.numel() * a.element_size() / min(runs)


def machine(device: torch.device) -> str:
    """The device's name and the version of torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    return f"{name}, torch {torch.__version__}"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo")
    names = lines.read_text(encoding="utf-8").splitlines() if lines.exists() else []
    model = next((n.split(":")[1].strip() for n in names if n.startswith("model name")), None)
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model or platform.machine()} ({capability}), {threads} thread(s)"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
