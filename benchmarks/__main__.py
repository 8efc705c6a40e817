"""``python benchmarks`` measures what aiometrics and its peers cost.

The results are tables, JSON and a plot. The installed aiometrics is measured: Python puts this
folder and not the checkout on the path.
"""

from __future__ import annotations

import sys

from harness.suite import main

sys.exit(main())
