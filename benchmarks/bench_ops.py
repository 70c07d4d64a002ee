"""How long the adapter alone takes: down, filter along time, up, residual.

    python benchmarks/bench_ops.py               # a GPU if there is one, else one thread
    python benchmarks/bench_ops.py --dtypes fp32 bf16 --num_frames 16

Against the published arithmetic (`published.py`), in inference and in a training step, for every
path of `stadapter.ops.st_adapter` that runs here. Prints a table, then one JSON line. Imports
nothing of the data side.
"""

import argparse
import json

import torch
from interleaved import Case, copy_bandwidth, machine, measure, product_flops, ratio, summary
from published import PublishedAdapter
from torch import Tensor

from stadapter.ops import AdapterWeights, Placement, st_adapter

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--num_threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--clips", type=int, help="B; 1 on a CPU, 32 on a GPU")
    parser.add_argument("--num_frames", type=int, default=8)
    parser.add_argument("--grid", type=int, default=14, help="H = W")
    parser.add_argument("--token_width", type=int, default=768)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.num_threads)
    clips = args.clips or (32 if device.type == "cuda" else 1)
    bandwidth = copy_bandwidth(device)
    results = []
    print(f"{machine(device)}; {clips} clips of {args.num_frames} frames, {args.grid}x{args.grid}")
    print(f"{'':34}{'median ms':>10}{'min':>9}{'max':>9}{'speed-up':>10}")
    for name in args.dtypes:
        for training in (False, True):
            cases = make_cases(args, clips, DTYPES[name], device, training)
            seconds = measure(cases, rounds=args.rounds, device=device, warmup=2)
            for path, runs in seconds.items():
                row = {
                    "dtype": name,
                    "training": training,
                    "path": path,
                    **summary(runs),
                    "speed_up": ratio(seconds["published"], runs),
                }
                results.append(row)
                label = f"{name} {'training' if training else 'inference'} {path}"
                print(
                    f"{label:34}{row['median_ms']:>10}{row['min_ms']:>9}{row['max_ms']:>9}"
                    f"{row['speed_up']:>10}"
                )
    # Lower bounds of inference: 2 D A MACs and 2 D values moved per token.
    tokens = clips * args.num_frames * args.grid**2
    limits = {}
    for name in args.dtypes:
        dtype = DTYPES[name]
        products = 4 * tokens * args.token_width * args.width / product_flops(device, dtype)
        moved = 2 * tokens * args.token_width * dtype.itemsize / bandwidth
        limits[name] = {"products_ms": round(1e3 * products, 3), "moved_ms": round(1e3 * moved, 3)}
        print(f"{name} limit of inference: products {limits[name]['products_ms']} ms", end=", ")
        print(f"tokens read and written once {limits[name]['moved_ms']} ms")
    settings = {**vars(args), "clips": clips}
    line = {"benchmark": "ops", "machine": machine(device), **settings}
    print(json.dumps({**line, "limits": limits, "results": results}))


def make_cases(
    args: argparse.Namespace, clips: int, dtype: torch.dtype, device: torch.device, training: bool
) -> dict[str, Case]:
    """The published adapter and ours, with the same weights, by path."""
    torch.manual_seed(0)
    adapter = PublishedAdapter(args.token_width, args.width).to(device, dtype)
    adapter.requires_grad_(training)
    weights = AdapterWeights(
        *(getattr(part, kind) for part in (adapter.fc1, adapter.conv, adapter.fc2)
          for kind in ("weight", "bias"))
    )  # fmt: skip
    placement = Placement(args.num_frames, args.grid, args.grid, 1)
    shape = (clips * args.num_frames, 1 + args.grid**2, args.token_width)
    tokens = torch.randn(shape, device=device, dtype=dtype)
    grad = torch.randn_like(tokens)

    def case(forward: object) -> Case:
        def prepare() -> object:
            # The published adapter writes into its input, so each run gets a fresh one.
            x = tokens.clone().requires_grad_(training)
            x = x.clone() if training else x

            def run() -> None:
                with torch.set_grad_enabled(training):
                    y = forward(x)  # type: ignore[operator]
                if training:
                    y.backward(grad)

            return run

        return prepare  # type: ignore[return-value]

    def ours(backend: str) -> object:
        return lambda x: st_adapter(x, weights, placement, backend=backend)  # type: ignore[arg-type]

    compiled = torch.compile(lambda x: st_adapter(x, weights, placement))
    cases = {"published": case(lambda x: adapter(x, args.num_frames)), "auto": case(ours("auto"))}
    paths = ("triton", "triton_up", "shift") if device.type == "cuda" else ("shift",)
    cases |= {path: case(ours(path)) for path in paths}
    cases["compiled"] = case(compiled)
    _check(cases, tokens, [adapter(tokens.clone(), args.num_frames), ours("auto")(tokens)])  # type: ignore[operator]
    return cases


def _check(cases: dict[str, Case], tokens: Tensor, outputs: list[Tensor]) -> None:
    difference = (outputs[0] - outputs[1]).abs().max().item()
    allowed = 1e-4 if tokens.dtype == torch.float32 else 0.1
    if difference > allowed:
        raise RuntimeError(f"paths {', '.join(cases)} disagree by {difference}")


if __name__ == "__main__":
    main()
