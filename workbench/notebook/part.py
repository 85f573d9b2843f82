"""What a dashboard is made of: a part follows events, draws, and does what was clicked."""

from __future__ import annotations

from typing import Protocol

import ipywidgets as widgets

from workbench.events import Event
from workbench.front import Engine


class Part(Protocol):
    """One piece of a dashboard. Everything here runs in the pump thread, and nowhere else."""

    name: str
    widgets: list[widgets.Widget]

    def take(self, event: Event) -> None:
        """Note one event of the engine; they come in order, and before the `draw` of their beat."""

    def draw(self, engine: Engine, now: float) -> None:
        """Show what is new, a few times a second. It sends nothing when nothing has changed."""

    def act(self, engine: Engine) -> None:
        """Do what the browser asked for since the last time; a closed engine is left alone."""
