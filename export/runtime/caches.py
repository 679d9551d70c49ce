"""Keys and values of a loop in ONNX Runtime: one class for each kind of cache that a graph may have.

Letters: R rows of a step, K key/value heads, P cached positions, L length of a buffer, d head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .manifest import Cache
from .signature import POSITION, SEQLENS, TOTAL

if TYPE_CHECKING:
    from .cached_loops import Loop


class LoopCache:
    """What binds the caches of a loop, which holds it: a circle would keep buffers until the next garbage collection.

    `Loop.ports` are keys and values of each layer by the names `0.key`, `0.value`, ... `fixed` is whether all buffers
    keep their size and place.
    """

    fixed: ClassVar[bool] = False

    def __init__(self, loop: Loop) -> None:
        """Bind what stays the same at every call."""

    def restart(self, loop: Loop) -> None:
        """Forget everything."""

    def before(self, loop: Loop, count: int) -> None:
        """Prepare a call of so many positions behind those that were read."""

    def after(self, loop: Loop) -> None:
        """Take what the call made."""

    def held(self, loop: Loop) -> dict[str, NDArray[Any]]:
        """Keys and values (R, ...) of what was read, on the host; at least one call was made."""
        return {name: loop.bound.read(f"present.{name}") for name in loop.ports}

    def take(self, loop: Loop, held: dict[str, NDArray[Any]]) -> None:
        """Go on behind what another loop held."""
        raise NotImplementedError


class GrowingCache(LoopCache):
    """Past in (R, K, P, d), longer present out: the outputs of a step are bound as the next one's inputs."""

    def restart(self, loop: Loop) -> None:
        """Bind a past of length 0."""
        for name, port in loop.ports.items():
            loop.bound.begin(f"past.{name}", port.zeros(batch=loop.rows, past=0))

    def before(self, loop: Loop, count: int) -> None:
        """Ask for new buffers: a bound output keeps its last one."""
        for name in loop.ports:
            loop.bound.make(f"present.{name}", f"past.{name}")

    def after(self, loop: Loop) -> None:
        """The present becomes the past."""
        loop.bound.pass_on([(f"present.{name}", f"past.{name}") for name in loop.ports])

    def take(self, loop: Loop, held: dict[str, NDArray[Any]]) -> None:
        """Bind it as the past."""
        for name, rows in held.items():
            loop.bound.begin(f"past.{name}", np.ascontiguousarray(rows))


class BufferCache(LoopCache):
    """Buffers of full length (R, K, L, d) that a step updates in place: each is bound once as past and as present."""

    fixed = True

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        for name, port in loop.ports.items():
            loop.bound.hold(f"past.{name}", f"present.{name}", port.zeros(batch=loop.rows))

    def take(self, loop: Loop, held: dict[str, NDArray[Any]]) -> None:
        """Write it into the buffers, where these lie on the host."""
        for name, rows in held.items():
            loop.bound.read(f"present.{name}")[...] = rows


class SharedCache(BufferCache):
    """GroupQueryAttention in place; the lengths tell it how much of the cache is filled."""

    def before(self, loop: Loop, count: int) -> None:
        """Say how far the cache is filled after the call."""
        length = loop.position + count
        loop.bound.feed(SEQLENS, np.full(loop.rows, length - 1, dtype=np.int32))
        # Where it is captured the host's total stays what it was then, and only has to be long enough.
        reach = loop.captured and TOTAL not in loop.bound.there
        loop.bound.feed(TOTAL, np.array(loop.shape.reach if reach else length, dtype=np.int32))


class StaticCache(BufferCache):
    """TensorScatter at a position."""

    def before(self, loop: Loop, count: int) -> None:
        """Say where the call's first position goes."""
        loop.bound.feed(POSITION, np.array(loop.position, dtype=np.int64))


CACHES: dict[Cache, type[LoopCache]] = {"growing": GrowingCache, "shared": SharedCache, "static": StaticCache}
