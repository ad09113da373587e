"""The constants of all predictions that are not peaks of a processor, in one table.

A prediction divides operations and bytes by the peaks of a core (`families.py`); these constants say what
fraction of a peak a kernel reaches, which waits do not overlap with arithmetic, and what start-up and hand-over between
steps cost. Predictions are only compared with each other: a plan takes the lowest. `python bench/calibration.py`
compares predicted with measured times and prints this table; `bench/results/predicted.txt` is its last result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _cost(value: Any, unit: str) -> Any:
    return field(default=value, metadata={"unit": unit})


@dataclass(frozen=True, slots=True)
class Costs:
    """The constants by name, each with its unit (in the field's metadata). A fraction is from 0 to 1."""

    # Start-up and hand-over, in addition to the work itself.
    start_s: float = _cost(2e-7, "s, a kernel of one step")
    start_parts_s: float = _cost(1e-6, "s, a kernel of several steps, one after the other")
    start_band_s: float = _cost(3e-7, "s, a unit of several layers in a row")
    start_python_s: float = _cost(1e-5, "s, a reference function")
    step_s: float = _cost(2e-7, "s, what a step costs a network beyond its prediction, in a search")
    # For runs predicted to be shorter, helper threads cost more than they save (2 cores, 2026).
    helpers_s: float = _cost(60e-6, "s, a run that one thread does alone")

    # Units: about 20 µs of one core; two atomic additions and the start of a unit cost at most a twentieth of that.
    unit_flops: int = _cost(4_000_000, "FLOP, a unit of register tiles")
    unit_matmul_flops: int = _cost(2_000_000, "FLOP, a unit of a matrix product")
    unit_winograd_macs: int = _cost(100_000, "multiply-adds, a unit of Winograd's products: some 2 µs")
    unit_fourier_macs: int = _cost(200_000, "multiply-adds, a unit of products of frequencies: some 2 µs")
    unit_dense_bytes: int = _cost(256 << 10, "bytes of weights, a unit of a dense layer: some 10 µs")

    # Fractions of the peak of multiply-adds that kernels reach, for kernels whose tiles are not modelled.
    rate_dense: float = _cost(0.6, "part of the peak")
    rate_transposed: float = _cost(0.8, "part of the peak")
    rate_grouped: float = _cost(0.7, "part of the peak")
    shuffles: float = _cost(1.3, "times the work of a grouped layer, stride 1")
    shuffles_strided: float = _cost(2.0, "times the work of a grouped layer, other strides")
    rate_pool: float = _cost(0.3, "part of the peak")
    softmax_flops: float = _cost(30, "FLOP, a number")
    # NumPy's reference functions on one core of a server of 2025, small layers.
    python_macs_per_s: float = _cost(2e8, "multiply-adds a second")

    # Waiting for memory and the shared cache that does not overlap with arithmetic (Granite Rapids, 2026).
    exposed: float = _cost(0.75, "part of the time of bytes, register tiles and Winograd")
    exposed_tiles: float = _cost(0.6, "part of the time of bytes, matrix tiles")
    exposed_tiles_in_turn: float = _cost(
        0.3, "part of the time of tiles that Winograd reads for every block of channels"
    )
    # 6 × 4 and 14 × 2 tiles of Winograd, weights from the shared cache (Emerald Rapids, 2026).
    exposed_shorter: float = _cost(0.3, "part of the shorter of both times, products and bytes of Winograd")
    exposed_streamed: float = _cost(0.1, "part of the time of weights that are fetched a panel ahead")
    from_second_cache: float = _cost(0.6 / 64, "cycles, a byte of weights from the second cache")
    # Fractions of a core's L2 cache: for packed weights that stay there between runs; for values between layers.
    resident: float = _cost(0.75, "part of the second cache, weights")
    between_layers: float = _cost(0.4, "part of the second cache, values between layers in a row")
    beyond_l1: float = _cost(2.1, "times the cycles of transforms of lines beyond the first cache")

    # Matrix tiles (Granite Rapids, 2026). With data other than 0 the processor lowers its clock: 16 cycles become 20.
    tile_row_cycles: float = _cost(1.3, "cycles, a row of a product, of at least 8")
    tile_right_cycles: float = _cost(18.0, "cycles, a right factor that is loaded into the multiplier")
    # The same in small networks, which end before the clock is lowered.
    tile_short_row_cycles: float = _cost(1.0, "cycles, a row of a product")
    tile_short_right_cycles: float = _cost(21.0, "cycles, a right factor")
    tile_fresh_cycles: float = _cost(0.15, "cycles, a weight that is split during the products")
    tile_load_cycles: int = _cost(9, "cycles, a tile that is loaded during the products")
    tile_drain_cycles: int = _cost(1000, "cycles, sums that leave the tiles after many steps, nothing else being there")
    tile_split_cycles: float = _cost(0.6, "cycles, a number that is split into parts")
    tile_across_cycles: int = _cost(24, "cycles, a tile of pixels whose parts do not begin on cache lines")


COSTS = Costs()
"""The constants that plans use."""
