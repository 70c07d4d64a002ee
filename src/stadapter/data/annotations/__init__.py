"""Collections as people have them -> one table of clips."""

from stadapter.data.annotations.formats import FORMATS
from stadapter.data.annotations.load import check_trainable, load_collection
from stadapter.data.annotations.table import ClipTable, Collection, PathColumn

__all__ = [
    "FORMATS",
    "ClipTable",
    "Collection",
    "PathColumn",
    "check_trainable",
    "load_collection",
]
