"""Where drawn pictures go: one sheet, a file each, or both; what both command lines check, write and say.

Letters: N pictures, H x W pixels, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .picture_files import Facts, check_pattern, file_names, save_each, save_image
from .sheet import Grid, save_grid


@dataclass(frozen=True)
class Output:
    """The options ``-o``, ``--out-dir``, ``--format``, ``--name`` and ``--grid``, as far as they were given.

    Raises:
        ValueError: they do not go together.
    """

    sheet: Path | None = None
    folder: Path | None = None
    kind: str | None = None
    pattern: str | None = None
    grid: str | None = None

    def __post_init__(self) -> None:
        if self.sheet is None and self.folder is None:
            raise ValueError("-o FILE: needed for a sheet of all pictures, or --out-dir FOLDER for a file each")
        for option, given in (("--format", self.kind), ("--name", self.pattern)):
            if given is not None and self.folder is None:
                raise ValueError(f"{option}: is of files in --out-dir; give that too, or leave it out")
        if self.grid is not None and self.sheet is None:
            raise ValueError("--grid: is of the sheet; give -o too, or leave it out")
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--out-dir {self.folder}: is a file; name a folder")
        check_pattern(self.pattern, self.kind)
        self.layout()

    def layout(self) -> Grid:
        """That of the sheet."""
        return Grid() if self.grid is None else Grid.of(self.grid)

    def check(self, facts: Facts) -> None:
        """Refuse what would not have its place, before it is drawn.

        Raises:
            ValueError: two files would have one name, or the grid is too small.
        """
        if self.sheet is not None:
            self.layout().check(len(facts.labels))
        self.files(facts)

    def files(self, facts: Facts) -> list[Path]:
        """The files of single pictures."""
        if self.folder is None:
            return []
        return [self.folder / name for name in file_names(self.pattern, self.kind, facts)]

    def write(
        self,
        images: NDArray[np.uint8],
        facts: Facts,
        laid_out: Image.Image | None = None,
        said: dict[str, Any] | None = None,
    ) -> None:
        """Write pictures (N, H, W, C); a sheet that is `laid_out` otherwise already says of itself what is `said`.

        Raises:
            OSError: a file cannot be written.
        """
        if self.folder is not None:
            save_each(images, self.folder, [path.name for path in self.files(facts)], facts)
        if self.sheet is not None and laid_out is not None:
            save_image(laid_out, self.sheet, said)
        elif self.sheet is not None:
            grid = self.layout()
            save_grid(images, self.sheet, grid.columns, grid.rows, facts.of_all())

    def held(self, count: int) -> str:
        """What was written, for a person."""
        places = " and ".join(str(each) for each in (self.folder, self.sheet) if each is not None)
        return f"{places}: {count} picture{'' if count == 1 else 's'}"

    def line(self, count: int, seconds: float) -> str:
        """The same with the time of drawing and decoding."""
        return f"{self.held(count)} in {seconds:.3g} s, {count / seconds:.3g} images/s"

    def said(self, facts: Facts, seconds: float) -> dict[str, Any]:
        """The same for a program."""
        count = len(facts.labels)
        return {
            **facts.of_all(),
            "sheet": None if self.sheet is None else str(self.sheet),
            "files": [str(path) for path in self.files(facts)],
            "seconds": seconds,
            "images_per_second": count / seconds,
        }
