"""Makes tests/support importable."""

import sys
from pathlib import Path

sys.path.append(str(next(parent for parent in Path(__file__).parents if parent.name == "tests") / "support"))
