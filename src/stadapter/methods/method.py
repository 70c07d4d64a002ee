"""What a way of adapting a backbone has to say, so that model, training and files need not know it.

A method is a frozen config dataclass; its `build` returns an `AdapterSet`: everything that one task
adds to a backbone. The set is one object (slots, head, and the names of backbone weights that it
trains), not attributes strewn over blocks, so several sets can share one backbone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from stadapter.backbones import Backbone, TokenShape
from stadapter.data.labels import LabelSpace
from stadapter.methods.heads import LinearHead

Site = Literal["attention", "mlp"]
"""Where a slot is: on the residual stream before attention, or before the MLP."""
SITES: tuple[Site, ...] = ("attention", "mlp")


LATER = {"later": True}
"""Metadata of a setting that came after 0.1 and does nothing at its default. There it is left out
of files, so that those which know nothing of it keep their fingerprint."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig(ABC):
    """Settings which every method has."""

    name: ClassVar[str]
    """The method's name in recipes, flags and files."""
    trains_backbone: ClassVar[bool] = False
    """Whether it changes pretrained weights, so that the backbone cannot be shared."""

    dropout: float = 0.5
    """Dropout before the linear head, 0 to below 1 (0.5 as published)."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1")

    @abstractmethod
    def build(self, backbone: Backbone, num_classes: int) -> "AdapterSet":
        """Make what this method adds to `backbone` for a task with `num_classes` classes."""

    def to_dict(self) -> dict[str, Any]:
        """The config as plain JSON, with its method's name."""
        later = {f.name: f.default for f in fields(self) if f.metadata == LATER}
        settings = {k: v for k, v in asdict(self).items() if k not in later or v != later[k]}
        return {"name": self.name, **settings}


@dataclass(frozen=True)
class TaskInfo:
    """What must be remembered about a task between training and use; saved with its adapters."""

    space: LabelSpace
    """The classes, and what a label may be; K is its `num_outputs`."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """How frames become pixels (`stadapter.data.Preprocessing`), as plain JSON."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Which frames make a clip (`stadapter.data.SamplingConfig`), as plain JSON."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """What the adapters reached, and on what."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""
        return self.space.class_names


class AdapterSet(nn.Module):
    """Everything that one task adds to a frozen backbone.

    `adapters[site][str(block)]` maps tokens (B*T, P+N, D) to tokens of the same shape.
    """

    def __init__(
        self,
        config: MethodConfig,
        head: LinearHead,
        *,
        adapters: Mapping[tuple[Site, int], nn.Module] | None = None,
        backbone_parameters: Iterable[str] = (),
        backbone_lr_scale: float = 1.0,
    ) -> None:
        """Collect the parts.

        Args:
            config: the method's settings, saved with the set.
            head: pooled features (B, D) -> logits (B, K).
            adapters: module for each occupied slot (site, block index).
            backbone_parameters: names of backbone parameters that this method trains.
            backbone_lr_scale: factor on the learning rate of those parameters.
        """
        super().__init__()
        self.config = config
        self.head = head
        self.info = TaskInfo(LabelSpace.single_label([str(k) for k in range(head.num_classes)]))
        self.adapters = nn.ModuleDict({site: nn.ModuleDict() for site in SITES})
        for (site, block), module in (adapters or {}).items():
            slot = self.adapters[site]
            assert isinstance(slot, nn.ModuleDict)
            slot[str(block)] = module
        self.backbone_parameters = frozenset(backbone_parameters)
        self.backbone_lr_scale = backbone_lr_scale

    def adapt(self, tokens: Tensor, site: Site, block: int, shape: TokenShape) -> Tensor:
        """Run the module in slot (site, block) over the residual stream; nothing if it is empty."""
        slot = self.adapters[site]
        key = str(block)
        if key not in slot:  # type: ignore[operator]
            return tokens
        adapted: Tensor = slot[key](tokens, shape)  # type: ignore[index]
        return adapted

    def trained_parameters(self, backbone: Backbone) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything that training changes, by the name it has in `adapter_model.safetensors`."""
        yield from self.named_parameters()
        if not self.backbone_parameters:
            return
        for name, parameter in backbone.named_parameters():
            if name in self.backbone_parameters:
                yield f"backbone.{name}", parameter
