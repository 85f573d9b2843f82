"""How sessions, answers, flash queries, streams and engines look in a notebook.

The core classes know nothing of IPython: `register` hands these functions to its formatters when
the extension is loaded, and `unregister` takes them back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from workbench.answer import Answer
from workbench.backtest import Backtest
from workbench.comparison import Diff
from workbench.flash.query import FlashQuery
from workbench.front import Engine
from workbench.metrics import EngineStats
from workbench.moment import Moment
from workbench.notebook.backtest_view import backtest_html, backtest_text
from workbench.notebook.markup import (
    ALARM,
    FAINT,
    INK,
    badge,
    colour_of,
    milliseconds,
    share_bar,
    text,
)
from workbench.session import Session
from workbench.streams.feed import Feed
from workbench.tick import Tick

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
        body = _choices_html(answer)
    first, *others = _numbers(answer)
    badges = badge(first, colour_of(2 if answer.from_flash else 0))
    badges += "".join(badge(words) for words in others)
    failed = answer.error is not None and answer.finish_reason != "cancelled"
    note = _note(f"{type(answer.error).__name__}: {answer.error}", ALARM) if failed else ""
    return f'<div style="max-width:760px">{body}<div>{badges}</div>{note}</div>'


def diff_text(diff: Diff) -> str:
    """Both answers, each with its session's name before it."""
    return "\n".join(f"{a.session_name}: {answer_text(a)}" for a in (diff.first, diff.second))


def diff_html(diff: Diff) -> str:
    """Both answers beside each other, and how much likelier each choice is to the second."""
    sides = "".join(
        f'<div style="flex:1 1 300px">{_bold(a.session_name)}{answer_html(a)}</div>'
        for a in (diff.first, diff.second)
    )
    title = f'<div style="color:{FAINT};overflow-wrap:anywhere">{text(diff.first.question)}</div>'
    moved = [f"{choice} {by:+.1%}" for choice, by in diff.shift.items()]
    badges = "".join(map(badge, ["the same" if diff.same else "different", *moved]))
    both = f'<div style="display:flex;flex-wrap:wrap;gap:4px 24px">{sides}</div>'
    return f'<div style="max-width:760px">{title}{both}<div>{badges}</div></div>'


def flash_text(query: FlashQuery) -> str:
    """What `repr` says."""
    return repr(query)


def flash_html(query: FlashQuery) -> str:
    """Its question, its latest answer, and how fresh that is."""
    named = "" if query.name == query.question else f"<b>{text(query.name)}</b> "
    title = f'<div style="color:{FAINT};overflow-wrap:anywhere">{named}{text(query.question)}</div>'
    facts = []
    if query.answer is None:
        facts.append("no answer yet")
    else:
        facts.append("fresh" if query.is_fresh else f"{_plural(query.age, 'tick')} old")
        facts.append(_plural(query.evaluations, "evaluation"))
    if query.removed:
        facts.append("removed")
    elif query.paused:
        facts.append("paused")
    shown = "" if query.answer is None else answer_html(query.answer)
    note = "" if query.error is None else _note(f"the latest failed: {query.error}", ALARM)
    badges = badge("flash", colour_of(2)) + "".join(map(badge, facts))
    return f'<div style="max-width:760px">{title}{shown}<div>{badges}</div>{note}</div>'


def session_text(session: Session) -> str:
    """What `repr` says."""
    return repr(session)


def session_html(session: Session) -> str:
    """Its name, how full it is, and what waits."""
    name = _bold(session.name)
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
    elif session.state != "open":
        facts.append(session.state)
    error = session.error
    note = "" if error is None else _note(f"{error}; session.retry() goes on", ALARM)
    return _with_bar(f"{name} {''.join(map(badge, facts))}", used) + note


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


def engine_text(engine: Engine) -> str:
    """What `repr` says."""
    return repr(engine)


def engine_html(engine: Engine) -> str:
    """What it runs, and how much of its pool is promised."""
    if engine.closed:
        return f"<div>{_bold(engine.model_name)} {badge('closed')}</div>"
    stats = engine.stats()
    taken = stats.num_cells - stats.free_cells
    facts = [
        f"{stats.dtype} on {stats.device}", _plural(len(stats.promised_cells), "session"),
        f"{taken:,} of {stats.num_cells:,} cells taken", _plural(stats.answers, "answer"),
    ]  # fmt: skip
    head = f"{_bold(stats.model)} {''.join(map(badge, facts))}"
    return _with_bar(head, taken / stats.num_cells)


def tick_text(tick: Tick) -> str:
    """What `repr` says."""
    return repr(tick)


def tick_html(tick: Tick) -> str:
    """How much came, and whether questions see it."""
    if tick.version is not None:
        state = f"visible as version {tick.version:,}"
    else:
        state = "queued" if tick.error is None else "failed"
    facts = [_plural(tick.rows, "row"), _plural(tick.num_tokens, "token"), state]
    note = "" if tick.error is None else _note(str(tick.error), ALARM)
    return f'<div style="max-width:520px">{"".join(map(badge, facts))}{note}</div>'


def feed_text(feed: Feed) -> str:
    """How many rows have gone in, and whether it goes on."""
    return f"stream: {_sent(feed)}, {_feed_state(feed)}"


def feed_html(feed: Feed) -> str:
    """The same, with a bar where its end is known."""
    facts = "".join(map(badge, ["stream", _sent(feed), _feed_state(feed)]))
    note = "" if feed.error is None else _note(str(feed.error), ALARM)
    if not feed.rows_total:
        return f'<div style="max-width:520px">{facts}{note}</div>'
    return _with_bar(facts, feed.rows_sent / feed.rows_total) + note


def moment_text(moment: Moment) -> str:
    """As people say it."""
    return f"as of {moment}"


def moment_html(moment: Moment) -> str:
    """The same as a badge."""
    return badge(moment_text(moment))


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


def flashes_frame(sessions: Iterable[Session]) -> pl.DataFrame:
    """One row per flash query: what it asks, its latest answer, and how fresh that is."""
    import polars as pl

    schema = {
        "session": pl.String, "name": pl.String, "question": pl.String, "choices": pl.String,
        "answer": pl.String, "confidence": pl.Float64, "version": pl.Int64, "age": pl.Int64,
        "evaluations": pl.Int64, "state": pl.String,
    }  # fmt: skip
    rows = []
    for query in (query for session in sessions for query in session.flash_queries):
        answer = query.answer
        rows.append(
            (query.session.name, query.name, query.question, ",".join(query.choices) or None,
             answer and answer.text, answer and answer.confidence, answer and answer.version,
             query.age if answer else None, query.evaluations, _flash_state(query))
        )  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def register(shell: Any) -> None:
    """Give these displays to an IPython shell."""
    formatters = shell.display_formatter.formatters
    for kind, function in _TEXT.items():
        formatters["text/plain"].for_type(kind, _pretty(function))
    for kind in _HTML:
        formatters["text/html"].for_type(kind, html_of)
    for kind in _DRAWN:
        shell.display_formatter.ipython_display_formatter.for_type(kind, _already_shown)


def unregister(shell: Any) -> None:
    """Take them back."""
    formatters = shell.display_formatter.formatters
    for kind in _TEXT:
        formatters["text/plain"].type_printers.pop(kind, None)
    for kind in _HTML:
        formatters["text/html"].type_printers.pop(kind, None)
    for kind in _DRAWN:
        shell.display_formatter.ipython_display_formatter.type_printers.pop(kind, None)


def bundle(value: Answer | Backtest) -> dict[str, str]:
    """Both forms of what is drawn while it comes, by MIME type."""
    return {"text/plain": _TEXT[type(value)](value), "text/html": html_of(value)}


def html_of(value: Any) -> str:
    """The HTML form of any of them, in which amounts of dollars are no formulas to JupyterLab."""
    return f'<div class="mathjax_ignore tex2jax_ignore">{_HTML[type(value)](value)}</div>'


# What was drawn as it came, and the cell it was drawn in: a cell that ends with it would show it
# twice.
_DRAWN = (Answer, Backtest, Feed)
_drawn: weakref.WeakKeyDictionary[Answer | Backtest | Feed, int] = weakref.WeakKeyDictionary()


def drawn(value: Answer | Backtest | Feed, cell: int) -> None:
    """Note that this cell has shown it already."""
    _drawn[value] = cell


def _already_shown(value: Answer | Backtest | Feed) -> None:
    """IPython shows an object itself unless this returns; it does for what is on screen."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None or _drawn.get(value) != shell.execution_count:
        raise NotImplementedError
    del _drawn[value]


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
    if answer.stateless:
        numbers.append(f"stateless, {answer.context:,} tokens" if answer.context else "stateless")
        if answer.shared_tokens:
            numbers.append(f"{answer.shared_tokens:,} of them computed before")
    elif answer.at is not None:
        numbers += [_as_of(answer), f"version {answer.version:,}, {answer.position:,} tokens"]
    elif answer.position >= 0:
        numbers.append(f"as of version {answer.version:,}, {answer.position:,} tokens")
    return numbers


def _as_of(answer: Answer) -> str:
    """The moment asked for; one counted from the end says where that was."""
    assert answer.at is not None
    said = moment_text(answer.at)
    return said if answer.at.number >= 0 or answer.row < 0 else f"{said}, row {answer.row:,}"


def _choices_html(answer: Answer) -> str:
    """Each choice and its probability, over which the pointer reads the calibrated one."""
    rows = []
    calibrated = answer.calibrated if answer.choice_temperature != 1 else {}
    for index, (name, chance) in enumerate(answer.probabilities.items()):
        weight = "bold" if name == answer.choice else "normal"
        hint = f' title="calibrated {calibrated[name]:.1%}"' if calibrated else ""
        rows.append(
            f'<div style="overflow-wrap:anywhere;font-weight:{weight};color:{INK}">{text(name)}'
            f'</div><div style="align-self:center">{share_bar([chance], [colour_of(index)], 8)}'
            f'</div><div style="color:{FAINT}"{hint}>{chance:.1%}</div>'
        )
    return (
        '<div style="display:grid;grid-template-columns:minmax(3em,max-content) minmax(80px,220px) '
        f'max-content;gap:1px 10px">{"".join(rows)}</div>'
    )


def _bold(words: str) -> str:
    return f'<b style="color:{INK};overflow-wrap:anywhere">{text(words)}</b>'


def _note(words: str, colour: str) -> str:
    """A sentence, which may be long, where a badge would not fit."""
    return f'<div style="color:{colour};overflow-wrap:anywhere">{text(words)}</div>'


def _with_bar(head: str, share: float) -> str:
    bar = share_bar([share], [colour_of(0)])
    return f'<div style="max-width:520px">{head}<div style="margin-top:4px">{bar}</div></div>'


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _sent(feed: Feed) -> str:
    total = "" if feed.rows_total is None else f" of {feed.rows_total:,}"
    return f"{feed.rows_sent:,}{total} rows"


def _feed_state(feed: Feed) -> str:
    if not feed.done:
        return "running"
    if feed.error is not None:
        return "failed"
    return "done" if feed.rows_total in (None, feed.rows_sent) else "stopped"


def _flash_state(query: FlashQuery) -> str:
    if query.paused:
        return "paused"
    if query.error is not None:
        return "failed"
    if query.answer is None:
        return "waiting"
    return "fresh" if query.is_fresh else "behind"


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
    Backtest: backtest_text,
    Diff: diff_text,
    Engine: engine_text,
    EngineStats: stats_text,
    Feed: feed_text,
    FlashQuery: flash_text,
    Moment: moment_text,
    Session: session_text,
    Tick: tick_text,
}
_HTML: dict[type, Callable[[Any], str]] = {
    Answer: answer_html,
    Backtest: backtest_html,
    Diff: diff_html,
    Engine: engine_html,
    EngineStats: stats_html,
    Feed: feed_html,
    FlashQuery: flash_html,
    Moment: moment_html,
    Session: session_html,
    Tick: tick_html,
}
