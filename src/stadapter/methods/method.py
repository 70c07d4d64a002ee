"""What a way of adapting a backbone has to say, so that model, training and files need not know it.

A method is a frozen config dataclass; its `build` returns an `AdapterSet`: everything that one task
adds to a backbone. The set is one object (modules at the places below, head, and the names of
backbone weights that it trains), not attributes strewn over blocks, so several sets can share one
backbone. The model asks the set at these places and knows nothing else of methods:

    tokens, shape = prepare(tokens, shape)                         tokens added, positions in time
    for each block:
        tokens = adapt(tokens)                                     adapters on the residual stream
        tokens = tokens + adapt_branch(attention(tokens), tokens)  adapters inside a branch
        tokens = adapt(tokens)
        tokens = tokens + adapt_branch(mlp(tokens), tokens)
    features = pool(tokens, shape); logits = head(features)        pool: the backbone's by default

and `linears` stand in for linear layers within the blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from stadapter.backbones import NO_OVERRIDES, Backbone, TokenShape
from stadapter.backbones.frozen import Storage
from stadapter.data.labels import LabelSpace
from stadapter.methods.heads import LinearHead

Site = Literal["attention", "mlp"]
"""Where a slot is: on the residual stream before attention or before the MLP; of a branch, which
one."""
SITES: tuple[Site, ...] = ("attention", "mlp")
Slots = Mapping[tuple[Site, int], nn.Module]
"""Module for each occupied slot (site, block index)."""


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
    starts_unchanged: ClassVar[bool] = True
    """Whether the features are those of the bare backbone before the first step of training."""
    storages: ClassVar[tuple[Storage, ...]] = ("fp32", "bf16", "int8")
    """Types in which the backbone's frozen weights may be stored under it."""

    dropout: float = 0.5
    """Dropout before the linear head, 0 to below 1 (0.5 as published)."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1")

    @property
    def sees_order(self) -> bool:
        """Whether the order of a clip's frames can change its logits, once trained."""
        return False

    @abstractmethod
    def build(self, backbone: Backbone, num_classes: int) -> "AdapterSet":
        """Make what this method adds to `backbone` for a task with `num_classes` classes."""

    def to_dict(self) -> dict[str, Any]:
        """The config as plain JSON, with its method's name."""
        later = {f.name: f.default for f in fields(self) if f.metadata == LATER}
        settings = {k: v for k, v in asdict(self).items() if k not in later or v != later[k]}
        return {"name": self.name, **settings}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(MethodConfig):
    """Settings of methods that train weights of the backbone itself."""

    trains_backbone: ClassVar[bool] = True
    storages: ClassVar[tuple[Storage, ...]] = ("fp32",)

    backbone_lr_scale: float = 0.1
    """Factor on the learning rate for pretrained weights; the fresh head takes the full rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone_lr_scale <= 0:
            raise ValueError(f"backbone_lr_scale ({self.backbone_lr_scale}) must be above 0")


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
    """Everything that one task adds to a frozen backbone. Tokens are (B*T, P+N, D).

    `adapters[site][str(block)]` maps (tokens, shape) to tokens of the same shape, and
    `branches[site][str(block)]` maps (branch, tokens, shape), where tokens went into the branch, to
    the branch of the same shape.
    """

    def __init__(
        self,
        config: MethodConfig,
        head: LinearHead,
        *,
        adapters: Slots | None = None,
        branches: Slots | None = None,
        linears: Mapping[str, nn.Module] | None = None,
        preparation: nn.Module | None = None,
        pool: nn.Module | None = None,
        backbone_parameters: Iterable[str] = (),
        backbone_lr_scale: float = 1.0,
    ) -> None:
        """Collect the parts.

        Args:
            config: the method's settings, saved with the set.
            head: pooled features (B, D) -> logits (B, K).
            adapters: module for each occupied slot (site, block index) on the residual stream.
            branches: the same for slots inside the residual branches.
            linears: modules that stand in for linear layers of the backbone, by their names there.
            preparation: maps embedded (tokens, shape) to those that enter the first block; tokens
                may be added at the end of each frame's prefix. They are not pooled.
            pool: maps the last (tokens, shape) to features (B, D), instead of the backbone's own.
            backbone_parameters: names of backbone parameters that this method trains.
            backbone_lr_scale: factor on the learning rate of those parameters.
        """
        super().__init__()
        self.config = config
        self.head = head
        self.info = TaskInfo(LabelSpace.single_label([str(k) for k in range(head.num_classes)]))
        self.adapters = _slots(adapters or {})
        self.branches = _slots(branches or {})
        self.linears = nn.ModuleDict(
            {name.replace(".", "/"): layer for name, layer in (linears or {}).items()}
        )
        self.overrides: Mapping[str, nn.Module] = linears or NO_OVERRIDES
        self.preparation = preparation
        self.pool = pool
        self.backbone_parameters = frozenset(backbone_parameters)
        self.backbone_lr_scale = backbone_lr_scale

    def prepare(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        """What happens to embedded tokens before the first block."""
        if self.preparation is None:
            return tokens, shape
        prepared: tuple[Tensor, TokenShape] = self.preparation(tokens, shape)
        return prepared

    def adapt(self, tokens: Tensor, site: Site, block: int, shape: TokenShape) -> Tensor:
        """Run the module in slot (site, block) over the residual stream; nothing if it is empty."""
        module = _find(self.adapters, site, block)
        return tokens if module is None else module(tokens, shape)

    def adapt_branch(
        self, branch: Tensor, tokens: Tensor, site: Site, block: int, shape: TokenShape
    ) -> Tensor:
        """What the block adds to `tokens` at `site`, changed by the module in that slot."""
        module = _find(self.branches, site, block)
        return branch if module is None else module(branch, tokens, shape)

    def trained_parameters(self, backbone: Backbone) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything that training changes, by the name it has in `adapter_model.safetensors`."""
        yield from self.named_parameters()
        if not self.backbone_parameters:
            return
        for name, parameter in backbone.named_parameters():
            if name in self.backbone_parameters:
                yield f"backbone.{name}", parameter


def _slots(modules: Slots) -> nn.ModuleDict:
    sites = nn.ModuleDict({site: nn.ModuleDict() for site in SITES})
    for (site, block), module in modules.items():
        slot = sites[site]
        assert isinstance(slot, nn.ModuleDict)
        slot[str(block)] = module
    return sites


def _find(sites: nn.ModuleDict, site: Site, block: int) -> Callable[..., Any] | None:
    slot = sites[site]
    assert isinstance(slot, nn.ModuleDict)
    if str(block) not in slot:
        return None
    return slot[str(block)]


def last_blocks(backbone: Backbone, count: int | None) -> range:
    """Indices of the last `count` blocks; None means all.

    Raises:
        ValueError: `count` exceeds the backbone's depth.
    """
    depth = len(backbone.blocks)
    count = depth if count is None else count
    if count > depth:
        raise ValueError(
            f"last_blocks ({count}) exceeds the {depth} blocks of backbone {backbone.id!r}"
        )
    return range(depth - count, depth)
