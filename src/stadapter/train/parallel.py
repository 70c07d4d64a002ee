"""One model over several processes: the same weights in each (DDP), or split between them (FSDP2).

Clips without a part in the loss still take part in the exchange of gradients, so that a rank whose
clips are broken, or which has run out of them, does not leave the others waiting.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from stadapter.model import VideoClassifier
from stadapter.ranks import Ranks

SMALLEST_SHARD = 2**16
"""Parameters of a module from which it is split by itself; smaller ones travel together."""


class ParallelModel:
    """How a model's forward is called, so that gradients are those of all ranks' clips."""

    def __init__(
        self, model: VideoClassifier, ranks: Ranks, *, shard: bool = False, compiled: bool = False
    ) -> None:
        """Put the model on the device of this rank; its trained parameters may become others, so
        the optimiser comes after this.

        Raises:
            ValueError: `shard` with a single process.
        """
        self.ranks = ranks
        self.sharded = shard
        self.forward: Any
        check_shard(shard, ranks)
        if shard:
            _shard(model, ranks)
            self.forward = model
        else:
            self.forward = model.to(ranks.device)
            if ranks.num_ranks > 1:
                own = [ranks.device] if ranks.device.type == "cuda" else None
                self.forward = DistributedDataParallel(model, device_ids=own)
        if compiled:
            self.forward = torch.compile(self.forward)

    @contextmanager
    def gradients(self, *, exchanged: bool) -> Iterator[None]:
        """Backward passes inside the block add to this rank's gradients, and exchange them with
        the other ranks if it is the last one of a step."""
        model = getattr(self.forward, "_orig_mod", self.forward)  # what torch.compile wrapped
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(exchanged)
            yield
            return
        alone = exchanged or not isinstance(model, DistributedDataParallel)
        with nullcontext() if alone else model.no_sync():
            yield


def check_shard(shard: bool, ranks: Ranks) -> None:
    """Refuse to split weights between processes where there is one.

    Raises:
        ValueError: that.
    """
    if shard and ranks.num_ranks == 1:
        raise ValueError(
            "train.shard splits the weights over several processes; start them with "
            "torchrun --nproc_per_node N -m stadapter train ..., or leave it out"
        )


def _shard(model: VideoClassifier, ranks: Ranks) -> None:
    mesh = init_device_mesh(ranks.device.type, (ranks.num_ranks,))
    for module in _called_modules(model):
        if sum(p.numel() for p in module.parameters()) >= SMALLEST_SHARD:
            fully_shard(module, mesh=mesh)
    # Also after a forward pass without a backward one, so that outside of both the parameters are
    # always the split ones, which the optimiser and the state know.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    model.to(ranks.device)  # buffers
    # It warns of writing into such views, and nothing writes into the residual stream.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")


def _called_modules(model: VideoClassifier) -> list[nn.Module]:
    """The backbone's outermost modules which a forward pass calls as such.

    Weights that are split come together when their module is called, and a backbone is a view:
    it calls attention and MLP of a library's block, never the block.
    """
    called: list[nn.Module] = []
    depth = 0

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal depth
        if depth == 0:
            called.append(module)
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    hooks = []
    for module in model.backbone.modules():
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leave))
    model.count_macs(1, model.backbone.pixels.resolution)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(called))


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which this rank may have a part only, whole; every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tree(tree: Any) -> Any:
    """`whole` for every tensor in dicts and lists."""
    if isinstance(tree, Mapping):
        return {key: whole_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole_tree(value) for value in tree]
    return whole(tree) if isinstance(tree, Tensor) else tree


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The part of a whole tensor that this rank has of `parameter`; the inverse of `whole`."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(
            tensor.to(parameter.device), parameter.device_mesh, parameter.placements
        )
    return tensor
