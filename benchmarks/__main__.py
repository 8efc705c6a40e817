"""``python benchmarks``: what aiometrics and its peers cost, as tables, JSON and a plot."""

from __future__ import annotations

import sys
from pathlib import Path

# As ``python -m benchmarks`` too: the siblings are found, and an installed aiometrics is not hidden by the sources.
sys.path[0] = str(Path(__file__).parent)

from harness.suite import main  # noqa: E402 - the path comes first

sys.exit(main())
