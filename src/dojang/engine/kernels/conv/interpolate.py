"""The matrices of Winograd's minimal filtering, by Toom–Cook interpolation, and code that applies them.

F(m, r) computes m outputs of an r-tap filter from m + r − 1 inputs with m + r − 1 multiplications:
y = Aᵀ[(G g) ⊙ (Bᵀ d)]. The points of interpolation are free, and decide the rounding error.
S. Winograd, Arithmetic Complexity of Computations (1980); B. Barabasz et al., Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from dojang.native.emit import F32, Emit, Value

Matrix = tuple[tuple[Fraction, ...], ...]

POINTS: dict[int, tuple[Fraction, ...]] = {
    # Finite points by their number, found by search over small fractions on random images (see tests): for F(4, 3)
    # these have half the error of the usual 0, ±1, ±2. Pairs ±a let the transforms share even and odd parts.
    3: (Fraction(0), Fraction(1), Fraction(-1)),
    5: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
    7: tuple(Fraction(*p) for p in ((0, 1), (1, 2), (-1, 2), (1, 1), (-1, 1), (2, 1), (-2, 1))),
}


@cache
def matrices(m: int, r: int) -> tuple[Matrix, Matrix, Matrix]:
    """(Aᵀ, G, Bᵀ) of F(m, r), exact: m × a, a × r and a × a with a = m + r − 1; the last point is infinity.

    >>> at, g, bt = matrices(2, 3)
    >>> [[int(v) for v in row] for row in at]
    [[1, 1, 1, 0], [0, 1, -1, 1]]
    """
    if m == r == 1:  # an axis without taps: nothing is transformed
        return ((Fraction(1),),), ((Fraction(1),),), ((Fraction(1),),)
    points = POINTS[m + r - 2]
    one, zero = Fraction(1), Fraction(0)
    g: list[list[Fraction]] = []
    bt: list[list[Fraction]] = []
    every = [one]
    for i, p in enumerate(points):
        scale, poly = one, [one]
        for j, q in enumerate(points):
            if i != j:
                scale *= p - q
                poly = _times(poly, q)
        g.append([p**k / scale for k in range(r)])
        bt.append([*poly, zero])
        every = _times(every, p)
    g.append([zero] * (r - 1) + [one])
    bt.append(every)
    at = [[p**j for p in points] + [Fraction(int(j == m - 1))] for j in range(m)]
    return tuple(map(tuple, at)), tuple(map(tuple, g)), tuple(map(tuple, bt))


def _times(poly: Sequence[Fraction], root: Fraction) -> list[Fraction]:
    """The polynomial times (x − root), coefficients from x⁰ up."""
    shifted = [Fraction(0), *poly]
    return [a - root * b for a, b in zip(shifted, [*poly, Fraction(0)], strict=True)]


def apply(b: Emit, matrix: Matrix, vs: Sequence[Value]) -> list[Value]:
    """matrix · vs on vectors. Columns that agree up to sign (Aᵀ), and rows that do (Bᵀ), share their sums."""
    columns: list[tuple[Value, list[Fraction]]] = []
    used: set[int] = set()
    for i in range(len(vs)):
        if i in used:
            continue
        partner = next((j for j in range(i + 1, len(vs)) if j not in used and _mirror(matrix, i, j)), None)
        if partner is None:
            columns.append((vs[i], [row[i] for row in matrix]))
            continue
        used.add(partner)
        same = [row[i] if row[i] == row[partner] else Fraction(0) for row in matrix]
        other = [row[i] if row[i] == -row[partner] else Fraction(0) for row in matrix]
        columns.append((b.fadd(vs[i], vs[partner]), same))
        columns.append((b.fsub(vs[i], vs[partner]), other))
    rows = [[c[1][r] for c in columns] for r in range(len(matrix))]
    values = [c[0] for c in columns]
    out: list[Value] = [None] * len(rows)
    for r, row in enumerate(rows):
        if out[r] is not None:
            continue
        mate = next((q for q in range(r + 1, len(rows)) if out[q] is None and _twin(row, rows[q])), None)
        if mate is None:
            out[r] = _dot(b, row, values)
            continue
        even = [c if c == d else Fraction(0) for c, d in zip(row, rows[mate], strict=True)]
        odd = [c if c == -d else Fraction(0) for c, d in zip(row, rows[mate], strict=True)]
        lead = next(c for c in reversed(odd) if c)
        e, o = _dot(b, even, values), _dot(b, [c / lead for c in odd], values)
        out[r], out[mate] = _madd(b, lead, o, e), _madd(b, -lead, o, e)
    return out


def _mirror(matrix: Matrix, i: int, j: int) -> bool:
    """Columns equal in absolute value, with both signs present."""
    pairs = [(row[i], row[j]) for row in matrix]
    return all(abs(a) == abs(c) for a, c in pairs) and {a == c for a, c in pairs if a} == {True, False}


def _twin(one: Sequence[Fraction], two: Sequence[Fraction]) -> bool:
    """Rows equal in absolute value, with both signs present and at least two terms each."""
    pairs = list(zip(one, two, strict=True))
    signs = [a == c for a, c in pairs if a]
    return all(abs(a) == abs(c) for a, c in pairs) and signs.count(True) >= 2 and signs.count(False) >= 2


def _madd(b: Emit, c: Fraction, v: Value, acc: Value) -> Value:
    if c == 1:
        return b.fadd(acc, v)
    if c == -1:
        return b.fsub(acc, v)
    return b.fma(v, b.const(F32, float(c), v.type.count), acc)


def _dot(b: Emit, coefficients: Sequence[Fraction], vs: Sequence[Value]) -> Value:
    """Σ cᵢvᵢ, beginning with a term whose coefficient is 1 if there is one."""
    terms = [(c, v) for c, v in zip(coefficients, vs, strict=True) if c]
    if not terms:
        return b.const(F32, 0.0, vs[0].type.count)
    terms.sort(key=lambda term: term[0] != 1)
    c, v = terms[0]
    acc = v if c == 1 else b.fmul(v, b.const(F32, float(c), v.type.count))
    for c, v in terms[1:]:
        acc = _madd(b, c, v, acc)
    return acc
