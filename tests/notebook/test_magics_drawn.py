"""What a kernel shows: live outputs once, and not again as the cell's value."""

import pytest

from workbench.errors import QuestionError
from workbench.notebook import magics


@pytest.fixture
def kernel(opened, monkeypatch):
    """What a kernel would show: live outputs, and values a second time."""
    outputs, shown = [], []

    class Handle:
        def update(self, data, raw):
            outputs[-1] = data["text/plain"]

    def show(data, **options):
        outputs.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr(magics, "display", show)
    monkeypatch.setattr(opened.shell, "kernel", object(), raising=False)
    monkeypatch.setattr(
        opened.shell.displayhook, "write_format_data", lambda data, md=None: shown.append(data)
    )
    return outputs, shown


def test_a_live_output_is_drawn_once_and_not_again_as_the_cells_value(opened, kernel):
    outputs, shown = kernel
    opened.run("%%stateful btc --max-tokens 4\nUp?")
    assert len(outputs) == 1 and outputs[0].endswith("tokens]")
    assert shown == []
    opened.run("%%stateful btc --max-tokens 4 --no-stream\nUp?")
    assert len(outputs) == 1 and len(shown) == 1


def test_a_backtest_is_drawn_live_and_a_stream_by_its_bar(opened, kernel):
    outputs, shown = kernel
    opened.run("%stateful push btc ['a', 'b', 'c', 'd']")
    shown.clear()
    opened.run("%stateful backtest btc Up? --choices up,down --every 2")
    assert len(outputs) == 1 and "[2 moments | rows 2 to 4]" in outputs[0]
    feed = opened.run("feed = %stateful stream btc ['e']\nfeed")
    feed.wait(60)
    assert shown == []
    opened.run("feed")
    assert len(shown) == 1 and "1 of 1 rows, done" in shown[0]["text/plain"]


def test_what_could_not_be_asked_leaves_no_picture(opened, kernel):
    outputs, shown = kernel
    with pytest.raises(QuestionError):
        opened.run("%stateful ask btc Up? --at 99")
    assert outputs in ([], [""]) and shown == []
