"""``python -m lanas_jax``: the command line, without an installed ``lanas``."""

import sys

from lanas_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
