"""The linear layers of a backbone's blocks, for methods that put something in their place."""

from collections.abc import Iterable, Sequence

from torch import nn

from stadapter.backbones import Backbone
from stadapter.methods.anatomy import block_linears

QUERY_VALUE = ("qkv", "q_proj", "v_proj", "query", "value")
"""How libraries call the layers that make queries and values, or all three together."""


def choose_linears(
    backbone: Backbone, targets: Sequence[str] | None, default: Sequence[str]
) -> dict[str, nn.Linear]:
    """Layers of the blocks whose names end in one of `targets` (whole words between dots).

    Raises:
        ValueError: a target that no layer answers to; of `default`, if none does.
    """
    known = block_linears(backbone)
    wanted = {target: _ending_in(target, known) for target in (targets or default)}
    chosen = {
        name: known[name] for name in known if any(name in found for found in wanted.values())
    }
    idle = [target for target, found in wanted.items() if targets and not found]
    if idle or not chosen:
        ends = dict.fromkeys(".".join(name.split(".")[-2:]) for name in known)
        raise ValueError(
            f"backbone {backbone.id!r} calls no linear layer {' or '.join(idle or default)} in its "
            f"blocks; choose targets among {', '.join(ends)}"
        )
    return chosen


def _ending_in(target: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if f".{name}".endswith(f".{target}")}


def bare(linear: nn.Linear) -> nn.Linear:
    """The same layer with the same parameters, whatever stands in for it or hooks into it."""
    twin = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, "meta")
    twin.__class__ = type(linear)  # frozen weights may be stored and multiplied in their own way
    twin._parameters = linear._parameters  # the table, not its content: they move together
    return twin
