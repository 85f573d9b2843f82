"""Completion of ``%stateful``: commands, names of open sessions, options and their values."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from IPython.core.completer import SimpleCompletion, context_matcher

from workbench.front import current_engine
from workbench.notebook.options import CELL_OPTIONS, COMMANDS, FLAGS, VALUES

_MAGIC = re.compile(r"(?P<magic>%%?)stateful(?P<rest>\s.*|)$")
_NAMED = ("use", "close", "ask", "push", "flash")  # commands that begin with a session's name


def suggestions(before: str, sessions: Collection[str]) -> list[str]:
    """Words that may stand at the end of a line, complete; none if the line is not the magic's.

    Args:
        before: the line up to the cursor.
        sessions: names of the open sessions.
    """
    found = _MAGIC.search(before)
    if found is None or not found["rest"]:
        return []
    *done, token = re.split(r"\s+", found["rest"].lstrip())
    in_cell = found["magic"] == "%%"
    if done and done[-1] in VALUES:
        words = list(VALUES[done[-1]])
    elif done and done[-1].startswith("-") and done[-1] not in FLAGS:
        return []
    elif in_cell:
        words = [*(() if done else sessions), *CELL_OPTIONS]
    elif not done:
        words = list(COMMANDS)
    else:
        names = sessions if len(done) == 1 and done[0] in _NAMED else ()
        words = [*names, *COMMANDS.get(done[0], ())]
    return [w for w in words if w.startswith(token) and (w in VALUES or w not in done)]


@context_matcher()
def matcher(context: Any) -> dict[str, Any]:
    """What IPython asks on Tab."""
    engine = current_engine()
    before = context.line_with_cursor[: context.cursor_position]
    words = suggestions(before, list(engine.sessions) if engine is not None else [])
    if not words:
        return {"completions": []}
    # IPython may take "--" apart from the option's name: it replaces only its own token.
    typed = re.split(r"\s", before)[-1]
    kept = len(typed) - len(context.token) if typed.endswith(context.token) else 0
    completions = [SimpleCompletion(word[kept:], type="stateful") for word in words]
    return {"completions": completions, "suppress": True}
