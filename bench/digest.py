"""How long one look at a network's weights takes (`native/digest.py`), by bytes and threads: least times.

python bench/digest.py > bench/results/digest.txt
"""

import time

import numpy as np

from dojang.native.digest import Digest
from record import head


def main() -> None:
    """Prints one line per size and number of threads."""
    print(head("src/dojang/native"))
    for size, repeats in ((102_000_000, 20), (1_200_000, 200)):
        x = np.random.default_rng(0).standard_normal(size // 4).astype("f4")
        for threads in (1, 2):
            digest, least = Digest([(x.ctypes.data, x.nbytes)], threads), float("inf")
            for _ in range(repeats):
                start = time.perf_counter()
                digest.read()
                least = min(least, time.perf_counter() - start)
            print(f"{size / 1e6:.1f} MB, {threads} threads: {least * 1e3:.3f} ms, {size / least / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
