"""What an object store's error means: whether it passes, how long to wait for that, and what to tell the user."""

from __future__ import annotations

import re
from enum import Enum

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from pipelines.stores.retrying import PASSING_STATUS, PATIENCE

# A host that cannot be reached, or a machine without a role, is rather a mistake than an outage.
PATIENCE_TO_CONNECT = 20.0

# obstore tells no more than its text.
STATUS = re.compile(r"status code: (\d{3})")
CODE = re.compile(r"<Code>(\w+)</Code>")
# Told with 4xx, or in the body of a 200.
PASSING_CODES = {
    "InternalError",
    "SlowDown",
    "ServiceUnavailable",
    "RequestTimeout",
    "OperationAborted",
    "ConditionalRequestConflict",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
CREDENTIALS = re.compile(r"169\.254\.\d+\.\d+|metadata\.google|credential", re.IGNORECASE)
UNREACHABLE = re.compile(r"dns error|tcp connect error|ConnectError|Connection refused")
LOST = re.compile(r"HTTP error|ConditionalRequestConflict|Unable to extract metadata from headers")


class Trouble(Enum):
    """Kinds of errors; the values say what was expected, and what to do."""

    MISSING = "an object"
    NO_BUCKET = "a bucket that is there; make it, or mend its name"
    REFUSED = "leave to do this; see the credentials and the bucket's policy"
    NO_CREDENTIALS = "credentials: of the environment, a profile or the machine's role"
    UNREACHABLE = "a store at its address; see the endpoint and the region"
    PASSING = "an answer after trying again and again; run the same command later, which goes on from here"
    UNCONDITIONAL = "a store that knows conditional puts"
    OTHER = "a request that the store grants"

    def patience(self) -> float:
        """Seconds for which to try again; 0 for what does not pass."""
        return {
            Trouble.PASSING: PATIENCE,
            Trouble.UNREACHABLE: PATIENCE_TO_CONNECT,
            Trouble.NO_CREDENTIALS: PATIENCE_TO_CONNECT,
        }.get(self, 0.0)

    def explain(self, uri: str, name: str, error: Exception) -> str:
        """The message for an error of this kind."""
        what = uri if self is Trouble.NO_BUCKET or not name else f"{uri}/{name}"
        return f"{what}: expected {self.value}, got {summarize(error)}"


def diagnose(error: Exception) -> Trouble:
    """What kind of error obstore raised."""
    text = str(error)
    status, code = _find(STATUS, text), _find(CODE, text)
    if code == "NoSuchBucket":
        return Trouble.NO_BUCKET
    if isinstance(error, FileNotFoundError):
        return Trouble.MISSING
    if CREDENTIALS.search(text.partition("\n")[0]) and code is None:
        return Trouble.NO_CREDENTIALS
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status == "403" or code == "AccessDenied":
        return Trouble.REFUSED
    if status == "501" or code == "NotImplemented":
        return Trouble.UNCONDITIONAL
    if code in PASSING_CODES or (status is not None and int(status) in PASSING_STATUS):
        return Trouble.PASSING
    if status is None and UNREACHABLE.search(text):
        return Trouble.UNREACHABLE
    return Trouble.PASSING if status is None and LOST.search(text) else Trouble.OTHER


def summarize(error: Exception) -> str:
    """Status and code where the store said so, else the first line without the address of the request."""
    text = str(error)
    status, code = _find(STATUS, text), _find(CODE, text)
    if status or code:
        return " ".join(part for part in (status, code) if part)
    cause = UNREACHABLE.search(text)
    line = re.sub(r"https?://\S+", "", text.partition("\n")[0]).partition(" - ")
    return f"{line[2] or line[0]}{f' ({cause[0]})' if cause else ''}"


def _find(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None
