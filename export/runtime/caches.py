"""Keys and values of a loop in ONNX Runtime: one class for each kind of cache that a graph may have.

Letters: R rows of a step, K key/value heads, P cached positions, L length of a buffer, d head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .manifest import Cache
from .signature import POSITION, SEQLENS, TOTAL

if TYPE_CHECKING:
    from .loops import Loop


class LoopCache:
    """What binds the caches of a loop, which holds it: a circle would keep buffers until the next garbage collection.

    `Loop.ports` are keys and values of each layer by the names `0.key`, `0.value`, ...
    """

    def __init__(self, loop: Loop) -> None:
        """Bind what stays the same at every call."""

    def restart(self, loop: Loop) -> None:
        """Forget everything."""

    def before(self, loop: Loop, count: int) -> None:
        """Prepare a call of so many positions behind those that were read."""

    def after(self, loop: Loop) -> None:
        """Take what the call made."""


class GrowingCache(LoopCache):
    """Past in (R, K, P, d), longer present out: the outputs of a step are bound as the next one's inputs."""

    def restart(self, loop: Loop) -> None:
        """Bind a past of length 0."""
        for name, port in loop.ports.items():
            loop.binding.bind_cpu_input(f"past.{name}", port.zeros(batch=loop.rows, past=0))

    def before(self, loop: Loop, count: int) -> None:
        """Ask for new buffers: a bound output keeps its last one."""
        for name in loop.ports:
            loop.bind_output(f"present.{name}")

    def after(self, loop: Loop) -> None:
        """The present becomes the past."""
        values = dict(zip(loop.outputs, loop.binding.get_outputs(), strict=True))
        for name in loop.ports:
            loop.binding.bind_ortvalue_input(f"past.{name}", values[f"present.{name}"])


class BufferCache(LoopCache):
    """Buffers of full length (R, K, L, d) that a step updates in place: each is bound once as past and as present."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.buffers = {name: port.zeros(batch=loop.rows) for name, port in loop.ports.items()}
        for name, buffer in self.buffers.items():
            loop.binding.bind_cpu_input(f"past.{name}", buffer)
            loop.bind_output(f"present.{name}", buffer)


class SharedCache(BufferCache):
    """GroupQueryAttention in place; the lengths tell it how much of the cache is filled."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.seqlens_k = np.zeros(loop.rows, dtype=np.int32)
        self.total = np.zeros((), dtype=np.int32)
        loop.binding.bind_cpu_input(SEQLENS, self.seqlens_k)
        loop.binding.bind_cpu_input(TOTAL, self.total)

    def before(self, loop: Loop, count: int) -> None:
        """Say how far the cache is filled after the call."""
        self.seqlens_k.fill(loop.position + count - 1)
        self.total.fill(loop.position + count)


class StaticCache(BufferCache):
    """TensorScatter at a position."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.place = np.zeros((), dtype=np.int64)
        loop.binding.bind_cpu_input(POSITION, self.place)

    def before(self, loop: Loop, count: int) -> None:
        """Say where the call's first position goes."""
        self.place.fill(loop.position)


CACHES: dict[Cache, type[LoopCache]] = {"growing": GrowingCache, "shared": SharedCache, "static": StaticCache}
