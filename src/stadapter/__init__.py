"""stadapter: pretrained image transformers become video classifiers by training a few percent.

Public names load on first use, so that `import stadapter` does no work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stadapter.backbones import Backbone, create_backbone
    from stadapter.checkpoint import AdapterMismatchError
    from stadapter.data import VideoError
    from stadapter.methods import FullFinetuneConfig, LinearProbeConfig, STAdapterConfig
    from stadapter.model import VideoClassifier, create_model
    from stadapter.official import load_official
    from stadapter.predict import Predictor

__version__ = "0.1.0"

_HOMES = {
    "AdapterMismatchError": "stadapter.checkpoint",
    "Backbone": "stadapter.backbones",
    "FullFinetuneConfig": "stadapter.methods",
    "LinearProbeConfig": "stadapter.methods",
    "Predictor": "stadapter.predict",
    "STAdapterConfig": "stadapter.methods",
    "VideoClassifier": "stadapter.model",
    "VideoError": "stadapter.data",
    "create_backbone": "stadapter.backbones",
    "create_model": "stadapter.model",
    "load_official": "stadapter.official",
}

__all__ = [
    "AdapterMismatchError",
    "Backbone",
    "FullFinetuneConfig",
    "LinearProbeConfig",
    "Predictor",
    "STAdapterConfig",
    "VideoClassifier",
    "VideoError",
    "__version__",
    "create_backbone",
    "create_model",
    "load_official",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stadapter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
