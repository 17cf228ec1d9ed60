"""`python -m coordinator.cli` is `parley`, for where the installed program is not on the path."""

import sys

from coordinator.cli import main

sys.exit(main())
