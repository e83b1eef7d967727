"""The products of the compiled search (`matchcut.matching.cpu.products`) beside loops that Numba compiles.

    python benchmarks/products.py

16 query cells by 96 reference cells of 176 channels, on one core; nanoseconds a product, the best of 50 runs.
"""

import timeit
from typing import Any

import numba
import numpy as np

from common import machine, table
from matchcut.matching.cpu.kernels import REORDERED
from matchcut.matching.cpu.products import KEYS, LANES, compare

CHANNELS, CELLS, ROUNDS, REPEATS = 176, 96, 100, 50


def main() -> None:
    lines = [["int16, LLVM vectors (ours)", f"{llvm():.1f}"]]
    lines += [[f"{kind.__name__}, a Numba loop", f"{loop(kind):.1f}"] for kind in (np.float32, np.int16)]
    print(f"{machine('numba')}\n\n{table(['form', 'ns a product'], lines)}")


def nanoseconds(run: Any) -> float:
    run()
    return min(timeit.repeat(run, number=1, repeat=REPEATS)) / (ROUNDS * CELLS * LANES) * 1e9


def llvm() -> float:
    @numba.njit
    def run(queries: Any, keys: Any, limits: Any, products: Any) -> int:
        above = 0
        for _ in range(ROUNDS):
            for cell in range(0, CELLS, KEYS):
                above += compare(queries, keys + 2 * CHANNELS * cell, 2 * CHANNELS, CHANNELS // 2, limits, products) > 0
        return above

    shapes = {(CHANNELS // 2, LANES, 2): np.int16, (CELLS, CHANNELS): np.int16, (LANES,): np.int32}
    arrays = [np.ones(shape, kind) for shape, kind in (*shapes.items(), ((KEYS, LANES), np.int32))]
    return nanoseconds(lambda: run(*(one.ctypes.data for one in arrays)))


def loop(kind: Any) -> float:
    sums_of = np.float32 if kind is np.float32 else np.int32

    @numba.njit(fastmath=REORDERED)
    def run(queries: Any, keys: Any, products: Any) -> None:
        for _ in range(ROUNDS):
            for cell in range(CELLS):
                key = keys[cell]
                for lane in range(0, LANES, 4):  # four at once share what is read of the key
                    q0, q1, q2, q3 = queries[lane], queries[lane + 1], queries[lane + 2], queries[lane + 3]
                    a = b = c = d = sums_of(0)
                    for channel in range(CHANNELS):
                        value = sums_of(key[channel])
                        a = sums_of(a + value * sums_of(q0[channel]))
                        b = sums_of(b + value * sums_of(q1[channel]))
                        c = sums_of(c + value * sums_of(q2[channel]))
                        d = sums_of(d + value * sums_of(q3[channel]))
                    row = products[cell]
                    row[lane], row[lane + 1], row[lane + 2], row[lane + 3] = a, b, c, d

    arrays = np.ones((LANES, CHANNELS), kind), np.ones((CELLS, CHANNELS), kind), np.zeros((CELLS, LANES), sums_of)
    return nanoseconds(lambda: run(*arrays))


if __name__ == "__main__":
    main()
