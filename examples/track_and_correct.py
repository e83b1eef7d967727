"""Track the sample clip, correct a frame, stream it. Run in the repository: python examples/track_and_correct.py OUT"""

import sys

import matchcut
from matchcut.masks import read_mask

out = sys.argv[1] if len(sys.argv) > 1 else "out/example"

# One call: a video and a mask in, a filled timeline out.
timeline = matchcut.track("examples/bunny.mp4", "examples/bunny_first.png", size=160)
timeline.save(out)
timeline.save_video(f"{out}/overlay.mp4")

# The same in parts, with a correction: here the mask found on frame 8 stands in for one drawn by hand.
first = read_mask("examples/bunny_first.png")  # (H, W) uint8: 0 background, 1 the bunny
tracker = matchcut.Tracker(matchcut.load_model(), size=160)
timeline = matchcut.Timeline(matchcut.Video("examples/bunny.mp4", end=12))
timeline.annotate(0, first)
tracker.fill(timeline)
print(f"frame {timeline.weakest()} most needs a correction")
corrected = timeline.labels(8)
timeline.annotate(8, corrected)
print(f"{len(timeline.stale())} frames are stale")  # 5 to 7, backwards, and 9 to the end
tracker.fill(timeline, on_frame=lambda index, labels: print(f"frame {index} is filled again"))
timeline.save(f"{out}/corrected")  # matchcut.Timeline.load goes on from there

# Live input, one frame at a time; a camera is Video("0").
for index, labels in tracker.stream(matchcut.Video("examples/bunny.mp4", end=10), {0: first}):
    print(index, int((labels > 0).sum()))
