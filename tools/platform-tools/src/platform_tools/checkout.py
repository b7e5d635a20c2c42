"""The root folder of this checkout."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
"""The checkout of these tools; they always run from one, never from a wheel."""

PLATFORM_PYTHON = ROOT / ".venv" / "bin" / "python"
"""The platform's own Python, once `scripts/install-dependencies platform` has run."""

# Launchers run before anything is installed, so they import the contracts from the checkout.
if importlib.util.find_spec("platform_contracts") is None:
    sys.path.append(str(ROOT / "libraries" / "platform-contracts" / "src"))
