"""`python -m neoq` is the command `neoq`."""

import sys

from neoq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
