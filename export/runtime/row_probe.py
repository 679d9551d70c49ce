"""Whether pictures may be drawn in one call: tried once, with the kernels of the machine that draws.

A product's kernel may add up one row, or the odd row at the end, in another order than two rows at a time; logits then
differ in their last bits, and with them, seldom, a token. ONNX Runtime's products with 4-bit weights or with dynamic
int8 activations do (MatMulNBits), its float and static int8 products do not.

Letters: n pictures, R rows of a call (n, or 2n under guidance), T tokens of a picture, O logits of a position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .drawing import conditions
from .throughput import batch_size

if TYPE_CHECKING:
    from .engine import Engine

STEPS = 3  # of a causal model: the first token, and two behind it
TRIED = 4  # pictures at least: 3 of them leave an odd row


def logits_depend(engine: Engine, guided: bool) -> bool:
    """Whether the logits of a picture change in any bit with the number of pictures beside it."""
    most = max(TRIED, batch_size(engine.shape, engine.sampler, engine.cache_bytes))
    for count in sorted({2, 3, most - 1, most}):
        together = logits(engine, np.arange(count), guided)
        for picture in {0, 1, count - 1}:
            if not (logits(engine, np.array([picture]), guided)[0] == together[picture]).all():
                return True
    return False


def logits(engine: Engine, pictures: NDArray[np.int64], guided: bool) -> NDArray[np.float32]:
    """Logits (n, rows of a picture, positions, O) of some steps of these pictures (n,), drawn in one call."""
    shape, count = engine.shape, len(pictures)
    labels, features = conditions(shape, int(pictures.max()) + 1)
    tokens = np.random.default_rng(0).integers(shape.vocabulary, size=(len(labels), shape.length))
    rows = np.concatenate([pictures, pictures]) if guided else pictures
    classes = labels[rows]
    classes[count:] = shape.null_class
    with engine._lent(len(rows)) as loop:
        first = loop.begin(classes, None if features is None else features[rows])
        if shape.drawing.masks:  # as few positions as a step asks for, and all of them
            made = [loop.step(tokens[rows], positions).copy() for positions in (np.array([0]), np.arange(shape.length))]
            found = np.concatenate(made, axis=1)
        else:
            assert first is not None
            shown = tokens[rows][:, : STEPS - 1] if shape.drawing.sequential else tokens[rows]
            found = shape.drawing.score_stepwise(loop, first, shown, shape)
    return found.reshape(-1, count, *found.shape[1:]).swapaxes(0, 1)
