"""`python -m olm`: the command line."""

import sys

from olm.cli import main

if __name__ == "__main__":
    sys.exit(main())
