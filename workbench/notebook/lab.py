"""JupyterLab in a headless browser, all on this machine: for pictures and for tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Chromium must not phone home: what a test counts are the page's own requests.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE_S = 60.0
_WIDGET = "window.jupyterapp.shell.currentWidget"


@contextlib.contextmanager
def jupyterlab(folder: Path, *, theme: str = "JupyterLab Light") -> Iterator[tuple[str, Path]]:
    """A JupyterLab server with settings of its own; gives its address and its notebooks' folder.

    Args:
        folder: an empty folder for everything it writes.
        theme: "JupyterLab Light" or "JupyterLab Dark".
    """
    notebooks = folder / "notebooks"
    notebooks.mkdir(parents=True)
    # no toast about news, which would need the network
    _write(
        folder / "config/labconfig/page_config.json",
        {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}},
    )
    _write(
        folder / "settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings",
        {"theme": theme},
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run",
        "IPYTHONDIR": "ipython", "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={notebooks}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    url, log = f"http://127.0.0.1:{port}", folder / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=out,
            env={**os.environ, **{name: str(folder / place) for name, place in names.items()}},
        )  # fmt: skip
        try:
            _wait_for(url, server, log)
            yield url, notebooks
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def chromium_path() -> str | None:
    """Where Chromium is installed, if it is."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_notebook(page: Any, url: str, name: str) -> None:
    """Open a notebook and wait for its kernel to be idle."""
    page.set_default_timeout(1e3 * PATIENCE_S)
    page.goto(f"{url}/lab/tree/{name}?reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-NotebookPanel .jp-Notebook")
    page.wait_for_function(
        f"""() => {{
          const kernel = window.jupyterapp && {_WIDGET}?.sessionContext?.session?.kernel;
          return kernel && kernel.status === 'idle' && kernel.connectionStatus === 'connected';
        }}"""
    )


def run_all(page: Any) -> list[str]:
    """Run every cell to its end; returns the cells' errors."""
    page.evaluate(
        "async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }"
    )
    return cell_errors(page)


def start_all(page: Any) -> None:
    """The same, without waiting."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")


def cell_errors(page: Any) -> list[str]:
    """``Name: message`` of every error that a cell shows."""
    errors: list[str] = page.evaluate(
        f"""() => {_WIDGET}.content.model.toJSON().cells
          .flatMap(cell => (cell.outputs || []).filter(o => o.ename))
          .map(o => o.ename + ': ' + o.evalue)"""
    )
    return errors


def execute(page: Any, code: str) -> str:
    """Run code in the notebook's kernel, outside its cells; returns what it printed or raised."""
    said: str = page.evaluate(
        f"""async code => {{
          const kernel = {_WIDGET}.sessionContext.session.kernel;
          let said = '', done = false;
          while (!done) {{  // a kernel drops what it is sent right after an error
            const future = kernel.requestExecute({{code}});
            future.onIOPub = m => {{ said += m.content.text || m.content.ename || '' }};
            done = (await future.done).content.status !== 'aborted';
          }}
          return said.trim();
        }}""",
        code,
    )
    return said


def shut_down(page: Any) -> None:
    """End the notebook's kernel."""
    page.evaluate(f"async () => {{ await {_WIDGET}.sessionContext.shutdown() }}")


def write_notebook(path: Path, cells: list[str]) -> None:
    """A notebook of these code cells."""
    import nbformat.v4 as v4

    notebook = v4.new_notebook(
        cells=[v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    path.write_text(json.dumps(notebook))


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(url + "/api/status", timeout=5):
                return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > end:
                msg = f"JupyterLab did not start:\n{log.read_text()[-2000:]}"
                raise RuntimeError(msg) from error
            time.sleep(0.1)
