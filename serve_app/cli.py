"""The command `t5enc serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Text = str | None


def register(app: typer.Typer) -> None:
    """Add the service's command."""
    app.command("serve")(serve)


def serve(
    model: Annotated[Text, typer.Option(help="Hub id, folder, single file, repository or builtin:NAME.")] = None,
    name: Annotated[Text, typer.Option(help="What clients call the model (default: the end of its id).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default: 8000).")] = None,
    host: Annotated[Text, typer.Option(help="Address to listen on (default: 127.0.0.1).")] = None,
    keys_file: Annotated[
        Text, typer.Option(help="File of bearer keys, one a line; T5ENC_API_KEYS holds some, too.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Serve all who reach the host, without keys.")
    ] = None,
    replicas: Annotated[Text, typer.Option(help="N, or MIN:MAX to follow the load (default: 1).")] = None,
    num_gpus: Annotated[float | None, typer.Option(help="GPUs of a replica, fractions too.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text in tokens (default: 512).")] = None,
    token_budget: Annotated[int | None, typer.Option(help="Tokens a batch.")] = None,
    dtype: Annotated[Text, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[Text, typer.Option(help="auto, cpu or cuda.")] = None,
    queue_tokens: Annotated[int | None, typer.Option(help="Tokens that may wait; 429 past it.")] = None,
    max_texts: Annotated[int | None, typer.Option(help="Texts of one request (default: 256).")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Bytes of one request (default: 8 MiB).")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any of these options, and more.")] = None,
) -> None:
    """Serve embeddings over HTTP until Ctrl-C or SIGTERM; what was accepted by then is answered."""
    given = {name: value for name, value in locals().items() if name != "config" and value is not None}
    from serve_app.config import ServeConfig
    from serve_app.running import run_service
    from t5enc.option_files import read_options

    options = (read_options(config) if config else {}) | given
    run_service(ServeConfig.from_mapping(options))
