"""The middleware that counts and times requests, whatever becomes of them."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.account import CURRENT, Account
from serve_app.metrics import Metrics


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
        """A request that is never answered was dropped by whoever sent it, or failed."""
        account.reason = "dropped"

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                account.reason = None
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception:
            account.reason = "inference"
            raise


def name_route(scope: Scope) -> str:
    """The route that was matched, "none" where no route was: paths are the caller's, and without number."""
    return str(getattr(scope.get("route"), "path", "none"))
