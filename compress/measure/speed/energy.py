"""Energy of the processors, where Linux lets it be read: running average power limit (RAPL), in microjoules.

Kernels since 5.10 let only root read it (CVE-2020-8694); virtual machines have none. It counts whole packages, so
whatever else runs on the machine is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:[0-9]*"  # AMD's counters have the same name; the ones inside a package have a second colon


class Counter(NamedTuple):
    """One package's counter, which begins again from 0 above its largest value."""

    file: Path
    largest: int  # microjoules


class Meter:
    """The sum over packages. It reads nothing where one of them cannot be read."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        self.counters = []
        for package in sorted(folder.glob(PACKAGES)):
            if package.name.count(":") == 1 and (package / "energy_uj").exists():
                largest = (package / "max_energy_range_uj").read_text()
                self.counters.append(Counter(package / "energy_uj", int(largest)))
        try:
            self.read()
        except OSError:
            self.counters = []

    def read(self) -> list[int] | None:
        """What the counters show, microjoules; None where there are none."""
        return [int(counter.file.read_text()) for counter in self.counters] or None

    def since(self, before: list[int]) -> float:
        """Joules since an earlier reading, if every counter began again at most once."""
        now = self.read() or before
        spent = 0
        for counter, one, other in zip(self.counters, before, now, strict=True):
            spent += other - one if other >= one else other - one + counter.largest
        return 1e-6 * spent
