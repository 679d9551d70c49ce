"""Where a store is: a folder, or a URL that fsspec opens; and where this machine keeps copies of the latter."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from compress.core.settings import InputError, shown
from compress.core.user_files import user_path

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
CUT_URL = re.compile(r"(s3a?|gc?s|abfss?|az|memory|file):/[^/]")  # what is left of a URL that was made a `Path`


def store_place(text: str | Path) -> Path | str:
    """A folder, or a URL without a slash at its end.

    Raises:
        InputError: it is neither, or names no bucket or folder.
    """
    given = str(text)
    if (found := URL.fullmatch(given)) is None:
        if "://" in given or CUT_URL.match(given):
            raise InputError(f"store {shown(given)}: is neither a path nor a URL like s3://bucket/prefix")
        return user_path(text)
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    if "::" in given or "?" in given or "@" in rest.partition("/")[0] or not given.isprintable():
        raise InputError(f"store {shown(given)}: may only name a bucket and a prefix, as s3://bucket/prefix does")
    if not rest:
        raise InputError(f"store {shown(given)}: names no bucket or folder; write s3://bucket/prefix")
    if scheme == "file" and not rest.startswith("/"):
        raise InputError(f"store {shown(given)}: must name a folder from the root, as file:///data/store does")
    return f"{scheme}://{rest}"


def kept_here(url: str) -> Path:
    """The folder where this machine keeps copies of a store elsewhere, checkpoints and studies: in the user's cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", url)[:60].strip("-")
    return caches / "compress" / f"{words}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
