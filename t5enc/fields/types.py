"""Whether fields hold what they are declared to hold: a YAML file, a command line and a caller may give anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from t5enc.errors import ConfigError

# What a declared type lets in, and how that is called. A truth value is no number.
PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a string"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    bytes: ((bytes,), "bytes"),
}
# Of lists all entries are of one type; a string is none.
LISTS = (Sequence, tuple)


def check_fields(instance: Any) -> None:
    """ConfigError naming the first field of a dataclass whose value is of another type than declared.

    The value of a field that is left out of `repr` is not shown.
    """
    kind: type = type(instance)
    hints = find_hints(kind)
    for entry in fields(instance):
        value = getattr(instance, entry.name)
        if entry.repr:
            check_type(entry.name, hints[entry.name], value)
        elif not accepts(hints[entry.name], value):
            raise ConfigError(f"{entry.name}: expected {describe(hints[entry.name])}, got {type(value).__name__}")


@cache
def find_hints(kind: type) -> dict[str, Any]:
    """The declared types of a dataclass's fields; reading them takes longer than all else that makes one."""
    return get_type_hints(kind)


def check_type(name: str, hint: Any, value: Any) -> None:
    """ConfigError where a value is not of a type; of a list or mapping it names the first entry that is not."""
    origin, members = get_origin(hint), get_args(hint)
    if origin is Mapping and isinstance(value, Mapping):
        for key, item in value.items():
            check_type(f"{name}: {key}", members[1], item)
    elif origin in LISTS and isinstance(value, origin) and not isinstance(value, str):
        for item in value:
            check_type(name, members[0], item)
    elif origin in (Union, UnionType) and len(kinds := list_kinds(hint)) == 1 and value is not None:
        check_type(name, kinds[0], value)
    elif not accepts(hint, value):
        raise ConfigError(f"{name}: expected {describe(hint)}, got {value!r}")


def accepts(hint: Any, value: Any) -> bool:
    """Whether a value is of a declared type, entries of a list or mapping left aside."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(accepts(member, value) for member in members)
    if origin is Literal:
        return value in members
    if hint is Any:
        return True
    if hint in PLAIN:
        return isinstance(value, PLAIN[hint][0]) and (hint is bool or not isinstance(value, bool))
    return isinstance(value, origin or hint) and not (origin in LISTS and isinstance(value, str))


def describe(hint: Any) -> str:
    """A declared type in words; that it may be none goes without saying."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(describe, list_kinds(hint)))
    if origin is Literal:
        return f"one of {', '.join(get_args(hint))}"
    names: dict[Any, str] = {Mapping: "`option: value` pairs"} | dict.fromkeys(LISTS, "a list of strings")
    return names.get(origin) or (PLAIN[hint][1] if hint in PLAIN else f"a {hint.__name__}")


def list_kinds(hint: Any) -> list[Any]:
    """The types that a declared one is made of, but for none."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [member for member in members if member is not NoneType]
