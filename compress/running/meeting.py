"""How a command and the workers that share its store meet, and how workers say what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from compress.core.listener import Progress, as_lines
from compress.core.settings import InputError
from compress.core.store import Store
from compress.workers import place as places
from compress.workers.crew import Say, Task
from compress.workers.place import Place
from compress.workers.pool import mapped

PAUSE_S = 10.0  # between two lines of progress of one task
SHARED = "give --store a folder that every machine mounts at the same path, or a URL such as s3://bucket/prefix"


def check_store(place: Place, store: Store) -> None:
    """See that workers of a cluster have the store: one of them looks. Those of this machine have it.

    Raises:
        InputError: the cluster cannot be reached, or has not this store.
    """
    if place.is_local:
        return
    with seen(store) as mark, places.opened(place, Looking(mark)) as crew:
        for outcome in mapped(crew, [Task("store", None)]):
            if outcome.fault:
                raise InputError(f"--on {place.address or 'ray'}: {outcome.fault}")


@dataclass(frozen=True)
class Mark:
    """How another machine knows a store: by a file that its folder holds just now, or by its URL."""

    place: str
    file: str = ""

    def look(self) -> Store:
        """The store.

        Raises:
            InputError: it is not here.
        """
        if self.file and not Path(self.place, self.file).is_file():
            raise InputError(f"store {self.place}: is not on the machines of the cluster; {SHARED}")
        return Store(self.place)


@contextmanager
def seen(store: Store) -> Iterator[Mark]:
    """A mark in a store, as long as it is looked for."""
    if store.is_elsewhere:
        yield Mark(store.place)
        return
    with NamedTemporaryFile(dir=store.root, prefix=".seen-") as file:
        yield Mark(str(store.root.absolute()), Path(file.name).name)


@dataclass(frozen=True)
class Looking:
    """Makes a function that does nothing, where the store is within reach."""

    mark: Mark

    def __call__(self, say: Say) -> Callable[[None], None]:
        """Look."""
        self.mark.look().check()
        return lambda nothing: None


class Telling:
    """A worker's listener: it says at which task it works (`task`), and how far that is, in lines."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell, self.task = tell, ""

    def say(self, text: str) -> None:
        """One line."""
        self.tell(f"{self.task}: {text}")

    @contextmanager
    def work(self, title: str) -> Iterator[Progress]:
        """A line now and then."""
        yield as_lines(title, self.say, PAUSE_S)
