"""Masks through a video: the timeline that records them and the tracker that fills it."""
