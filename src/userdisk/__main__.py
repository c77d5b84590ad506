"""`python -m userdisk`: the same as the command `userdisk`."""

import sys

from userdisk.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
