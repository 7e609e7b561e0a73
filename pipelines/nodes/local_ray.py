"""A Ray of our own on this machine: as few processes as will do, and a clean second try where it does not start."""

from __future__ import annotations

import logging
import os
from typing import Any

from pipelines.nodes.ray_internals import count_cores, starting_head
from t5enc.errors import DriverError
from t5enc.machine.own_ray import ModulePaths, find_folder, find_store_folder, find_token

logger = logging.getLogger(__name__)

# Only tasks and records pass through the object store, never embeddings.
OBJECT_STORE_BYTES = 128 << 20
# Ray gives its own processes 30 seconds, which a busy machine exceeds.
TRIES = 3
# Ray starts a worker for each core when its first driver comes, whether or not there is work for so many.
SETTINGS = {"prestart_worker_first_driver": False}


def start_local(*, num_cpus: int | None = None, _system_config: dict[str, Any] | None = None, **more: Any) -> None:
    """Start a Ray on this machine as a job without a cluster does; `more` goes to `ray.init`.

    ConfigError where nothing here can hold its sockets, DriverError where it does not start.
    """
    os.environ |= find_token(os.environ)
    folder = find_folder(os.environ)
    import ray

    for left in reversed(range(TRIES)):
        try:
            with starting_head():
                ray.init(
                    address="local",
                    num_cpus=count_cores() if num_cpus is None else num_cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    job_config=make_job_config(),
                    _temp_dir=folder,
                    _plasma_directory=find_store_folder(folder),
                    _system_config=SETTINGS | (_system_config or {}),
                    **more,
                )
            return
        except Exception as error:  # Ray raises bare ones
            ray.shutdown()
            said = " ".join(str(error).split()) or type(error).__name__
            if not left:
                raise DriverError(
                    f"expected a Ray of its own to start on this machine, got in each of {TRIES} tries: {said}; "
                    f"what its processes said is in {folder}/session_latest/logs"
                ) from error
            logger.warning("Ray did not start, trying again: %s", said)


def make_job_config() -> Any:
    """What Ray is to know of this process beside what `ray.init` takes."""
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = ModulePaths()
    return config
