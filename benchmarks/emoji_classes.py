"""How many drawn emoji a classifier recognises as what was asked for: `python benchmarks/emoji_classes.py ENGINE`.

The classifier is a small convolutional network of its own. It learns the subgroup of the font's pictures, varied. Its
accuracy is measured on names that it never saw, and on skin tones of trained names that it never saw. Then `--count`
pictures are drawn of names at random, and as many of subgroups; it says in how many it sees the subgroup.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional

import compress
from calibration import emoji
from compress.training.augment import AugmentSettings
from compress.training.pictures import Emoji

VARIED = AugmentSettings(shift=4, turn=8, scale=0.12, mirror=0.3)


def network(classes: int) -> nn.Module:
    """Pictures (B, 3, 64, 64) to logits (B, classes)."""
    parts: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128), (128, 192)):
        parts += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 192, classes))


def pixels(images: Tensor | NDArray[np.uint8]) -> Tensor:
    """Pictures uint8 (B, 64, 64, 3) as the network reads them."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def subgroups() -> tuple[NDArray[np.int64], int]:
    """The subgroup of each class, and how many there are."""
    count = sum(name.startswith(emoji.SUBGROUP) for name in emoji.classes())
    found = np.arange(len(emoji.classes()))
    own = emoji.labels()
    found[own[:, 1]] = own[:, 0]
    return found, count


def trained(steps: int, of_class: NDArray[np.int64], count: int) -> nn.Module:
    """The network after so many steps on training glyphs."""
    torch.manual_seed(0)
    source, generator, model = Emoji(torch.device("cpu")), np.random.default_rng(0), network(count)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        images, labels = source.batch(96, emoji.SIDE, VARIED, generator)
        wanted = torch.from_numpy(of_class[labels])
        loss = functional.cross_entropy(model(pixels(images)), wanted, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
    return model.eval()


def predicted(model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The subgroup (N,) that the network sees in each picture."""
    with torch.no_grad():
        return torch.cat([model(pixels(part)).argmax(dim=1) for part in np.array_split(images, 8)]).numpy()


def said(name: str, right: NDArray[np.bool_]) -> None:
    """Print a share with its 95 % interval."""
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    print(f"{name}: {right.mean():.1%} ({interval.low:.1%} to {interval.high:.1%}) of {len(right)}", flush=True)


def main() -> None:
    """Train, judge the classifier, draw, judge what was drawn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="+", help="engines or checkpoints of the emoji models")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1200, help="of the classifier's training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cfg-scale", type=float, nargs="*", default=[None], help="each is tried")
    parser.add_argument("--top-k", type=int)
    args = parser.parse_args()
    of_class, count = subgroups()
    model = trained(args.steps, of_class, count)
    glyphs, numbers = emoji.glyphs(), emoji.chosen("held_out")
    right = predicted(model, emoji.whole(numbers)) == emoji.labels()[numbers, 0]
    known = {glyph.name for glyph in glyphs if glyph.part == "train"}
    seen = np.array([glyphs[number].name in known for number in numbers])
    said("classifier, skin tones it never saw", right[seen])
    said("classifier, names it never saw", right[~seen])
    generator = np.random.default_rng(args.seed)
    ranges = {"names": (count, len(of_class)), "subgroups": (0, count)}
    wanted = {by: generator.integers(*each, size=args.count) for by, each in ranges.items()}
    for name, cfg_scale in itertools.product(args.model, args.cfg_scale):
        sampling = {"cfg_scale": cfg_scale, "top_k": args.top_k}
        given = {key: value for key, value in sampling.items() if value is not None}
        for by, classes in wanted.items():
            drawn = compress.generate(name, classes, seed=args.seed, **given)
            said(f"{name} {given or ''}, drawn by {by}, recognised", predicted(model, drawn) == of_class[classes])


if __name__ == "__main__":
    main()
