"""Optical flow: computed, drawn, read and written, kept; and where scenes end."""
