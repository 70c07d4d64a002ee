"""Transcode a collection once, so that training reads it fast: `stadapter prepare`.

`transcode` makes one file (`mp4`) of another (`source`), `task` does so in a worker process,
`manifest` remembers what is done, `pack` fills tar shards, and `collection` does all of it for a
DATA. Only the first is imported here: each worker process imports the package, and can do without
torch.
"""

from stadapter.prepare.config import PrepareConfig
from stadapter.prepare.transcode import PreparedFile, prepare_file

__all__ = ["PrepareConfig", "PreparedFile", "prepare_file"]
