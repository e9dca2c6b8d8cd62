"""`python -m hpcnk` is the command `hpcnk`."""

import sys

from hpcnk.cli import main

sys.exit(main())
