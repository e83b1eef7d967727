"""Exact projection onto the polytope of assignments, compiled by Numba for the CPU.

As `assignment_plain.project`, but that the problem itself is tried first, and softer ones only where that takes long.
"""

from typing import Any

import numpy as np

from matchcut.matching.assignment_plain import STAGES
from matchcut.matching.compiled import helper

ACCURACY = 1e-9
"""Largest violation of a row's sum at which a projection counts as exact."""
FEW = 12
"""Newton steps to try at once, before going through softer problems."""
MOST = 100
"""Newton steps after which a stage is left as it is."""


@helper
def copy(source: Any, target: Any) -> None:
    """One vector into another. A loop: Numba takes seconds to compile an assignment to a slice."""
    for i in range(len(source)):
        target[i] = source[i]


@helper
def _fill(level: Any, rows: Any, matrix: Any, columns: Any, sums: Any) -> None:
    """The columns of `level` (n, m) less `rows` (n,), projected onto {x >= 0, sum <= 1}: fills `matrix`, by how much
    `columns` (m,) were lowered, and the sums of rows."""
    n, m = level.shape
    columns[:] = 0
    for i in range(n):
        for j in range(m):
            value = max(level[i, j] - rows[i], 0.0)
            matrix[i, j] = value
            columns[j] += value
    for j in range(m):
        if columns[j] <= 1:
            columns[j] = 0
            continue
        top = matrix[0, j]
        for i in range(1, n):
            top = max(top, matrix[i, j])
        # Newton's method on the convex sum of max(x - threshold, 0) rises to its root, in finitely many steps.
        threshold = max(top - 1, 0.0)
        before = n + 1
        while True:
            total, count = 0.0, 0
            for i in range(n):
                if matrix[i, j] > threshold:
                    total += matrix[i, j]
                    count += 1
            if count == 0 or count >= before:
                break
            threshold = max(threshold, (total - 1) / count)
            before = count
        columns[j] = threshold
        for i in range(n):
            matrix[i, j] = max(matrix[i, j] - threshold, 0.0)
    for i in range(n):
        total = 0.0
        for j in range(m):
            total += matrix[i, j]
        sums[i] = total


@helper
def _fill_rows(level: Any, columns: Any, rows: Any) -> None:
    """The `rows` (n,) for which the sums of relu(level - rows - columns) are 1."""
    n, m = level.shape
    for i in range(n):
        top = level[i, 0] - columns[0]
        for j in range(1, m):
            top = max(top, level[i, j] - columns[j])
        threshold = top - 1
        before = m + 1
        while True:
            total, count = 0.0, 0
            for j in range(m):
                over = level[i, j] - columns[j] - threshold
                total += max(over, 0.0)
                count += over > 0
            if count == 0 or count >= before:
                break
            threshold += (total - 1) / count
            before = count
        rows[i] = threshold


@helper
def _laplacian(matrix: Any, columns: Any, ridge: Any, system: Any) -> None:
    """What the row sums lose as the rows' potentials grow: how entries > 0 and full columns tie rows together."""
    n, m = matrix.shape
    members = np.empty(n, np.int64)
    system[:] = 0
    for j in range(m):
        count = 0
        for i in range(n):
            if matrix[i, j] > 0:
                members[count] = i
                count += 1
        for a in range(count):
            system[members[a], members[a]] += 1
            if columns[j] > 0:
                for b in range(count):
                    system[members[a], members[b]] -= 1 / count
    for i in range(n):
        system[i, i] += ridge


@helper
def _solve(system: Any, vector: Any) -> None:
    """vector = system^-1 vector for a positive definite matrix, by Cholesky; both are overwritten."""
    n = len(vector)
    for i in range(n):
        for j in range(i + 1):
            total = system[i, j]
            for k in range(j):
                total -= system[i, k] * system[j, k]
            if i == j:
                system[i, i] = np.sqrt(max(total, 1e-14))
            else:
                system[i, j] = total / system[j, j]
    for i in range(n):
        for k in range(i):
            vector[i] -= system[i, k] * vector[k]
        vector[i] /= system[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            vector[i] -= system[k, i] * vector[k]
        vector[i] /= system[i, i]


@helper
def _ascend(level: Any, accuracy: Any, most: Any, rows: Any, columns: Any, matrix: Any) -> Any:
    """Semismooth Newton on the rows' potentials from `rows`, which it changes. Returns the steps taken."""
    n = len(level)
    there, sums, direction = np.empty(n), np.empty(n), np.empty(n)
    system = np.empty((n, n))
    _fill(level, rows, matrix, columns, sums)
    for turn in range(most):
        error = 0.0
        for i in range(n):
            direction[i] = sums[i] - 1
            error = max(error, abs(direction[i]))
        if error <= accuracy:
            return turn
        _laplacian(matrix, columns, max(1e-6 * min(error, 1.0), 1e-12), system)
        _solve(system, direction)
        first = 0.0
        for i in range(n):
            first += (sums[i] - 1) * direction[i]
        length = 1.0
        for _ in range(30):
            for i in range(n):
                there[i] = rows[i] + length * direction[i]
            _fill(level, there, matrix, columns, sums)
            slope, error = 0.0, 0.0
            for i in range(n):
                slope += (sums[i] - 1) * direction[i]
                error = max(error, abs(sums[i] - 1))
            if slope >= -0.5 * first or error <= accuracy:
                break
            length *= min(max(first / (first - slope), 0.1), 0.5)
        copy(there, rows)
        if error > accuracy:  # a step in one block of the dual: it also finds rows that have nothing
            _fill_rows(level, columns, rows)
            _fill(level, rows, matrix, columns, sums)
    return most


@helper
def project(level: Any, matrix: Any, columns: Any) -> Any:
    """The point of the polytope nearest to `level` (n, m) float64: fills `matrix` (n, m) and which `columns` (m,) are
    full (> 0). Returns Newton steps. What all of a row have in common does not matter, and is taken from `level`."""
    n, m = level.shape
    for i in range(n):
        top = level[i, 0]
        for j in range(1, m):
            top = max(top, level[i, j])
        for j in range(m):
            level[i, j] -= top
    rows = np.empty(n)
    columns[:] = 0
    _fill_rows(level, columns, rows)
    turns = _ascend(level, ACCURACY, FEW, rows, columns, matrix)
    if turns < FEW:
        return turns
    # Objects that bid for the same proposals move far from there: follow them from a softer problem to this one.
    spread = level.max() - level.min()
    stages = max(1, int(np.ceil(np.log(max(spread, 1.0)) / np.log(STAGES))))
    for stage in range(stages, -1, -1):
        scale = STAGES**-stage
        softer = level * scale
        if stage == stages:
            columns[:] = 0
            _fill_rows(softer, columns, rows)
        else:
            rows *= STAGES
        turns += _ascend(softer, ACCURACY if stage == 0 else 1e-2, MOST, rows, columns, matrix)
    return turns


@helper
def project_backward(matrix: Any, columns: Any, grad: Any) -> None:
    """`grad` (n, m) projected onto the face `matrix` lies in: the transpose of the projection's derivative."""
    n, m = matrix.shape
    system, vector = np.empty((n, n)), np.empty(n)
    shift = np.empty(m)
    _laplacian(matrix, columns, 1e-12, system)
    for i in range(n):
        vector[i] = 0
        for j in range(m):
            if matrix[i, j] > 0:
                vector[i] += grad[i, j]
    for j in range(m):
        shift[j] = 0
        if columns[j] > 0:
            total, count = 0.0, 0
            for i in range(n):
                if matrix[i, j] > 0:
                    total += grad[i, j]
                    count += 1
            shift[j] = total / count
            for i in range(n):
                if matrix[i, j] > 0:
                    vector[i] -= shift[j]
    _solve(system, vector)
    for j in range(m):
        if columns[j] > 0:
            total, count = 0.0, 0
            for i in range(n):
                if matrix[i, j] > 0:
                    total += vector[i]
                    count += 1
            shift[j] -= total / count
        for i in range(n):
            grad[i, j] = grad[i, j] - vector[i] - shift[j] if matrix[i, j] > 0 else 0.0
