"""What is used of Ray that its public API does not have, each with the public call that was tried instead.

Beside this, `deploy/haproxy` changes the text of HAProxy's file, which no option of Ray's reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray._private.node import Node
from ray.serve.context import _get_global_client

from t5enc.machine.starting import ending_half_started


def find_host() -> str:
    """The address that Serve's proxies listen on, whoever has started them.

    A replica needs it: without keys it must not start where others could call it (`check_exposure`).
    """
    # serve.status() and serve.get_replica_context() do not tell it. ServeInstanceDetails.http_options does, but only
    # the dashboard gives that, which `t5enc serve` and many a cluster run without.
    return str(_get_global_client().http_config.host)


@contextmanager
def starting_head() -> Iterator[None]:
    """Within it, what Ray's head has started ends where it is given up half started."""
    # ray.shutdown() knows nothing of such a head.
    with ending_half_started(Node):
        yield
