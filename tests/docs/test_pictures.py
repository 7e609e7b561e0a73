"""The pictures of the documentation are what their texts and figures give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.pictures.__main__ import FIGURES, HERE, draw_all

PAGE = (HERE.parent / "benchmarks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "content"), list(draw_all()), ids=lambda value: getattr(value, "name", ""))
def test_a_picture_is_what_is_drawn_from_its_text(path: Path, content: str) -> None:
    assert path.read_text(encoding="utf-8") == content, "python -m docs.pictures draws it again"
    assert "prefers-color-scheme: dark" in content
    assert "http" not in content.replace("http://www.w3.org/2000/svg", "")
    ElementTree.fromstring(content)


def test_every_figure_of_the_chart_stands_in_the_tables() -> None:
    for panel in json.loads(FIGURES.read_text(encoding="utf-8"))["panels"]:
        assert panel["command"] in PAGE
        for row in panel["rows"]:
            assert re.search(rf"\b{row['figure']:,}\b", PAGE), row
