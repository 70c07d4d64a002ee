"""The checkpoints of the published ST-Adapter code, in and out.

The authors' training writes `checkpoint-N.pth`: a pickled dict whose entry "model" holds only what
was trained, the adapters and the classifier `fc`, in float32, to be put on OpenAI's CLIP tower. The
file says nothing about kernel, width or placement; they are found in names and shapes here, and
anything the published code could not have written is refused. Names map one to one:

    transformer.resblocks.7.adapter_pre_mlp.fc1.weight    adapters.mlp.7.down.weight
    transformer.resblocks.7.adapter_pre_attn.conv.bias    adapters.attention.7.conv.bias
    transformer.resblocks.7.adapter_pre_mlp.fc2.weight    adapters.mlp.7.up.weight
    fc.weight                                             head.linear.weight

Format: docs/file-format.md. D token width, A adapter width, K classes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from stadapter.atomic import atomic_path
from stadapter.backbones import Backbone, create_backbone
from stadapter.backbones.weights import read_state_dict
from stadapter.checkpoint import load_adapter_config, load_tensors
from stadapter.data import LabelSpace, Preprocessing, SamplingConfig
from stadapter.methods import Site, STAdapterConfig, TaskInfo
from stadapter.methods.method import SITES
from stadapter.model import VideoClassifier
from stadapter.run import RunFolder

SITE_NAMES: dict[Site, str] = {"attention": "adapter_pre_attn", "mlp": "adapter_pre_mlp"}
"""Our site -> the module name in the published code, in its order within a block."""
PART_NAMES = {"down": "fc1", "conv": "conv", "up": "fc2"}
"""Our part of an adapter -> its name in the published code, in its order."""
HEAD_NAMES = {"head.linear.weight": "fc.weight", "head.linear.bias": "fc.bias"}
"""Our head -> its name in the published code."""
KINETICS_SAMPLING = SamplingConfig(num_frames=8, frame_stride=16)
"""Of the released 12x384 model (Kinetics-400)."""
SSV2_SAMPLING = SamplingConfig(num_frames=8, frame_stride=None)
"""Of the released 24x384 model (Something-Something v2)."""

_INDEX = r"(0|[1-9]\d*)"
_OFFICIAL = re.compile(
    rf"transformer\.resblocks\.{_INDEX}\.(adapter_pre_attn|adapter_pre_mlp)"
    r"\.(fc1|conv|fc2)\.(weight|bias)"
)
_OURS = re.compile(rf"adapters\.(attention|mlp)\.{_INDEX}\.(down|conv|up)\.(weight|bias)")


def load_official(
    *, clip: str | Path, adapter: str | Path, class_names: Sequence[str] | None = None
) -> VideoClassifier:
    """The published model as ours, in evaluation mode.

    Width, kernel, sites and number of adapted blocks come from the tensors. Preprocessing is CLIP's
    at its native resolution. Sampling is that of the released models: 8 frames, 16 apart, when
    adapters sit before the MLP only (12x384); otherwise 8 frames spread over the video (24x384).

    Args:
        clip: OpenAI's CLIP checkpoint, in any form that backbone "openai_clip" reads.
        adapter: checkpoint of the published code: a dict with entry "model", or that entry alone;
            .pth and .pt are read with `weights_only=True`, .safetensors as well.
        class_names: names of the K classes in the order of the logits; "0", "1", ... by default.

    Raises:
        FileNotFoundError: one of the files does not exist.
        ValueError: unreadable files, tensors the published code would not write, adapters that do
            not fit the tower, or a wrong number of class names. The message says what is odd.
    """
    path = Path(adapter)
    tensors = _read_official(path)
    backbone = create_backbone("openai_clip", weights=clip)
    method = _find_config(tensors, len(backbone.blocks), path)
    adapter_set = method.build(backbone, _num_classes(tensors, path))
    model = VideoClassifier(backbone, adapter_set)
    _check_shapes(model, tensors, path)
    with torch.no_grad():
        for name, parameter in model.trained_parameters():
            parameter.copy_(tensors[name])
    num_classes = adapter_set.head.num_classes
    adapter_set.info = _task_info(backbone, method, class_names, num_classes)
    return model.eval()


def convert_official(
    *,
    clip: str | Path,
    adapter: str | Path,
    out: str | Path,
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a published checkpoint as an ordinary run folder; arguments as of `load_official`.

    Args:
        clip: OpenAI's CLIP checkpoint; the folder remembers where it is and its fingerprint.
        adapter: checkpoint of the published code.
        out: folder for `adapter_model.safetensors` and `adapter_config.json`.
        class_names: names of the K classes in the order of the logits.
        overwrite: replace a run that `out` already holds, once the new one has been read.

    Returns:
        `out`.

    Raises:
        FileExistsError: `out` holds a run and `overwrite` is off, or is a file.
        FileNotFoundError: `clip` or `adapter` does not exist.
        ValueError: as `load_official`.
        PermissionError: `out` cannot be written.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; give a folder to write the adapter into")
    folder = RunFolder(out)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{out} already holds a run; choose another folder or overwrite it")
    model = load_official(clip=clip, adapter=adapter, class_names=class_names)
    folder.prepare(resume=False, overwrite=overwrite)
    model.save_pretrained(out)
    return out


def to_official(run: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write an adapter as a checkpoint which the published code evaluates with `--resume`.

    The file is `{"model": tensors, "next_epoch": 0}`, loadable with `weights_only=True`. Only what
    the published code can express is written: ST-Adapters without an activation which look both
    ways, on OpenAI's CLIP. The published code wants 224 pixels and ViT-B/16 unless it is edited.

    Args:
        run: folder with `adapter_model.safetensors` and `adapter_config.json`.
        out: file to write, such as `checkpoint-0.pth`.
        overwrite: replace `out` if it exists.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: `run` holds no adapter.
        FileExistsError: `out` exists and `overwrite` is off.
        ValueError: damaged files, or an adapter the published code cannot express; says why.
        OSError: `out` cannot be written.
    """
    run, out = Path(run), Path(out)
    if out.is_dir():
        raise FileExistsError(f"{out} is a folder; give a file such as {out / 'checkpoint-0.pth'}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another file or overwrite")
    config = load_adapter_config(run)
    reasons = _inexpressible(config.backbone_id, config.method)
    if reasons:
        raise ValueError(f"adapter {run} has no form in the published code: {'; '.join(reasons)}")
    tensors = _official_order(load_tensors(run, config), run)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        torch.save({"model": tensors, "next_epoch": 0}, file)
    return out


def _refuse(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is no checkpoint of the published ST-Adapter code: {reason}")


def _listed(items: Iterable[str], limit: int = 8) -> str:
    listed = list(items)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _read_official(path: Path) -> dict[str, Tensor]:
    """Tensors of an official checkpoint by our names."""
    if not path.is_file():
        raise FileNotFoundError(f"ST-Adapter checkpoint {path} does not exist")
    tensors = read_state_dict(path)
    names = {name: _our_name(name) for name in tensors}
    unknown = [name for name, ours in names.items() if ours is None]
    if unknown:
        raise _refuse(
            path,
            f"unknown tensors {_listed(unknown)}; it must hold the adapters and fc alone, without "
            "the frozen CLIP weights",
        )
    odd = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if odd:
        raise _refuse(path, f"{_listed(odd)} must be floating-point numbers")
    return {ours: tensors[name] for name, ours in names.items() if ours is not None}


def _our_name(official: str) -> str | None:
    for ours, name in HEAD_NAMES.items():
        if official == name:
            return ours
    match = _OFFICIAL.fullmatch(official)
    if match is None:
        return None
    block, module, layer, kind = match.groups()
    site = next(site for site, name in SITE_NAMES.items() if name == module)
    part = next(part for part, name in PART_NAMES.items() if name == layer)
    return f"adapters.{site}.{block}.{part}.{kind}"


def _official_name(ours: str) -> str | None:
    if ours in HEAD_NAMES:
        return HEAD_NAMES[ours]
    match = _OURS.fullmatch(ours)
    if match is None:
        return None
    site, block, part, kind = match.groups()
    module = SITE_NAMES["attention" if site == "attention" else "mlp"]
    return f"transformer.resblocks.{block}.{module}.{PART_NAMES[part]}.{kind}"


def _official_order(tensors: Mapping[str, Tensor], run: Path) -> dict[str, Tensor]:
    """The tensors by official names, in the order in which the published code writes them."""
    unknown = [name for name in tensors if _official_name(name) is None]
    if unknown:
        raise ValueError(f"adapter {run} has tensors unknown here: {_listed(unknown)}")
    blocks = sorted({int(m[2]) for name in tensors if (m := _OURS.fullmatch(name))})
    ordered = [
        f"adapters.{site}.{block}.{part}.{kind}"
        for block in blocks
        for site in SITE_NAMES
        for part in PART_NAMES
        for kind in ("weight", "bias")
    ]
    ordered += HEAD_NAMES
    return {str(_official_name(name)): tensors[name] for name in ordered if name in tensors}


def _find_config(tensors: Mapping[str, Tensor], depth: int, path: Path) -> STAdapterConfig:
    """The settings with which the published code would have made these tensors."""
    slots: dict[int, set[str]] = {}
    for name in tensors:
        if match := _OURS.fullmatch(name):
            slots.setdefault(int(match[2]), set()).add(match[1])
    if not slots:
        raise _refuse(path, "it holds no adapters")
    blocks = sorted(slots)
    if blocks != list(range(depth - len(blocks), depth)):
        raise _refuse(
            path,
            f"adapters are in blocks {_listed(map(str, blocks), 30)}, which are not the last "
            f"{len(blocks)} of the CLIP tower's {depth} blocks (counted from 0)",
        )
    last = slots[blocks[-1]]
    for block in blocks:
        if slots[block] != last:
            raise _refuse(
                path,
                f"block {block} has adapters before {' and '.join(sorted(slots[block]))}, block "
                f"{blocks[-1]} before {' and '.join(sorted(last))}; all must have the same",
            )
    width, kernel = _find_conv(tensors, path)
    try:
        return STAdapterConfig(
            width=width,
            kernel_size=kernel,
            sites=tuple(site for site in SITES if site in last),
            last_blocks=None if len(blocks) == depth else len(blocks),
        )
    except ValueError as error:
        raise _refuse(path, str(error)) from error


def _find_conv(tensors: Mapping[str, Tensor], path: Path) -> tuple[int, tuple[int, int, int]]:
    """(A, (kT, kH, kW)) of the depthwise filters, which must all agree."""
    found: dict[tuple[int, ...], str] = {}
    for name, tensor in tensors.items():
        if name.endswith(".conv.weight"):
            found.setdefault(tuple(tensor.shape), str(_official_name(name)))
    if not found:
        raise _refuse(path, "no adapter has a conv.weight")
    if len(found) > 1:
        shapes = [f"{shape} in {name}" for shape, name in found.items()]
        raise _refuse(path, f"width or kernel differs between adapters: {_listed(shapes)}")
    shape, name = found.popitem()
    if len(shape) != 5 or shape[1] != 1:
        raise _refuse(path, f"{name} {shape} must be (A, 1, kT, kH, kW)")
    A, _, kT, kH, kW = shape
    return A, (kT, kH, kW)


def _num_classes(tensors: Mapping[str, Tensor], path: Path) -> int:
    weight = tensors.get("head.linear.weight")
    if weight is None or weight.ndim != 2 or weight.shape[0] < 2:
        found = "missing" if weight is None else str(tuple(weight.shape))
        raise _refuse(path, f"fc.weight is {found}, must be (K, D) with at least 2 classes")
    return weight.shape[0]


def _check_shapes(model: VideoClassifier, tensors: Mapping[str, Tensor], path: Path) -> None:
    odd = []
    for name, parameter in model.trained_parameters():
        if name not in tensors:
            odd.append(f"{_official_name(name)} is missing")
        elif tensors[name].shape != parameter.shape:
            found, needed = tuple(tensors[name].shape), tuple(parameter.shape)
            odd.append(f"{_official_name(name)} is {found}, must be {needed}")
    if odd:
        tower = f"on a CLIP tower of width {model.backbone.width}"
        raise _refuse(path, f"{tower}, {_listed(odd)}")


def _task_info(
    backbone: Backbone,
    method: STAdapterConfig,
    class_names: Sequence[str] | None,
    num_classes: int,
) -> TaskInfo:
    if class_names is None:
        class_names = [str(k) for k in range(num_classes)]
    names = tuple(class_names)
    if len(names) != num_classes:
        raise ValueError(
            f"class_names has {len(names)} names, the checkpoint has {num_classes} classes; give "
            "one name per class, in the order of the labels it was trained with"
        )
    sampling = KINETICS_SAMPLING if method.sites == ("mlp",) else SSV2_SAMPLING
    preprocessing = Preprocessing(**asdict(backbone.pixels))
    space = LabelSpace.single_label(names)
    return TaskInfo(space, preprocessing=preprocessing.to_dict(), sampling=asdict(sampling))


def _inexpressible(backbone_id: str, method: object) -> list[str]:
    """Why the published code has no form for such an adapter; empty if it has one."""
    reasons = []
    if not _is_openai_clip(backbone_id):
        reasons.append(
            f"its backbone is {backbone_id!r}, the published code knows OpenAI's CLIP with "
            "QuickGELU only ('openai_clip', or 'timm/vit_*_clip_quickgelu_*.openai')"
        )
    if not isinstance(method, STAdapterConfig):
        name = getattr(method, "name", type(method).__name__)
        return [*reasons, f"its method is {name!r}, not 'st_adapter'"]
    published = STAdapterConfig()
    for setting in ("activation", "causal", "padding", "dilation"):
        value, only = getattr(method, setting), getattr(published, setting)
        if value != only:
            reasons.append(f"{setting} is {value!r}, must be {only!r}")
    return reasons


def _is_openai_clip(backbone_id: str) -> bool:
    return backbone_id == "openai_clip" or bool(
        re.fullmatch(r"timm/vit_\w+_clip_quickgelu_\d+\.openai", backbone_id)
    )
