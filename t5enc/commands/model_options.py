"""Options that say where a model is: the same for every command that names one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any

import typer

HELP = {
    "subfolder": "Folder of the model within a repository.",
    "revision": "Branch, tag or commit of a hub repository.",
    "variant": "Variant of the weight files, fp16 for example.",
    "token": "Token for the hub (default: HF_TOKEN, or the one stored on this machine).",
    "local_files_only": "Never download.",
    "lora": "Adapters of PEFT's to add to the weights: PATH or PATH:SCALE, several between commas.",
    "tokenizer": "Tokenizer folder or hub id, if not the model's own.",
}
SOURCE = tuple(name for name in HELP if name != "tokenizer")
PANEL = "Where the model is"
# An option without a value, or of a truth, as messages name it.
HINT = re.compile(rf"(?<![-\w])({'|'.join((*HELP, 'partial'))})=(?:True)?(?=[\s,;:.)]|$)")


def name_flags(message: str) -> str:
    """A message of the library's, its options called as they are typed: `tokenizer=` is `--tokenizer` here."""
    return HINT.sub(lambda found: _name_flag(found[1]), message)


def takes_model_options(*names: str, panel: str = PANEL) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a command: it takes these options, too (all unless told), and gets those that were given as `place`.

    They are fields of EncoderOptions; those in SOURCE are ModelSource's.
    """
    chosen = names or tuple(HELP)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            place = {name: given.pop(name) for name in chosen}
            command(**given, place={name: value for name, value in place.items() if value is not None})

        own = inspect.signature(command, eval_str=True)
        others = [parameter for name, parameter in own.parameters.items() if name != "place"]
        added = [_make_parameter(name, panel) for name in chosen]
        run.__signature__ = own.replace(parameters=[*others, *added])  # type: ignore[attr-defined]
        return run

    return decorate


def _make_parameter(name: str, panel: str) -> Parameter:
    option = typer.Option(_name_flag(name), help=HELP[name], rich_help_panel=panel)
    kind = bool if name == "local_files_only" else str
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def _name_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
