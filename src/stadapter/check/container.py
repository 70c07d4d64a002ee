"""Whether a container's own structure is whole: its checksums and the lengths that it declares.

Decoders skip what they cannot parse, often without a word. Here only headers are followed (and
Matroska's checksums computed), so this is quick, and it believes nothing but what the file itself
says. Formats that are not known here pass.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stadapter.check.files import Bytes, content


@dataclass(frozen=True)
class Fault:
    """Something wrong with a container."""

    detail: str
    """What and where."""
    truncated: bool = False
    """Whether the end of the file is missing."""


def structure_faults(path: str) -> list[Fault]:
    """What is wrong with the structure of a file (or member of a shard) that is not empty.

    Raises:
        OSError: the file cannot be read.
    """
    with content(path) as data:
        for is_format, faults in _FORMATS:
            if is_format(data):
                return list(faults(data))
    return []


# -- Matroska, WebM --------------------------------------------------------------------------------

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_MASTERS = frozenset({0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, _CLUSTER})
"""Elements of a segment that hold others, and may begin with a checksum of them."""


def _matroska(data: Bytes) -> Iterator[Fault]:
    return _elements(data, 0, len(data), within=None)


def _elements(data: Bytes, start: int, end: int, *, within: int | None) -> Iterator[Fault]:
    """Follow the elements from `start` to `end`, which must fill it exactly."""
    seen_segment = False
    while start < end:
        try:
            element, body = _number(data, start, with_marker=True)
            length, body = _number(data, body, with_marker=False)
        except ValueError:
            if not (within is None and seen_segment):  # what follows the whole is not its own
                yield Fault(f"no Matroska element at byte {start:,}")
            return
        if length is None:  # written live: its children follow, here
            start, within = body, within or element
            continue
        stop = body + length
        if stop > end:
            if end == len(data):
                yield Fault(f"the file ends {stop - end:,} bytes early", truncated=True)
            else:
                yield Fault(f"an element at byte {start:,} is longer than what holds it")
            return
        if element in (_SEGMENT, _CLUSTER):
            yield from _elements(data, body, stop, within=element)
        if within == _SEGMENT and element in _MASTERS and data[body : body + 2] == b"\xbf\x84":
            stated = int.from_bytes(data[body + 2 : body + 6], "little")
            if zlib.crc32(memoryview(data)[body + 6 : stop]) != stated:
                yield Fault(f"the checksum of the {length:,} bytes from {body:,} does not match")
        seen_segment |= element == _SEGMENT
        start = stop


def _number(data: Bytes, at: int, *, with_marker: bool) -> tuple[int | None, int]:
    """A number of variable length and where it ends; None is "unknown"."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    if width > (4 if with_marker else 8) or at + width > len(data):
        raise ValueError
    value = int.from_bytes(data[at : at + width], "big")
    if with_marker:
        return value, at + width
    value -= 1 << 7 * width
    return (None if value == (1 << 7 * width) - 1 else value), at + width


# -- MP4, MOV --------------------------------------------------------------------------------------


def _boxes(data: Bytes) -> Iterator[Fault]:
    start = 0
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        if length == 1 and start + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, start + 8)
        if length == 0:  # to the end of the file
            return
        if length < 8:
            return  # some writers append what is no box; the decoder's index does not need it
        if start + length > len(data) and kind in (b"mdat", b"moov", b"moof"):
            yield Fault(f"the file ends {start + length - len(data):,} bytes early", truncated=True)
        start += length


# -- AVI -------------------------------------------------------------------------------------------


def _avi(data: Bytes) -> Iterator[Fault]:
    """Follow the chunks of the lists that hold frames, which must be named in ASCII."""
    start = 0
    while start + 12 <= len(data) and data[start : start + 4] == b"RIFF":  # more follow after 1 GB
        (length,) = struct.unpack_from("<I", data, start + 4)
        stop = start + 8 + length + length % 2
        if not length:  # never finished by its writer: FFmpeg reads on to the end
            return
        yield from _chunks(data, start + 12, min(stop, len(data)))
        if stop > len(data) + 8:  # some writers count the first 8 bytes as well
            yield Fault(f"the file ends {stop - len(data):,} bytes early", truncated=True)
        start = stop


def _chunks(data: Bytes, start: int, end: int) -> Iterator[Fault]:
    while start + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, start)
        if not all(32 <= byte < 127 for byte in kind):
            yield Fault(f"no AVI chunk at byte {start:,}")
            return
        if kind == b"LIST" and data[start + 8 : start + 12] in (b"movi", b"rec "):
            yield from _chunks(data, start + 12, min(start + 8 + length, end))
        start += 8 + length + length % 2


# -- MPEG transport stream -------------------------------------------------------------------------


def _packet_layout(data: Bytes) -> tuple[int, int] | None:
    """(length of a packet, place of the byte 0x47 in it), if the file begins like one."""
    for length, place in ((188, 0), (192, 4), (204, 0)):
        if len(data) > 4 * length and data[place : 5 * length : length] == b"\x47" * 5:
            return length, place
    return None


def _transport(data: Bytes) -> Iterator[Fault]:
    layout = _packet_layout(data)
    if layout is None:
        return
    length, place = layout
    marks = data[place::length]
    lost = len(marks) - marks.count(b"\x47")
    if lost:
        first = next(i for i, mark in enumerate(marks) if mark != 0x47)
        yield Fault(
            f"{lost:,} of {len(marks):,} packets do not begin as such, the first is {first:,}"
        )
    if len(data) % length:
        yield Fault("the last packet is not whole", truncated=True)


# -- ASF, WMV --------------------------------------------------------------------------------------

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def _asf(data: Bytes) -> Iterator[Fault]:
    """The packets have one length, and all begin like the first if that has error correction."""
    properties, body = data.find(_ASF_PROPERTIES), data.find(_ASF_DATA)
    if min(properties, body) < 0 or properties + 96 > len(data):
        return
    (count,) = struct.unpack_from("<Q", data, properties + 56)
    (length,) = struct.unpack_from("<I", data, properties + 92)
    start = body + 50
    if not length or start >= len(data) or not data[start] & 0x80:
        return
    here = (len(data) - start) // length
    if here < count:  # 0 in a stream that was recorded live
        yield Fault(f"{here:,} of {count:,} packets are in the file: it ends early", truncated=True)
    for number in range(min(count, here)):
        if data[start + number * length] != data[start]:
            yield Fault(f"packet {number:,} does not begin as such")
            return


# -- GIF -------------------------------------------------------------------------------------------


def _gif(data: Bytes) -> Iterator[Fault]:
    at = 13 + _colours(data[10])
    while at < len(data):
        kind = data[at]
        if kind == 0x3B:
            return
        if kind == 0x2C and at + 10 < len(data):  # an image: descriptor, colours, code size
            at += 10 + _colours(data[at + 9]) + 1
        elif kind == 0x21:
            at += 2
        else:
            yield Fault(f"no GIF block at byte {at:,}")
            return
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    yield Fault("the file ends early", truncated=True)


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


_FORMATS: tuple[tuple[Callable[[Bytes], bool], Callable[[Bytes], Iterator[Fault]]], ...] = (
    (lambda data: data[:4] == b"\x1a\x45\xdf\xa3", _matroska),
    (lambda data: data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"), _boxes),
    (lambda data: data[:4] == b"RIFF" and data[8:12] == b"AVI ", _avi),
    (lambda data: data[:16] == _ASF_HEADER, _asf),
    (lambda data: data[:6] in (b"GIF87a", b"GIF89a") and len(data) > 13, _gif),
    (lambda data: _packet_layout(data) is not None, _transport),
)
