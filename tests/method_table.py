"""The methods, small: a row here and every property that methods promise is tested."""

from typing import NamedTuple

from stadapter.methods import (
    AIMConfig,
    AttentiveProbeConfig,
    BidirectionalSTAdapterConfig,
    BitFitConfig,
    FrequencySTAdapterConfig,
    FullFinetuneConfig,
    LinearProbeConfig,
    LoRAConfig,
    MethodConfig,
    PartialFinetuneConfig,
    PeftConfig,
    PromptTuningConfig,
    SpatialAdapterConfig,
    STAdapterConfig,
    TemporalAttentionConfig,
)

T = 4
"""Frames of the clips in the tests, and of learned positions."""
d, L = 128, 4
"""Token width and number of blocks of "tiny"."""


class MethodRow(NamedTuple):
    """A method and what is expected of it."""

    method: MethodConfig
    count: int
    """Parameters that it trains on "tiny", by the formula in its file, without the head."""
    refuses: tuple[str, ...] = ()
    """Kinds of backbone on which it does not work and says so: "windows", "rotary", and "fused"
    for those that read the weights of their fused qkv past the layer."""


def bottleneck(width: int) -> int:
    """down and up."""
    return 2 * d * width + width + d


def st_adapter(width: int, kernel: int = 3) -> int:
    """down, filter of `kernel` weights, up."""
    return bottleneck(width) + kernel * width + width


BLOCK = 12 * d * d + 13 * d
BACKBONE = L * BLOCK + (3 * 8 * 8 + 1) * d + d + 65 * d + 2 * d  # patches, class, places, norm

ROWS: dict[str, MethodRow] = {
    "st_adapter": MethodRow(STAdapterConfig(width=12), 2 * L * st_adapter(12)),
    "st_adapter, fraction": MethodRow(STAdapterConfig(width=0.25), 2 * L * st_adapter(32)),
    "st_adapter, 1x1x1": MethodRow(
        STAdapterConfig(width=6, kernel_size=(1, 1, 1)), 2 * L * st_adapter(6, 1)
    ),
    "st_adapter, causal": MethodRow(STAdapterConfig(width=8, causal=True), 2 * L * st_adapter(8)),
    "st_adapter, wide": MethodRow(
        STAdapterConfig(width=4, kernel_size=(5, 3, 3), padding="replicate", dilation=2),
        2 * L * st_adapter(4, 45),
    ),
    "st_adapter, last block": MethodRow(
        STAdapterConfig(width=8, sites=("mlp",), last_blocks=1, activation="quick_gelu"),
        st_adapter(8),
    ),
    "st_adapter_bidirectional": MethodRow(
        BidirectionalSTAdapterConfig(width=8), 2 * L * (bottleneck(8) + 2 * (5 * 8 + 8) + 8)
    ),
    "st_adapter_frequency": MethodRow(
        FrequencySTAdapterConfig(width=8, num_frames=T),
        2 * L * (st_adapter(8) + 2 * (T // 2 + 1) * 8),
    ),
    "linear_probe": MethodRow(LinearProbeConfig(dropout=0.0), 0),
    "attentive_probe": MethodRow(AttentiveProbeConfig(dropout=0.0), 4 * (d * d + d) + 2 * d + d),
    "attentive_probe, in time": MethodRow(
        AttentiveProbeConfig(num_queries=2, time_positions=True), 4 * (d * d + d) + 2 * d + 2 * d
    ),
    "full_finetune": MethodRow(FullFinetuneConfig(dropout=0.1), BACKBONE),
    "partial_finetune": MethodRow(PartialFinetuneConfig(last_blocks=1), BLOCK + 2 * d),
    "bitfit": MethodRow(BitFitConfig(), L * 11 * d + 2 * d),
    "prompt_tuning, deep": MethodRow(
        PromptTuningConfig(num_prompts=3), L * 3 * d, refuses=("windows",)
    ),
    "prompt_tuning, shallow": MethodRow(
        PromptTuningConfig(num_prompts=3, deep=False), 3 * d, refuses=("windows",)
    ),
    "spatial_adapter": MethodRow(SpatialAdapterConfig(width=8), L * bottleneck(8)),
    "spatial_adapter, serial": MethodRow(
        SpatialAdapterConfig(width=8, form="serial"), 2 * L * bottleneck(8)
    ),
    "lora": MethodRow(LoRAConfig(rank=2), L * 2 * 4 * d, refuses=("fused",)),
    "peft, DoRA": MethodRow(
        PeftConfig(settings={"r": 2, "use_dora": True}), L * (2 * 4 * d + 3 * d), refuses=("fused",)
    ),
    "peft, IA3": MethodRow(PeftConfig(tuner="ia3"), L * 3 * d, refuses=("fused",)),
    "temporal_attention": MethodRow(
        TemporalAttentionConfig(num_frames=T), L * (4 * d * d + 6 * d) + T * d
    ),
    "aim": MethodRow(
        AIMConfig(num_frames=T), 3 * L * bottleneck(d // 4) + T * d, refuses=("rotary", "windows")
    ),
}
METHOD_TABLE = {name: row.method for name, row in ROWS.items()}
