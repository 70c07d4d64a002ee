"""What a forward pass leaves in memory for backward."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Storages(TorchDispatchMode):
    """Remembers, weakly, the memory behind every result that was not there before."""

    def __init__(self) -> None:
        super().__init__()
        self.before: set[int] = set()
        self.found: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What is first seen as an argument is a weight or an input.
        for storage in _storages((args, kwargs)):
            if storage._cdata not in self.found:
                self.before.add(storage._cdata)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in self.before:
                self.found[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf.untyped_storage()


def retained_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes made by `forward` that are still there while its result is, each counted once.

    Weights and inputs existed before and are not counted. Hooks on saved tensors would miss what
    selective checkpointing keeps.
    """
    with _Storages() as storages:
        result = forward()
    total = sum(size for reference, size in storages.found.values() if not reference.expired())
    del result
    return total
