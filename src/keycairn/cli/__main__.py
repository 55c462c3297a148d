"""``python -m keycairn.cli``: the ``keycairn`` command."""

import sys

from keycairn.cli import main

if __name__ == "__main__":
    sys.exit(main())
