"""Ways to adapt a frozen image transformer to video. Add one: one file, one entry below."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stadapter.methods.aim import AIMConfig
from stadapter.methods.attentive_probe import AttentiveProbeConfig
from stadapter.methods.bitfit import BitFitConfig
from stadapter.methods.full_finetune import FullFinetuneConfig
from stadapter.methods.linear_probe import LinearProbeConfig
from stadapter.methods.lora import LoRAConfig
from stadapter.methods.method import AdapterSet, MethodConfig, Site, TaskInfo
from stadapter.methods.partial_finetune import PartialFinetuneConfig
from stadapter.methods.peft import PeftConfig
from stadapter.methods.prompt_tuning import PromptTuningConfig
from stadapter.methods.spatial_adapter import SpatialAdapterConfig
from stadapter.methods.st_adapter import STAdapter, STAdapterConfig
from stadapter.methods.st_adapter_bidirectional import BidirectionalSTAdapterConfig
from stadapter.methods.st_adapter_frequency import FrequencySTAdapterConfig
from stadapter.methods.temporal_attention import TemporalAttentionConfig

METHODS: dict[str, type[MethodConfig]] = {
    config.name: config
    for config in (
        STAdapterConfig,
        BidirectionalSTAdapterConfig,
        FrequencySTAdapterConfig,
        LinearProbeConfig,
        AttentiveProbeConfig,
        FullFinetuneConfig,
        PartialFinetuneConfig,
        BitFitConfig,
        PromptTuningConfig,
        SpatialAdapterConfig,
        LoRAConfig,
        PeftConfig,
        TemporalAttentionConfig,
        AIMConfig,
    )
}
"""Method name -> its config class."""


def method_from_dict(settings: Mapping[str, Any]) -> MethodConfig:
    """The inverse of `MethodConfig.to_dict`.

    Raises:
        ValueError: unknown method or setting.
    """
    known = dict(settings)
    name = known.pop("name", None)
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    config = METHODS[name]
    unknown = sorted(set(known) - {field.name for field in fields(config)})
    if unknown:
        raise ValueError(f"method {name!r} has no setting {', '.join(unknown)}")
    return config(**known)


__all__ = [
    "METHODS",
    "AIMConfig",
    "AdapterSet",
    "AttentiveProbeConfig",
    "BidirectionalSTAdapterConfig",
    "BitFitConfig",
    "FrequencySTAdapterConfig",
    "FullFinetuneConfig",
    "LinearProbeConfig",
    "LoRAConfig",
    "MethodConfig",
    "PartialFinetuneConfig",
    "PeftConfig",
    "PromptTuningConfig",
    "STAdapter",
    "STAdapterConfig",
    "Site",
    "SpatialAdapterConfig",
    "TaskInfo",
    "TemporalAttentionConfig",
    "method_from_dict",
]
