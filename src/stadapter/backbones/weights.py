"""Read a state dict from a file somebody gave us, without running what is inside it."""

import pickle
from pathlib import Path

import torch
from torch import Tensor


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from .safetensors, or from a pickle read with `weights_only=True`.

    A pickle may hold the state dict itself or keep it under "state_dict" or "model".

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds something else than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"backbone weights {path} do not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, Tensor] = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}") from error
        return tensors
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"{path} is no readable file of plain tensors ({error.__class__.__name__}); expected "
            "a .safetensors file or a state dict saved by torch.save"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} does not hold a state dict (names -> tensors)")
    return content
