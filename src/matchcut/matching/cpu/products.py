"""Inner products of int16 rows, 16 query cells by 4 reference cells at a time: the scores of `matching.cpu.search`.

Written in LLVM's own language, which is the same for all processors: Numba has no vectors, and its loops over int16 or
float32 take more than twice as long (`python benchmarks/products.py`).
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Query cells that are compared at once."""
KEYS = 4
"""Reference cells that they are compared with at once: as many as there are registers for."""

SHORT, INT, LONG = ir.IntType(16), ir.IntType(32), ir.IntType(64)


def _compare(
    typingctx: Any,
    queries: Any,
    keys: Any,
    step: Any,
    pairs: Any,
    limits: Any,
    products: Any,
) -> Any:
    """The products of LANES query cells with KEYS reference cells, and which of them are above a limit.

    Args, all int64, those that are addresses of contiguous arrays marked by *:
        queries: * (pairs, LANES, 2) int16: channels lie two by two.
        keys: * the first of KEYS rows (2 * pairs,) of int16.
        step: bytes from one row to the next.
        pairs: half the channels.
        limits: * (LANES,) int32.
        products: * (KEYS, LANES) int32, filled.

    Returns:
        uint64 whose bit LANES * key + lane says that their product is above the lane's limit.
    """
    ints, shorts, ints_of_shorts = (
        ir.VectorType(INT, LANES),
        ir.VectorType(SHORT, 2 * LANES),
        ir.VectorType(INT, 2 * LANES),
    )

    def numbers(of: range) -> ir.Constant:
        return ir.Constant(ir.VectorType(INT, len(of)), list(of))

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        query, key, step, pairs, limits, products = arguments

        def pointer(address: Any, offset: Any, type_: Any) -> Any:
            return builder.inttoptr(builder.add(address, offset), type_.as_pointer())

        def load(address: Any, offset: Any, type_: Any) -> Any:
            loaded = builder.load(pointer(address, offset, type_))
            loaded.align = 4
            return loaded

        def everywhere(value: Any) -> Any:
            first = builder.insert_element(ir.Constant(ints, ir.Undefined), value, INT(0))
            return builder.shuffle_vector(first, first, ir.Constant(ints, [0] * LANES))

        sums = [cgutils.alloca_once_value(builder, ir.Constant(ints, [0] * LANES)) for _ in range(KEYS)]
        rows = [builder.mul(step, LONG(number)) for number in range(KEYS)]
        with cgutils.for_range(builder, pairs) as loop:
            a = load(query, builder.mul(loop.index, LONG(4 * LANES)), shorts)
            for row, one in zip(rows, sums, strict=True):
                pair = load(key, builder.add(row, builder.mul(loop.index, LONG(4))), INT)
                b = builder.bitcast(everywhere(pair), shorts)
                both = builder.mul(builder.sext(a, ints_of_shorts), builder.sext(b, ints_of_shorts))
                even, odd = (
                    builder.shuffle_vector(both, both, numbers(range(which, 2 * LANES, 2))) for which in (0, 1)
                )
                builder.store(builder.add(builder.load(one), builder.add(even, odd)), one)  # that is: pmaddwd
        limit = load(limits, LONG(0), ints)
        above: Any = LONG(0)
        for number, one in enumerate(sums):
            product = builder.load(one)
            builder.store(product, pointer(products, LONG(4 * LANES * number), ints)).align = 4
            word = builder.bitcast(builder.icmp_signed(">", product, limit), ir.IntType(LANES))
            above = builder.or_(above, builder.shl(builder.zext(word, LONG), LONG(LANES * number)))
        return above

    return types.uint64(*[types.int64] * 6), build


def _lowest_bit(typingctx: Any, word: Any) -> Any:
    """The number of the lowest bit that is set in a uint64 other than 0."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), build


compare: Any = intrinsic(_compare)
lowest_bit: Any = intrinsic(_lowest_bit)
