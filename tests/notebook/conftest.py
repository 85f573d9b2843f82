"""Fixtures: an IPython shell that raises, and engines that are stepped by hand."""

import atexit
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import workbench as wb


class Shell:
    """Runs cells in a real shell; what a cell raises, ``run`` raises."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell

    def run(self, cell: str) -> Any:
        """The cell's last value."""
        outcome = self.shell.run_cell(cell, store_history=False)
        outcome.raise_error()
        return outcome.result

    def __getitem__(self, name: str) -> Any:
        return self.shell.user_ns[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.shell.user_ns[name] = value


@pytest.fixture
def ip(tmp_path, monkeypatch) -> Iterator[Shell]:
    """A shell that has run ``%load_ext workbench``."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    InteractiveShell.clear_instance()
    with warnings.catch_warnings():
        # Python's async runner is made lazily by IPython and closed by nobody.
        warnings.simplefilter("ignore", ResourceWarning)
        shell = InteractiveShell.instance(config=config)
        shell.run_cell("%load_ext workbench").raise_error()
        yield Shell(shell)
        shell.run_cell("%unload_ext workbench")
        shell.user_ns.clear()
        atexit.unregister(shell.atexit_operations)  # it would collect garbage once per shell
        InteractiveShell.clear_instance()


@pytest.fixture
def opened(ip, engine):
    """A shell with a session "btc" of plain rows."""
    ip.run("%stateful open btc")
    return ip


@pytest.fixture
def stepped(make_engine) -> wb.Engine:
    """A tiny engine without a thread: call ``run_dry(engine)``."""
    return make_engine(start=False)


@pytest.fixture
def run_dry() -> Callable[[wb.Engine], None]:
    """Steps an engine until nothing is left to do."""

    def run(engine: wb.Engine) -> None:
        while engine.step():
            pass

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Waits for another thread to make something true, and returns it."""

    def wait(true: Callable[[], Any], patience_s: float = 30.0) -> Any:
        end = time.monotonic() + patience_s
        while not (value := true()):
            assert time.monotonic() < end, "it did not come true"
            time.sleep(0.005)
        return value

    return wait


@pytest.fixture
def sent(monkeypatch) -> list[dict[str, Any]]:
    """Every message that widgets send to the browser from now on."""
    messages: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "ipywidgets.Widget._send", lambda widget, message, buffers=None: messages.append(message)
    )
    return messages


@pytest.fixture
def click() -> Callable[..., None]:
    """What a panel's script sends, put where the browser's messages arrive."""

    def send(panel: Any, **content: Any) -> None:
        data = {"method": "custom", "content": content}
        panel._handle_msg({"content": {"data": data}, "buffers": []})

    return send
