"""Recipes that train a tokenizer and a transformer on a folder of pictures, in sizes that its pictures suggest."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.settings import InputError
from compress.data.class_labels import numbered, said_by_folders
from compress.data.reading import AS_USUAL, FITTED
from compress.data.tokens import PICTURES, pictures_in

PARTS = ("tokenizer", "model")  # of the two files, in the order of training
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".onnx")
CONFIGS = ("config.json", "manifest.json", "model_index.json")
FEWEST = 10  # pictures that a training takes
LOOKED_AT = 500  # pictures whose size is read
SIDES = ((16, 4), (32, 4), (64, 4), (128, 8))  # of pictures, and pixels of a token's side: up to 16 x 16 tokens
MOST_BYTES = 2 * 2**30  # that all pictures may take in memory
CODES = ((500, 256), (5000, 512), (math.inf, 1024))  # below so many pictures
TOKENIZER_STEPS = ((500, 2000), (5000, 4000), (math.inf, 6000))
WIDTHS = ((2000, (192, 4, 512, 1500)), (20_000, (256, 6, 704, 3000)), (math.inf, (384, 8, 1024, 6000)))
ENCODER, DECODER = (32, 64, 64, 128), (48, 96, 96, 160)  # channels of the levels, from full resolution down
HEAD_WIDTH = 32
CROP = 64
GUIDANCE = 1.5


def holds_pictures(path: Path) -> bool:
    """Whether a path is a folder of pictures and no checkpoint."""
    if not path.is_dir():
        return False
    return not holds_checkpoint(path) and next(pictures_in(path), None) is not None


def holds_checkpoint(folder: Path) -> bool:
    """Whether a folder has files of a model, by their names."""
    return any(each.suffix in CHECKPOINTS or each.name in CONFIGS for each in folder.iterdir())


def name_of(folder: Path) -> str:
    """What the model is called: as its folder."""
    return folder.resolve().name or "pictures"


@dataclass(frozen=True)
class Training:
    """The two recipes of a folder, and what they were chosen by."""

    folder: Path
    name: str
    count: int
    classes: tuple[str, ...]
    labels: int  # the classes that there are, 1 where pictures have none
    short_side: float  # the median, pixels
    square: float  # share of the pictures
    side: int
    factor: int  # pixels of a token's side

    @property
    def grid(self) -> int:
        """Tokens of a side."""
        return self.side // self.factor

    @property
    def tokenizer(self) -> dict[str, Any]:
        """The recipe of the tokenizer, but for its header."""
        levels = self.factor.bit_length()
        channels = [[*every[: levels - 1], every[-1]] for every in (ENCODER, DECODER)]
        return {
            "name": f"{self.name}-tokenizer",
            "pictures": str(self.folder),
            "side": self.side,
            "reading": {"fit": AS_USUAL.fit, "background": AS_USUAL.background},
            "tokenizer": {
                "codes": below(self.count, CODES), "code_width": 8, "latent_width": 64,
                "encoder_channels": channels[0], "decoder_channels": channels[1],
                "encoder_blocks": 1, "decoder_blocks": 2, "middle_attention": False, "norm_groups": 8,
            },
            "train": {"steps": below(self.count, TOKENIZER_STEPS), "batch": 8, "crop": min(CROP, self.side),
                      "threads": 2, "device": "cpu"},
        }  # fmt: skip

    @property
    def model(self) -> dict[str, Any]:
        """The recipe of the transformer."""
        width, layers, ffn, steps = below(self.count, WIDTHS)
        return {
            "name": self.name,
            "pictures": str(self.folder),
            "reading": self.tokenizer["reading"],
            "model": {
                "grid": [self.grid, self.grid], "vocabulary": below(self.count, CODES), "classes": self.labels,
                "width": width, "layers": layers, "heads": width // HEAD_WIDTH, "head_width": HEAD_WIDTH, "ffn": ffn,
                "tokenizer": self.folder_of("tokenizer"),
            },
            "sampler": {"cfg_scale": GUIDANCE if self.labels > 1 else 1.0},
            "train": {"steps": steps, "batch": 32, "threads": 2, "device": "cpu"},
        }  # fmt: skip

    def folder_of(self, part: str) -> str:
        """Where a training leaves what it made."""
        return f"runs/{self.name}-tokenizer" if part == "tokenizer" else f"runs/{self.name}"

    def texts(self, tokenizer: Path, model: Path) -> tuple[str, str]:
        """The two recipes as text, as `compress train` reads them.

        Raises:
            InputError: what was written is refused, which is a mistake here.
        """
        from compress.drafting.writing import HEADER, comment, flow
        from compress.training.tokenizer import TokenizerRecipe
        from compress.training.transformer import TrainRecipe

        written = []
        for part, file, recipe, notes in (
            ("tokenizer", tokenizer, self.tokenizer, self.tokenizer_notes()),
            ("model", model, self.model, self.model_notes()),
        ):
            lines = [
                f"{HEADER}training.schema.json",
                f"#   compress train {file} -o {self.folder_of(part)}",
                *(line for note in notes for line in comment(note)),
            ]
            lines += [f"{key}: {flow(value) if isinstance(value, dict) else quoted(value)}" for key, value in
                      recipe.items()]  # fmt: skip
            written.append("\n".join(lines) + "\n")
        with tempfile.TemporaryDirectory() as room:
            for load, text, file in zip(
                (TokenizerRecipe.load, TrainRecipe.load), written, (tokenizer, model), strict=True
            ):
                (Path(room) / file.name).write_text(text, encoding="utf-8")
                load(Path(room) / file.name)
        return written[0], written[1]

    def tokenizer_notes(self) -> Iterator[str]:
        """Comments of the first recipe."""
        yield f"Trains an image tokenizer on {self.words()}."
        yield (
            f"side: the largest of {', '.join(str(side) for side, _ in SIDES)} that the median picture "
            f"({self.short_side:g} pixels on its short side) fills and {MOST_BYTES / 2**30:g} GiB of memory hold. "
            f"A token stands for {self.factor} x {self.factor} pixels."
        )
        if self.square < 1:
            yield f"reading: {1 - self.square:.0%} of the pictures are not square; fit: crop, pad or stretch."
        yield "device: cuda where there is a GPU. An interrupted training goes on where it was."

    def model_notes(self) -> Iterator[str]:
        """Comments of the second recipe."""
        yield f"Trains a transformer that draws such pictures token by token, on {self.words()}."
        yield "Pictures are encoded anew at every step; augment: {mirror: 0.5} doubles them where mirroring is no harm."
        if not self.classes and self.labels == 1:
            yield "classes: pictures that lie in no subfolder have none; one stands for all."

    def words(self) -> str:
        """The pictures in a line."""
        named = f" in {self.labels} classes" if self.labels > 1 else ""
        return f"{self.count:,} pictures{named} of {self.folder}"

    def lines(self) -> list[str]:
        """What was chosen and what it would cost, for a person; a few steps of the trainings are tried for it."""
        from compress.core.settings import parse
        from compress.drafting.cost import NEAR, duration
        from compress.drafting.training_pace import foresee, pace_of
        from compress.training.tokenizer import TokenizerRecipe
        from compress.training.transformer import TrainRecipe

        recipes = parse(TokenizerRecipe, self.tokenizer, "tokenizer"), parse(TrainRecipe, self.model, "model")
        times = [
            f"between {duration(each / NEAR)} and {duration(each * NEAR)}"
            for each in foresee(*recipes, self.count, pace_of(*recipes))
        ]
        fit = FITTED[AS_USUAL.fit].split(" (")[0]
        shape = f"; {1 - self.square:.0%} are not square and are {fit}" if self.square < 1 else ""
        return [
            f"{self.words()}: {self.side} x {self.side} pixels, {self.grid} x {self.grid} tokens of "
            f"{below(self.count, CODES)}{shape}",
            f"memory of the pictures: {3 * self.side**2 * self.count / 2**20:.0f} MiB",
            f"training the tokenizer: {times[0]} on this machine's processor, if nothing else works on it",
            f"training the transformer: {times[1]}",
        ]

    def commands(self, tokenizer: Path, model: Path) -> list[str]:
        """What to type, in order."""
        made = self.folder_of("model")
        return [
            f"compress train {tokenizer} -o {self.folder_of('tokenizer')}",
            f"compress train {model} -o {made}",
            f"compress init {made} --tokens {self.folder}",
        ]


def below(count: int, table: tuple[tuple[float, Any], ...]) -> Any:
    """What a table says of so many pictures."""
    return next(value for most, value in table if count < most)


def quoted(value: Any) -> str:
    """A number or a text in YAML, which may look like something else."""
    import yaml

    return str(yaml.safe_dump(value, default_flow_style=True, width=math.inf)).removesuffix("...\n").strip()


def draft(folder: Path, name: str) -> Training:
    """Look at a folder's pictures and choose sizes.

    Raises:
        InputError: there are too few, or one of those that are looked at cannot be read.
    """
    from compress.data.picture_files import size_of

    paths = sorted(pictures_in(folder))
    if len(paths) < FEWEST:
        raise InputError(f"{folder}: holds {len(paths)} pictures ({', '.join(PICTURES)}); {FEWEST} are the fewest that "
                         "a model is trained on")  # fmt: skip
    labels, classes = numbered(said_by_folders(paths, folder), None)
    looked = paths[:: -(-len(paths) // LOOKED_AT)]
    sizes = [size_of(path) for path in looked]
    short = statistics.median(min(size) for size in sizes)
    fitting = [
        (side, factor) for side, factor in SIDES if side <= short and 3 * side**2 * len(paths) <= MOST_BYTES
    ] or [SIDES[0]]
    side, factor = fitting[-1]
    with_class = [label for label, path in zip(labels, paths, strict=True) if path.parent != folder]
    return Training(
        folder=Path(os.path.relpath(folder)) if not folder.is_absolute() else folder,
        name=name,
        count=len(paths),
        classes=classes,
        labels=len(classes) or max(map(int, with_class), default=0) + 1,
        short_side=short,
        square=sum(width == height for width, height in sizes) / len(sizes),
        side=side,
        factor=factor,
    )
