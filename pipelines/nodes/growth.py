"""Nodes that Ray's autoscaler adds, where those that are there have no room for the fewest actors.

Ray does not say whether a cluster may grow: KubeRay's autoscaler and those of `ray up` tell nobody what they may add.
So room is asked for as actors that wait would ask for it, and what the autoscaler does about it is read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.nodes.autoscaler import News, read_news
from pipelines.nodes.selectors import Needs
from t5enc.errors import ConfigError

logger = logging.getLogger(__name__)

# An autoscaler looks every five seconds: where it starts nothing for so long, it has nothing to add.
SILENCE_SECONDS = 30.0
LOOK_SECONDS = 1.0
REPEAT_SECONDS = 60.0


def await_capacity(
    needs: Sequence[Needs], *, silence: float = SILENCE_SECONDS, every: float = LOOK_SECONDS
) -> str | None:
    """None once there is room for an actor of each, or why there will be none.

    Waits as long as an autoscaler is starting nodes, and says so once a minute. ConfigError for labels that Ray
    refuses. Nothing is left of the question, whatever becomes of this process.
    """
    wanted = " and for one that takes ".join(map(str, needs))
    logger.warning("no node has room for an actor that takes %s: asking for one", wanted)
    with _asking_for(needs) as group:
        started = heard = told = time.monotonic()
        last = News()
        while not group.wait(every):
            news, now = read_news() or last, time.monotonic()
            if group.id.hex() in news.infeasible:
                return "the cluster's autoscaler has no such nodes to add"
            if news.coming and news.version != last.version:
                heard = now
            if now - heard > silence:
                return f"no autoscaler is starting a node{_list_failures(news)}"
            if news.coming and (now - told > REPEAT_SECONDS or not last.coming):
                told = now
                coming = ", ".join(sorted(set(news.coming)))
                logger.warning("%.0f s: nodes are being started (%s)%s", now - started, coming, _list_failures(news))
            last = news
    return None


def _list_failures(news: News) -> str:
    return f"; it failed to start others: {'; '.join(news.failures)}" if news.failures else ""


@contextmanager
def _asking_for(needs: Sequence[Needs]) -> Iterator[Any]:
    """A placement group of one actor of each: Ray takes it away with the driver."""
    import ray

    bundles = [{name: amount for name, amount in each.resources.items() if amount} for each in needs]
    try:
        group = ray.util.placement_group(bundles, bundle_label_selector=[dict(each.labels) for each in needs])
    except ValueError as error:
        raise ConfigError(f"label_selector: expected labels that Ray takes, got: {error}") from error
    try:
        yield group
    finally:
        ray.util.remove_placement_group(group)
