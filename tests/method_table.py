"""The methods, small: a row here and every property that methods promise is tested."""

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

METHOD_TABLE: dict[str, MethodConfig] = {
    "st_adapter": STAdapterConfig(width=12),
    "st_adapter, fraction": STAdapterConfig(width=0.25),
    "st_adapter, 3x3x3": STAdapterConfig(width=6, kernel_size=(3, 3, 3)),
    "st_adapter, 1x1x1": STAdapterConfig(width=6, kernel_size=(1, 1, 1)),
    "st_adapter, causal": STAdapterConfig(width=8, causal=True),
    "st_adapter, wide": STAdapterConfig(
        width=4, kernel_size=(5, 3, 3), padding="replicate", dilation=2
    ),
    "st_adapter, activation": STAdapterConfig(width=8, activation="quick_gelu"),
    "st_adapter, one site": STAdapterConfig(width=8, sites=("attention",)),
    "st_adapter, last block": STAdapterConfig(width=8, sites=("mlp",), last_blocks=1),
    "st_adapter_bidirectional": BidirectionalSTAdapterConfig(width=8),
    "st_adapter_frequency": FrequencySTAdapterConfig(width=8, num_frames=T),
    "linear_probe": LinearProbeConfig(dropout=0.0),
    "attentive_probe": AttentiveProbeConfig(dropout=0.0),
    "attentive_probe, in time": AttentiveProbeConfig(num_queries=2, time_positions=True),
    "full_finetune": FullFinetuneConfig(dropout=0.1),
    "partial_finetune": PartialFinetuneConfig(last_blocks=1),
    "bitfit": BitFitConfig(),
    "prompt_tuning, deep": PromptTuningConfig(num_prompts=3),
    "prompt_tuning, shallow": PromptTuningConfig(num_prompts=3, deep=False),
    "spatial_adapter": SpatialAdapterConfig(width=8),
    "spatial_adapter, serial": SpatialAdapterConfig(width=8, form="serial"),
    "lora": LoRAConfig(rank=2),
    "peft, DoRA": PeftConfig(settings={"r": 2, "use_dora": True}),
    "peft, IA3": PeftConfig(tuner="ia3"),
    "temporal_attention": TemporalAttentionConfig(num_frames=T),
    "aim": AIMConfig(num_frames=T),
}
