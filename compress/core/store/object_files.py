"""Objects that are files of a folder which machines share, and which of the two kinds a URL has."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from compress.core import durable
from compress.core.store.objects import Objects


def objects_at(url: str, kept: Path) -> Objects:
    """The objects below a URL; `kept` is where this machine keeps what could not be uploaded."""
    return (Files if url.startswith("file://") else Objects)(url, kept)


class Files(Objects):
    """Objects that are files of a mounted file system: written beside their places, synced, and then named."""

    def draft(self) -> Path:
        """A new name for what is being written; listings of other folders do not show it."""
        folder = Path(self.path("drafts"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{os.getpid()}-{secrets.token_hex(4)}"

    def place(self, name: str) -> Path:
        """The file of an object, whose folder is made if it is not there."""
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, data: bytes) -> None:
        """Write a file by one rename."""
        with self.errors():
            durable.write_bytes(self.place(name), data, self.draft())

    def create(self, name: str, data: bytes) -> bool:
        """Write a file by one hard link, which fails where there is a file."""
        with self.errors():
            draft, path = self.draft(), self.place(name)
            try:
                draft.write_bytes(data)
                durable.sync(draft)
                os.link(draft, path)
            except FileExistsError:
                return False
            finally:
                draft.unlink(missing_ok=True)
            durable.sync(path.parent)
            return True

    def upload(self, source: Path, name: str) -> None:
        """Write a file by one rename."""
        with self.errors():
            draft = self.draft()
            try:
                self.fs.put_file(str(source), str(draft))
                durable.sync(draft)
                durable.move(draft, self.place(name))
            finally:
                draft.unlink(missing_ok=True)
