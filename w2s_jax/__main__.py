"""`python -m w2s_jax` is the `w2s` command."""

import sys

from w2s_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
