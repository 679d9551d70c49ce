"""The versions of what computes a result: equal on all workers, or results differ in their last bits."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from compress.core.sources import HOME, PACKAGES

LIBRARIES = ("numpy", "onnxruntime", "pillow")
SHOWN = 12  # digits of the hash of the code


def versions() -> dict[str, str]:
    """The versions on this machine; of this project the hash of its code, which changes without its version."""
    found = {"compress": own_hash()[:SHOWN], "python": platform.python_version()}
    return found | {library: installed(library) for library in LIBRARIES}


def installed(library: str) -> str:
    """The version of a library."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


@functools.cache
def own_hash() -> str:
    """The hash of all Python files of this project."""
    content = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((HOME / package).rglob("*.py")):
            content.update(f"{path.relative_to(HOME)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()


def differing(theirs: Mapping[str, str]) -> str:
    """What another machine has otherwise, for a person; empty if it has the same."""
    own = versions()
    return ", ".join(
        f"has {name} {theirs.get(name, 'none')} where this machine has {own[name]}"
        for name in own
        if theirs.get(name) != own[name]
    )
