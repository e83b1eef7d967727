"""Track the sample clip, correct a frame, stream it. Run in the repository: python examples/track_and_correct.py OUT"""

import sys

import matchcut
from matchcut.masks import read_mask

out = sys.argv[1] if len(sys.argv) > 1 else "out/example"
first = read_mask("examples/bunny_first.png")

# One call: a video and a mask in, a filled timeline out.
timeline = matchcut.track("examples/bunny.mp4", "examples/bunny_first.png", size=240)
timeline.save(out)
timeline.save_video(f"{out}/overlay.mp4")

# The same in parts, with a correction: here the mask found on frame 20 stands in for one drawn by hand.
tracker = matchcut.Tracker(matchcut.load_model(), size=240)
timeline = matchcut.Timeline(matchcut.Video("examples/bunny.mp4", end=30))
timeline.annotate(0, first)
tracker.fill(timeline)
print(f"frame {timeline.weakest()} most needs a correction")
corrected = timeline.labels(20)
timeline.annotate(20, corrected)
print(f"{len(timeline.stale())} frames are stale")  # 11 to 19, backwards, and 21 to the end
tracker.fill(timeline)

# Live input, one frame at a time.
for index, labels in tracker.stream(matchcut.Video("examples/bunny.mp4", end=10), {0: first}):
    print(index, int((labels > 0).sum()))
