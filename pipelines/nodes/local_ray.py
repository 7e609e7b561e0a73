"""A Ray of our own on this machine: as few processes as will do, and a clean second try where it takes too long."""

from __future__ import annotations

import logging
import os
from typing import Any

from pipelines.nodes.ray_internals import count_cores, starting_head
from t5enc.errors import DriverError
from t5enc.machine.own_ray import ModulePaths, find_folder, find_store_folder, find_token
from t5enc.machine.starting import start_again

# Only tasks and records pass through the object store, never embeddings.
OBJECT_STORE_BYTES = 128 << 20
# Ray starts a worker for each core when its first driver comes, whether or not there is work for so many.
SETTINGS = {"prestart_worker_first_driver": False}


def start_local(*, num_cpus: int | None = None, _system_config: dict[str, Any] | None = None, **more: Any) -> None:
    """Start a Ray on this machine as a job without a cluster does; `more` goes to `ray.init`.

    ConfigError where it cannot start here, DriverError where it does not start in time. Where it needs a token, that
    stays in the environment.
    """
    os.environ |= find_token(os.environ)
    folder = find_folder(os.environ)
    import ray

    def start() -> None:
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

    start_again(start, ray.shutdown, folder=folder, failure=DriverError)


def make_job_config() -> Any:
    """What Ray is to know of this process beside what `ray.init` takes."""
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = ModulePaths()
    return config
