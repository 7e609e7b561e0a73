"""`t5enc recipes`: which there are, and one of them in words."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Options = Annotated[
    list[str] | None, typer.Option("--option", help="NAME=VALUE of the pipeline's call; may be given again.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    recipes = typer.Typer(name="recipes", help="What diffusion pipelines feed their T5.")
    recipes.callback(invoke_without_command=True)(list_recipes)
    recipes.command("show")(show)
    app.add_typer(recipes)


def list_recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """List all recipes."""
    if context.invoked_subcommand is not None:
        return
    from t5enc.recipes import RECIPES
    from t5enc.recipes.describe import to_json

    if as_json:
        _print_json([to_json(recipe) for recipe in RECIPES.values()])
        return
    _print_table()


def show(
    name: Annotated[str, typer.Argument(help="A family, or a YAML file of your own recipe.")],
    option: Options = None,
    as_json: AsJson = False,
) -> None:
    """Print one recipe in words, with its source."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from t5enc.commands.option_files import parse_pairs
    from t5enc.recipes import find_recipe
    from t5enc.recipes.describe import describe, to_json

    recipe = find_recipe(name, parse_pairs("option", option or ()))
    if as_json:
        _print_json(to_json(recipe))
        return
    table = Table(title=recipe.name, title_justify="left", show_header=False, box=None, pad_edge=False)
    for head, words in describe(recipe).items():
        table.add_row(f"[bold]{head}", escape(words))
    Console().print(table)


def _print_table() -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from t5enc.recipes import RECIPES
    from t5enc.recipes.describe import HEADS, READ_FROM, summarize

    table = Table(
        title=f"recipes, as read from {READ_FROM}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for head in HEADS:
        table.add_column(head, no_wrap=True)
    for recipe in RECIPES.values():
        table.add_row(*summarize(recipe))
    console = Console()
    console.print(table)
    console.print("text: what becomes of a caption before it is tokenized; kept: rows of an embedding that are stored")
    console.print("packed: no pads are computed, or one; `t5enc recipes show NAME` says all of one recipe")


def _print_json(content: Any) -> None:
    import json

    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
