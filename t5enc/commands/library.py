"""Commands of the library itself: inspect, bench, verify, calibrate."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from t5enc.commands import export as export_commands
from t5enc.commands import recipes as recipe_commands
from t5enc.commands.model_options import takes_model_options
from t5enc.commands.outputs import OF_MODELS, OF_OUTPUTS, is_output, refuse_given, verify_stored
from t5enc.errors import ConfigError, ExitCode

# What `t5enc verify` takes with an output alone.
OUTPUTS = "Of an output"
RecipeOptions = Annotated[
    list[str] | None, typer.Option("--recipe-option", help="NAME=VALUE of the pipeline's call; may be given again.")
]


def register(app: typer.Typer) -> None:
    """Add the library's commands."""
    app.command("inspect")(inspect)
    app.command("bench")(bench)
    app.command("verify")(verify)
    app.command("calibrate")(calibrate)
    app.command("version")(version)
    recipe_commands.register(app)
    export_commands.register(app)


def inspect(
    path: Annotated[str, typer.Argument(help="Output folder of `t5enc encode`.")],
    rows: Annotated[int, typer.Option(help="First rows to show.")] = 5,
    partial: Annotated[bool, typer.Option("--partial", help="Look at an unfinished job, too.")] = False,
) -> None:
    """Show what a job wrote: its settings, totals and first rows."""
    from t5enc.checks.inspect import print_output

    print_output(path, rows=rows, partial=partial)


@takes_model_options()
def bench(
    model: Annotated[str, typer.Option(help="Hub id, folder, file or builtin:NAME.")] = "builtin:tiny",
    texts: Annotated[
        str | None, typer.Option(help="Text file, one caption a line; built-in samples otherwise.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    attention: Annotated[str, typer.Option(help="auto, flex or sdpa.")] = "auto",
    token_budget: Annotated[int | None, typer.Option(help="Tokens a stream.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest text in tokens (default: the recipe's, or 512).")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A family of `t5enc recipes`, or a YAML file.")] = None,
    recipe_option: RecipeOptions = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times the whole corpus is encoded.")] = 3,
    *,
    place: dict[str, Any],
) -> None:
    """Measure useful tokens a second, and the share of what plain matrix products reach here."""
    from t5enc.checks.bench import run_bench
    from t5enc.commands.option_files import parse_pairs
    from t5enc.options import EncoderOptions

    given = {
        "model": model,
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "token_budget": token_budget,
        "max_length": max_length,
        "recipe": recipe,
        "recipe_options": parse_pairs("recipe_option", recipe_option or ()),
    }
    run_bench(EncoderOptions.from_mapping(given | place), texts, rounds=rounds)


@takes_model_options()
def verify(
    context: typer.Context,
    target: Annotated[
        str | None, typer.Argument(metavar="MODEL|OUTPUT", help="Hub id, folder or builtin:NAME; or a job's output.")
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(help="A diffusers repository instead: compare with what its pipeline makes of captions."),
    ] = None,
    recipe_option: RecipeOptions = None,
    texts: Annotated[
        str | None, typer.Option(help="Text file, one caption a line; built-in samples otherwise.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Dtypes to measure, between commas.")] = "float32,bfloat16,float16",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    attention: Annotated[str, typer.Option(help="auto, flex or sdpa; transformers takes SDPA.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a padded batch.")] = 8,
    max_length: Annotated[int, typer.Option(help="Longest text in tokens.")] = 512,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Relative L2 distance that is allowed in every dtype. Otherwise 2e-5 in float32, and in 16 bit "
            "no quantile of real tokens above that of transformers in the same dtype.",
        ),
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Measure nai-t5-wrapper, too.")] = False,
    json: Annotated[str | None, typer.Option(help="File for all figures.")] = None,
    plot: Annotated[str | None, typer.Option(help="File for a picture; needs the extra `plot`.")] = None,
    rows: Annotated[str, typer.Option(help="Rows to draw, or all.", rich_help_panel=OUTPUTS)] = "256",
    seed: Annotated[int, typer.Option(help="Which rows are drawn.", rich_help_panel=OUTPUTS)] = 0,
    against: Annotated[
        str, typer.Option(help="What encodes again, in float32: t5enc or transformers.", rich_help_panel=OUTPUTS)
    ] = "t5enc",
    captions: Annotated[
        list[str] | None,
        typer.Option(
            help="Input file or folder, if captions were not kept: PATH, or NAME=PATH after a merge; repeatable.",
            rich_help_panel=OUTPUTS,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model that encodes again, if not the job's.", rich_help_panel=OUTPUTS)
    ] = None,
    *,
    place: dict[str, Any],
) -> None:
    """Compare a model with transformers in float32, or an output with what its captions give.

    Of a model: quantiles of the absolute difference, by dtype. Ends with 1 where t5enc is past the tolerance.
    Meanwhile the reference's states lie in a temporary folder.
    With --pipeline, compare texts, ids, masks and embeddings with those of a diffusers pipeline, in float32.
    Of an output of `t5enc encode`: rows are drawn, their captions encoded again in float32, and all that is stored of
    them is checked. Ends with 1 where something is wrong.
    """
    if is_output(target):
        refuse_given(context, ("pipeline", *OF_MODELS), "an output")
        given = {
            "rows": rows,
            "seed": seed,
            "against": against,
            "captions": captions or (),
            "model": model,
            "device": device,
            "batch_size": batch_size,
        }
        verify_stored(str(target), given, place, json)
        return
    refuse_given(context, OF_OUTPUTS, f"what is no output ({target or pipeline})")
    if pipeline is not None:
        _verify_pipeline(
            pipeline, target, texts, recipe_option, place=place, device=device, tolerance=tolerance, json=json
        )
        return
    if target is None:
        raise ConfigError("model: expected one, or --pipeline with a diffusers repository, got neither")
    from rich.console import Console

    from t5enc.checks.json_report import write_json
    from t5enc.checks.precision.plot import make_figure, plot_report
    from t5enc.checks.precision.table import describe_report, print_report
    from t5enc.checks.precision.verify import verify as run_verify
    from t5enc.checks.terminal import show_progress
    from t5enc.options import EncoderOptions

    captions = _read_captions(texts)
    if plot:
        make_figure()  # say now that matplotlib is missing, not when all is measured
    given = {"model": target, "device": device, "max_length": max_length, "attention": attention}
    options = EncoderOptions.from_mapping(given | place)
    dtypes = [name.strip() for name in dtype.split(",")]
    with show_progress() as progress:
        report = run_verify(
            options,
            captions,
            dtypes=dtypes,
            batch_size=batch_size,
            tolerance=tolerance,
            peers=peers,
            progress=progress,
        )
    print_report(report, Console())
    if json:
        write_json(json, describe_report(report))
    if plot:
        plot_report(report, plot)
    if report.failures:
        raise typer.Exit(ExitCode.FAILED)


def _verify_pipeline(
    repository: str,
    model: str | None,
    texts: str | None,
    pairs: list[str] | None,
    *,
    place: dict[str, Any],
    device: str,
    tolerance: float | None,
    json: str | None,
) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from t5enc.checks.json_report import write_json
    from t5enc.checks.pipeline.table import print_comparison
    from t5enc.checks.pipeline.verify import TOLERANCE, verify_pipeline
    from t5enc.commands.option_files import parse_pairs
    from t5enc.options import ModelSource

    if model is not None:
        raise ConfigError(f"model, pipeline: expected one of them, got {model} and {repository}")
    for name in {"subfolder", "tokenizer", "lora"} & set(place):
        raise ConfigError(f"{name}: expected none with --pipeline, which has its own, got {place[name]}")
    found = verify_pipeline(
        ModelSource(model=repository, **place),
        _read_captions(texts) if texts else ["", *_read_captions(None)[::10]],
        recipe_options=parse_pairs("recipe_option", pairs or ()),
        device=device,
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )
    print_comparison(found, Console())
    if json:
        write_json(json, asdict(found))
    if found.failures:
        raise typer.Exit(ExitCode.FAILED)


@takes_model_options()
def calibrate(
    model: Annotated[str, typer.Argument(help="Hub id, folder, file or builtin:NAME.")],
    texts: Annotated[
        str | None, typer.Option(help="Text file, one caption a line; built-in samples otherwise.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="The dtype whose range is judged.")] = "float16",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_length: Annotated[int, typer.Option(help="Longest text in tokens.")] = 512,
    json: Annotated[str | None, typer.Option(help="File for all figures.")] = None,
    *,
    place: dict[str, Any],
) -> None:
    """Show the largest activations of every layer, and the room that float16 leaves them."""
    from rich.console import Console

    from t5enc.checks.headroom.calibrate import calibrate as run_calibrate
    from t5enc.checks.headroom.table import describe_calibration, print_calibration
    from t5enc.checks.json_report import write_json
    from t5enc.options import EncoderOptions

    options = EncoderOptions(model=model, dtype=dtype, device=device, max_length=max_length, **place)
    found = run_calibrate(options, _read_captions(texts))
    print_calibration(found, Console())
    if json:
        write_json(json, describe_calibration(found))


def _read_captions(path: str | None) -> list[str]:
    from t5enc.checkpoint.builtin import sample_captions
    from t5enc.checks.bench import read_lines

    return read_lines(path) if path else sample_captions()


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as read_version

    typer.echo(read_version("t5enc"))
