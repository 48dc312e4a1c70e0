"""Where the on-disk cache is (VECTORFIT_CACHE)."""

import os
from pathlib import Path

import platformdirs


def cache_folder(name: str) -> Path | None:
    """The folder `name` in VECTORFIT_CACHE, by default in the system's folder for caches: XDG_CACHE_HOME on Linux.

    None if VECTORFIT_CACHE is "off". The folder may not exist yet.
    """
    root = os.environ.get("VECTORFIT_CACHE") or platformdirs.user_cache_path("vectorfit", appauthor=False)
    return None if root == "off" else Path(root).expanduser() / name
