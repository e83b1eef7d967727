"""Compiled CPU forms of operators, by Numba: loops that plain torch makes slow. Each equals its readable torch form.

Kernels call nothing that stands outside this folder: `cache` compiles them anew when any file in it changes.
"""
