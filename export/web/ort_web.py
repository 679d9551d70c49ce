"""onnxruntime-web, which runs a site's graphs: the files of one release, wherever they come from, checked by hash.

They are looked for in the user's cache, then asked of npm, which knows the registry that the user has configured. No
file that is not exactly that of the release is ever written.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
FILES = {  # SHA-256 of what a site needs of the package's folder `dist`
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
DIST = "dist"
NPM_SECONDS = 600
LARGEST = 2**28  # bytes of a package; this one has 33 MB

Files = dict[str, bytes]


class RuntimeMissingError(ValueError):
    """onnxruntime-web is not to be had, or is another one; the message says what to do."""


def obtain(given: Path | None = None, fetch: Callable[[Path], Path] | None = None) -> Files:
    """The files of `FILES` by name.

    `given` is the package as npm packs it (.tgz), or a folder of it. None: what the cache holds, else what npm fetches
    (`fetch` in its place), which is then kept in the cache.

    Raises:
        RuntimeMissingError: the package is not there, or not the one of this release.
    """
    if given is not None:
        return in_folder(given) if given.is_dir() else in_package(given)
    room = cache()
    if room.is_dir():
        return in_folder(room)
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        files = in_package((fetch or by_npm)(Path(folder)))
    keep(files, room)
    return files


def cache() -> Path:
    """Where the files are kept, in the user's folder for such things (XDG Base Directory Specification)."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return base / "compress" / f"onnxruntime-web-{VERSION}"


def by_npm(folder: Path) -> Path:
    """The package in a folder, fetched by npm from the registry that it is configured for.

    Raises:
        RuntimeMissingError: there is no npm, or it fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeMissingError(
            f"onnxruntime-web {VERSION} is not in the cache ({cache()}), and there is no npm to fetch it; run "
            f" npm pack {PACKAGE}  where there is one, and give the file:  --runtime onnxruntime-web-{VERSION}.tgz"
        )
    command = [npm, "pack", PACKAGE, "--pack-destination", str(folder), "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NPM_SECONDS, cwd=folder, check=False)
        said = done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        said = [f"no answer in {NPM_SECONDS} seconds"]
    found = sorted(folder.glob("*.tgz"))
    if not found:
        raise RuntimeMissingError(
            f"npm pack {PACKAGE} failed ({said[0][:200] if said else 'it gives no reason'}); run it where the network "
            f"is, and give the file:  --runtime onnxruntime-web-{VERSION}.tgz"
        )
    return found[0]


def in_package(path: Path) -> Files:
    """The files of a package as npm packs it.

    Raises:
        RuntimeMissingError: it is not there, or another one.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise RuntimeMissingError(f"{path}: is no package of npm; the one of onnxruntime-web has 33 MB")
        content = path.read_bytes()
    except OSError as error:
        raise RuntimeMissingError(f"{path}: not readable ({error.strerror})") from error
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != INTEGRITY:
        raise RuntimeMissingError(
            f"{path}: is not onnxruntime-web {VERSION} as npm publishes it (SHA-512 differs); fetch it with "
            f" npm pack {PACKAGE}"
        )
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as packed:
        for name in FILES:
            member = packed.extractfile(f"package/{DIST}/{name}")
            assert member is not None, name
            files[name] = member.read()
    return files


def in_folder(folder: Path) -> Files:
    """The files of an unpacked package, such as `node_modules/onnxruntime-web`, or of the cache.

    Raises:
        RuntimeMissingError: one is not there, or another one.
    """
    files = {}
    for name, sha256 in FILES.items():
        path = folder / DIST / name
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise RuntimeMissingError(f"{path}: not readable ({error.strerror}); remove {folder}") from error
        if hashlib.sha256(files[name]).hexdigest() != sha256:
            raise RuntimeMissingError(
                f"{path}: is not that of onnxruntime-web {VERSION} (SHA-256 differs); give that release, or remove "
                f"{folder}"
            )
    return files


def keep(files: Files, room: Path) -> None:
    """Keep the files; a cache that cannot be written is done without."""
    try:
        room.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".onnxruntime-web-", dir=room.parent) as draft:
            made = Path(draft) / "made"
            (made / DIST).mkdir(parents=True)
            for name, content in files.items():
                (made / DIST / name).write_bytes(content)
            made.rename(room)
    except OSError:  # also where another process was faster
        pass
