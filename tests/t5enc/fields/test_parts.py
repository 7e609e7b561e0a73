"""Dataclasses in one another, asked for by one flat list of names."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5enc.errors import ConfigError
from t5enc.fields.parts import fill, list_options, list_values, show_names, without


@show_names
@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A part."""

    power: int
    fuel: str = "wood"
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, **options: Any) -> None:
        fill(self, options)

    def __post_init__(self) -> None:
        if self.power < 1:
            raise ConfigError(f"power: expected at least 1, got {self.power}")


@show_names
@dataclass(frozen=True, slots=True, kw_only=True)
class Ship:
    """A whole."""

    engine: Engine = field(metadata=without("notes", where="engine: "))
    name: str | None = None
    speed: float = 1.0
    is_armed: bool = True

    def __init__(self, **options: Any) -> None:
        fill(self, options)

    def __post_init__(self) -> None:
        """Nothing to be checked."""


def test_names_of_a_part_stand_beside_those_of_the_whole() -> None:
    ship = Ship(power=3, name="Beagle")
    assert ship == Ship(engine=Engine(power=3), name="Beagle")
    assert list(list_options(Ship)) == ["power", "fuel", "name", "speed", "is_armed"]
    assert list_values(ship) == {"power": 3, "fuel": "wood", "name": "Beagle", "speed": 1.0, "is_armed": True}
    assert pickle.loads(pickle.dumps(ship)) == ship


def test_names_beside_a_whole_part_take_the_place_of_what_it_says() -> None:
    ship = Ship(engine=Engine(power=3, notes={"a": 1}))
    for changed in (replace(ship, **{"fuel": "coal"}), Ship(engine=ship.engine, fuel="coal")):
        assert changed.engine == Engine(power=3, fuel="coal", notes={"a": 1})
    assert replace(ship, name="Fram").engine is ship.engine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 3, "wings": 2}, "wings: no such option; expected one of power, fuel, name, speed, is_armed"),
        ({"power": 3, "notes": {}}, "notes: no such option; expected one of power, fuel, name, speed, is_armed"),
        ({"name": "Fram"}, "engine: power: expected a value, got none"),
        ({"power": "3"}, "engine: power: expected a whole number, got '3'"),
        ({"power": 0}, "engine: power: expected at least 1, got 0"),
        ({"power": 3, "name": 5}, "name: expected a string, got 5"),
        ({"engine": 5}, "engine: expected a Engine, got 5"),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Ship(**options)
    assert str(refused.value) == message


def test_what_a_part_holds_is_read_under_its_own_name() -> None:
    ship = Ship(power=3, name="Beagle")
    assert {name: getattr(ship, name) for name in list_options(Ship)} == list_values(ship)
    for name in ("notes", "wings"):
        with pytest.raises(AttributeError, match=name):
            getattr(ship, name)
    with pytest.raises((AttributeError, TypeError)):  # which frozen dataclasses with slots raise for what is no field
        ship.power = 4


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, replace, lambda ship: pickle.loads(pickle.dumps(ship))])
def test_names_that_can_be_read_are_no_fields(again: Callable[[Ship], Ship]) -> None:
    ship = Ship(power=3, name="Beagle")
    assert (again(ship), again(ship).power, repr(again(ship))) == (ship, 3, repr(ship))
    assert "power=3, fuel='wood', notes={}), name='Beagle'" in repr(ship)
    assert [entry.name for entry in fields(ship)] == ["engine", "name", "speed", "is_armed"]


def test_paths_and_numbers_of_other_libraries_become_pythons_own() -> None:
    engine = Engine(power=np.int64(3), fuel=Path("wood"))
    assert (type(engine.power), engine.fuel) == (int, "wood")


def test_a_float_of_numpys_is_a_number_and_no_whole_one() -> None:
    for kind in (np.float16, np.float32, np.float64):
        ship = Ship(power=3, speed=kind(0.5))
        assert (type(ship.speed), ship.speed) == (float, 0.5)
        with pytest.raises(ConfigError, match=r"^engine: power: expected a whole number, got 3\.0$"):
            Ship(power=kind(3))


def test_none_of_a_truth_is_its_default() -> None:
    assert Ship(power=3, is_armed=None) == Ship(power=3)
    assert Ship(power=3, is_armed=False) != Ship(power=3)


def test_help_shows_the_flat_names() -> None:
    shown = "(*, power: 'int', fuel: 'str' = 'wood', name: 'str | None' = None, speed: 'float' = 1.0, "
    assert str(inspect.signature(Ship)) == shown + "is_armed: 'bool' = True)"
