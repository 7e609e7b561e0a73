"""ftfy and BeautifulSoup as the cleaning routines call them: not at all where they would change nothing.

Both take tens of microseconds of plain text, and most captions are plain.
"""

from __future__ import annotations

import html
import warnings
from importlib import import_module
from typing import Any

from t5enc.errors import ConfigError


def fix_text(text: str) -> str:
    """ftfy.fix_text: repaired encodings, straight quotes, no ligatures, NFC. Printable ASCII has none of that."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    fixed: str = _require("ftfy", "ftfy").fix_text(text)
    return fixed


def unescape_twice(text: str) -> str:
    """HTML's entities as characters, and those of escaped entities."""
    return html.unescape(html.unescape(text))


def read_html(text: str) -> str:
    """The text of what may be HTML. Without tags, entities and what parsers replace it is that."""
    if not any(sign in text for sign in "<&\0\r"):
        return text
    soup = _require("bs4", "beautifulsoup4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", soup.MarkupResemblesLocatorWarning)
        content: str = soup.BeautifulSoup(text, features="html.parser").text
    return content


def check_libraries(clean: str) -> None:
    """ConfigError where a routine's library is missing: other text than the pipeline's would be encoded."""
    for module, package in {"wan": NEEDED[:1], "if": NEEDED}.get(clean, ()):
        _require(module, package)


NEEDED = (("ftfy", "ftfy"), ("bs4", "beautifulsoup4"))


def _require(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f'recipe: its cleaning needs {package}, which is not installed: pip install "t5enc[recipes]"'
        ) from error
