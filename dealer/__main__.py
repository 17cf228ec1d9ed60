"""`python -m dealer CONFIG`: serve in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

from dealer.service import serve
from services.settings import DealerSettings, load_settings

if __name__ == "__main__":
    serve(load_settings(DealerSettings, Path(sys.argv[1]) if len(sys.argv) > 1 else None))
