"""The modules beside the tests can be imported: they are programs of their own too, so pytest does not collect them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
