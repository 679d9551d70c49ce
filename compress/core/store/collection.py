"""What a store holds and whose it is, and in which order it is deleted where there is too much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.core.settings import InputError
from compress.core.store.backend import DAMAGED, Say

if TYPE_CHECKING:
    from compress.core.store.store import Store

RUNNING, INTERRUPTED = "running", "interrupted"


def rows(store: Store) -> list[dict[str, Any]]:
    """What the store holds, most recently used first.

    Key, pass, size, seconds since use, the recipes that need it, and the runs that have not finished: of each its state
    (running or interrupted), recipe, host, process and the time when it began, in seconds since 1970.
    """
    needs, found = store.needs(), []
    users = {store.name_of(user): user for each in needs.values() for user in each}
    states = {
        name: RUNNING if store.is_running(user) else INTERRUPTED for name, user in users.items() if not user.finished
    }
    for each in store.backend.artifacts():
        mine = needs.get(each.key, [])
        work = [
            {"state": state, "recipe": user.recipe, "host": user.host, "pid": user.pid, "since": user.since}
            for user in mine
            if (state := states.get(store.name_of(user)))
        ]
        found.append(
            {
                "key": each.key,
                "pass": each.made,
                "size_bytes": each.size_bytes,
                "unused_seconds": max(0, round(store.backend.now() - each.used)),
                "needed_by": [user.recipe for user in mine],
                "work": work,
            }
        )
    return sorted(found, key=lambda row: row["unused_seconds"])


def rank(row: dict[str, Any]) -> int:
    """When an artifact goes: what nobody needs, what finished recipes need, what interrupted and running work needs."""
    states = {each["state"] for each in row["work"]}
    return 3 if RUNNING in states else 2 if INTERRUPTED in states else 1 if row["needed_by"] else 0


def collect(store: Store, max_bytes: int, say: Say, *, dry_run: bool) -> list[dict[str, Any]]:
    """Delete artifacts until at most `max_bytes` are left; the rows that were deleted, or would be.

    Those that no recipe needs go first, then those of finished recipes, those of interrupted runs last; among equals
    the least recently used. What is damaged, or is no artifact at all, goes in any case. What a running process makes,
    uses or still needs is left alone, and so is what this user may not delete. What killed processes left half made
    goes too.
    """
    store.release()
    if not dry_run:
        store.clear_drafts(say)
    every = store.rows()
    total, deleted = sum(row["size_bytes"] for row in every), []
    for row in sorted(every, key=lambda row: (rank(row), -row["unused_seconds"])):
        if total <= max_bytes and row["pass"] != DAMAGED:
            continue
        if goes(store, row, say, dry_run=dry_run):
            total -= row["size_bytes"]
            deleted.append(row)
    store.release()
    return deleted


def goes(store: Store, row: dict[str, Any], say: Say, *, dry_run: bool) -> bool:
    """Delete the artifact of a row, or see whether it could be; says why it is left."""
    key = row["key"]
    for each in row["work"]:
        if each["state"] == RUNNING and row["pass"] != DAMAGED:
            whose = f"{each['recipe']} ({each['host']}, process {each['pid']})"
            say(f"store: {key[:12]} is needed by a run of {whose}; left")
            return False
    if dry_run:
        if store.backend.in_use(key):
            say(f"store: {key[:12]} is in use by a run; left")
            return False
        return True
    with store.free(key) as free:
        if not free:
            say(f"store: {key[:12]} is in use by a run; left")
            return False
        try:
            store.backend.discard(key)
        except (OSError, InputError) as error:
            say(f"store: {key[:12]} cannot be deleted ({getattr(error, 'strerror', None) or error}); left")
            return False
    return True
