"""What formats that are chosen layer by layer have to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress.core.settings import InputError, setting, shown
from compress.core.sizes import parse_size


@dataclass(frozen=True)
class Budget:
    """What formats are chosen to keep; one of these."""

    kl: float | None = setting(
        None, doc="most KL that quantizing may add, nats per token; fewest bytes then", low=1e-12
    )
    bytes: Any = setting(None, doc="most bytes of the layers' weights, such as 2MB; least KL then")
    size: float | None = setting(None, doc="the same as a share of their bytes in float32", low=0, high=1)

    def __post_init__(self) -> None:
        """Read the bytes.

        Raises:
            InputError: they are no size.
        """
        if isinstance(self.bytes, str):
            object.__setattr__(self, "bytes", parse_size(self.bytes, "bytes"))
        if self.bytes is not None and (not isinstance(self.bytes, int) or isinstance(self.bytes, bool)):
            raise InputError(f"bytes: {shown(self.bytes)} is not a size like 500kB or 2MB")

    def bytes_of(self, in_float: int) -> int:
        """The limit of bytes of layers that take so many in float32."""
        return int(self.bytes) if self.bytes is not None else int((self.size or 0.0) * in_float)

    @property
    def given(self) -> list[str]:
        """The limits that are set."""
        return [name for name in ("kl", "bytes", "size") if getattr(self, name) is not None]
