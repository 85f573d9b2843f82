"""What a long start is busy with is shown, and an interrupt does not wait for it."""

import threading
from typing import ClassVar

import pytest

import workbench as wb
from workbench import progress
from workbench.engine import model
from workbench.errors import Cancelled
from workbench.progress import Stages
from workbench.testing import tiny_model


@pytest.fixture
def at_once(monkeypatch):
    """Show what takes any time at all, and look often."""
    monkeypatch.setattr(progress, "MOMENT_S", 0.0)
    monkeypatch.setattr("workbench.waiting.WATCH_S", 0.01)


class Bars:
    """Stands for tqdm: collects what it is told."""

    said: ClassVar[list[str]] = []

    def __init__(self, **_):
        self.desc, self.closed = "", False
        self.said.append("shown")

    def set_description_str(self, words):
        self.desc = words
        self.said.append(words)

    def close(self):
        self.said.append("closed")


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(Bars, "said", [])
    monkeypatch.setattr("tqdm.auto.tqdm", Bars)
    return Bars


def test_the_stage_and_the_seconds_are_shown(at_once, bars):
    seen = threading.Event()

    def work(stages):
        stages.at("reading the weights")
        while "big: reading the weights (0 s)" not in bars.said:
            seen.wait(0.01)
        return 7

    assert Stages("big").run(work) == 7
    assert bars.said[0] == "shown" and bars.said[-1] == "closed"


def test_a_quick_start_shows_nothing(bars):
    assert Stages("small").run(lambda stages: stages.at("anything")) is None
    assert bars.said == []


def test_an_interrupt_returns_and_the_work_ends_before_its_next_stage(at_once, monkeypatch):
    going, ended = threading.Event(), threading.Event()

    def interrupted(waited_s):
        raise KeyboardInterrupt

    def work(stages):
        stages.at("one")
        going.wait(20)
        try:
            stages.at("two")
        except Cancelled:
            ended.set()
            raise

    stages = Stages("big")
    monkeypatch.setattr(stages, "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stages.run(work)
    assert not ended.is_set()
    going.set()
    assert ended.wait(20)


def test_an_engine_reports_each_stage_of_loading(monkeypatch, tmp_path):
    model_, tokenizer = tiny_model()
    model_.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    stages = []
    monkeypatch.setattr(Stages, "at", lambda self, stage: stages.append((self.name, stage)))
    wb.Engine(tmp_path, cells=1024, start=False).close()
    assert stages == [
        (tmp_path.name, "reading the weights"), (tmp_path.name, model.CHECK),
        (tmp_path.name, "measuring steps"),
    ]  # fmt: skip
