"""Whether the library that computes features of texts is installed; imports nothing heavy."""

from __future__ import annotations

import importlib.util

from compress.core.settings import InputError


def check_installed() -> None:
    """Refuse a machine without transformers.

    Raises:
        InputError: says what to install.
    """
    if importlib.util.find_spec("transformers") is None:
        raise InputError(
            "the features of texts need the transformers library; pip install 'transformers>=5.24', or give features "
            "that were computed elsewhere"
        )
