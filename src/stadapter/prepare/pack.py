"""Prepared clips -> tar shards as WebDataset reads them: NAME.mp4 and NAME.json side by side.

A shard holds clips of one split, in an order that a hash of their names shuffles, and is written
whole or not at all. A clip stays in its shard for ever: a later run fills new shards with new clips
and rewrites only those of which a clip or a label has changed. So a run that was killed between two
shards goes on to the same ones, and no bytes are lost on the way.
"""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stadapter.atomic import atomic_path
from stadapter.data.shards import ShardIndex, open_member, shard_index

SHARDS = "shards"
"""Folder of the shards below OUT."""


@dataclass(frozen=True)
class Sample:
    """A clip of one split to be packed."""

    split: str
    name: str
    """Without suffix; no other sample's of the split."""
    video: Path
    """Where its MP4 is or was before packing; the newest version, if there."""
    num_bytes: int
    """Size of the MP4."""
    record: bytes
    """The JSON beside it."""


def shards_of(out: Path) -> dict[Path, ShardIndex]:
    """The shards that are there, by name.

    Raises:
        OSError: one cannot be read.
    """
    return {tar: shard_index(tar) for tar in sorted((out / SHARDS).glob(f"*-{6 * '[0-9]'}.tar"))}


def pack_shards(out: Path, samples: Iterable[Sample], max_bytes: int) -> dict[tuple[str, str], str]:
    """Bring the shards up to date and delete the loose MP4s that are in them.

    Returns:
        (split, name) -> path of the MP4 through its shard, relative to `out`.

    Raises:
        OSError: a shard cannot be written. The MP4s of the others are still there.
    """
    wanted = {(sample.split, sample.name): sample for sample in samples}
    indexes = shards_of(out)
    homes: dict[tuple[str, str], Path] = {}
    for tar, index in indexes.items():
        for name in _video_names(index):
            homes.setdefault((_split(tar), name), tar)
    anywhere = {name: tar for (_, name), tar in homes.items()}
    uses = Counter(sample.name for sample in wanted.values())
    (out / SHARDS).mkdir(exist_ok=True)

    def write(tar: Path, members: list[Sample]) -> None:
        _write_shard(tar, members, anywhere)
        for sample in members:
            uses[sample.name] -= 1
            homes[sample.split, sample.name] = tar
            if uses[sample.name] == 0:
                sample.video.unlink(missing_ok=True)

    # New shards first: a clip may have changed its split and be in an old shard only.
    new = [sample for key, sample in wanted.items() if key not in homes]
    for tar, members in _fill(out, new, max_bytes, indexes):
        write(tar, members)
    for tar, index in indexes.items():
        keys = [(_split(tar), name) for name in _video_names(index)]
        members = sorted((wanted[k] for k in keys if k in wanted and homes[k] == tar), key=_order)
        if not members:
            tar.unlink()
        elif len(members) < len(keys) or any(_is_stale(tar, sample) for sample in members):
            write(tar, members)
    return {
        (split, name): f"{SHARDS}/{tar.name}/{name}.mp4"
        for (split, name), tar in homes.items()
        if (split, name) in wanted
    }


def _fill(
    out: Path, samples: list[Sample], max_bytes: int, there: Iterable[Path]
) -> Iterator[tuple[Path, list[Sample]]]:
    """New shards and their members, each as full as it may be."""
    for split in sorted({sample.split for sample in samples}):
        numbers = [int(tar.stem.rpartition("-")[2]) for tar in there if _split(tar) == split]
        number = max(numbers, default=-1) + 1
        members: list[Sample] = []
        size = _END_BYTES
        for sample in sorted((s for s in samples if s.split == split), key=_order):
            more = _blocks(sample.num_bytes) + _blocks(len(sample.record))
            if members and size + more > max_bytes:
                yield out / SHARDS / f"{split}-{number:06d}.tar", members
                number, members, size = number + 1, [], _END_BYTES
            members.append(sample)
            size += more
        yield out / SHARDS / f"{split}-{number:06d}.tar", members


_END_BYTES = tarfile.RECORDSIZE


def _blocks(num_bytes: int) -> int:
    """Bytes that a member takes: a header and whole blocks."""
    return tarfile.BLOCKSIZE * (1 + -(-num_bytes // tarfile.BLOCKSIZE))


def _write_shard(tar: Path, members: list[Sample], anywhere: dict[str, Path]) -> None:
    with (
        atomic_path(tar) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as file,
    ):
        for sample in members:
            _add(file, f"{sample.name}.mp4", _content(sample, anywhere))
            _add(file, f"{sample.name}.json", sample.record)


def _add(file: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no owner and no time: equal clips give equal shards
    member.size = len(content)
    file.addfile(member, io.BytesIO(content))


def _content(sample: Sample, anywhere: dict[str, Path]) -> bytes:
    if sample.video.exists():
        return sample.video.read_bytes()
    packed = open_member(f"{anywhere[sample.name]}/{sample.name}.mp4")
    assert packed is not None  # a path through a tar
    return packed.getvalue()


def _is_stale(tar: Path, sample: Sample) -> bool:
    """Whether the clip was made anew or its record has changed."""
    try:
        packed = open_member(f"{tar}/{sample.name}.json")
    except OSError:
        return True
    return sample.video.exists() or packed is None or packed.getvalue() != sample.record


def _video_names(index: ShardIndex) -> list[str]:
    names = (name.decode() for name in index.names)
    return [name.removesuffix(".mp4") for name in names if name.endswith(".mp4")]


def _split(tar: Path) -> str:
    return tar.stem.rpartition("-")[0]


def _order(sample: Sample) -> bytes:
    return hashlib.sha256(sample.name.encode()).digest()
