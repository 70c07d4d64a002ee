"""Collections as people have them -> one table of clips."""

from stadapter.data.annotations.formats import FORMATS
from stadapter.data.annotations.load import announce_collection, check_trainable, load_collection
from stadapter.data.annotations.skip_list import LeftOut, leave_out
from stadapter.data.annotations.source import DataConfig
from stadapter.data.annotations.table import ClipTable, Collection, PathColumn

__all__ = [
    "FORMATS",
    "ClipTable",
    "Collection",
    "DataConfig",
    "LeftOut",
    "PathColumn",
    "announce_collection",
    "check_trainable",
    "leave_out",
    "load_collection",
]
