"""Pictures of one size as GIF or MP4."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def write_gif(path: Path, pictures: Sequence[Image.Image], fps: float) -> None:
    """A GIF that repeats forever. It counts time in hundredths of a second."""
    first, *others = (
        picture.quantize(256, kmeans=1, dither=Image.Dither.NONE) for picture in pictures
    )
    duration = max(20, round(100 / fps) * 10)
    first.save(
        path, "GIF", save_all=True, append_images=others, duration=duration, loop=0, optimize=False
    )


def write_mp4(path: Path, pictures: Sequence[Image.Image], fps: float) -> None:
    """An H.264 video that every player shows: yuv420p, sides made even, index in front."""
    width, height = (side + side % 2 for side in pictures[0].size)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18"}
        for picture in pictures:
            even = Image.new("RGB", (width, height), (255, 255, 255))
            even.paste(picture)
            frame = av.VideoFrame.from_ndarray(np.asarray(even), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
