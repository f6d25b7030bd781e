"""``python -m minialign``: the same as the ``minialign`` command."""

import sys

from minialign.cli import main

sys.exit(main())
