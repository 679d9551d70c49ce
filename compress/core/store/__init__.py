"""The content-addressed store: artifacts named by everything that made them, whole or not there, verified on read.

Layout of a store:

- ``format``: the version of this layout
- ``artifacts/<key>/``: the artifact's files and ``entry.json`` (what made it, the hash and size of each file)
- ``measurements/<key>.json``: what was measured, apart from the artifacts, so another batch size retrains nothing
- ``users/<recipe>.json``: which recipes need which artifacts, and whether the run that said so is finished
- of a folder: ``drafts/<key>-<pid>/``: an artifact being written; renamed into place when it is whole and on the disk
- of a folder: ``locks/<key>``: held alone while an artifact is made, so two runs never make it twice; and shared by the
  runs that use it, so `collect` leaves it
- of a folder: ``work/<key>/``: checkpoints of a long pass, until its artifact exists
- of a URL: ``leases/`` and ``sessions/`` in place of locks, and files of artifacts called by their hashes

`store` is what all stores do, over a `backend`: a `folder` of this machine, or a `bucket` that machines share.
"""

from compress.core.store.backend import ENTRY, FOLDERS, Backend, Damage, Entry, Stored, file_hash
from compress.core.store.failures import StoreError, disk_error, errors_said, is_full, prepare_output
from compress.core.store.store import Store

__all__ = [
    "ENTRY",
    "FOLDERS",
    "Backend",
    "Damage",
    "Entry",
    "Store",
    "StoreError",
    "Stored",
    "disk_error",
    "errors_said",
    "file_hash",
    "is_full",
    "prepare_output",
]
