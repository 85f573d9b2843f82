"""How sessions, answers, flash queries and engines look in a notebook.

The core classes know nothing of IPython: `register` hands these functions to its formatters when
the extension is loaded, and `unregister` takes them back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.answer import Answer
from workbench.flash.query import FlashQuery
from workbench.front import Engine
from workbench.metrics import EngineStats
from workbench.notebook.markup import (
    FAINT,
    INK,
    badge,
    colour_of,
    milliseconds,
    share_bar,
    text,
)
from workbench.session import Session

if TYPE_CHECKING:
    import polars as pl


def answer_text(answer: Answer) -> str:
    """The answer's words, then one line of numbers."""
    return f"{answer.text}\n[{' | '.join(_numbers(answer))}]"


def answer_html(answer: Answer) -> str:
    """The answer's words, probabilities if it was a closed question, and badges of numbers."""
    words = text(answer.text) or "&nbsp;"
    cursor = "" if answer.done else f'<span style="color:{FAINT}">\u258d</span>'
    body = (
        f'<div style="color:{INK};font-size:15px;white-space:pre-wrap;overflow-wrap:anywhere">'
        f"{words}{cursor}</div>"
    )
    if answer.choice is not None:
        body = _choices_html(answer.probabilities, answer.choice)
    first, *others = _numbers(answer)
    badges = badge(first, colour_of(2 if answer.from_flash else 0))
    badges += "".join(badge(words) for words in others)
    return f'<div style="max-width:760px">{body}<div>{badges}</div></div>'


def flash_text(query: FlashQuery) -> str:
    """What `repr` says."""
    return repr(query)


def flash_html(query: FlashQuery) -> str:
    """Its question, its latest answer, and how fresh that is."""
    title = f'<div style="color:{FAINT}">{text(query.question)}</div>'
    if query.answer is None:
        state = f"failed: {query.error}" if query.error is not None else "no answer yet"
        return f'<div style="max-width:760px">{title}{badge("flash")}{badge(state)}</div>'
    fresh = "fresh" if query.is_fresh else f"{query.age} ticks old"
    count = f"{query.evaluations:,} evaluations"
    extra = badge(fresh) + badge(count) + (badge("paused") if query.paused else "")
    return f"<div>{title}{answer_html(query.answer)}{extra}</div>"


def session_text(session: Session) -> str:
    """What `repr` says."""
    return repr(session)


def session_html(session: Session) -> str:
    """Its name, how full it is, and what waits."""
    name = f'<b style="color:{INK}">{text(session.name)}</b>'
    if session.closed:
        return f"<div>{name} {badge('closed')}</div>"
    used = min(1.0, session.cells_used / session.capacity)
    facts = [
        f"version {session.version:,}", f"{session.rows:,} rows",
        f"{session.cells_used:,} of {session.capacity:,} tokens",
        f"{session.pending_rows:,} rows waiting", f"{len(session.flash_queries)} flash queries",
    ]  # fmt: skip
    if session.window_rows != session.rows:
        facts.append(f"the last {session.window_rows:,} rows in view")
    if session.state == "evicted":
        facts.append(f"evicted, about {milliseconds(1e3 * session.return_cost_s)} to return")
    elif session.error is not None:
        facts.append(f"stands still: {session.error}")
    elif session.state != "open":
        facts.append(session.state)
    bar = share_bar([used], [colour_of(0)])
    return (
        f'<div style="max-width:520px">{name} {"".join(map(badge, facts))}'
        f'<div style="margin-top:4px">{bar}</div></div>'
    )


def stats_text(stats: EngineStats) -> str:
    """A short table of what an engine holds and has done."""
    return "\n".join(f"{name:<18} {value}" for name, value in _stats(stats))


def stats_html(stats: EngineStats) -> str:
    """The same as an HTML table."""
    rows = "".join(
        f'<tr><td style="text-align:left;color:{FAINT}">{text(name)}</td>'
        f'<td style="text-align:left;color:{INK}">{text(value)}</td></tr>'
        for name, value in _stats(stats)
    )
    return f"<table>{rows}</table>"


def engine_html(engine: Engine) -> str:
    """What it runs, and how much of its pool is promised."""
    if engine.closed:
        return f"<div><b>{text(engine.model_name)}</b> {badge('closed')}</div>"
    stats = engine.stats()
    taken = stats.num_cells - stats.free_cells
    facts = [
        f"{stats.dtype} on {stats.device}", f"{len(stats.promised_cells)} sessions",
        f"{taken:,} of {stats.num_cells:,} cells taken", f"{stats.answers:,} answers",
    ]  # fmt: skip
    return (
        f'<div style="max-width:520px"><b style="color:{INK}">{text(stats.model)}</b> '
        f"{''.join(map(badge, facts))}"
        f'<div style="margin-top:4px">{share_bar([taken / stats.num_cells], [colour_of(0)])}'
        "</div></div>"
    )


def sessions_frame(engine: Engine | None) -> pl.DataFrame:
    """One row per open session: its sizes, what waits, and its flash queries."""
    import polars as pl

    schema = {
        "session": pl.String, "version": pl.Int64, "rows": pl.Int64, "tokens": pl.Int64,
        "budget": pl.Int64, "waiting": pl.Int64, "dropped": pl.Int64, "flash": pl.Int64,
        "state": pl.String,
    }  # fmt: skip
    rows = [
        (s.name, s.version, s.rows, s.position, s.budget, s.pending_rows, s.dropped_rows,
         len(s.flash_queries), s.state)
        for s in (engine.sessions.values() if engine is not None else ())
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def register(shell: Any) -> None:
    """Give these displays to an IPython shell."""
    formatters = shell.display_formatter.formatters
    for kind, function in _TEXT.items():
        formatters["text/plain"].for_type(kind, _pretty(function))
    for kind, function in _HTML.items():
        formatters["text/html"].for_type(kind, function)
    shell.display_formatter.ipython_display_formatter.for_type(Answer, _already_shown)


def unregister(shell: Any) -> None:
    """Take them back."""
    formatters = shell.display_formatter.formatters
    for kind in _TEXT:
        formatters["text/plain"].type_printers.pop(kind, None)
    for kind in _HTML:
        formatters["text/html"].type_printers.pop(kind, None)
    shell.display_formatter.ipython_display_formatter.type_printers.pop(Answer, None)


def bundle(answer: Answer) -> dict[str, str]:
    """Both forms of an answer, by MIME type."""
    return {"text/plain": answer_text(answer), "text/html": answer_html(answer)}


# Answers that were drawn as they came, and the cell they were drawn in: a cell that ends with one
# would show it twice.
_drawn: weakref.WeakKeyDictionary[Answer, int] = weakref.WeakKeyDictionary()


def drawn(answer: Answer, cell: int) -> None:
    """Note that this cell has shown the answer already."""
    _drawn[answer] = cell


def _already_shown(answer: Answer) -> None:
    """IPython shows an object itself unless this returns; it does for what is on screen."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None or _drawn.get(answer) != shell.execution_count:
        raise NotImplementedError
    del _drawn[answer]


def _numbers(answer: Answer) -> list[str]:
    """What stands beside an answer, the latency first."""
    if not answer.done:
        if answer.token_ids:
            return [f"first token {milliseconds(answer.ttft_ms)}", "decoding"]
        return ["waiting"]
    if answer.error is not None and answer.finish_reason != "cancelled":
        return ["failed"]
    if answer.from_flash:
        numbers = [f"flash {milliseconds(answer.total_ms)}"]
    elif answer.choice is not None:
        numbers = [milliseconds(answer.total_ms)]
    else:
        first, total = milliseconds(answer.ttft_ms), milliseconds(answer.total_ms)
        numbers = [f"first token {first}, all {total}"]
    if answer.finish_reason == "cancelled":
        numbers.append("stopped")
    if answer.token_ids:
        numbers.append(f"confidence {answer.confidence:.2f}")
    if answer.position >= 0:
        numbers.append(f"as of version {answer.version:,}, {answer.position:,} tokens")
    return numbers


def _choices_html(probabilities: dict[str, float], choice: str) -> str:
    rows = []
    for index, (name, chance) in enumerate(probabilities.items()):
        weight = "bold" if name == choice else "normal"
        rows.append(
            f'<div style="overflow-wrap:anywhere;font-weight:{weight};color:{INK}">{text(name)}'
            f'</div><div style="align-self:center">{share_bar([chance], [colour_of(index)], 8)}'
            f'</div><div style="color:{FAINT}">{chance:.1%}</div>'
        )
    return (
        '<div style="display:grid;grid-template-columns:minmax(3em,max-content) minmax(80px,220px) '
        f'max-content;gap:1px 10px">{"".join(rows)}</div>'
    )


def _stats(stats: EngineStats) -> list[tuple[str, str]]:
    held = ", ".join(f"{name} {cells:,}" for name, cells in stats.promised_cells.items())
    return [
        ("model", f"{stats.model}, {stats.dtype} on {stats.device}"),
        ("cells", f"{stats.free_cells:,} of {stats.num_cells:,} free"),
        ("cache", f"{stats.kv_bytes / 1e6:,.0f} MB"),
        ("sessions", held or "none"),
        ("ingested", f"{stats.ticks:,} ticks, {stats.ingested_tokens:,} tokens"),
        ("shared", f"{stats.shared_tokens:,} tokens needed no computing"),
        ("in idle time", f"{stats.background_tokens:,} tokens; {stats.rebuilds:,} windows rebuilt, "
                         f"{stats.returns:,} of {stats.evictions:,} evicted sessions back"),
        ("dropped rows", f"{stats.dropped_rows:,}"),
        ("steps", f"{stats.steps:,}"),
        ("answers", f"{stats.answers:,}, of them {stats.flash_hits:,} from flash"),
        ("guessed tokens", f"{stats.accepted_tokens:,} of {stats.drafted_tokens:,} right"),
        ("flash evaluations", f"{stats.flash_evaluations:,}"),
        ("first token", f"p50 {milliseconds(stats.ttft_ms_p50)}, "
                        f"p95 {milliseconds(stats.ttft_ms_p95)}"),
        ("push to visible", f"p50 {milliseconds(1e3 * stats.lag_s_p50)}, "
                            f"p95 {milliseconds(1e3 * stats.lag_s_p95)}"),
    ]  # fmt: skip


def _pretty(function: Callable[[Any], str]) -> Callable[[Any, Any, bool], None]:
    return lambda thing, printer, cycle: printer.text(function(thing))


_TEXT: dict[type, Callable[[Any], str]] = {
    Answer: answer_text,
    FlashQuery: flash_text,
    Session: session_text,
    EngineStats: stats_text,
}
_HTML: dict[type, Callable[[Any], str]] = {
    Answer: answer_html,
    FlashQuery: flash_html,
    Session: session_html,
    EngineStats: stats_html,
    Engine: engine_html,
}
