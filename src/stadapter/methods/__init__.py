"""Ways to adapt a frozen image transformer to video. Add one: one file, one entry below."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stadapter.methods.full_finetune import FullFinetuneConfig
from stadapter.methods.linear_probe import LinearProbeConfig
from stadapter.methods.method import AdapterSet, MethodConfig, Site, TaskInfo
from stadapter.methods.st_adapter import STAdapter, STAdapterConfig

METHODS: dict[str, type[MethodConfig]] = {
    config.name: config for config in (STAdapterConfig, LinearProbeConfig, FullFinetuneConfig)
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
    "AdapterSet",
    "FullFinetuneConfig",
    "LinearProbeConfig",
    "MethodConfig",
    "STAdapter",
    "STAdapterConfig",
    "Site",
    "TaskInfo",
    "method_from_dict",
]
