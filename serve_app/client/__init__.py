"""Clients of `POST /encode`, for code that is asynchronous and code that is not.

Encoding has no side effects, so whatever failed in passing is tried again until the deadline: an overloaded server, a
replica that died, a connection that broke, a body cut short.
"""

from __future__ import annotations

from serve_app.client.answers import Answer
from serve_app.client.async_client import AsyncClient
from serve_app.client.client import Client
from serve_app.client.options import ClientOptions

__all__ = ["Answer", "AsyncClient", "Client", "ClientOptions"]
