"""What pictures are drawn on: an SVG that is dark where the reader's screen is, and text that needs no font file."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

# Light, dark. Text has a contrast of at least 4.5 on either ground.
COLORS = {
    "ground": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "faint": ("#59636e", "#9198a1"),
    "line": ("#8c959f", "#6e7681"),
    "box": ("#f6f8fa", "#161b22"),
    "own": ("#0969da", "#4493f8"),
    "peer": ("#8c959f", "#6e7681"),
    "bound": ("#d1d9e0", "#3d444d"),
}
RULES = """\
svg { background: var(--ground) }
text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: var(--ink) }
.title { font-size: 13px; font-weight: 600 }
.small { font-size: 11px }
.faint { font-size: 11px; fill: var(--faint) }
.middle { text-anchor: middle }
.end { text-anchor: end }
.box { fill: var(--box); stroke: var(--line) }
.arrow { fill: none; stroke: var(--line); stroke-width: 1.5; marker-end: url(#head) }
.head { fill: var(--line) }
.own { fill: var(--own) }
.peer { fill: var(--peer) }
.bound { fill: var(--bound) }
.grid { stroke: var(--bound) }
.curve { fill: none; stroke-width: 1.2; stroke-linejoin: round }
.stored { stroke: var(--own); stroke-width: 6; opacity: 0.4 }
.live { stroke: var(--ink) }
.blind { stroke: var(--peer); stroke-dasharray: 5 3 }"""


def draw_svg(width: int, height: int, title: str, elements: Iterable[str]) -> str:
    """An SVG of that size in pixels; `title` is what a reader hears who cannot see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label={quoteattr(title)}>',
            "<style>",
            _list_colors(0),
            f"@media (prefers-color-scheme: dark) {{ {_list_colors(1)} }}",
            RULES,
            "</style>",
            *elements,
            "</svg>\n",
        ]
    )


def _list_colors(scheme: int) -> str:
    return ":root { " + "; ".join(f"--{name}: {colors[scheme]}" for name, colors in COLORS.items()) + " }"


def draw_text(x: float, y: float, kind: str, words: str) -> str:
    """Words whose baseline is at y, in the style of one or more of RULES."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'
