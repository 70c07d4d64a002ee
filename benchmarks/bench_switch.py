"""How long switching between two tasks on one resident ViT-B/16 takes.

    python benchmarks/bench_switch.py

Random weights; 24x384 adapters for 174 classes and 12x384 for 400. Prints a table, then one JSON
line.
"""

import json
import platform
import statistics
import time
from tempfile import TemporaryDirectory

import torch

from stadapter import STAdapterConfig, create_model
from stadapter.model import VideoClassifier

BACKBONE = "timm/vit_base_patch16_clip_quickgelu_224.openai"
RUNS = 200


def main() -> None:
    """Load two adapters and time `set_adapter`."""
    model = create_model(BACKBONE, num_classes=174, pretrained=False).eval()
    other = STAdapterConfig(sites=("mlp",)).build(model.backbone, 400)
    fingerprint = model.backbone_fingerprint
    twelve = VideoClassifier(model.backbone, other, backbone_fingerprint=fingerprint)
    with TemporaryDirectory() as folder:
        twelve.save_pretrained(folder)
        model.load_adapter(folder, name="twelve")
    seconds = []
    for i in range(RUNS + 10):
        name = ("twelve", "default")[i % 2]
        start = time.perf_counter()
        model.set_adapter(name)
        seconds.append(time.perf_counter() - start)
    ms = sorted(1000 * s for s in seconds[10:])
    result = {
        "benchmark": "switch",
        "backbone": BACKBONE,
        "runs": RUNS,
        "median_ms": round(statistics.median(ms), 4),
        "p5_ms": round(ms[RUNS // 20], 4),
        "p95_ms": round(ms[-RUNS // 20], 4),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    print(f"set_adapter on ViT-B/16: median {result['median_ms']} ms of {RUNS} switches")
    print(f"5% to 95%: {result['p5_ms']} to {result['p95_ms']} ms")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
