"""What servers of objects call their errors, whichever library says it: S3's codes, Azure's, and Google's statuses."""

from __future__ import annotations

import warnings
from typing import Any

from compress.core.store.failures import is_full

NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted")
THERE_ALREADY = ("PreconditionFailed", "412")  # s3fs knows Amazon's alone, which says which condition it was
CONFLICT = ("ConditionalRequestConflict", "409")  # another one writes the same object: Amazon says to try again
FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "(507)")
REFUSED = ("AccessDenied", "Forbidden", "InsufficientAccountPermissions", "InvalidAccessKeyId", "SignatureDoesNotMatch")
NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",  # botocore
    "DefaultCredentialsError",  # google.auth
    "CredentialUnavailableError",  # azure.identity
)  # fmt: skip
AZURE_NEEDS = "Must provide either a connection_string or account_name with credentials"  # adlfs
ANONYMOUS = "Anonymous caller does not have"  # Google, to those without credentials
GOOGLE, AZURE = ("gs", "gcs"), ("az", "abfs", "abfss")
CREDENTIALS = {
    **dict.fromkeys(
        GOOGLE,
        "set GOOGLE_APPLICATION_CREDENTIALS to a file of a key, or use 'gcloud auth application-default login'",
    ),
    **dict.fromkeys(
        AZURE,
        "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    ),
}
CREDENTIALS_S3 = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them into ~/.aws/credentials"


def code_of(error: BaseException) -> str:
    """What the server calls an error; empty where it says nothing."""
    each: BaseException | None = error
    while each is not None:
        response = getattr(each, "response", None)
        if isinstance(response, dict):  # botocore
            return str(response.get("Error", {}).get("Code", ""))
        if name := getattr(each, "error_code", None):  # azure.core; an enumeration, where it knows the code
            return str(getattr(name, "value", name))
        if isinstance(status := getattr(each, "code", None), int):  # gcsfs
            return {401: "Unauthorized", 403: "Forbidden"}.get(status, str(status))
        if type(each) is OSError and str(each).startswith("Forbidden: "):  # gcsfs
            return "Forbidden"
        each = each.__cause__
    return ""


def says_no_bucket(error: BaseException, scheme: str) -> bool:
    """Whether the bucket is missing; of an error that is not about an object that is read."""
    return code_of(error) in NO_BUCKET or (scheme in GOOGLE and isinstance(error, FileNotFoundError))


def says_full(error: BaseException) -> bool:
    """Whether there is no space left."""
    return is_full(error) or any(each in f"{type(error).__name__}: {error} {code_of(error)}" for each in FULL)


def says_no_credentials(error: BaseException) -> bool:
    """Whether none were found, so that nothing could be asked for, or was asked for by nobody."""
    name, text = type(error).__name__, str(error)
    unsent = name == "ClientAuthenticationError" and getattr(error, "response", None) is None  # azure.identity
    return name in NO_CREDENTIALS or unsent or AZURE_NEEDS in text or ANONYMOUS in text


def says_refused(error: BaseException) -> bool:
    """Whether what was asked for is not permitted."""
    code = code_of(error)
    expired = type(error).__name__ == "RefreshError"  # google.auth: a key that is too old or was taken back
    return isinstance(error, PermissionError) or expired or code in REFUSED or code.startswith(("Auth", "Unauthorized"))


def is_bucket_missing(fs: Any, scheme: str, bucket: str) -> bool:
    """Whether there is no such bucket, where a listing of a missing one is empty: of Google's, and of Azure's."""
    if scheme in GOOGLE:
        try:
            fs.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)  # needs no right but that of listing
        except FileNotFoundError:
            return True
    if scheme in AZURE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where it may not look, it says so and takes the container to be there
            return not fs.exists(bucket)
    return False
