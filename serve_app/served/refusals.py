"""RefusedError: a request that is not taken as it stands, with what every API's shape of an error needs."""

from __future__ import annotations

from t5enc.errors import InputError


class RefusedError(InputError):
    """`status` is HTTP's, `kind` TEI's error_type, `field` and `code` OpenAI's param and code.

    `reason` is what the metrics call it, where the status does not say it.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        field: str | None = None,
        code: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.kind = kind
        self.field = field
        self.code = code


def refuse_empty(field: str) -> RefusedError:
    """A request without any text."""
    return RefusedError(400, "Empty", f"`{field}` cannot be empty", field=field)


def refuse_value(field: str, message: str, *, code: str | None = None) -> RefusedError:
    """A well-formed field whose value cannot be honoured."""
    return RefusedError(422, "Validation", f"{field}: {message}", field=field, code=code)


def refuse_count(count: int, limit: int, field: str) -> RefusedError:
    """More texts than a request may have, in TEI's words."""
    message = f"batch size {count} > maximum allowed batch size {limit}"
    return RefusedError(422, "Validation", message, field=field, reason="batch_size")
