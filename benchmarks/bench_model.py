"""Speed and memory of the whole model beside the published arithmetic and the bare backbone.

    python benchmarks/bench_model.py                                 # ViT-B/16, 8 frames, 24x384
    python benchmarks/bench_model.py --sites mlp --num_frames 16     # 12x384, 16 frames
    python benchmarks/bench_model.py --model vit_l14 --clips 16      # for a GPU
    python benchmarks/bench_model.py --depth 2 --dtype bf16          # the first two blocks only

(a) the published arithmetic and layout (`published.py`), (b) ours, (c) ours compiled, (d) the bare
frozen backbone, forward only; interleaved in one run. Random weights. In half precision everything
runs under autocast over half-precision frozen weights. Prints tables, then one JSON line. Imports
nothing of the data side.
"""

import argparse
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from interleaved import Case, machine, measure, product_flops, ratio, summary
from published import PublishedModel
from retained import retained_bytes
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from stadapter.backbones import OpenAIClip
from stadapter.backbones.frozen import store_frozen
from stadapter.backbones.openai_clip import TowerSize
from stadapter.methods import LinearProbeConfig, STAdapterConfig
from stadapter.model import VideoClassifier

MODELS = {
    "vit_b16": TowerSize(width=768, depth=12, mlp_width=3072, patch_size=16, grid_size=14),
    "vit_l14": TowerSize(width=1024, depth=24, mlp_width=4096, patch_size=14, grid_size=16),
    "vit_ti16": TowerSize(width=192, depth=12, mlp_width=768, patch_size=16, grid_size=14),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RECOMPUTE = ("none", "activations", "mlp")
NUM_CLASSES = 400


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--num_threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--model", choices=MODELS, default="vit_b16")
    parser.add_argument("--depth", type=int, help="take only the first so many blocks")
    parser.add_argument("--num_frames", type=int, default=8)
    parser.add_argument("--clips", type=int, help="B; 1 on a CPU, 32 on a GPU")
    parser.add_argument("--sites", nargs="+", default=["attention", "mlp"], help="mlp: 12x384")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--dtype", choices=DTYPES, help="fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip", nargs="*", default=[], help="names of columns to leave out")
    parser.add_argument("--only", choices=("inference", "training", "memory"), nargs="+")
    parser.add_argument("--profile", action="store_true", help="also time per operator")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    args.clips = args.clips or (32 if cuda else 1)
    args.dtype = args.dtype or ("bf16" if cuda else "fp32")
    args.only = args.only or ["inference", "training", "memory"]
    return args


class Bench:
    """The four models with equal sizes, and one batch."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.args = args
        self.device = torch.device(args.device)
        self.dtype = DTYPES[args.dtype]
        size = MODELS[args.model]
        depth = args.depth or size.depth
        self.size = TowerSize(size.width, depth, size.mlp_width, size.patch_size, size.grid_size)
        published = PublishedModel(OpenAIClip(self.size), NUM_CLASSES, args.width, args.sites)
        published.tower.to(self.dtype)
        config = STAdapterConfig(width=args.width, sites=tuple(args.sites))
        self.ours = self.classifier(config)
        bare = self.classifier(LinearProbeConfig())
        self.models: dict[str, nn.Module] = {
            "published": published,
            "ours": self.ours,
            "compiled": torch.compile(self.classifier(config)),  # type: ignore[dict-item]
            "bare": bare,
        }
        for model in self.models.values():
            model.to(self.device)
        self.models = {n: m for n, m in self.models.items() if n not in args.skip}
        side = size.patch_size * size.grid_size
        self.video = self.batch(args.clips, side)
        self.side = side

    def batch(self, clips: int, side: int) -> Tensor:
        """Random normalised video."""
        return torch.randn(clips, self.args.num_frames, 3, side, side, device=self.device)

    def classifier(self, config: STAdapterConfig | LinearProbeConfig) -> VideoClassifier:
        """Ours over a tower of its own, stored in the dtype of the run."""
        tower = OpenAIClip(self.size)
        model = VideoClassifier(tower, config.build(tower, NUM_CLASSES), backbone_fingerprint="-")
        if self.args.dtype == "bf16":
            store_frozen(tower, "bf16")
        return model

    def forward(self, model: nn.Module, video: Tensor) -> Tensor:
        """Logits, under autocast in half precision."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.args.dtype != "fp32"):
            logits: Tensor = model(video)
        return logits

    def loss(self, model: nn.Module, video: Tensor) -> Tensor:
        """Cross-entropy with class 0."""
        labels = torch.zeros(len(video), dtype=torch.long, device=self.device)
        return F.cross_entropy(self.forward(model, video).float(), labels)

    def inference(self, model: nn.Module) -> Case:
        """One forward without gradients."""

        def run() -> None:
            with torch.no_grad():
                self.forward(model, self.video)

        def prepare() -> Callable[[], None]:
            model.eval()
            return run

        return prepare

    def training(self, model: nn.Module, recompute: str | None = None) -> Case:
        """Forward and backward; the optimizer's work on 2% to 8% of the weights is left out."""

        def run() -> None:
            if recompute is not None:
                self.ours.recompute = recompute  # type: ignore[assignment]
            self.loss(model, self.video).backward()

        def prepare() -> Callable[[], None]:
            model.train()
            for parameter in model.parameters():
                parameter.grad = None
            return run

        return prepare

    def saved_bytes(self, model: nn.Module) -> int:
        """Bytes that one more clip makes forward leave behind for backward."""
        model.train()
        one, two = (
            retained_bytes(lambda v=v: self.loss(model, v))
            for v in (self.batch(1, self.side), self.batch(2, self.side))
        )
        return two - one

    def peak_bytes(self, case: Case) -> int:
        """CUDA's peak in one training step."""
        run = case()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


def main() -> None:
    """Measure and print."""
    args = parse()
    torch.set_num_threads(args.num_threads)
    bench = Bench(args)
    peak = product_flops(bench.device, bench.dtype)
    macs = bench.ours.count_macs(args.num_frames, (bench.side, bench.side))
    bare = bench.models.get("bare")
    bare_macs = bare.count_macs(args.num_frames, (bench.side, bench.side)) if bare else 0
    print(
        f"{machine(bench.device)}; {args.model}, {bench.size.depth} blocks, {args.clips} clips of "
        f"{args.num_frames} frames, {args.dtype}; a large product reaches {peak / 1e9:.0f} GFLOP/s"
    )
    result = {
        "benchmark": "model",
        "machine": machine(bench.device),
        **vars(args),
        "product_gflops": round(peak / 1e9, 1),
        "macs_per_clip": macs,
        "bare_macs_per_clip": bare_macs,
    }
    # Forward and the gradients of activations, the latter from the first adapter on; then the
    # gradients of the adapters' own weights. Nothing of what backward reads is computed twice.
    limits = {"inference": 2 * macs, "training": 4 * macs + 2 * (macs - bare_macs)}
    if "inference" in args.only:
        cases = {name: bench.inference(model) for name, model in bench.models.items()}
        result["inference"] = report("inference", bench, cases, limits["inference"], peak)
    if "training" in args.only:
        cases = training_cases(bench)
        result["training"] = report("training", bench, cases, limits["training"], peak)
    if "memory" in args.only:
        result["memory"] = memory(bench)
    if args.profile:
        result["profile"] = {
            name: per_operator(bench, model)
            for name, model in bench.models.items()
            if name in ("published", "ours")
        }
    print(json.dumps(result))


def training_cases(bench: Bench) -> dict[str, Case]:
    """A step of each; of the bare backbone, which has nothing to train, the forward alone."""
    models = bench.models
    cases = {}
    if "published" in models:
        cases["published"] = bench.training(models["published"])
    for recompute in RECOMPUTE:
        if recompute not in bench.args.skip:
            cases[f"ours, {recompute}"] = bench.training(bench.ours, recompute)
    if "compiled" in models:
        cases["compiled"] = bench.training(models["compiled"])
    if "bare" in models:
        cases["bare forward"] = bench.inference(models["bare"])
    return cases


def report(
    what: str, bench: Bench, cases: dict[str, Case], flops: int, peak: float
) -> dict[str, dict[str, float]]:
    """Measure, print and return the rows of one table."""
    device, clips = bench.device, bench.args.clips
    seconds = measure(cases, rounds=bench.args.rounds, device=device)
    print(f"{what:24}{'median ms':>12}{'min':>11}{'max':>11}{'clips/s':>9}", end="")
    print(f"{'speed-up':>10}{'of bare':>9}{'of limit':>9}")
    rows = {}
    for name, runs in seconds.items():
        row = summary(runs)
        row["clips_per_second"] = round(1000 * clips / row["median_ms"], 3)
        if "published" in seconds:
            row["speed_up"] = ratio(seconds["published"], runs)
        for base in ("bare", "bare forward"):
            if base in seconds:
                row["of_bare"] = ratio(runs, seconds[base])
        if not name.startswith("bare"):
            row["of_limit"] = round(flops * clips / peak / (row["median_ms"] / 1000), 3)
        if what == "training" and device.type == "cuda" and not name.startswith("bare"):
            row["peak_bytes"] = bench.peak_bytes(cases[name])
        rows[name] = row
        print(f"{name:24}{row['median_ms']:>12}{row['min_ms']:>11}{row['max_ms']:>11}", end="")
        print(f"{row['clips_per_second']:>9}{row.get('speed_up', '-'):>10}", end="")
        print(f"{row.get('of_bare', '-'):>9}{row.get('of_limit', '-'):>9}")
    return rows


def memory(bench: Bench) -> dict[str, dict[str, float]]:
    """Bytes per clip between forward and backward, and their ratio to the published arithmetic."""
    found = {}
    if "published" in bench.models:
        found["published"] = bench.saved_bytes(bench.models["published"])
    for recompute in RECOMPUTE:
        bench.ours.recompute = recompute  # type: ignore[assignment]
        found[f"ours, {recompute}"] = bench.saved_bytes(bench.ours)
    base = found.get("published")
    rows = {}
    print(f"{'saved for backward':24}{'MB per clip':>12}{'of published':>14}")
    for name, size in found.items():
        rows[name] = {"bytes_per_clip": size, "ratio": round(size / base, 3) if base else 0.0}
        print(f"{name:24}{size / 1e6:>12.1f}{rows[name]['ratio']:>14}")
    return rows


def per_operator(bench: Bench, model: nn.Module) -> dict[str, float]:
    """Milliseconds of a training step by operator, the ten largest, children not included."""
    bench.ours.recompute = "none"
    bench.training(model)()
    activities = [ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as record:
        bench.training(model)()()
    cuda = bench.device.type == "cuda"
    times = {
        e.key: (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1000
        for e in record.key_averages()
    }
    total = sum(times.values())
    largest = sorted(times.items(), key=lambda item: -item[1])[:10]
    print(f"profile of a training step of {'ours' if model is bench.ours else 'published'}:")
    for name, ms in largest:
        print(f"    {name:44}{ms:>10.1f} ms{100 * ms / total:>7.1f}%")
    return {name: round(ms, 2) for name, ms in largest}


if __name__ == "__main__":
    main()
