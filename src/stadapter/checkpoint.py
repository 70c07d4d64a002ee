"""The adapter file: `adapter_model.safetensors` and `adapter_config.json`, self-contained and
small.

Only what was trained is saved. The config says for which frozen weights it was trained (by
fingerprint), with which method, and everything needed to use it: class names, preprocessing,
sampling. Loading checks all of it before the first weight is touched. Tensors carry their own
fingerprint in the safetensors header, so a damaged or edited file is refused. Format:
docs/file-format.md.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stadapter import __version__
from stadapter.atomic import atomic_path, write_json
from stadapter.backbones import Backbone, create_backbone
from stadapter.data.labels import LabelSpace
from stadapter.methods import AdapterSet, MethodConfig, TaskInfo, method_from_dict

SCHEMA_VERSION = 2
TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


class AdapterMismatchError(ValueError):
    """An adapter does not fit where it is loaded; `differences` lists each reason."""

    def __init__(self, path: Path, differences: list[str]) -> None:
        self.path = path
        self.differences = differences
        listed = "".join(f"\n  - {difference}" for difference in differences)
        super().__init__(f"adapter {path} cannot be loaded:{listed}")


@dataclass(frozen=True)
class AdapterConfig:
    """The content of `adapter_config.json`."""

    backbone_id: str
    backbone_fingerprint: str
    backbone_weights_file: str | None
    backbone_pretrained: bool
    method: MethodConfig
    info: TaskInfo

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, in the oldest schema that can say it."""
        labels = _labels_to_dict(self.info.space)
        return {
            "schema_version": 1 if "class_names" in labels else 2,
            "backbone": {
                "id": self.backbone_id,
                "fingerprint": self.backbone_fingerprint,
                "weights_file": self.backbone_weights_file,
                "pretrained": self.backbone_pretrained,
            },
            "method": self.method.to_dict(),
            **labels,
            "preprocessing": self.info.preprocessing,
            "sampling": self.info.sampling,
            "scores": self.info.scores,
            "versions": library_versions(),
        }

    def fingerprint(self) -> str:
        """SHA-256 over what gives the tensors their meaning; they carry it, so that neither a kill
        between the two files nor an edited config can join tensors with another task."""
        content = self.to_dict()
        names = ("schema_version", "method", "preprocessing", "sampling")
        meaning = {name: content[name] for name in names} | _labels_to_dict(self.info.space)
        meaning["backbone"] = [self.backbone_id, self.backbone_fingerprint]
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "AdapterConfig":
        """The inverse of `to_dict`.

        Raises:
            ValueError: a newer schema, or an entry that is missing or impossible.
        """
        schema = content.get("schema_version")
        if not isinstance(schema, int) or schema > SCHEMA_VERSION:
            raise ValueError(
                f"its schema_version is {schema!r}, this stadapter reads up to {SCHEMA_VERSION}; "
                "update stadapter"
            )
        try:
            backbone = content["backbone"]
            return cls(
                backbone_id=backbone["id"],
                backbone_fingerprint=backbone["fingerprint"],
                backbone_weights_file=backbone["weights_file"],
                backbone_pretrained=backbone["pretrained"],
                method=method_from_dict(content["method"]),
                info=TaskInfo(
                    space=_labels_from_dict(content),
                    preprocessing=content["preprocessing"],
                    sampling=content["sampling"],
                    scores=content["scores"],
                ),
            )
        except KeyError as error:
            raise ValueError(f"entry {error} is missing") from error
        except TypeError as error:
            raise ValueError(f"an entry has the wrong type: {error}") from error


def _labels_to_dict(space: LabelSpace) -> dict[str, Any]:
    """The entry that says what a label may be. Schema 1 knew single_label only, by its names."""
    if space.task == "single_label":
        return {"class_names": list(space.class_names)}
    return {"label_space": space.to_dict()}


def _labels_from_dict(content: Mapping[str, Any]) -> LabelSpace:
    if "label_space" in content:
        return LabelSpace.from_dict(content["label_space"])
    return LabelSpace.single_label(content["class_names"])


def checkpoint_facts(directory: Path) -> dict[str, Any] | None:
    """Which weights are in `directory`, for whoever reads a score: `adapter_sha256` of the whole
    file, and the backbone's `backbone` id and `backbone_fingerprint`; None without an adapter.

    Raises:
        ValueError: the config cannot be used.
    """
    path = directory / TENSORS
    if not path.is_file():
        return None
    config = load_adapter_config(directory)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return {
        "adapter_sha256": digest.hexdigest(),
        "backbone": config.backbone_id,
        "backbone_fingerprint": config.backbone_fingerprint,
    }


def library_versions() -> dict[str, str]:
    """Versions of what computed a result."""
    names = ("torch", "torchvision", "torchmetrics", "timm", "av")
    own = {"python": platform.python_version(), "stadapter": __version__}
    return own | {name: version(name) for name in names}


def save_adapter(
    directory: Path,
    adapter_set: AdapterSet,
    backbone: Backbone,
    backbone_fingerprint: str,
    *,
    tensors: Mapping[str, Tensor] | None = None,
) -> AdapterConfig:
    """Write an adapter set's trained tensors and their config into `directory`, atomically.

    `backbone_fingerprint` is that of the pretrained weights, before any training. `tensors` are
    written in place of the trained parameters as they are. Returns the config that was written.

    Raises:
        OSError: the folder cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    named = tensors.items() if tensors is not None else adapter_set.trained_parameters(backbone)
    tensors = {name: p.detach().to("cpu").contiguous().clone() for name, p in named}
    config = AdapterConfig(
        backbone_id=backbone.id,
        backbone_fingerprint=backbone_fingerprint,
        backbone_weights_file=backbone.weights_file,
        backbone_pretrained=backbone.pretrained,
        method=adapter_set.config,
        info=adapter_set.info,
    )
    metadata = {
        "format": "pt",
        "fingerprint": tensors_fingerprint(tensors),
        "config_fingerprint": config.fingerprint(),
    }
    with atomic_path(directory / TENSORS) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    write_json(directory / CONFIG, config.to_dict())
    return config


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_adapter_config(directory: Path) -> AdapterConfig:
    """Read `adapter_config.json`.

    Raises:
        FileNotFoundError: `directory` holds no adapter.
        ValueError: the file is no adapter config, or of a newer schema.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} holds no adapter ({CONFIG} is missing); give the folder that "
            "`stadapter train --out` wrote"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        return AdapterConfig.from_dict(content)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} cannot be used: {error}") from error


def load_tensors(directory: Path, config: AdapterConfig) -> dict[str, Tensor]:
    """Read `adapter_model.safetensors`; check it against its own fingerprint and its config.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, damaged or edited, or belonging to another config.
    """
    path = directory / TENSORS
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no {TENSORS}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    if metadata.get("fingerprint") != tensors_fingerprint(tensors):
        raise ValueError(
            f"{path} was damaged or edited after it was saved: its fingerprint differs"
        )
    if metadata.get("config_fingerprint") != config.fingerprint():
        raise ValueError(
            f"{path} was not saved with the {CONFIG} beside it: that file was edited, or comes "
            "from another run"
        )
    return tensors


def load_backbone(config: AdapterConfig, weights: str | Path | None = None) -> Backbone:
    """Make the backbone that an adapter was trained on.

    Args:
        config: of the adapter.
        weights: where the pretrained weights are now, if not where they were.

    Raises:
        FileNotFoundError: the weights are gone.
        ValueError: the weights are those of another model.
    """
    return create_backbone(
        config.backbone_id,
        weights=weights or config.backbone_weights_file,
        pretrained=config.backbone_pretrained,
    )


def load_adapter_set(
    directory: Path,
    backbone: Backbone,
    backbone_fingerprint: str,
    *,
    any_fingerprint: bool = False,
) -> AdapterSet:
    """The adapter set saved in `directory`, built for `backbone`.

    Backbone weights that the method trained are written into `backbone`; nothing is touched before
    everything has been checked.

    Raises:
        FileNotFoundError: no adapter there.
        ValueError: unreadable files.
        AdapterMismatchError: trained on another backbone, or tensors do not fit the config.
    """
    config = load_adapter_config(directory)
    tensors = load_tensors(directory, config)
    differences = _backbone_differences(config, backbone, backbone_fingerprint, any_fingerprint)
    try:
        adapter_set = config.method.build(backbone, config.info.space.num_outputs)
    except ValueError as error:
        raise AdapterMismatchError(directory, [*differences, str(error)]) from error
    parameters = dict(adapter_set.trained_parameters(backbone))
    differences += _tensor_differences(parameters, tensors)
    if differences:
        raise AdapterMismatchError(directory, differences)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    adapter_set.info = config.info
    return adapter_set


def _backbone_differences(
    config: AdapterConfig, backbone: Backbone, fingerprint: str, any_fingerprint: bool
) -> list[str]:
    found = []
    if config.backbone_id != backbone.id:
        found.append(f"backbone: trained on {config.backbone_id!r}, loaded onto {backbone.id!r}")
    if config.backbone_fingerprint != fingerprint and not any_fingerprint:
        found.append(
            f"frozen weights: trained on fingerprint {config.backbone_fingerprint[:12]}, loaded "
            f"onto {fingerprint[:12]} (give the same pretrained weights by --backbone_weights, or "
            "accept others with any_fingerprint=True)"
        )
    return found


def _tensor_differences(
    parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> list[str]:
    found = [f"tensor {name}: missing in the file" for name in parameters if name not in tensors]
    found += [
        f"tensor {name}: not part of the method" for name in tensors if name not in parameters
    ]
    for name, parameter in parameters.items():
        if name in tensors and tensors[name].shape != parameter.shape:
            found.append(
                f"tensor {name}: {tuple(tensors[name].shape)} in the file, needs "
                f"{tuple(parameter.shape)}"
            )
    return found
