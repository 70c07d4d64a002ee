"""Ways in which collections are written down: one file and one entry in `FORMATS` each."""

from stadapter.data.annotations.formats.charades import CHARADES
from stadapter.data.annotations.formats.epic_kitchens import EPIC_KITCHENS
from stadapter.data.annotations.formats.folder import FOLDER
from stadapter.data.annotations.formats.hmdb51 import HMDB51
from stadapter.data.annotations.formats.kinetics import KINETICS
from stadapter.data.annotations.formats.path_label import PATH_LABEL
from stadapter.data.annotations.formats.something import SOMETHING_V1, SOMETHING_V2
from stadapter.data.annotations.formats.table_file import CSV, PARQUET, TSV
from stadapter.data.annotations.formats.ucf101 import UCF101
from stadapter.data.annotations.source import Format

FORMATS: dict[str, Format] = {
    "kinetics": KINETICS,
    "epic_kitchens": EPIC_KITCHENS,
    "charades": CHARADES,
    "something_v2": SOMETHING_V2,
    "something_v1": SOMETHING_V1,
    "ucf101": UCF101,
    "hmdb51": HMDB51,
    "list": PATH_LABEL,
    "parquet": PARQUET,
    "tsv": TSV,
    "csv": CSV,
    "folder": FOLDER,
}
"""Name -> format, in the order in which DATA is compared with them."""
