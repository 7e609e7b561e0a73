"""DeepFloyd IF's cleaning, which PixArt, Allegro and Latte share: made for captions from web pages.

Where a pattern of the original looks at a run of characters again from each of them, the one here looks once, from its
beginning, and finds the same.

The order of the steps matters, and each is as odd as the original: a scheme goes but a query stays, kana stay but
kanji go, and the strip before the last quotes are looked at has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_plus

from t5enc.recipes.cleaning.repair import fix_text, read_html, unescape_twice

Step = tuple[re.Pattern[str], str]

DOMAINS = "com|co|ru|net|org|edu|gov|it"
SUFFIXES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
HOST = rf"[a-zA-Z0-9.\-]+[.](?:{DOMAINS})[\w/-]*\b/?(?!@)"
IDEOGRAPHS = "\u31c0-\u31ef\u31f0-\u31ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u4dff\u4e00-\u9fff"
DASHES = (
    "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
PUNCTUATION = re.escape("#®•©™&@·º½¾¿¡§~()[]{}|\\/*")


def _steps(*pairs: tuple[str, str]) -> Sequence[Step]:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


LINKS = _steps(*((rf"\b(?:{scheme}:(?:/{{1,3}}|[a-zA-Z0-9%])|{HOST})", "") for scheme in ("https?", "www")))
SIGNS = _steps(
    (r"@\w+\b", ""),
    (f"[{IDEOGRAPHS}]", ""),
    (f"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
)
NUMBERS = _steps(
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"(?<!\S)\S+\.(?:{SUFFIXES})", ""),
)
RUNS = _steps(
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (f"[{PUNCTUATION}]+", " "),
    (r"(?<!\s)\s+\.\s+", " "),
)
JUNK = _steps(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{SUFFIXES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+(?:\.\d*)?[xх×]\d+(?:\.\d*)?\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
ENDS = _steps(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)
JOINERS = re.compile("[-_]")
# More of these than three, and they are word separators of a file's name.
MOST_JOINERS = 3


def clean_deepfloyd(text: str) -> str:
    """As the pipelines clean with `clean_caption`: twice, since the second time finds more."""
    once = clean_once(text)
    return once if once == text else clean_once(once)


def clean_once(text: str) -> str:
    """All steps in order."""
    text = unquote_plus(text).strip().lower().replace("<person>", "person")
    text = read_html(_apply(LINKS, text))
    text = _apply(RUNS, _apply(NUMBERS, _apply(SIGNS, text)))
    if len(JOINERS.findall(text)) > MOST_JOINERS:
        text = JOINERS.sub(" ", text)
    text = unescape_twice(fix_text(text))
    return _apply(ENDS, _apply(JUNK, text)).strip()


def _apply(steps: Sequence[Step], text: str) -> str:
    for pattern, replacement in steps:
        text = pattern.sub(replacement, text)
    return text
