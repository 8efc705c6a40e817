"""The version of the package.

Its metadata, ``aiometrics.__version__`` and ``aiometrics_build_info`` are taken from here.
"""

from __future__ import annotations

__version__ = "0.1.0"
