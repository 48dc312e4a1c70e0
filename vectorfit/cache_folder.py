"""Where the on-disk cache is (VECTORFIT_CACHE)."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path | None:
    """The folder `name` in VECTORFIT_CACHE, by default `vectorfit` in XDG_CACHE_HOME or `~/.cache`.

    None if VECTORFIT_CACHE is "off". The folder may not exist yet.
    """
    root = os.environ.get("VECTORFIT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vectorfit"
    return None if root == "off" else Path(root).expanduser() / name
