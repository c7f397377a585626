"""What went wrong at an S3 server: every botocore exception becomes one of ours, with a sentence that says what to do.

Messages name codes, settings and the server's host; never a key, a secret or a URL with its query.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from coin_hts_pipelines.errors import CoinHtsError, IntegrityError, PermanentError, TransientError

KEY_SETTINGS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
# A HEAD answer has no body, so its code is the bare number.
_NO_OBJECT = {"404", "NoSuchKey", "NotFound"}
_ALTERED = {"BadDigest", "XAmzContentSHA256Mismatch"}
# These come with a 4xx number although the same request may pass next time. An upload that is gone was completed or
# dropped by a repeated request: the next upload finds out which.
_TRANSIENT = {
    "IncompleteBody",
    "NoSuchUpload",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_ADVICE = {
    "InvalidAccessKeyId": "the server does not know the access key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": f"the secret is not that of the access key; check {KEY_SETTINGS}",
    "RequestTimeTooSkewed": "the clock of this machine is off; set it",
    "ExpiredToken": f"the credentials have expired; renew {KEY_SETTINGS} and AWS_SESSION_TOKEN",
    "InvalidToken": f"the session token is not valid; renew {KEY_SETTINGS} and AWS_SESSION_TOKEN",
    "NoSuchBucket": "the bucket does not exist; check COIN_HTS_S3_BUCKET, or create it",
    "InvalidBucketName": "the bucket's name is not valid; check COIN_HTS_S3_BUCKET",
    "PermanentRedirect": "the bucket is elsewhere; check COIN_HTS_S3_REGION and COIN_HTS_S3_ENDPOINT_URL",
    "AuthorizationHeaderMalformed": "the server is in another region; check COIN_HTS_S3_REGION",
}
_FORBIDDEN = f"access is denied; check {KEY_SETTINGS}, COIN_HTS_S3_BUCKET and what that user may do"


def error_code(error: boto.ClientError) -> str:
    """Return the code the server named, or the HTTP number where it named none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_absent(error: boto.ClientError) -> bool:
    """Tell whether the server said that there is no such object."""
    return error_code(error) in _NO_OBJECT


@contextlib.contextmanager
def s3_errors(doing: str, endpoint_url: str) -> Iterator[None]:
    """Turn what botocore and urllib3 raise in the block into Permanent-, Transient- or IntegrityErrors.

    Parameters
    ----------
    doing
        What is being tried, to follow "could not".
    endpoint_url
        The server, for messages; only scheme, host and port are shown.
    """
    try:
        yield
    except boto.ClientError as error:
        raise _refused(error, f"could not {doing}") from error
    except (boto.BotoCoreError, HTTPError) as error:
        url = urlsplit(endpoint_url)
        server = f"{url.scheme}://{url.hostname}" + (f":{url.port}" if url.port else "")
        raise _broken(error, f"could not {doing}", server) from error


def _refused(error: boto.ClientError, failed: str) -> CoinHtsError:
    code, status = error_code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _ADVICE:
        return PermanentError(f"{failed} ({code}): {_ADVICE[code]}")
    if is_absent(error):
        return PermanentError(f"{failed}: there is no such object; check the key, or upload it first")
    if code in _ALTERED:
        return TransientError(
            f"{failed} ({code}): what arrived is not what was sent, it was altered on the way or the file changed "
            "meanwhile; try again"
        )
    if code in _TRANSIENT or status == 429 or (status >= 500 and status != 501):
        return TransientError(f"{failed}: the server is busy or failing ({code}); try again later")
    if status in {401, 403}:
        return PermanentError(f"{failed} ({code}): {_FORBIDDEN}")
    said = str(error.response.get("Error", {}).get("Message", ""))[:200]
    return PermanentError(f"{failed} ({status} {code}): the server says {said!r}; check that it supports this request")


def _broken(error: Exception, failed: str, server: str) -> CoinHtsError:
    name = type(error).__name__
    if isinstance(error, boto.FlexibleChecksumError):
        return IntegrityError(f"{failed}: the bytes do not have the checksum stored with them; upload it again")
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return PermanentError(
            f"{failed}: the certificate of {server} is not trusted; check COIN_HTS_S3_ENDPOINT_URL and AWS_CA_BUNDLE"
        )
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError | HTTPError):
        return TransientError(
            f"{failed}: no or a broken connection to {server} ({name}); "
            "check that it runs and COIN_HTS_S3_ENDPOINT_URL, then try again"
        )
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return PermanentError(f"{failed}: there are no credentials for {server} ({name}); set {KEY_SETTINGS}")
    return PermanentError(f"{failed} ({name}): {error}; check COIN_HTS_S3_ENDPOINT_URL and COIN_HTS_S3_BUCKET")
