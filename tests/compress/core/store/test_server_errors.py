"""What servers of objects call their errors."""

from __future__ import annotations

from enum import StrEnum

import pytest

from compress.core.store import server_errors
from compress.core.store.server_errors import code_of


class Code(StrEnum):
    """As Azure's client has it."""

    MISSING = "ContainerNotFound"


class Amazon(Exception):  # noqa: N818
    """As botocore's."""

    response = {"Error": {"Code": "NoSuchBucket"}}  # noqa: RUF012


class Azure(Exception):  # noqa: N818
    """As azure.core's."""

    error_code, response = Code.MISSING, object()


class Google(Exception):  # noqa: N818
    """As gcsfs's."""

    def __init__(self, code: int | None) -> None:
        super().__init__("said")
        self.code = code


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (caused(FileNotFoundError("x"), Amazon()), "NoSuchBucket"),
        (caused(FileNotFoundError("x"), Azure()), "ContainerNotFound"),
        (Google(401), "Unauthorized"),
        (Google(403), "Forbidden"),
        (Google(503), "503"),
        (Google(None), ""),
        (OSError("Forbidden: b/bucket/o\nno"), "Forbidden"),
        (ValueError("x"), ""),
    ],
)
def test_the_code_is_found_below_what_a_library_made_of_it(error: Exception, code: str) -> None:
    assert code_of(error) == code


def test_what_is_missing_while_google_writes_is_the_bucket() -> None:
    assert server_errors.says_no_bucket(FileNotFoundError("x"), "gs")
    assert not server_errors.says_no_bucket(FileNotFoundError("x"), "sftp")
    assert server_errors.says_no_bucket(Azure(), "az")


def test_who_asked_as_nobody_lacks_credentials_and_who_asked_in_vain_lacks_rights() -> None:
    nobody = Exception("Anonymous caller does not have storage.objects.get access, 401")
    assert server_errors.says_no_credentials(nobody)
    assert not server_errors.says_no_credentials(Google(403))
    assert server_errors.says_refused(Google(403))
    assert server_errors.says_refused(PermissionError("x"))
    assert not server_errors.says_refused(Google(503))
