"""The tables of the race, for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.bench.machine import called
from workbench.bench.race import tables_more
from workbench.bench.race.equality import agreed
from workbench.bench.race.options import MIX, SINGLE, STANDING
from workbench.bench.race.plan import CHOICE, OURS, main_answer
from workbench.bench.race.report import MOST_DRIFT
from workbench.bench.race.tables_more import ms
from workbench.bench.result import table as columns

Kind = tuple[int, str]  # bars between questions, answer


def table(result: Mapping[str, Any]) -> str:
    """For people: who raced and who did not, then a block of medians per kind of question."""
    model, bandwidth = result["model"], result["bandwidth"]
    lines = [
        f"{model['name']}, {model['parameters'] / 1e6:,.1f} M parameters, {model['dtype']}, "
        f"{called(result['machine'])}",
        f"bandwidth {bandwidth['bytes_per_s'] / 1e9:.1f} GB/s at best, "
        f"{bandwidth['lowest'] / 1e9:.1f} at least",
    ]
    if result["settings"].get("together"):
        lines[-1] += "; engines took turns, question by question"
        if bandwidth["varied"] > MOST_DRIFT:
            lines[-1] += ", so shares of one another's times say more than milliseconds"
    if bandwidth["drifted"]:
        lines.append(
            f"it drifted by more than {MOST_DRIFT:.0%} in the turn of "
            f"{', '.join(bandwidth['drifted'])}: do not rely on those times"
        )
    lines += ["", *_peers(result)]
    kinds: list[Kind] = sorted(
        {(cell["between"], cell["answer"]) for cell in result["cells"]}, key=_order
    )
    for kind in kinds:
        lines += ["", *_block(result, kind)]
    if kinds:
        lines += ["", *_arrivals(result), "", *_spread(result)]
        lines.append(f"a blank: not asked, or not reached in {result['settings']['budget_s']:g} s")
    lines += tables_more.standing(result)
    lines += tables_more.mix(result)
    return "\n".join(lines)


def _peers(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for peer in result["peers"]:
        checks: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for part, of in {SINGLE: peer, STANDING: peer.get(STANDING), MIX: peer.get(MIX)}.items():
            for equality in of["equality"] if of else ():
                checks[equality["system"]].append(equality | {"part": part})
        for system in peer["systems"]:
            rows.append([system, _types(peer), *_agreement(checks[system]), _note(peer)])
    heads = ["system", "weights, cache", "differs by", "other tokens", ""]
    return [columns(heads, rows)]


def _types(peer: Mapping[str, Any]) -> str:
    opened = peer.get("opened", {})
    return f"{opened['weights']}, {opened['cache']}" if "weights" in opened else ""


def _agreement(checks: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """How far a system's answers are off, and where they were wrong; tokens that differ."""
    differences = [c["max_difference"] for c in checks if c["max_difference"] is not None]
    off = f"{max(differences):.3f}" if differences else ""
    for part, where in ((SINGLE, ""), (STANDING, " as standing questions"), (MIX, " in the mix")):
        own = [check for check in checks if check["part"] == part]
        if own and not agreed(own):
            off += f" WRONG{where}, not measured"
    margins = [item["margin"] for check in checks for item in check["disagreements"]]
    others = f"{len(margins)}, by up to {max(margins):.3f}" if margins else ""
    return off, others


def _note(peer: Mapping[str, Any]) -> str:
    said = [f"did not finish: {peer['failed']}"] if peer["failed"] else []
    if peer.get("mix") and peer["mix"]["failed"]:
        said.append(f"did not finish the mix: {peer['mix']['failed']}")
    if peer.get("mix"):
        for system, reason in peer["mix"].get("not_counted", {}).items():
            said.append(f"{system} not counted in the mix: {reason}")
    if peer.get("tried"):
        said.append(f"raced again on {peer['tried']['began'][:10]}: {peer['tried']['failed']}")
    return "; ".join(said)


def _block(result: Mapping[str, Any], kind: Kind) -> list[str]:
    """Medians of one kind of question: a line per system, a column per context."""
    contexts = result["settings"]["contexts"]
    at = {
        (cell["system"], cell["context"]): cell
        for cell in result["cells"]
        if (cell["between"], cell["answer"]) == kind
    }
    slopes = {
        item["system"]: item
        for item in result["slopes"]
        if (item["between"], item["answer"]) == kind
    }
    rows = []
    for system in dict.fromkeys(name for name, _ in at):
        row = [system]
        for context in contexts:
            cell = at.get((system, context))
            row += ["", ""] if cell is None else [ms(cell["total_ms"]["p50"]), _times(cell)]
        found = slopes.get(system)
        row.append("" if found is None else f"{found['ms_per_1000_tokens']:.2f}")
        rows.append(row)
    least = [at[key]["floor_ms"] if key in at else None for key in ((OURS, c) for c in contexts)]
    if any(least):
        row = ["floor"]
        for value in least:
            row += ["" if value is None else ms(value), ""]
        found = slopes.get(OURS)
        rows.append([*row, f"{found['floor_ms_per_1000_tokens']:.2f}" if found else ""])
    heads = ["", *(head for c in contexts for head in (f"{c:,}", "x floor")), "ms/1,000"]
    return [f"{_title(kind)}; median ms to the last token", columns(heads, rows)]


def _arrivals(result: Mapping[str, Any]) -> list[str]:
    """What a bar costs when it arrives, and with its share of the questions, after one bar."""
    found = {
        key: [ms(cell["arrival_ms"]), ms(cell["work_ms_per_bar"])]
        for key, cell in _main_cells(result).items()
    }
    title = "median ms of compute per bar that arrives, and with the question that follows it"
    return [title, _by_context(result, found, ["", "+ asked"])]


def _spread(result: Mapping[str, Any]) -> list[str]:
    """Time to the first token, and how far it and the time to the last spread, after one bar."""
    found = {
        key: [
            *(ms(cell["ttft_ms"][p]) for p in ("p50", "p90", "p99")),
            *(ms(cell["total_ms"][p]) for p in ("p90", "p99")),
        ]
        for key, cell in _main_cells(result).items()
    }
    title = f"ms to the first token and to the last, {_title(_main_kind(result))}; percentiles"
    return [title, _by_context(result, found, ["first 50", "90", "99", "last 90", "99"])]


def _main_kind(result: Mapping[str, Any]) -> Kind:
    settings = result["settings"]
    return settings["between"][0], main_answer(settings["answers"])


def _main_cells(result: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """By system and context, what everyone is asked."""
    kind = _main_kind(result)
    return {
        (cell["system"], cell["context"]): cell
        for cell in result["cells"]
        if (cell["between"], cell["answer"]) == kind
    }


def _by_context(
    result: Mapping[str, Any], found: Mapping[tuple[str, int], list[str]], heads: Sequence[str]
) -> str:
    """A line per system, and for each context the same columns."""
    contexts = result["settings"]["contexts"]
    blank = [""] * len(heads)
    rows = [
        [system, *(text for c in contexts for text in found.get((system, c), blank))]
        for system in dict.fromkeys(name for name, _ in found)
    ]
    titles = [f"{c:,} {head}".strip() for c in contexts for head in heads]
    return columns(["", *titles], rows)


def _title(kind: Kind) -> str:
    between, answer = kind
    bars = "a bar" if between == 1 else f"{between} bars"
    if answer == CHOICE:
        return f"a choice of two after {bars}"
    return f"{answer} token{'' if answer == '1' else 's'} after {bars}"


def _order(kind: Kind) -> tuple[int, bool, int]:
    between, answer = kind
    return between, answer == CHOICE, 0 if answer == CHOICE else int(answer)


def _times(cell: Mapping[str, Any]) -> str:
    return f"{cell['over_floor']:.2f}" if "over_floor" in cell else ""
