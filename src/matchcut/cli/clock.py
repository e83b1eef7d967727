"""When the command began: this is loaded before all that takes time."""

from time import perf_counter

BEGAN = perf_counter()
