"""One change of a file's bytes."""

from __future__ import annotations

from random import Random


def change(data: bytes, random: Random, start: int = 0) -> tuple[bytes, str]:
    """Changed bytes, and what was changed; nothing before `start` is touched."""
    changed, said = bytes(data), ""
    while changed == data:
        at = random.randrange(start, len(data))
        length = random.choice((1, 2, 4, 8, 64, 1000))
        how = random.choice(("flip", "fill", "cut", "delete", "double", "insert", "append", "deep"))
        said = f"{how} at byte {at} of {len(data)}, length {length}"
        if how == "flip":
            changed = data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        elif how == "fill":
            filled = random.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * length
            changed = (data[:at] + filled + data[at + length :])[: len(data)]
        elif how == "cut":
            changed = data[:at]
        elif how == "delete":
            changed = data[:at] + data[at + length :]
        elif how == "double":
            changed = data[: at + length] + data[at:]
        elif how == "insert":
            changed = data[:at] + random.randbytes(length) + data[at:]
        elif how == "append":
            changed = data + random.randbytes(length)
        else:
            changed = data[:at] + random.choice((b"[", b'{"a":', b"(")) * 100_000
    return changed, said
