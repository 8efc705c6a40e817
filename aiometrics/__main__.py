"""``python -m aiometrics``."""

from __future__ import annotations

import sys

from aiometrics.cli import main

if __name__ == "__main__":
    sys.exit(main())
