"""Any tuner of Hugging Face's `peft` on chosen linear layers: LoRA and its many descendants.

`tuner` is peft's name of it ("lora", "ia3", "oft", "boft", "loha", "hra", ...) and `settings` are
the arguments of its config class, such as `{"r": 4, "use_dora": true}`. What trains, how many
parameters and which paper to cite follow from the tuner: https://huggingface.co/docs/peft.

peft wraps each chosen layer in a module with weights of its own; these stand in for the frozen
layer, as in method "lora". Refused are tuners that peft cannot put into a given model: those that
add tokens, and those that share state between layers (VeRA, VB-LoRA, ...).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones import Backbone
from stadapter.backbones.frozen import Storage
from stadapter.methods.heads import LinearHead
from stadapter.methods.linears import QUERY_VALUE, bare, choose_linears
from stadapter.methods.method import AdapterSet, MethodConfig


@dataclass(frozen=True)
class PeftConfig(MethodConfig):
    """Settings of a tuner of peft."""

    name: ClassVar[str] = "peft"
    # It trains in the type of the layers that it wraps.
    storages: ClassVar[tuple[Storage, ...]] = ("fp32",)
    starts_unchanged: ClassVar[bool] = False
    """Most tuners do, but that is theirs to say."""

    tuner: str = "lora"
    """peft's name of the tuner, in small letters."""
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """Arguments of the tuner's config class in peft, except `target_modules`."""
    targets: tuple[str, ...] | None = None
    """Ends of the names of the linear layers that are tuned, such as "qkv" or "mlp.fc1"; None takes
    those of queries and values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "settings", dict(self.settings))
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(self.targets))
            if not self.targets:
                raise ValueError("targets is empty; name linear layers, or None for the usual ones")
        if "target_modules" in self.settings:
            raise ValueError("say which layers are tuned by targets, not by target_modules")

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """The tuner's module for each chosen layer, and a linear head.

        Raises:
            ImportError: the `peft` extra is not installed.
            ValueError: targets that no layer of a block answers to, a tuner that peft does not
                know or cannot put into a model, or settings that the tuner refuses.
        """
        chosen = choose_linears(backbone, self.targets, QUERY_VALUE)
        linears = _wrap(chosen, self.tuner, self.settings)
        head = LinearHead(backbone.width, num_classes, dropout=self.dropout)
        return AdapterSet(self, head, linears=linears)


def _wrap(
    chosen: Mapping[str, nn.Linear], tuner: str, settings: Mapping[str, Any]
) -> dict[str, nn.Module]:
    peft = _import_peft()
    configs = {
        str(kind.value).lower(): made
        for kind, made in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    if tuner not in configs:
        raise ValueError(
            f"peft {peft.__version__} has no tuner {tuner!r}; it has {', '.join(configs)}"
        )
    keys = {name.replace(".", "/"): name for name in chosen}
    carrier = nn.ModuleDict({key: bare(chosen[name]) for key, name in keys.items()})
    options: dict[str, Any] = {"target_modules": list(keys), **settings}
    if tuner == "ia3":
        options.setdefault("feedforward_modules", [])
    try:
        peft.inject_adapter_in_model(configs[tuner](**options), carrier)
    except (TypeError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        raise ValueError(f"peft's tuner {tuner!r} cannot be used so: {error}") from error
    for layer in carrier.values():
        # The frozen layer belongs to the backbone; here it is only read.
        layer.__dict__["base_layer"] = layer._modules.pop("base_layer")
    return {name: carrier[key] for key, name in keys.items()}


def _import_peft() -> Any:
    ensure_torchvision()
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "method 'peft' needs the library peft; pip install stadapter[peft]"
        ) from error
    return peft
