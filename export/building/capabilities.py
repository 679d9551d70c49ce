"""The compute capabilities that plans are built for; standard library only, so that a wrong one is refused at once."""

from __future__ import annotations

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
USUAL = ("8.6", "8.9", "12.0")  # GeForce RTX 30, 40 and 50
CLASSIC = {"9.0": "H100 and H200", "10.0": "B200", "10.3": "B300"}


def unknown(capability: str) -> str:
    """Why nothing can be built for a capability."""
    known = ", ".join(CAPABILITIES)
    classic = CLASSIC.get(capability)
    cure = f"; the classic TensorRT builds for {classic}, on such a GPU" if classic else ""
    return f"{capability} is no compute capability that TensorRT for RTX builds for; it knows {known}{cure}"


def number(capability: str) -> tuple[int, ...]:
    """A capability, to be compared."""
    return tuple(map(int, capability.split(".")))
