import pytest

from workbench.bench.sessions import report
from workbench.bench.sessions.arrivals import Arrival, What, Workload
from workbench.bench.sessions.measure import FlashDone, Log, summary


def test_latencies_count_from_when_something_was_due():
    due = [Arrival(1.0, 0, What.TICK), Arrival(2.0, 0, What.OPEN), Arrival(3.0, 0, What.CHOICES)]
    log = Log(10.0, first={1: 2.5, 2: 3.25}, done={0: 1.125, 1: 4.0, 2: 3.25}, ended=10.0)
    found = summary(due, log, sessions=1, flash=0)
    # Of one value a percentile is no more than the largest, and is not named.
    assert found["lag_ms"] == {"count": 1, "p50": 125.0, "p95": None, "p99": None, "max": 125.0}
    assert found["ask_open_ms"]["p50"] == 2000.0
    assert found["ask_choices_ms"]["p50"] == 250.0
    assert (found["ask_ms"]["p50"], found["ask_ms"]["max"]) == (250.0, 2000.0)
    assert (found["ttft_ms"]["count"], found["ttft_ms"]["max"]) == (2, 500.0)
    assert found["unfinished"] == 0
    assert found["flash_age"] == {"seconds": 0, "p50": None, "p95": None, "p99": None, "max": None}


def test_what_did_not_end_counts_with_the_time_it_waited():
    due = [Arrival(at, 0, What.OPEN) for at in (0.0, 1.0, 2.0)]
    log = Log(10.0, first={0: 0.5, 1: 1.5}, done={0: 1.0}, ended=70.0)
    found = summary(due, log, sessions=1, flash=0)
    assert found["ask_ms"]["max"] == 69_000.0 and found["ask_ms"]["p50"] == 68_000.0
    assert found["ttft_ms"]["max"] == 68_000.0
    assert (found["unfinished"], found["overrun_s"]) == (2, 60.0)


def test_percentiles_are_of_nearest_rank():
    due = [Arrival(0.0, 0, What.TICK)] * 200
    log = Log(1.0, done={i: (i + 1) / 1e3 for i in range(200)})
    lag = summary(due, log, sessions=1, flash=0)["lag_ms"]
    assert [lag[k] for k in ("p50", "p95", "p99", "max")] == [100.0, 190.0, 198.0, 200.0]
    for count, named in ((19, (False, False)), (20, (True, False)), (99, (True, False)),
                         (100, (True, True))):  # fmt: skip
        few = summary(due[:count], log, sessions=1, flash=0)["lag_ms"]
        assert (few["p95"] is not None, few["p99"] is not None) == named and few["p50"]


def test_ages_are_weighted_by_how_long_they_lasted():
    due = [Arrival(1.0, 0, What.TICK), Arrival(2.0, 0, What.TICK)]
    log = Log(4.0, done={0: 1.5, 1: 3.0})
    log.flash = [FlashDone(2.0, 0, 0, 1), FlashDone(3.5, 0, 0, 2)]
    found = summary(due, log, sessions=1, flash=1)
    # Of visible ticks: 1 old from 1.5 to 2.0 and from 3.0 to 3.5, of 4 seconds.
    assert found["flash_age"] == {"seconds": 4.0, "p50": 0, "p95": 1, "p99": 1, "max": 1}
    # Of those that had arrived: 1 old from 1.0 to 3.5.
    assert found["flash_age_arrived"] == {"seconds": 4.0, "p50": 1, "p95": 1, "p99": 1, "max": 1}


def test_a_query_that_is_never_answered_ages_and_a_second_one_counts_as_much():
    due = [Arrival(float(at), 0, What.TICK) for at in range(4)]
    log = Log(4.0, done={i: float(i) for i in range(4)})
    log.flash = [FlashDone(float(i), 0, 0, i + 1) for i in range(4)]
    ages = summary(due, log, sessions=1, flash=2)["flash_age"]
    # The first is always 0 old, for 4 seconds; the second 1, 2, 3 and 4 old for a second each.
    assert ages == {"seconds": 8.0, "p50": 0, "p95": 4, "p99": 4, "max": 4}


def test_a_late_reader_is_fresh_by_what_it_sees_and_stale_by_what_has_arrived():
    due = [Arrival(float(at), 0, What.TICK) for at in range(10)]
    log = Log(10.0, done={0: 9.0}, flash=[FlashDone(9.0, 0, 0, 1)], ended=12.0)
    found = summary(due, log, sessions=1, flash=1)
    assert found["flash_age"]["max"] == 0
    assert found["flash_age_arrived"]["max"] == 9


def test_only_work_while_things_arrive_counts_as_utilisation():
    log = Log(10.0)
    log.ran(3.0, 1.0, ingest=5)
    log.ran(10.5, 1.0, ingest=7, decode=1)
    log.ran(12.0, 1.0, flash=3)
    log.ended = 12.0
    found = summary([], log, sessions=1, flash=0)
    assert found["utilisation"] == pytest.approx(0.15)
    assert (found["steps"], found["overrun_s"]) == (3, 2.0)
    assert found["tokens"] == {"ingest": 12, "decode": 1, "flash": 3}


def test_the_table_has_a_line_per_quantity_and_system():
    due = [Arrival(1.0, 0, What.TICK), Arrival(2.0, 0, What.OPEN)]
    ours = Log(10.0, first={1: 2.5}, done={0: 1.125, 1: 4.0}, ended=10.0)
    theirs = Log(10.0, done={0: 1.25}, ended=70.0)
    systems = [
        {"system": name, **summary(due, log, sessions=1, flash=1)}
        for name, log in (("ours", ours), ("theirs", theirs))
    ]
    systems[0]["others_cpu"], systems[1]["others_cpu"] = 0.01, 0.5
    workload = vars(Workload(sessions=1, seconds=10))
    shown = report.table(workload, systems)
    (lag,) = [line for line in shown.splitlines() if line.startswith("ingest lag")]
    assert lag.split() == ["ingest", "lag,", "ms", "ours", "125.0", "125.0", "1"]
    asked = next(line for line in shown.splitlines() if "theirs" in line)
    assert asked.split() == ["theirs", *["68,000.0"] * 2, "1"]
    assert "theirs: 1 had not ended 60 s after the last arrival" in shown
    assert "theirs: others used 50% of the processors" in shown
    assert "ours: others" not in shown
    assert "two choices" not in shown  # none were asked
