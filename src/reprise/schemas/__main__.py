"""`python -m reprise.schemas [PAGE]`: write the schema files into the package and the page, docs/formats.md."""

import sys
from pathlib import Path

from reprise.schemas import write

write(Path(__file__).parent, Path(sys.argv[1] if len(sys.argv) > 1 else "docs/formats.md"))
