"""A file filtered in a process whose memory is limited."""

import subprocess
import sys

LIMIT = 200 << 20
"""The most bytes of private memory."""

CODE = f"""if True:
    import resource, sys
    from dojang.filters.job import Options
    from dojang.filters.kernels.parse import as_kernel
    from dojang.filters.large import filter_large
    resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))
    try:
        bytearray({LIMIT + (40 << 20)})
    except MemoryError:
        filter_large(sys.argv[1], sys.argv[2], as_kernel(sys.argv[3]), Options(), band_bytes=16 << 20)
    else:
        sys.exit("the limit does not hold")
"""


def filter_within_limit(source, target, kernel, seconds):
    """Filters `source` into `target`. Fails if it takes more memory than `LIMIT`, or if the limit does not hold."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, source, target, kernel], capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stderr[-300:]
