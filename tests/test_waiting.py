"""Completions end once, can be taken back, and keep next to nothing once they have ended."""

import sys
import threading

import pytest

from workbench.answer import Answer
from workbench.waiting import Completion


def test_an_end_comes_once_and_callbacks_run_once():
    seen, done = [], Completion()
    done.when_done(lambda: seen.append("before"))
    assert done.finish() and not done.finish(ValueError("late"))
    done.when_done(lambda: seen.append("after"))
    assert seen == ["before", "after"] and done.error is None


def test_a_callback_that_fails_keeps_nobody_else_from_hearing_of_it(capsys):
    seen, done = [], Completion()
    done.when_done(lambda: seen[3])
    done.when_done(lambda: seen.append(1))
    assert done.finish() and seen == [1]
    assert "IndexError" in capsys.readouterr().err


def test_one_that_was_reopened_is_waited_for_again():
    done = Completion()
    done.finish(ValueError("no"))
    done.reopen()
    assert not done.done
    with pytest.raises(TimeoutError):
        done.join(0)
    seen = []
    done.when_done(lambda: seen.append(1))
    thread = threading.Thread(target=done.join, args=(30,))
    thread.start()
    done.finish()
    thread.join(30)
    assert not thread.is_alive() and seen == [1]
    done.reopen(), done.reopen()
    assert not done.done


def test_ended_answers_share_what_they_no_longer_need():
    one, other = Answer("a?", "s"), Answer("b?", "s")
    assert one._finished is not other._finished
    for answer in (one, other):
        answer.asks_with([], lambda: None)
        answer.show("some")
        answer.end("stop")
    assert one._finished is other._finished and one._new_text is other._new_text
    assert list(one) == ["some"] and one._on_cancel is None
    assert not hasattr(one, "__dict__") and sys.getsizeof(one) < 500
    one.cancel()
    assert one.finish_reason == "stop"
