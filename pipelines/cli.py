"""Commands of the batch pipeline: encode, plan, refresh, fsck, demo, import, merge, select."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pipelines.commands.derive import merge, select
from pipelines.commands.import_cache import import_cache
from pipelines.commands.refresh import refresh
from t5enc.commands.library import RecipeOptions
from t5enc.commands.model_options import takes_model_options
from t5enc.commands.option_files import merge_options
from t5enc.errors import ConfigError, ExitCode
from t5enc.storage import STORAGE_DTYPES

Text = str | None
Inputs = Annotated[list[str] | None, typer.Argument(help="Parquet files, folders or globs; URIs too.")]
ModelOption = Annotated[Text, typer.Option(help="Hub id, folder, single file, diffusers repository or builtin:NAME.")]
ColumnOption = Annotated[Text, typer.Option(help="Column of captions (default: caption).")]
KeepOption = Annotated[Text, typer.Option(help="Columns to keep, a,b,c or none (default: all but binary).")]
CastOption = Annotated[
    list[str] | None,
    typer.Option("--cast", help="COLUMN=TYPE to keep a column in, as string or int64; may be given again."),
]
ChoiceOption = Annotated[Text, typer.Option(help="Of several captions a row: all or first.")]
StorageOption = Annotated[
    Text, typer.Option(help=f"One of {', '.join(STORAGE_DTYPES)} (default: float16); int8 is int8g32.")
]
LengthOption = Annotated[int | None, typer.Option(help="Longest caption in tokens (default: the recipe's, or 512).")]
RecipeOption = Annotated[
    Text, typer.Option(help="A family of `t5enc recipes`, a YAML file, or none (default: a repository's own, if any).")
]

# Options that are given again and again -> the job's option that holds them all.
REPEATED = {"cast": "cast", "resource": "resources", "label": "label_selector"}
CAST = re.compile(r"(.+)=(\w+(?:[\[(].*[\])])?)", re.DOTALL)
# Options of `plan` that are none of a job's.
PLAN_ALONE = ("codecs", "tokens_per_second", "devices", "hour_price", "storage_price", "config", "place")


def register(app: typer.Typer) -> None:
    """Add the pipeline's commands."""
    app.command("encode")(encode)
    app.command("plan")(plan)
    app.command("fsck")(fsck)
    app.command("demo")(demo)
    app.command("refresh")(refresh)
    app.command("import")(import_cache)
    app.command("merge")(merge)
    app.command("select")(select)


@takes_model_options()
def encode(
    inputs: Inputs = None,
    output: Annotated[Text, typer.Option("--output", "-o", help="Folder or URI to write to.")] = None,
    model: ModelOption = None,
    text_column: ColumnOption = None,
    caption_choice: ChoiceOption = None,
    keep_columns: KeepOption = None,
    cast: CastOption = None,
    storage_dtype: StorageOption = None,
    reuse: Annotated[
        list[str] | None,
        typer.Option("--reuse", help="Output to copy embeddings of equal captions from; may be given again."),
    ] = None,
    dedup: Annotated[
        Text, typer.Option(help="Among which captions equal ones are encoded once: unit or job (default: unit).")
    ] = None,
    duplicates: Annotated[
        Text, typer.Option(help="With --dedup job: copied into each row, or referenced (default: copied).")
    ] = None,
    rows_per_shard: Annotated[int | None, typer.Option(help="Input rows of a shard (default: by size).")] = None,
    max_length: LengthOption = None,
    dtype: Annotated[Text, typer.Option(help="Compute: auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[Text, typer.Option(help="auto, cpu or cuda.")] = None,
    attention: Annotated[Text, typer.Option(help="auto, flex or sdpa.")] = None,
    token_budget: Annotated[int | None, typer.Option(help="Tokens a stream.")] = None,
    deterministic: Annotated[bool | None, typer.Option("--deterministic", help="Same bits in any company.")] = None,
    recipe: RecipeOption = None,
    recipe_option: RecipeOptions = None,
    actors: Annotated[Text, typer.Option(help="auto, N or MIN:MAX.")] = None,
    tokenizers: Annotated[
        Text, typer.Option(help="CPU actors that read and tokenize for the encoders: 0, N or MIN:MAX (default: 0).")
    ] = None,
    cpus_per_actor: Annotated[int | None, typer.Option(help="CPUs of an actor.")] = None,
    gpus_per_actor: Annotated[float | None, typer.Option(help="GPUs of an actor, fractions too.")] = None,
    resource: Annotated[
        list[str] | None, typer.Option("--resource", help="NAME=AMOUNT that an actor takes; may be given again.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="KEY=VALUE of the nodes to use; may be given again.")
    ] = None,
    accelerator_type: Annotated[Text, typer.Option(help="Cards to use, as Ray calls them: A100, L4.")] = None,
    compile_cache: Annotated[
        Text, typer.Option(help="Folder or URI for compiled kernels, shared by all nodes.")
    ] = None,
    on_error: Annotated[Text, typer.Option(help="A caption without embedding: keep its row, or fail.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the job was, whatever the config file says.")
    ] = False,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Start anew in an output that is taken.")
    ] = None,
    retry_errors: Annotated[
        bool | None, typer.Option("--retry-errors", help="Redo captions that killed the encoder.")
    ] = None,
    replace: Annotated[
        bool | None,
        typer.Option("--replace", help="May put aside more than a tenth of the shards, as inputs changed."),
    ] = None,
    recheck: Annotated[
        bool | None,
        typer.Option("--recheck", help="Redo inputs that were written again, though size and footer are the same."),
    ] = None,
    ray_address: Annotated[Text, typer.Option(help="auto or HOST:PORT; a local Ray is started otherwise.")] = None,
    ship_code: Annotated[
        bool | None, typer.Option("--ship-code", help="Send this t5enc to the nodes instead of expecting it there.")
    ] = None,
    config: Annotated[Text, typer.Option(help="YAML file with any of these options.")] = None,
    *,
    place: dict[str, Any],
) -> None:
    """Encode the captions of Parquet files; run the same command again to resume."""
    given = {name: value for name, value in locals().items() if name not in ("config", "resume", "place")} | place
    if resume and overwrite:
        raise ConfigError("resume, overwrite: expected one of them, got both")
    from pipelines.commands.supervise import supervise
    from pipelines.job import EncodeJob

    options = merge_job_options(given, config) | ({"overwrite": False} if resume else {})
    raise typer.Exit(supervise(EncodeJob.from_mapping(options)))


@takes_model_options()
def plan(
    inputs: Inputs = None,
    model: ModelOption = None,
    text_column: ColumnOption = None,
    caption_choice: ChoiceOption = None,
    keep_columns: KeepOption = None,
    cast: CastOption = None,
    storage_dtype: StorageOption = None,
    max_length: LengthOption = None,
    recipe: RecipeOption = None,
    recipe_option: RecipeOptions = None,
    device: Annotated[Text, typer.Option(help="What to size work for: cpu or cuda.")] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Useful tokens/s of one device, if you measured it.")
    ] = None,
    devices: Annotated[int, typer.Option(help="Devices that work at once.")] = 1,
    hour_price: Annotated[float, typer.Option(help="Price of a device-hour.")] = 2.5,
    storage_price: Annotated[float, typer.Option(help="Price of a TB a month.")] = 23.0,
    codecs: Annotated[
        bool, typer.Option("--codecs", help="Encode a few captions, and say what each --storage-dtype takes and loses.")
    ] = False,
    config: Annotated[Text, typer.Option(help="YAML file with any of the options of encode.")] = None,
    *,
    place: dict[str, Any],
) -> None:
    """Estimate tokens, shards, bytes, hours and cost from a sample of the captions; writes nothing."""
    given = {name: value for name, value in locals().items() if name not in PLAN_ALONE} | place
    from pipelines.commands.estimate import Prices, print_estimate
    from pipelines.job import EncodeJob

    job = EncodeJob.from_mapping(merge_job_options(given | {"output": "-"}, config))
    prices = Prices(hour=hour_price, terabyte_month=storage_price, devices=devices)
    raise typer.Exit(print_estimate(job, prices, tokens_per_second, codecs=codecs))


def fsck(
    output: Annotated[str, typer.Argument(help="Output folder of `t5enc encode`.")],
    deep: Annotated[bool, typer.Option("--deep", help="Read every shard and compare its content.")] = False,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Move an output of format 1 over instead; nothing is computed anew.")
    ] = False,
) -> None:
    """Check an output: plan, shards and manifest agree, and every row is there exactly once."""
    from pipelines.commands.fsck import check_output, print_problems
    from pipelines.commands.migrate import migrate_output, print_migration
    from pipelines.commit.ownership import refuse_old
    from pipelines.stores.store import open_store

    store = open_store(output)
    if migrate and deep:
        raise ConfigError("--migrate --deep: expected one of them; check with --deep when the output is moved over")
    if migrate:
        print_migration(output, migrate_output(store))
        return
    refuse_old(store, output)
    problems = check_output(store, deep=deep)
    print_problems(output, problems)
    if problems:
        raise typer.Exit(ExitCode.FAILED)


def demo(
    folder: Annotated[str, typer.Argument(help="Folder for the captions and their embeddings.")] = "demo",
) -> None:
    """Encode built-in sample captions with a tiny built-in model, and show what comes out."""
    from pipelines.commands.demo import run_demo

    raise typer.Exit(run_demo(folder))


def merge_job_options(given: dict[str, Any], config: str | None) -> dict[str, Any]:
    """As `merge_options`, with columns to keep, casts, resources and labels as the command line has them."""
    pairs = {option: given.pop(name, None) or () for name, option in REPEATED.items()}
    options = merge_options(given, config)
    for option, texts in pairs.items():
        if texts:
            options[option] = dict(options.get(option) or {}) | parse_shares(option, texts)
    keep = options.get("keep_columns")
    if isinstance(keep, str):
        options["keep_columns"] = [] if keep == "none" else [name.strip() for name in keep.split(",")]
    return options


def parse_shares(option: str, pairs: Sequence[str]) -> dict[str, str | float]:
    """NAME=VALUE pairs, names as they stand; amounts of resources are numbers."""
    found: dict[str, str | float] = {}
    for pair in pairs:
        name, value = _split_cast(pair) if option == "cast" else pair.partition("=")[::2]
        if not name or not value:
            raise ConfigError(f"{option}: expected NAME=VALUE, got {pair!r}")
        found[name] = _parse_amount(name, value) if option == "resources" else value
    return found


def _split_cast(pair: str) -> tuple[str, str]:
    """A column and a type, both of which may hold `=`: `a=b=timestamp[us, tz=UTC]`."""
    found = CAST.fullmatch(pair)
    return (found[1], found[2]) if found else ("", "")


def _parse_amount(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"resources: {name}: expected a number, got {value!r}") from error
