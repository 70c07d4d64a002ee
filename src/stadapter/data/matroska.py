"""Whether a Matroska or WebM file still has its structure.

FFmpeg skips what it cannot parse and goes on with the next cluster without a word, so a damaged
middle reads as a shorter video. Here the elements are walked from one header to the next.
"""

import os
from typing import BinaryIO

_ENTERED = frozenset({0x18538067, 0x1F43B675})
"""Segment and Cluster: what they hold is walked too."""
_SKIPPED = frozenset(
    {0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770}
    | {0x1254C367, 0x1B538667, 0xEC, 0xBF}  # level 1: EBML head to Signature; Void, CRC-32
    | {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}  # in a cluster: Timestamp to EncryptedBlock
)


def first_damage(file: BinaryIO) -> int | None:
    """Byte at which no element starts where one has to (RFC 9559), or None.

    A file that ends inside its last element is not damaged in this sense.
    """
    size = file.seek(0, os.SEEK_END)
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(12)
        id_length = 9 - header[0].bit_length()
        if id_length > 4 or len(header) <= id_length:
            return position
        element = int.from_bytes(header[:id_length], "big")
        length = 9 - header[id_length].bit_length()
        if element not in _ENTERED | _SKIPPED or length > 8:
            return position
        content = position + id_length + length
        if element in _ENTERED:
            position = content
            continue
        number = header[id_length : id_length + length]
        position = content + (int.from_bytes(number, "big") & ((1 << 7 * length) - 1))
    return None
