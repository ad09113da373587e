"""`python -m dojang` is the `dojang` command."""

import sys

from dojang.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
