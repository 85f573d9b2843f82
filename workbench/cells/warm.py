"""Memory for cells before they are written, so that the first rows and questions need not wait."""

from __future__ import annotations

import threading

from workbench.cells.tensors import CellTensors

SMALLEST = 32 << 20  # bytes of all cells; below that there is nothing to wait for
PIECE = 4096  # cells, of all layers, between two looks at what is wanted


class Warmer:
    """Populates the cells that are promised, from the low end, and those for questions, from the
    high end, in a thread that ends when there is nothing to do.

    Attributes:
        low, high: cells below ``low`` and from ``high`` on have their memory, or soon will.
    """

    def __init__(self, cells: CellTensors, num_cells: int) -> None:
        self.low, self.high = 0, num_cells
        self._cells, self._num_cells = cells, num_cells
        self._wanted = (0, num_cells)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = cells.device != "cpu" or cells.nbytes < SMALLEST

    def want(self, low: int, high: int) -> None:
        """Populate the first ``low`` cells and the last ``high``; returns at once."""
        with self._lock:
            before = self._wanted
            self._wanted = (
                max(before[0], min(low, self._num_cells)),
                min(before[1], max(0, self._num_cells - high)),
            )
            if self._closed or self._thread is not None or self._wanted == before:
                return
            self._thread = threading.Thread(target=self._work, name="workbench-memory", daemon=True)
            self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Until all that is wanted has its memory, or so many seconds; false if some has not."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def close(self) -> None:
        """Populate no more, once the piece that is under way is done; returns at once."""
        self._closed = True

    def _work(self) -> None:
        while True:
            with self._lock:
                low, high = self._wanted
                done = self.low >= low and self.high <= high
                if done or self._closed:
                    self._thread = None
                    return
            if self.low < low:  # rows come first
                end = min(low, self.low + PIECE)
                self._cells.populate(self.low, end)
                self.low = end
            else:
                start = max(high, self.high - PIECE)
                self._cells.populate(start, self.high)
                self.high = start
