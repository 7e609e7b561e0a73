"""A service on this machine: starts Ray and Serve, waits for a signal, and lets go of nothing that it accepted."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from serve_app.config import ServeConfig, check_exposure
from serve_app.deploy.haproxy import make_environment
from serve_app.http.keys import KeyRing
from t5enc.checkpoint.opening import open_model
from t5enc.errors import ConfigError, ServiceError
from t5enc.machine.own_ray import ModulePaths, find_folder, find_store_folder, find_token
from t5enc.machine.starting import start_again
from t5enc.options import resolve_device

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

APP = "default"
# Between two looks at the application.
WATCH_PERIOD = 5.0
# For so long Serve may try to bring a replica back; a large model takes minutes to load.
LOST_SECONDS = 600.0
ENVIRONMENT = {
    # Ray's own processes then listen on loopback alone, as they do by default on the systems that the variable names.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A replica whose model is stuck answers nobody: it need not be waited for.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # Ray's workers yield to all else by default; measured, a short prompt then takes 20 ms longer.
    "RAY_worker_niceness": "0",
    # Until a proxy that died is missed, nobody is answered.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_service(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM; a second signal ends it without waiting for what is under way.

    Raises ConfigError and CheckpointError, before anything is started, for what cannot be served; ServiceError when
    nothing is served any more.
    """
    config = share_threads(require_known_keys(config))
    check_port(config.host, config.port)
    for options in config.encoders().values():
        options.resolve(open_model(options.source).config)
    # Not in TMPDIR: the path of a socket is short.
    ray_folder = find_folder(os.environ)
    short = "/tmp" if os.access("/tmp", os.W_OK) else ray_folder
    with interrupts(), TemporaryDirectory(prefix="t5enc-", dir=short) as folder:
        os.environ |= ENVIRONMENT | dict(os.environ) | make_environment(os.environ, Path(folder), config.head_seconds)
        os.environ |= find_token(os.environ)
        try:
            serve_until_interrupted(config, ray_folder)
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped")


def require_known_keys(config: ServeConfig) -> ServeConfig:
    """The same, and no replica shall start without keys where there are some here.

    Raises ConfigError where others than this machine could call without a key.
    """
    keys = KeyRing.from_environment(config.keys_file)
    check_exposure(config, has_keys=keys is not None)
    return replace(config, require_keys=keys is not None)


def share_threads(config: ServeConfig) -> ServeConfig:
    """The same, with this machine's cores divided among the replicas where they compute on them."""
    if config.encoder.num_threads is not None or resolve_device(config.encoder.device).type != "cpu":
        return config
    threads = max(1, (os.cpu_count() or 1) // config.replica_range()[1])
    return replace(config, encoder=replace(config.encoder, num_threads=threads))


def serve_until_interrupted(config: ServeConfig, ray_folder: str) -> None:
    """Start everything, say so, and wait; on the way out, drain and stop everything."""
    import ray  # reads the environment as it is imported
    from ray import serve

    from serve_app.app import make_application

    try:
        start_ray(config, ray_folder)
        take_signals()  # Ray put its own in their place
        serve.start(http_options={"host": config.host, "port": config.port})
        handle = serve.run(
            make_application(config),
            name=APP,
            route_prefix=config.route_prefix,
            logging_config={"enable_access_log": False},
        )
        announce_service(config, handle.describe.remote().result(), describe_ray(ray_folder))
        watch(lambda: serve.status().applications.get(APP))
    finally:
        if ray.is_initialized():
            serve.delete(APP)  # returns when the last request is answered
            serve.shutdown()
            ray.shutdown()


def start_ray(config: ServeConfig, folder: str) -> None:
    """Start Ray on this machine; ConfigError where it cannot start, ServiceError where it does not in time."""
    import ray
    from ray.job_config import JobConfig

    from serve_app.ray_private import starting_head

    def start() -> None:
        job = JobConfig()
        job._py_driver_sys_path = ModulePaths()
        with starting_head():
            ray.init(
                address="local",
                num_cpus=count_cpus(config),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=job,
                _temp_dir=folder,
                _plasma_directory=find_store_folder(folder),
            )

    start_again(start, ray.shutdown, folder=folder, failure=ServiceError)


def watch(
    look: Callable[[], ApplicationStatusOverview | None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> NoReturn:
    """Look at the application until a signal interrupts.

    Raises ServiceError when it is gone, when Serve has given it up, or when it was without a replica for LOST_SECONDS.
    """
    alive = clock()
    while True:
        found = look()
        if found is None:
            raise ServiceError(f"expected the application {APP!r} to be served, got none: it was deleted by others")
        if is_served(found):
            alive = clock()
        elif found.status == "DEPLOY_FAILED" or clock() - alive > LOST_SECONDS:
            raise ServiceError(
                f"expected the application {APP!r} to be RUNNING, got {found.status.value} and no replica that answers"
                f": {describe_trouble(found)}"
            )
        sleep(WATCH_PERIOD)


def is_served(found: ApplicationStatusOverview) -> bool:
    """Whether any replica answers: while Serve replaces one of several, the application is called unhealthy."""
    states = [deployment.replica_states for deployment in found.deployments.values()]
    return found.status == "RUNNING" or (bool(states) and all(state.get("RUNNING", 0) > 0 for state in states))


def describe_trouble(found: ApplicationStatusOverview) -> str:
    """What Serve says of it."""
    said = [found.message, *(deployment.message for deployment in found.deployments.values())]
    return "; ".join(dict.fromkeys(message for message in said if message)) or "Serve does not say why"


def count_cpus(config: ServeConfig) -> int:
    """CPUs that Ray is told of: those of the machine, and as many as all replicas ask for."""
    most = config.replica_range()[1]
    return max(os.cpu_count() or 1, int(most * config.num_cpus) + 1)


def check_port(host: str, port: int) -> None:
    """ConfigError where the port is taken: Serve would share it, or fail much later."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"host, port: expected an address to listen on, got {host}:{port}: {error}") from error


@contextmanager
def interrupts() -> Iterator[None]:
    """KeyboardInterrupt at SIGTERM as at Ctrl-C, also where a shell has SIGINT ignored; then as it was."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    take_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_signals() -> None:
    """Let both signals interrupt the main thread."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def announce_service(config: ServeConfig, models: list[dict[str, Any]], ray: str) -> None:
    """Say what was loaded, and where it listens; the last line means that it is ready."""
    console = Console(soft_wrap=True, highlight=False)
    for model in models:
        console.print(" ".join(f"{name}={value}" for name, value in model.items()), markup=False)
    console.print(ray)
    proxy = "HAProxy" if os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1" else "Ray's Python proxy"
    keys = "with keys" if config.require_keys else "without keys"
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"http://{host}:{config.port}{config.route_prefix.rstrip('/')}"
    console.print(f"listening on {address} ({proxy}, {keys}, replicas {config.replicas})")


def describe_ray(folder: str) -> str:
    """Where the Ray below is, for `serve run --address`, Prometheus, and whoever reads logs."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    address = ray.get_runtime_context().gcs_address
    return f"ray at {address}, metrics at http://127.0.0.1:{port}/metrics, logs in {folder}/session_latest/logs/serve"
