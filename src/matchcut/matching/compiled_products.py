"""Inner products of 16-bit whole numbers, many cells at a time: what `compiled_search` makes its scores of.

Numba has no vectors, so this loop is written in the language of LLVM, which is the same for all processors.
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
    head: Any,
    rests: Any,
    rest: Any,
    limits: Any,
    products: Any,
) -> Any:
    """The products of LANES query cells with KEYS reference cells, and which of them are above a limit.

    Where there is a head, cells of which none can come above its limit any more are left after it.

    Args, all int64 but `rest`, those that are addresses of contiguous arrays marked by *:
        queries: * (pairs, LANES, 2) int16: channels lie two by two.
        keys: * the first of KEYS rows (2 * pairs,) of int16.
        step: bytes from one row to the next.
        pairs: half the channels.
        head: how many of the pairs come first; as many as `pairs` for all at once.
        rests: * (LANES,) float32, the lengths of what the query cells have after the head, at least.
        rest: float32, the length of what any of the reference cells has after it, at least.
        limits: * (LANES,) int32.
        products: * (KEYS, LANES) int32, filled where there is an answer.

    Returns:
        uint64 whose bit LANES * key + lane says that their product is above the lane's limit.
    """
    whole, twice, products_of = (
        ir.VectorType(INT, LANES),
        ir.VectorType(SHORT, 2 * LANES),
        ir.VectorType(INT, 2 * LANES),
    )
    real = ir.VectorType(ir.FloatType(), LANES)

    def numbers(of: range) -> ir.Constant:
        return ir.Constant(ir.VectorType(INT, len(of)), list(of))

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        query, key, step, pairs, head, rests, rest, limits, products = arguments

        def pointer(address: Any, offset: Any, type_: Any) -> Any:
            return builder.inttoptr(builder.add(address, offset), type_.as_pointer())

        def load(address: Any, offset: Any, type_: Any) -> Any:
            loaded = builder.load(pointer(address, offset, type_))
            loaded.align = 4
            return loaded

        def everywhere(value: Any, type_: Any) -> Any:
            first = builder.insert_element(ir.Constant(type_, ir.Undefined), value, INT(0))
            return builder.shuffle_vector(first, first, ir.Constant(whole, [0] * LANES))

        sums = [cgutils.alloca_once(builder, whole) for _ in range(KEYS)]
        hits = cgutils.alloca_once(builder, LONG)
        for one in sums:
            builder.store(ir.Constant(whole, [0] * LANES), one)
        rows = [builder.mul(step, LONG(number)) for number in range(KEYS)]

        def add(start: Any, stop: Any) -> None:
            with cgutils.for_range(builder, stop, start) as loop:
                a = load(query, builder.mul(loop.index, LONG(4 * LANES)), twice)
                for row, one in zip(rows, sums, strict=True):
                    pair = load(key, builder.add(row, builder.mul(loop.index, LONG(4))), INT)
                    b = builder.bitcast(everywhere(pair, whole), twice)
                    both = builder.mul(builder.sext(a, products_of), builder.sext(b, products_of))
                    even, odd = (
                        builder.shuffle_vector(both, both, numbers(range(which, 2 * LANES, 2))) for which in (0, 1)
                    )
                    builder.store(builder.add(builder.load(one), builder.add(even, odd)), one)  # that is: pmaddwd

        def above(limit: Any, more: Any = None) -> Any:
            bits: Any = LONG(0)
            for number, one in enumerate(sums):
                product = builder.load(one)
                if more is not None:
                    product = builder.add(product, more)
                word = builder.bitcast(builder.icmp_signed(">", product, limit), ir.IntType(LANES))
                bits = builder.or_(bits, builder.shl(builder.zext(word, LONG), LONG(LANES * number)))
            return bits

        limit = load(limits, LONG(0), whole)
        add(LONG(0), head)
        # By Cauchy and Schwarz the rest adds at most the product of the lengths.
        most = builder.fptosi(builder.fmul(load(rests, LONG(0), real), everywhere(rest, real)), whole)
        builder.store(above(limit, most), hits)
        with builder.if_then(builder.icmp_unsigned("!=", builder.load(hits), LONG(0))):
            add(head, pairs)
            for number, one in enumerate(sums):
                builder.store(builder.load(one), pointer(products, LONG(4 * LANES * number), whole)).align = 4
            builder.store(above(limit), hits)
        return builder.load(hits)

    return types.uint64(*[types.int64] * 6, types.float32, *[types.int64] * 2), build


def _lowest_bit(typingctx: Any, word: Any) -> Any:
    """The number of the lowest bit that is set in a uint64 other than 0."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), build


compare: Any = intrinsic(_compare)
lowest_bit: Any = intrinsic(_lowest_bit)
