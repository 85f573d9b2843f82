"""Small pieces of HTML: escaped text, badges, bars, strips of past answers, and their colours."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

# Told apart by colour-blind readers (after Okabe and Ito), lightened or darkened to 3:1 or more on
# white and on JupyterLab's dark grey alike.
COLOURS = ("#2a82c9", "#d97a0a", "#0f9b77", "#b765a3", "#8a7a1f", "#3aa0c0")
QUIET = "#7f868e"
ALARM = "#d9503f"

# JupyterLab's own, or what can be read on any ground.
INK = "var(--jp-ui-font-color1, inherit)"
FAINT = f"var(--jp-ui-font-color2, {QUIET})"
LINE = "var(--jp-border-color2, rgba(127, 134, 142, 0.4))"
FILL = "var(--jp-layout-color2, rgba(127, 134, 142, 0.15))"


def text(value: object) -> str:
    """Anything as HTML text: a user's words never become tags or attributes."""
    return html.escape(str(value), quote=True)


def milliseconds(ms: float) -> str:
    """``0.04 ms``, ``12.3 ms``, ``1.50 s``; a dash where there is no number."""
    if math.isnan(ms):
        return "\u2013"
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    return f"{ms:.2f} ms" if ms < 1 else f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"


def badge(words: str, colour: str = QUIET) -> str:
    """A short note in a frame."""
    return (
        f'<span style="display:inline-block;border:1px solid {colour};border-radius:9px;'
        f"padding:0 7px;margin:2px 4px 0 0;font-size:11px;line-height:16px;color:{FAINT};"
        f'white-space:nowrap">{text(words)}</span>'
    )


def share_bar(shares: Sequence[float], colours: Sequence[str], height: int = 6) -> str:
    """Shares of 1 side by side; what is left over stays empty."""
    parts = "".join(
        f'<div style="width:{100 * min(max(share, 0.0), 1.0):.1f}%;background:{colour}"></div>'
        for share, colour in zip(shares, colours, strict=False)
    )
    return (
        f'<div style="display:flex;height:{height}px;border-radius:{height // 2}px;overflow:hidden;'
        f'background:{FILL};min-width:48px">{parts}</div>'
    )


def colour_of(index: int) -> str:
    """The colour of the choice at this place."""
    return COLOURS[index % len(COLOURS)]


def chances_strip(chances: Sequence[float], slots: int, title: str) -> str:
    """Past probabilities of the first of two choices, oldest left: up in its colour, else down.

    The middle line is one half, so which answer won is read from the side, not only the colour.
    """
    up, down = [], []
    for at, chance in enumerate(chances, start=slots - len(chances)):
        size = round(10 * (2 * chance - 1), 1)
        if size >= 0:
            up.append(f"M{at * 4} 11v{-max(size, 1.2)}h3v{max(size, 1.2)}z")
        else:
            down.append(f"M{at * 4} 11v{max(-size, 1.2)}h3v{-max(-size, 1.2)}z")
    middle = f'<path d="M0 11h{slots * 4}" stroke="{LINE}" stroke-width=".6"/>'
    return _strip(slots, title, [(up, COLOURS[0]), (down, COLOURS[1])], middle)


def answers_strip(runs: Iterable[tuple[int, float]], slots: int, title: str) -> str:
    """Past answers as ``(colour's index, confidence)``, oldest left, as high as the confidence."""
    paths: dict[int, list[str]] = {}
    answers = list(runs)
    for at, (colour, confidence) in enumerate(answers, start=slots - len(answers)):
        size = round(max(1.5, 20 * confidence), 1)
        paths.setdefault(colour, []).append(f"M{at * 4} 21v{-size}h3v{size}z")
    return _strip(slots, title, [(path, colour_of(index)) for index, path in paths.items()])


def _strip(
    slots: int, title: str, paths: list[tuple[list[str], str]], under: str = ""
) -> str:
    drawn = "".join(f'<path d="{"".join(d)}" fill="{colour}"/>' for d, colour in paths if d)
    return (
        f'<svg viewBox="0 0 {slots * 4} 22" preserveAspectRatio="none" role="img" '
        f'aria-label="{text(title)}" style="display:block;width:100%;height:22px">'
        f"<title>{text(title)}</title>{under}{drawn}</svg>"
    )
