"""Full disks and missing permissions, in one line, whichever library finds them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from compress.core.settings import InputError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class StoreError(InputError):
    """A store elsewhere is out of reach, full, or refuses: nothing that another recipe would mend."""


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of space, whichever library tried it."""
    text = str(error)
    if getattr(error, "errno", None) in NO_SPACE:
        return True
    if any(f"Errno {code}]" in text or f"os error {code})" in text for code in NO_SPACE):  # shutil; safetensors
        return True
    if any(os.strerror(code) in text for code in NO_SPACE):  # libraries in C++
        return True
    torch_only_says = "inline_container.cc" in text and "unexpected pos" in text
    return torch_only_says or "PytorchStreamWriter failed writing" in text


@contextlib.contextmanager
def errors_said(root: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one line, whichever library finds it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or is_full(error):
            raise disk_error(error, root) from error
        raise


def prepare_output(output: Path) -> None:
    """Make the folder that a job writes into before anything long begins, so that a missing permission is found now.

    Raises:
        InputError: it cannot be made or written into.
    """
    probe = output / f".probe-{os.getpid()}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output {output}: cannot be written ({error.strerror}); choose another with -o") from error


def disk_error(error: BaseException, root: Path) -> InputError:
    """A full disk or a missing permission, in one line."""
    if is_full(error):
        return InputError(f"{root}: the disk is full; what was finished is kept, free space and run again")
    place = getattr(error, "filename", None) or root
    return InputError(
        f"{place}: cannot be written ({getattr(error, 'strerror', None) or error}); what was finished is kept"
    )
