"""The dashboard's tables as HTML, from plain values; everything a user wrote is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence

from workbench.notebook.markup import (
    ALARM,
    COLOURS,
    QUIET,
    answers_strip,
    chances_strip,
    colour_of,
    milliseconds,
    share_bar,
    text,
)
from workbench.notebook.view_model import PAST, EngineLine, FlashRow, SessionRow

SHOWN = 60  # lines of a table; more would only be scrolled past

# The colours are JupyterLab's own, so both of its themes fit; the fallbacks are for other pages.
STYLE = f"""<style>
.workbench {{ --wb-ink: var(--jp-ui-font-color1, #24292f); container-type: inline-size;
  --wb-faint: var(--jp-ui-font-color2, #6b7280); --wb-line: var(--jp-border-color2, #d0d3d8);
  color: var(--wb-ink); min-width: 0; overflow: hidden; }}
.workbench .widget-html, .workbench .widget-html-content {{ width: 100%; margin: 0; min-width: 0;
  line-height: 1.35; height: auto; font-size: 13px; }}
.workbench table {{ border-collapse: collapse; width: 100%; table-layout: fixed; margin: 2px 0 10px;
  color: var(--wb-ink); font-size: 13px; }}
.workbench th {{ color: var(--wb-faint); font-weight: 500; font-size: 11px; text-align: left;
  padding: 3px 10px 3px 6px; border-bottom: 1px solid var(--wb-line); white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; background: none; }}
.workbench td {{ padding: 5px 10px 5px 6px; border-bottom: 1px solid var(--wb-line);
  vertical-align: middle; text-align: left; overflow: hidden; background: none; }}
.workbench .num {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.workbench .words {{ overflow-wrap: anywhere; display: -webkit-box; -webkit-line-clamp: 2;
  -webkit-box-orient: vertical; overflow: hidden; }}
.workbench .pair > .sub {{ flex: none; }}
.workbench .bar + .sub {{ margin-top: 3px; }}
.workbench .sub {{ color: var(--wb-faint); font-size: 11px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }}
.workbench .answer {{ font-weight: 600; }}
.workbench tr.changed {{ background: rgba(217, 122, 10, .16); }}
.workbench tr.changed td:first-child {{ box-shadow: inset 3px 0 0 {COLOURS[1]}; }}
.workbench .pair {{ display: flex; justify-content: space-between; gap: 8px;
  align-items: baseline; }}
.workbench .pair > :first-child {{ min-width: 0; }}
.workbench .title {{ font-weight: 600; font-size: 13px; padding-left: 6px; line-height: 28px; }}
.workbench .line {{ padding: 2px 6px 6px; color: var(--wb-faint); display: flex; flex-wrap: wrap;
  gap: 2px 16px; font-size: 12px; }}
.workbench .line b {{ color: var(--wb-ink); font-weight: 600; }}
.workbench .empty {{ padding: 4px 6px 12px; color: var(--wb-faint); }}
.workbench-head {{ align-items: center; justify-content: space-between; overflow: hidden; }}
.workbench-head .widget-html {{ width: auto; flex: 1 1 auto; }}
.workbench-head .widget-toggle-buttons {{ width: auto; flex: 0 0 auto; }}
.workbench-head button {{ height: 22px; line-height: 22px; font-size: 11px; }}
.workbench-plot {{ overflow: hidden; }}
.workbench-plot > * {{ flex: 1 1 auto; min-width: 0; width: 100%; }}
.workbench-plot text {{ fill: var(--jp-ui-font-color2, #6b7280) !important; }}
@container (max-width: 620px) {{ .workbench .wide {{ display: none; }} }}
</style>"""


def title_html(words: str) -> str:
    """A heading over a part."""
    return f'<div class="title">{text(words)}</div>'


def engine_html(line: EngineLine) -> str:
    """One line of numbers about the whole engine."""
    facts = [
        f"<b>{text(line.model)}</b> {text(line.dtype)} on {text(line.device)}",
        f"cells <b>{line.num_cells - line.free_cells:,}</b> of {line.num_cells:,} taken",
        f"ingesting <b>{line.ingest_rate:,.0f}</b> tokens/s",
        f"<b>{line.answers:,}</b> answers, {line.flash_hits:,} of them from flash",
        f"<b>{line.evaluations:,}</b> flash evaluations",
        f"first token <b>{milliseconds(line.ttft_ms)}</b> median",
    ]
    if line.state:
        facts.insert(0, f'<b style="color:{ALARM}">{text(line.state)}</b>')
    return f'<div class="line">{"".join(f"<span>{fact}</span>" for fact in facts)}</div>'


def sessions_html(rows: Sequence[SessionRow]) -> str:
    """The sessions: how full each is, and what waits."""
    if not rows:
        return f'{title_html("Sessions")}<div class="empty">none is open: engine.open("name")</div>'
    body = "".join(map(_session, rows[:SHOWN]))
    return (
        f"{title_html('Sessions')}<table><colgroup><col style='width:22%'><col>"
        "<col style='width:13%'><col style='width:13%'><col style='width:13%'>"
        "<col class='wide' style='width:14%'></colgroup>"
        "<tr><th>session</th><th>tokens</th><th class='num'>rows</th>"
        "<th class='num'>version</th><th class='num'>waiting</th>"
        f"<th class='num wide'>push to visible</th></tr>{body}</table>{_more(rows)}"
    )


def flash_html(rows: Sequence[FlashRow]) -> str:
    """The flash board: each standing question, what it answers now, and what it did before."""
    title = title_html("Flash queries")
    if not rows:
        return f'{title}<div class="empty">none yet: session.flash("Is the trend up?")</div>'
    body = "".join(map(_flash, rows[:SHOWN]))
    return (
        f"{title}<table><colgroup><col style='width:34%'><col style='width:26%'>"
        "<col style='width:10%'><col class='wide' style='width:11%'><col></colgroup>"
        "<tr><th>question</th><th>answer</th><th class='num'>age</th>"
        "<th class='num wide'>took</th><th>past answers</th></tr>"
        f"{body}</table>{_more(rows)}"
    )


_WINDOWS = {"error": "", "rebuild": ", then rebuilt", "evict": ", then the oldest leave"}


def _session(row: SessionRow) -> str:
    share = min(1.0, row.tokens / row.capacity)
    filling = row.overflow == "error" and share >= 0.9  # a window moves on; this one ends
    colour = ALARM if filling else colour_of(0)
    notes = [row.state] if row.state else []
    if row.dropped:
        notes.append(f"{row.dropped:,} rows dropped")
    sub = f'<div class="sub" style="color:{ALARM}">{text(", ".join(notes))}</div>' if notes else ""
    return (
        f'<tr><td><div class="words">{text(row.name)}</div>{sub}</td>'
        f'<td><div class="bar">{share_bar([share], [colour])}</div>'
        f'<div class="sub">{row.tokens:,} of {row.capacity:,}{_WINDOWS[row.overflow]}</div></td>'
        f'<td class="num">{row.rows:,}</td><td class="num">{row.version:,}</td>'
        f'<td class="num">{row.waiting:,}</td>'
        f'<td class="num wide">{milliseconds(row.lag_ms)}</td></tr>'
    )


def _flash(row: FlashRow) -> str:
    named = f"{row.session} \u00b7 {row.name}" if row.name != row.question else row.session
    state = f' <span style="color:{ALARM}">{text(row.state)}</span>' if row.state else ""
    ticks = f'<span class="wide"> tick{"s" * (row.age != 1)}</span>'
    age = "fresh" if row.age == 0 else f"{row.age:,}{ticks}"
    if row.text is None:
        answer, age = '<span class="sub">no answer yet</span>', "\u2013"
    else:
        shown = text(row.text.strip() or "(empty)")
        sure = "" if math.isnan(row.confidence) else f"{row.confidence:.0%}"
        answer = (
            f'<div class="pair"><span class="words answer" title="{text(row.text)}">{shown}</span>'
            f'<span class="sub">{sure}</span></div>{_bar(row)}'
        )
    return (
        f'<tr class="{"changed" if row.changed else ""}">'
        f'<td><div class="words" title="{text(row.question)}">{text(row.question)}</div>'
        f'<div class="sub">{text(named)}{state}</div></td><td>{answer}</td>'
        f'<td class="num">{age}</td>'
        f'<td class="num wide">{milliseconds(row.total_ms)}</td><td>{_strip(row)}</td></tr>'
    )


def _bar(row: FlashRow) -> str:
    if row.chances:
        return share_bar(row.chances, [colour_of(index) for index in range(len(row.chances))])
    return share_bar([row.confidence], [QUIET])


def _strip(row: FlashRow) -> str:
    if not row.past:
        return ""
    title = f"the last {len(row.past)} of {row.evaluations:,} answers"
    if len(row.choices) == 2:
        return chances_strip(
            [answer.chances[0] for answer in row.past], PAST,
            f"{title}: above the line {row.choices[0]!r}, below {row.choices[1]!r}",
        )  # fmt: skip
    shades = [
        (answer.choice if row.choices else answer.shade, answer.confidence) for answer in row.past
    ]
    return answers_strip(shades, PAST, f"{title}: as high as the confidence, a colour per answer")


def _more(rows: Sequence[object]) -> str:
    hidden = len(rows) - SHOWN
    return f'<div class="empty">and {hidden:,} more</div>' if hidden > 0 else ""
