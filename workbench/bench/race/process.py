"""The referee's side of the wire: one peer in a process of its own, asked line by line."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

GRACE_S = 10.0  # to end by itself, before it is killed
TAIL = 3  # last lines of what it said, in the reason why it failed


class PeerFailed(Exception):
    """A peer cannot go on; the message says why, in one line.

    Attributes:
        missing: the package that its environment lacks, if that is why.
    """

    def __init__(self, message: str, missing: str = "") -> None:
        super().__init__(message)
        self.missing = missing


class PeerProcess:
    """A script run by some Python, that answers each line with a line.

    Between an answer and the next line it is stopped with all its threads, so that it takes nothing
    from whoever is measured meanwhile.
    """

    def __init__(self, python: str, script: Path, env: Mapping[str, str], log: Path) -> None:
        """Start it; what it prints beside its answers goes to ``log``.

        Raises:
            PeerFailed: there is no such Python.
        """
        self._log = log
        with log.open("wb") as said:
            try:
                self._process = subprocess.Popen(
                    [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=said, text=True, env=dict(env), cwd=log.parent, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                msg = f"its Python cannot be started: {error.strerror}"
                raise PeerFailed(msg) from error
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=[self._process.stdout], daemon=True)
        self._reader.start()

    def ask(self, do: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            PeerFailed: it reports an error, it has ended, or it takes too long and is killed.
        """
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended(do) from None
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self.kill()
            msg = f"{do} took more than {timeout_s:,.0f} s; it was stopped{self._tail()}"
            raise PeerFailed(msg) from None
        if not line:
            raise self._ended(do)
        self._signal(signal.SIGSTOP)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            self.kill()
            msg = f"{do}: expected a line of JSON, got {line[:80]!r}"
            raise PeerFailed(msg) from None
        if "error" in answer:
            raise PeerFailed(f"{do}: {answer['error']}", answer.get("missing", ""))
        return answer

    def close(self) -> None:
        """Let it end; it is killed if it does not."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self.kill()

    def kill(self) -> None:
        """End it and everything it started, now."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._reader.join()

    def _signal(self, number: int) -> None:
        """To it and everything it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self, answers: IO[str]) -> None:
        with answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put("")

    def _ended(self, do: str) -> PeerFailed:
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return PeerFailed(f"{do}: it closed its pipe and went on; it was stopped")
        return PeerFailed(f"{do}: it ended with code {code}{self._tail()}")

    def _tail(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines()]
        last = [line for line in lines if line][-TAIL:]
        return f"; it said: {' | '.join(last)[-400:]}" if last else ""
