"""The middleware that counts and times requests, whatever becomes of them."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.http.metrics import Metrics
from serve_app.served.notes import CURRENT, Account


class MeterRequests:
    """ASGI middleware around all others: opens an account for each POST, and has it counted when that is over."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how it ended."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        account, start = Account(), time.perf_counter()
        token = CURRENT.set(account)
        try:
            await self._pass(account, scope, receive, send)
        finally:
            CURRENT.reset(token)
            self._metrics.count_request(name_route(scope), account, time.perf_counter() - start)

    async def _pass(self, account: Account, scope: Scope, receive: Receive, send: Send) -> None:
        """A request whose answer was not sent to its end was dropped by whoever sent it, or failed."""
        account.reason = "dropped"
        sending = _Sending(send)
        try:
            await self._app(scope, receive, sending)
        except Exception:
            account.reason = "dropped" if sending.is_cut else "inference"
            raise
        if sending.is_success:
            account.reason = None


class _Sending:
    """Sends an answer, and knows how far it came."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._status = 0
        self._is_whole = False
        self.is_cut = False

    @property
    def is_success(self) -> bool:
        """Whether all of an answer was sent, and it is no refusal."""
        return self._is_whole and self._status < 400

    async def __call__(self, message: Message) -> None:
        try:
            await self._send(message)
        except Exception:  # nobody is there to receive it
            self.is_cut = True
            raise
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self._is_whole = not message.get("more_body", False)


def name_route(scope: Scope) -> str:
    """The route that was matched, "none" where no route was: paths are the caller's, and without number."""
    return str(getattr(scope.get("route"), "path", "none"))
