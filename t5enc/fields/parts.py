"""A dataclass that holds another one, and yet is asked for by one flat list of names.

A job holds the options of its encoder, and these hold where the model is; a YAML file, a command line and a caller
name all of them side by side. A field whose type is a dataclass is such a part.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter, Signature
from numbers import Integral, Real
from operator import attrgetter
from typing import Any, TypeVar

from t5enc.errors import ConfigError
from t5enc.fields.blank import check_not_blank
from t5enc.fields.types import check_fields, find_hints

Kind = TypeVar("Kind", bound=type)
# Metadata of a field that says where something is: blank is refused.
PLACE = {"is_place": True}


def without(*names: str, where: str = "") -> dict[str, Any]:
    """Metadata of a field that holds a part: options of it that nobody may ask for, and what its errors begin with."""
    return {"without": names, "where": where}


def fill(instance: Any, given: Mapping[str, Any]) -> None:
    """What the `__init__` of a frozen dataclass with parts does: set fields by flat names, or whole parts by theirs.

    Names beside a whole part take the place of what it says. Raises ConfigError for a name that is unknown or missing,
    and for a value of another type than declared.
    """
    kind: type = type(instance)
    check_names(kind, given)
    for entry in fields(kind):
        hint = find_hints(kind)[entry.name]
        value = _open_part(entry, hint, given) if is_dataclass(hint) else _find_value(entry, given)
        object.__setattr__(instance, entry.name, value)
    settle_fields(instance)
    instance.__post_init__()


def settle_fields(instance: Any) -> None:
    """What other libraries have for a value becomes Python's own; ConfigError where that is not of the declared type.

    NumPy's numbers, paths for strings, and None for a truth that is not asked for.
    """
    kind: type = type(instance)
    for entry in fields(kind):
        value = _settle(entry, find_hints(kind)[entry.name], getattr(instance, entry.name))
        object.__setattr__(instance, entry.name, value)
    check_fields(instance)
    check_not_blank(**{e.name: getattr(instance, e.name) for e in fields(kind) if e.metadata.get("is_place")})


def check_names(kind: type, given: Mapping[str, Any]) -> None:
    """ConfigError for the first name that no option has, along with those that exist."""
    known = list_options(kind)
    for name in given:
        if name not in known and name not in find_hints(kind):
            raise ConfigError(f"{name}: no such option; expected one of {', '.join(known)}")


def list_options(kind: type) -> dict[str, tuple[Field[Any], Any]]:
    """Flat name -> (field, declared type) of every option, those of a part in its place."""
    found: dict[str, tuple[Field[Any], Any]] = {}
    for entry in fields(kind):
        hint = find_hints(kind)[entry.name]
        found |= _list_inner(entry, hint) if is_dataclass(hint) else {entry.name: (entry, hint)}
    return found


def list_values(instance: Any) -> dict[str, Any]:
    """Flat name -> value of every option."""
    kind: type = type(instance)
    found: dict[str, Any] = {}
    for entry in fields(kind):
        value = getattr(instance, entry.name)
        inner = list_values(value) if is_dataclass(find_hints(kind)[entry.name]) else {entry.name: value}
        found |= {name: inner[name] for name in inner if name not in entry.metadata.get("without", ())}
    return found


def find_default(entry: Field[Any]) -> Any:
    """What a field holds where nothing is said; MISSING where something must be."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def show_values(kind: Kind) -> Kind:
    """Class decorator: what a part holds can be read under its flat name, too; it is no field of the whole."""
    for entry in fields(kind):
        hint = find_hints(kind)[entry.name]
        for inner in _list_inner(entry, hint) if is_dataclass(hint) else ():
            path = f"{entry.name}.{inner}"
            setattr(kind, inner, property(attrgetter(path), doc=f"`{path}`."))
    return kind


def show_names(kind: Kind) -> Kind:
    """Class decorator: `show_values`, and `help` and notebooks show the flat names with their types and defaults."""
    options = list_options(kind).items()
    defaults = {name: find_default(entry) for name, (entry, _) in options}
    parameters = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if defaults[name] is MISSING else defaults[name],
            annotation=entry.type,
        )
        for name, (entry, _) in options
    ]
    kind.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return show_values(kind)


def _list_inner(entry: Field[Any], part: Any) -> dict[str, tuple[Field[Any], Any]]:
    """The options of a part that may be asked for, as `list_options` has them."""
    hidden = entry.metadata.get("without", ())
    return {name: option for name, option in list_options(part).items() if name not in hidden}


def _open_part(entry: Field[Any], kind: Any, given: Mapping[str, Any]) -> Any:
    try:
        return _make_part(entry, kind, given)
    except ConfigError as error:
        raise ConfigError(f"{entry.metadata.get('where', '')}{error}") from error


def _make_part(entry: Field[Any], kind: Any, given: Mapping[str, Any]) -> Any:
    own = {name: given[name] for name in _list_inner(entry, kind) if name in given}
    whole = given.get(entry.name)
    if whole is None:
        _check_missing(kind, own)
        return kind(**own)
    return kind(**(list_values(whole) | own)) if own and isinstance(whole, kind) else whole


def _check_missing(kind: type, given: Mapping[str, Any]) -> None:
    for name, (entry, _) in list_options(kind).items():
        if name not in given and find_default(entry) is MISSING:
            raise ConfigError(f"{name}: expected a value, got none")


def _find_value(entry: Field[Any], given: Mapping[str, Any]) -> Any:
    value = given[entry.name] if entry.name in given else find_default(entry)
    if value is MISSING:
        raise ConfigError(f"{entry.name}: expected a value, got none")
    return value


def _settle(entry: Field[Any], hint: Any, value: Any) -> Any:
    if value is None and hint is bool:
        return find_default(entry)
    if isinstance(value, Integral):
        return value if isinstance(value, int) else int(value)
    if isinstance(value, Real):
        return float(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value
