"""The command `t5enc serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t5enc.commands.model_options import takes_model_options

if TYPE_CHECKING:
    from serve_app.config import ServeConfig

Text = str | None
MODEL, ACCESS, REPLICAS, LIMITS = "Model", "Address and keys", "Replicas", "Limits"
META = ("config", "write_deploy_file", "place")


def register(app: typer.Typer) -> None:
    """Add the service's commands."""
    app.command("serve")(serve)
    app.command("serve-check")(serve_check)


@takes_model_options(panel=MODEL)
def serve(
    model: Annotated[
        Text, typer.Option(help="Hub id, folder, single file, repository or builtin:NAME.", rich_help_panel=MODEL)
    ] = None,
    name: Annotated[
        Text, typer.Option(help="What clients call the model (default: the end of its id).", rich_help_panel=MODEL)
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Longest text in tokens (default: the recipe's, or 512).", rich_help_panel=MODEL),
    ] = None,
    recipe: Annotated[
        Text,
        typer.Option(
            help="What `/encode` does by default: a family of `t5enc recipes`, a YAML file, or none "
            "(default: a repository's own, if any).",
            rich_help_panel=MODEL,
        ),
    ] = None,
    recipe_option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of the pipeline's call; may be given again.", rich_help_panel=MODEL),
    ] = None,
    token_budget: Annotated[int | None, typer.Option(help="Tokens a batch.", rich_help_panel=MODEL)] = None,
    dtype: Annotated[Text, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=MODEL)] = None,
    device: Annotated[Text, typer.Option(help="auto, cpu or cuda.", rich_help_panel=MODEL)] = None,
    host: Annotated[
        Text, typer.Option(help="Address to listen on (default: 127.0.0.1).", rich_help_panel=ACCESS)
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default: 8000).", rich_help_panel=ACCESS)] = None,
    route_prefix: Annotated[
        Text, typer.Option(help="Path that all routes are under (default: /).", rich_help_panel=ACCESS)
    ] = None,
    keys_file: Annotated[
        Text,
        typer.Option(help="File of bearer keys, one a line; T5ENC_API_KEYS holds some, too.", rich_help_panel=ACCESS),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Serve all who reach the host, without keys.", rich_help_panel=ACCESS),
    ] = None,
    replicas: Annotated[
        Text, typer.Option(help="N, or MIN:MAX to follow the load (default: 1).", rich_help_panel=REPLICAS)
    ] = None,
    num_gpus: Annotated[
        float | None, typer.Option(help="GPUs of a replica, fractions too.", rich_help_panel=REPLICAS)
    ] = None,
    target_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens in flight that fill a replica (default: two batches).", rich_help_panel=REPLICAS),
    ] = None,
    queue_tokens: Annotated[
        int | None, typer.Option(help="Tokens that may wait; 429 past it.", rich_help_panel=LIMITS)
    ] = None,
    max_texts: Annotated[
        int | None, typer.Option(help="Texts of one request (default: 256).", rich_help_panel=LIMITS)
    ] = None,
    max_answer_bytes: Annotated[
        int | None, typer.Option(help="Bytes of one answer (default: 256 MiB).", rich_help_panel=LIMITS)
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(help="Bytes of one request (default: 8 MiB).", rich_help_panel=LIMITS)
    ] = None,
    config: Annotated[Text, typer.Option(help="YAML file with any of these options, and more.")] = None,
    write_deploy_file: Annotated[
        Text, typer.Option(help="Start nothing, but write what `serve deploy` takes; - prints it.")
    ] = None,
    *,
    place: dict[str, Any],
) -> None:
    """Serve embeddings over HTTP until Ctrl-C or SIGTERM; what was accepted by then is answered."""
    given = {name: value for name, value in locals().items() if name not in META} | place
    from serve_app.config import ServeConfig
    from t5enc.commands.option_files import merge_options

    asked = ServeConfig.from_mapping(merge_options(given, config))
    if write_deploy_file is not None:
        _write(asked, Path(write_deploy_file))
        return
    from serve_app.deploy.running import run_service

    run_service(asked)


def serve_check(file: Annotated[str, typer.Argument(help="YAML file for `serve deploy`.")]) -> None:
    """Refuse a file for `serve deploy` that says what Ray Serve or t5enc does not know, at any level; start nothing."""
    from serve_app.deploy.deploy_file import check_deploy_file
    from t5enc.recipes.yaml_files import read_yaml

    check_deploy_file(read_yaml(Path(file)))
    typer.echo(f"{file}: good")


def _write(asked: ServeConfig, path: Path) -> None:
    from serve_app.deploy.deploy_file import format_deploy_file
    from serve_app.deploy.running import require_known_keys

    content = format_deploy_file(require_known_keys(asked))
    if str(path) == "-":
        typer.echo(content, nl=False)
    else:
        path.write_text(content, encoding="utf-8")
