"""What ``%stateful help`` prints: every command, or one with its options and its Python."""

from __future__ import annotations

import textwrap

from workbench.notebook.commands import CELL, COMMANDS, Command

WIDTH = 88  # letters that fit into a narrow cell


def help_text(topic: str = "") -> str:
    """The help of a command, of "cell", or of everything."""
    if topic == "cell":
        return _one("%%stateful", CELL)
    if topic:
        return _one(f"%stateful {topic}", COMMANDS[topic])
    commands = [(f"{name} {entry.takes}".rstrip(), entry.says) for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            "%stateful COMMAND, one of",
            "",
            _columns(commands),
            "",
            "%%stateful [NAME] with a question below it asks, and shows the answer as it comes;",
            "with --push, --flash or --backtest EVERY it does that with the cell's text.",
            "",
            "Without NAME the session used last is meant. {name} in a question is the variable's",
            "value. %stateful help COMMAND has a command's options and the same in Python.",
        ]
    )


def _one(called: str, command: Command) -> str:
    parts = [f"{called} {command.takes}".rstrip(), command.says]
    if command.more:
        parts.append(command.more)
    if command.options:
        options = [(f"{o.name} {o.value}".rstrip(), o.says) for o in command.options]
        parts.append(_columns(options))
    parts.append("For example:\n" + textwrap.indent(command.example, "  "))
    parts.append("In Python:\n" + textwrap.indent(command.python, "  "))
    return "\n\n".join(parts)


def _columns(rows: list[tuple[str, str]]) -> str:
    """What is written, and beside it what it does."""
    width = max(len(left) for left, _ in rows)
    lines = []
    for left, right in rows:
        first, *more = textwrap.wrap(right, WIDTH - width - 4)
        lines.append(f"  {left:<{width}}  {first}")
        lines += [" " * (width + 4) + line for line in more]
    return "\n".join(lines)
