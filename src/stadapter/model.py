"""The video classifier: a frozen image transformer, what a method adds to it, and the loop over
both.

Letters: B clips, T frames, C channels, H W pixels, P prefix tokens, N patch tokens per frame, D
token width, K classes.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from stadapter.backbones import Backbone, TokenShape, create_backbone
from stadapter.backbones.frozen import Storage, store_frozen
from stadapter.checkpoint import (
    load_adapter_config,
    load_adapter_set,
    load_backbone,
    save_adapter,
)
from stadapter.hub import model_card, resolve, upload, write_card
from stadapter.methods import AdapterSet, MethodConfig, STAdapterConfig
from stadapter.recompute import Recompute, recomputing, recomputing_activations


class VideoClassifier(nn.Module):
    """Normalised video (B, T, C, H, W) -> logits (B, K), for any T and any multiple of the patch.

    The stages `embed`, `run_blocks`, `pool` and `head` are callable apart.
    """

    checkpoint_every: int = 0
    """Gradient checkpointing (Chen et al., arXiv 1604.06174): every so manieth block is computed
    again in the backward pass instead of being remembered; 0 remembers all."""
    recompute: Recompute = "none"
    """What backward computes again in every other block: nothing, the activations of its MLP, or
    its MLP up to the last product with the adapter before it."""

    def __init__(
        self,
        backbone: Backbone,
        adapter_set: AdapterSet,
        *,
        backbone_fingerprint: str | None = None,
        name: str = "default",
    ) -> None:
        """Join the two and freeze every weight that the method does not declare as trained.

        Args:
            backbone: shared by all adapter sets.
            adapter_set: the first one, active.
            backbone_fingerprint: of the pretrained weights, if they have changed since.
            name: of the adapter set.
        """
        super().__init__()
        self.backbone = backbone
        self.adapter_sets = nn.ModuleDict()
        # Taken before training: a method may change the weights, and the file must name the origin.
        self.backbone_fingerprint = backbone_fingerprint or backbone.fingerprint()
        backbone.requires_grad_(False)
        self.add_adapter(name, adapter_set)
        self.set_adapter(name)

    @property
    def adapter_set(self) -> AdapterSet:
        """The active adapter set."""
        active = self.adapter_sets[self.active_adapter]
        assert isinstance(active, AdapterSet)
        return active

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapter sets on this backbone, in the order they came."""
        return tuple(self.adapter_sets)

    def add_adapter(self, name: str, adapter_set: AdapterSet) -> None:
        """Put a further adapter set on the backbone, under a name, without activating it.

        Raises:
            ValueError: the name is taken or impossible, or one of the sets changes the backbone
                itself, which cannot be shared.
        """
        if name in self.adapter_sets:
            raise ValueError(
                f"adapter {name!r} is already loaded; delete it first or choose a name"
            )
        if not name or "." in name or hasattr(nn.ModuleDict, name):
            raise ValueError(f"adapter name {name!r} must be a word without dots, such as 'sports'")
        together = [*self.adapter_sets.values(), adapter_set]
        if len(together) > 1 and any(s.backbone_parameters for s in together):
            raise ValueError(
                "a method that changes the backbone's own weights cannot share it with others"
            )
        adapter_set.requires_grad_(False)
        adapter_set.to(next(self.backbone.parameters()).device).train(self.training)
        self.adapter_sets[name] = adapter_set

    def set_adapter(self, name: str) -> None:
        """Make this adapter set the active one: the one that `forward` uses and training trains.

        Raises:
            ValueError: no adapter of that name.
        """
        self._check_loaded(name)
        if hasattr(self, "active_adapter"):
            self.adapter_set.requires_grad_(False)
        self.active_adapter = name
        for _, parameter in self.trained_parameters():
            parameter.requires_grad_(True)
        self.backbone.override(self.adapter_set.overrides)
        # Not self.train(): walking all modules takes longer than the rest of the switch.
        if self.backbone.training != self._backbone_mode(self.training):
            self.backbone.train(not self.backbone.training)

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter set that is not active.

        Raises:
            ValueError: no adapter of that name, or it is the active one.
        """
        self._check_loaded(name)
        if name == self.active_adapter:
            raise ValueError(f"adapter {name!r} is active; activate another before deleting it")
        del self.adapter_sets[name]

    def load_adapter(self, path: str | Path, *, name: str, any_fingerprint: bool = False) -> None:
        """Load a saved adapter set under a name, without activating it.

        Raises:
            FileNotFoundError: no adapter at `path`.
            ValueError: unreadable files, or a name that is taken.
            AdapterMismatchError: it was trained on another backbone.
        """
        if load_adapter_config(Path(path)).method.trains_backbone:
            raise ValueError(
                f"adapter {path} changes the backbone's own weights, so it cannot share a "
                "backbone; load it alone with VideoClassifier.from_pretrained"
            )
        adapter_set = load_adapter_set(
            Path(path), self.backbone, self.backbone_fingerprint, any_fingerprint=any_fingerprint
        )
        self.add_adapter(name, adapter_set)

    def save_pretrained(
        self, directory: str | Path, *, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the active adapter set: `adapter_model.safetensors`, `adapter_config.json` and a
        model card (README.md).

        Args:
            directory: made if it does not exist.
            tensors: values to write for the trained parameters, by name, instead of those that
                they have: an average, or what was gathered from shards.

        Raises:
            OSError: the folder cannot be written.
        """
        config = save_adapter(
            Path(directory),
            self.adapter_set,
            self.backbone,
            self.backbone_fingerprint,
            tensors=tensors,
        )
        total, trained = self.num_parameters()
        write_card(Path(directory), model_card(config, total=total, trained=trained))

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to ORG/NAME on the Hub; returns the address.

        Raises:
            OSError: the Hub refused, or cannot be reached.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), repo_id, private=private, token=token)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        backbone: Backbone | None = None,
        backbone_weights: str | Path | None = None,
        any_fingerprint: bool = False,
        revision: str | None = None,
        token: str | None = None,
    ) -> "VideoClassifier":
        """The model as it was saved, in evaluation mode.

        Args:
            name: a run folder, any folder with the two adapter files, or ORG/NAME on the Hub.
            backbone: use this one instead of making it by the saved id.
            backbone_weights: where the pretrained weights are now, if not where they were.
            any_fingerprint: accept frozen weights other than those the adapter was trained on.
            revision: branch, tag or commit of the repository.
            token: for a private repository.

        Raises:
            FileNotFoundError: no adapter there, or the backbone's weights are gone.
            ValueError: unreadable files.
            AdapterMismatchError: it was trained on another backbone, or does not fit its config.
        """
        directory = resolve(name, revision=revision, token=token)
        backbone = backbone or load_backbone(load_adapter_config(directory), backbone_weights)
        fingerprint = backbone.fingerprint()
        adapter_set = load_adapter_set(
            directory, backbone, fingerprint, any_fingerprint=any_fingerprint
        )
        return cls(backbone, adapter_set, backbone_fingerprint=fingerprint).eval()

    def _check_loaded(self, name: str) -> None:
        if name not in self.adapter_sets:
            raise ValueError(f"no adapter {name!r}; loaded are {', '.join(self.adapters)}")

    def train(self, mode: bool = True) -> "VideoClassifier":
        """As `nn.Module.train`, but a frozen backbone stays in evaluation mode (no DropPath)."""
        super().train(mode)
        self.backbone.train(self._backbone_mode(mode))
        return self

    def _backbone_mode(self, mode: bool) -> bool:
        return mode and bool(self.adapter_set.backbone_parameters)

    def embed(self, video: Tensor) -> tuple[Tensor, TokenShape]:
        """(B, T, C, H, W) -> tokens (B*T, P+N, D) and how to read them.

        Raises:
            ValueError: not five dimensions, not three channels, or sides that do not fit the patch.
        """
        if video.ndim != 5 or video.shape[2] != 3:
            raise ValueError(
                f"video of shape {tuple(video.shape)} must be (B, T, 3, H, W): clips, frames, RGB, "
                "height, width"
            )
        T, H, W = video.shape[1], video.shape[3], video.shape[4]
        shape = TokenShape(T, *self.backbone.grid(H, W), self.backbone.num_prefix_tokens)
        frames = video.flatten(0, 1).to(next(self.backbone.parameters()).dtype)
        return self.backbone.embed(frames), shape

    def run_blocks(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        """All blocks with the adapters in their slots: (B*T, P+N, D) -> the same."""
        tokens, shape = self.adapter_set.prepare(tokens, shape)
        every = self.checkpoint_every if torch.is_grad_enabled() else 0
        for i, block in enumerate(self.backbone.blocks):
            tokens, shape = block.merge(tokens, shape)
            if every and i % every == 0:
                tokens = checkpoint(self._run_block, tokens, i, shape, "none", use_reentrant=False)
            else:
                tokens = self._run_block(tokens, i, shape, self.recompute)
        return self._without_added_prefix(tokens, shape)

    def _run_block(self, tokens: Tensor, i: int, shape: TokenShape, recompute: Recompute) -> Tensor:
        """Block i with its slots: (B*T, P+N, D) -> the same."""
        active, block = self.adapter_set, self.backbone.blocks[i]
        self._override()
        tokens = active.adapt(tokens, "attention", i, shape)
        branch = block.attention(tokens, shape)
        tokens = tokens + active.adapt_branch(branch, tokens, "attention", i, shape)

        def mlp(tokens: Tensor) -> Tensor:
            self._override()
            return block.mlp(tokens)

        def adapted_mlp(tokens: Tensor) -> Tensor:
            tokens = active.adapt(tokens, "mlp", i, shape)
            branch = (
                recomputing_activations(mlp, tokens) if recompute == "activations" else mlp(tokens)
            )
            return tokens + active.adapt_branch(branch, tokens, "mlp", i, shape)

        return recomputing(adapted_mlp, tokens) if recompute == "mlp" else adapted_mlp(tokens)

    def _override(self) -> None:
        """Other models may share the backbone, and compute between our forward and backward."""
        if self.backbone.overrides is not self.adapter_set.overrides:
            self.backbone.override(self.adapter_set.overrides)

    def _without_added_prefix(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        P = self.backbone.num_prefix_tokens
        if shape.num_prefix == P:
            return tokens, shape
        kept = torch.cat([tokens[:, :P], tokens[:, shape.num_prefix :]], dim=1)
        return kept, shape._replace(num_prefix=P)

    def pool(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Last tokens (B*T, P+N, D) -> features (B, D), by the pooling of method or backbone."""
        features: Tensor = (self.adapter_set.pool or self.backbone.pool)(tokens, shape)
        return features

    def features(self, video: Tensor) -> Tensor:
        """Pooled features before the head: (B, T, C, H, W) -> (B, D)."""
        return self.pool(*self.run_blocks(*self.embed(video)))

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) -> logits (B, K)."""
        logits: Tensor = self.adapter_set.head(self.features(video))
        return logits

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything that training the active adapter set changes, by its name in the file."""
        return self.adapter_set.trained_parameters(self.backbone)

    def num_parameters(self) -> tuple[int, int]:
        """(total, trained): weights of backbone and active adapter set; those that train."""
        parts = (self.backbone, self.adapter_set)
        total = sum(p.numel() for part in parts for p in part.parameters())
        return total, sum(p.numel() for _, p in self.trained_parameters())

    def count_macs(self, num_frames: int, resolution: tuple[int, int]) -> int:
        """Multiply-accumulate operations for one view of `num_frames` at (height, width).

        Video papers print these MACs as "GFLOPs"; one MAC is two floating-point operations. Counted
        on the meta device, where fused attention is counted too.
        """
        # Not the state dict: it leaves out buffers that are computed, such as rotary tables.
        tensors = chain(self.named_parameters(), self.named_buffers())
        meta = {name: tensor.detach().to("meta") for name, tensor in tensors}
        video = torch.empty(1, num_frames, 3, *resolution, device="meta")
        mode = self.training
        self.eval()
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                torch.func.functional_call(self, meta, (video,))
        finally:
            self.train(mode)
        return int(counter.get_total_flops()) // 2


def create_model(
    backbone: str | Backbone = "tiny",
    *,
    num_classes: int,
    method: MethodConfig | None = None,
    backbone_weights: str | Path | None = None,
    pretrained: bool = True,
    backbone_storage: Storage = "fp32",
) -> VideoClassifier:
    """Put a method's adapters and a fresh head on a frozen image transformer.

    Args:
        backbone: "tiny", "timm/NAME", or a module that fulfils `Backbone`.
        num_classes: K, at least 2.
        method: what to add; `STAdapterConfig()` by default.
        backbone_weights: local file with the pretrained weights, for a backbone given by name.
        pretrained: False takes random weights (the same each time) instead of the Hub's.
        backbone_storage: type in which frozen weights are kept; see `store_frozen`.

    Raises:
        ValueError: unknown backbone, impossible settings.
        FileNotFoundError: `backbone_weights` does not exist.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes ({num_classes}) must be at least 2")
    if isinstance(backbone, str):
        backbone = create_backbone(backbone, weights=backbone_weights, pretrained=pretrained)
    elif backbone_weights is not None:
        raise ValueError("backbone_weights goes with a backbone given by name, not with a module")
    method = method or STAdapterConfig()
    if backbone_storage not in method.storages:
        raise ValueError(
            f"backbone_storage {backbone_storage} does not go with method {method.name!r}; with "
            f"it, frozen weights are stored in {' or '.join(method.storages)}"
        )
    fingerprint = backbone.fingerprint()  # of the weights as they were pretrained
    if backbone_storage != "fp32":
        # Before adapters find the layers they attach to.
        store_frozen(backbone.requires_grad_(False), backbone_storage)
    adapter_set = method.build(backbone, num_classes)
    return VideoClassifier(backbone, adapter_set, backbone_fingerprint=fingerprint)
