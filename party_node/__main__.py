"""`python -m party_node CONFIG`: serve in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

from party_node.service import serve
from services.settings import PartySettings, load_settings

if __name__ == "__main__":
    serve(load_settings(PartySettings, Path(sys.argv[1]) if len(sys.argv) > 1 else None))
