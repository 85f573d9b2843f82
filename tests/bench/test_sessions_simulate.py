import json
import subprocess
import sys
from pathlib import Path

import pytest

import workbench
from workbench.bench.__main__ import main
from workbench.bench.sessions import simulate
from workbench.bench.sessions.arrivals import Arrival, Sizes, What, Workload, arrivals
from workbench.bench.sessions.measure import FlashDone, summary
from workbench.bench.sessions.simulate import Simulation
from workbench.events import FlashAnswered, Planned
from workbench.flash import board
from workbench.scheduler.cost import CostModel
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import run_until_idle

COST = CostModel(base=2e-3, per_token=1e-4, per_read=1e-9)
CONTEXT = 1000


class Recording(Simulation):
    """Keeps what each step had, by phase, and what each question was answered as of."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.plans = []
        self.positions = {}

    def _begin(self, question):
        super()._begin(question)
        if question.query is None:
            self.positions[question.index] = question.position

    def _step(self, plan):
        phases = ("DECODE", "QUESTION", "INGEST", "FLASH")
        self.plans.append(
            tuple(sum(s.length for s in plan.slices if s.phase.name == name) for name in phases)
        )
        super()._step(plan)


def simulation(due, workload=None, *, sizes=None, limits=None, watermark=4096, drain=60.0,
               cost=COST):  # fmt: skip
    workload = workload or Workload(sessions=2, seconds=10, context=CONTEXT, flash=0)
    sizes = sizes or Sizes.nominal(workload, due)
    return Recording(workload, due, sizes, cost=cost, limits=limits or StepLimits(),
                     watermark=watermark, drain=drain)  # fmt: skip


def test_a_tick_takes_one_step_of_the_time_the_model_says():
    made = simulation([Arrival(1.0, 0, What.TICK)])
    log = made.run()
    took = COST.predict(33, 33 * CONTEXT)
    assert log.done == {0: pytest.approx(1.0 + took)}
    assert log.busy_s == pytest.approx(took)
    assert dict(log.tokens) == {"ingest": 33}


def test_an_open_answer_is_its_prefill_and_then_one_token_a_step():
    made = simulation([Arrival(1.0, 0, What.OPEN)])
    log = made.run()
    first = 1.0 + COST.predict(16, 16 * CONTEXT)
    assert log.first == {0: pytest.approx(first)}
    decodes = sum(COST.predict(1, CONTEXT + 16 + i) for i in range(7))
    assert log.done == {0: pytest.approx(first + decodes)}
    assert made.plans == [(0, 16, 0, 0), *[(1, 0, 0, 0)] * 7]
    assert made.free == 4096


def test_tokens_that_were_guessed_right_need_no_step():
    due = [Arrival(1.0, 0, What.OPEN)]
    sizes = Sizes(ticks=[], contexts=[CONTEXT] * 2, question=16, flash=16, more_choices=0,
                  accepted=[3])  # fmt: skip
    made = simulation(due, sizes=sizes)
    made.run()
    assert made.plans == [(0, 16, 0, 0), *[(1, 0, 0, 0)] * 4]


def test_a_closed_question_ends_with_its_prefill_and_its_choices_run_at_once():
    due = [Arrival(1.0, 0, What.CHOICES)]
    sizes = Sizes(ticks=[], contexts=[CONTEXT] * 2, question=300, flash=16, more_choices=50,
                  accepted=[0])  # fmt: skip
    made = simulation(due, sizes=sizes)
    log = made.run()
    assert made.plans == [(0, 256, 0, 0), (0, 94, 0, 0)]
    assert log.done == log.first


def test_a_question_sees_the_tick_before_it_and_does_not_wait_for_the_one_after():
    due = [
        Arrival(1.0, 0, What.TICK),
        Arrival(1.0, 0, What.CHOICES),
        Arrival(1.001, 0, What.TICK),  # while the first tick is read
    ]
    made = simulation(due)
    log = made.run()
    assert made.plans == [(0, 0, 33, 0), (0, 16, 33, 0)]
    assert log.done[1] == log.done[2] > log.done[0]


def test_a_question_does_not_see_the_half_of_a_tick_that_is_in():
    due = [Arrival(1.0, 0, What.TICK), Arrival(1.0, 0, What.CHOICES), Arrival(1.0, 0, What.TICK)]
    sizes = Sizes(ticks=[100, 33], contexts=[CONTEXT] * 2, question=16, flash=16, more_choices=0,
                  accepted=[0])  # fmt: skip
    made = simulation(due, sizes=sizes, limits=StepLimits(tokens=110))
    made.run()
    assert made.plans == [(0, 0, 110, 0), (0, 16, 23, 0)]
    assert made.positions == {1: CONTEXT + 100}


def test_a_question_to_another_session_does_not_wait():
    made = simulation([Arrival(1.0, 0, What.TICK), Arrival(1.0, 1, What.CHOICES)])
    made.run()
    assert made.plans == [(0, 16, 33, 0)]


def test_a_commit_makes_flash_queries_due_and_the_answer_is_as_of_it():
    workload = Workload(sessions=1, seconds=10, context=CONTEXT, flash=2)
    log = simulation([Arrival(1.0, 0, What.TICK)], workload).run()
    tick = COST.predict(33, 33 * CONTEXT)
    answered = 1.0 + tick + COST.predict(32, 32 * (CONTEXT + 33))
    assert log.flash == [FlashDone(pytest.approx(answered), 0, q, 1) for q in (0, 1)]


def flood():
    """Ticks that fill steps while an evaluation takes many steps."""
    workload = Workload(
        sessions=1, seconds=2, tick=0.01, tokens_per_tick=48, context=100, flash=1,
        question_tokens=400, questions_per_second=0,
    )  # fmt: skip
    return arrivals(workload), workload


def test_superseded_evaluations_are_given_up_but_not_more_than_twice_in_a_row(monkeypatch):
    due, workload = flood()
    limits = StepLimits(tokens=128, flash_share=64)
    log = simulation(due, workload, limits=limits).run()
    during = [done for done in log.flash if done.at < 2.0]
    assert len(during) >= 2
    assert log.tokens["flash"] > 400 * len(log.flash)  # some were given up
    monkeypatch.setattr(simulate, "MAX_DROPS_IN_A_ROW", 10**9)
    starved = simulation(due, workload, limits=limits).run()
    assert not [done for done in starved.flash if done.at < 2.0]


def test_the_rule_is_the_boards():
    assert simulate.MAX_DROPS_IN_A_ROW == board.MAX_DROPS_IN_A_ROW


def test_everything_ends_and_all_cells_come_back():
    workload = Workload(sessions=256, seconds=2, tick=0.5, burst=2, context=50, flash=2,
                        questions_per_second=40)  # fmt: skip
    due = arrivals(workload)
    made = simulation(due, workload, watermark=300)
    log = made.run()
    assert set(log.done) == set(range(len(due)))
    assert log.tokens["ingest"] == 33 * sum(a.what is What.TICK for a in due)
    assert made.free == 300
    latest = {(done.session, done.query): done.version for done in log.flash}
    assert latest == {(s, q): 4 for s in range(256) for q in range(2)}


def test_the_same_arrivals_give_the_same_run():
    workload = Workload(sessions=8, seconds=5, tick=0.2, questions_per_second=10)
    due = arrivals(workload)
    assert simulation(due, workload).run() == simulation(due, workload).run()


def test_more_than_can_be_done_is_left_when_the_time_is_over():
    workload = Workload(sessions=4, seconds=5, tick=0.1, flash=0)
    due = arrivals(workload)
    slow = CostModel(base=0.01, per_token=0.01, per_read=0.0)
    log = simulation(due, workload, cost=slow, drain=3.0).run()
    found = summary(due, log, sessions=4, flash=0)
    assert found["unfinished"] > 50
    assert found["utilisation"] == pytest.approx(1.0, abs=0.05)
    assert 8.0 <= log.ended < 8.0 + slow.predict(256, 0)
    assert found["lag_ms"]["max"] >= (8.0 - due[-1].at) * 1e3


class Fixed(CostModel):
    """Never learns, so that the engine's steps depend on nothing but what they hold."""

    def observe(self, tokens, reads, seconds):
        pass


class ByHand:
    """The same loop around a real engine, stepped by hand: what each step had, and the answers."""

    def __init__(self, engine, workload, due, cost):
        self.steps, self.flash, self.lengths, answers = [], [], [], {}
        engine.events.subscribe(self.note)
        sessions, now, index = list(engine.sessions.values()), 0.0, 0
        before = {session.name: session.version for session in sessions}
        while True:
            while index < len(due) and due[index].at <= now:
                session, what = sessions[due[index].session], due[index].what
                if what is What.TICK:
                    words = f"{index} of {session.name}: {'x' * (index % 23)}"
                    self.lengths.append(session.push(words).num_tokens)
                elif what is What.CHOICES:
                    answers[index] = session.ask_start("up?", choices=("up", "down"))
                else:
                    answers[index] = session.ask_start("up?", max_tokens=workload.answer_tokens)
                index += 1
            so_far = len(self.steps)
            engine.step()
            if len(self.steps) > so_far:
                step = self.steps[-1]
                now += cost.predict(step.decode + step.question + step.ingest + step.flash, 0)
            elif index < len(due):
                now = due[index].at
            else:
                break
        self.plans = [(p.decode, p.question, p.ingest, p.flash) for p in self.steps]
        self.positions = {index: answer.position for index, answer in answers.items()}
        self.flash = [(e.session, e.flash, e.version - before[e.session]) for e in self.flash]

    def note(self, event):
        if isinstance(event, Planned):
            self.steps.append(event)
        elif isinstance(event, FlashAnswered):
            self.flash.append(event)


@pytest.mark.parametrize(
    ("watermark", "standing", "tick"), [(256, 3, 0.03), (24, 3, 0.03), (600, 90, 0.06)]
)
def test_it_takes_the_engines_steps(make_engine, watermark, standing, tick):
    limits = StepLimits(tokens=40, quantum=16, flash_share=12, draft_questions=0, target_ms=6.0)
    cost = Fixed(base=2e-3, per_token=1e-4, per_read=0.0)
    workload = Workload(sessions=3, seconds=1, tick=tick, burst=2, context=0, answer_tokens=5,
                        questions_per_second=25, choices_share=0.5, flash=2)  # fmt: skip
    due = arrivals(workload)
    engine = make_engine(cells=12_000, watermark=watermark, limits=limits, cost=cost, start=False)
    engine.tokens.eos_ids = frozenset()
    for index in range(3):
        session = engine.open(f"s{index}", cells=3000)
        session.push("begin" * (index + 1))
        for query in (0, 1):
            words = f"{query}?".rjust(standing, "?")
            session.flash(words, choices=("up", "down"), name=str(query))
    run_until_idle(engine)
    contexts = [session.position for session in engine.sessions.values()]
    real = ByHand(engine, workload, due, cost)
    sizes = Sizes(
        ticks=real.lengths, contexts=contexts, question=len(engine.tokens.question("up?")),
        flash=len(engine.tokens.question("?" * standing)), more_choices=4,
        accepted=[0] * len(due),
    )  # fmt: skip
    made = simulation(due, workload, sizes=sizes, limits=limits, watermark=watermark, cost=cost)
    log = made.run()
    assert len(real.plans) > 100
    assert any(flash for *_, flash in real.plans) and any(decode for decode, *_ in real.plans)
    assert made.plans == real.plans
    assert made.positions == real.positions
    assert [(f"s{d.session}", str(d.query), d.version) for d in log.flash] == real.flash
    dropped = sum(q.dropped for session in engine.sessions.values() for q in session.flash_queries)
    assert dropped > 0


def test_the_command_needs_no_model_and_no_torch():
    """`import workbench` brings the engine; nothing that simulates may need it."""
    code = (
        "import sys, types\n"
        "for name in ('torch', 'transformers', 'numpy', 'polars'):\n"
        "    sys.modules[name] = None\n"
        "package = sys.modules['workbench'] = types.ModuleType('workbench')\n"
        f"package.__path__ = [{str(Path(workbench.__file__).parent)!r}]\n"
        "from workbench.bench.__main__ import main\n"
        "sys.exit(main(['sessions', '--simulate', '--seconds', '2']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert "ingest lag" in done.stdout and "made up" in done.stdout


def test_a_simulation_can_be_written(tmp_path, capsys):
    out = tmp_path / "x.json"
    assert main(["sessions", "--simulate", "--seconds", "5", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["benchmark"] == "sessions, simulated"
    assert written["cost"] == pytest.approx(CostModel().coefficients)
    assert [system["system"] for system in written["systems"]] == ["simulated"]
    assert f"written to {out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--simulate --alone", "--alone runs a model"),
        ("--cost x.json", "--cost is for --simulate"),
        ("--simulate --cost nowhere.json", "expected the JSON of a live run"),
        ("--simulate --sessions 0", "sessions 0: expected at least 1"),
        ("--simulate --drain -1", "drain -1.0: expected seconds"),
        ("--threads 0", "threads 0: expected at least 1"),
        ("--simulate --question-tokens 9000", "expected at most 4,096, the watermark"),
        ("--tick 100 --seconds 0.01 --questions-per-second 0", "nothing arrives within 0.01 s"),
        ("--model gpt", "expected one of tape, 8b, 250m, 30m, tiny"),
    ],
)
def test_a_wrong_option_is_one_line(arguments, expected, capsys):
    assert main(["sessions", *arguments.split()]) == 1
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_another_benchmarks_result_is_no_cost(tmp_path, capsys):
    other = tmp_path / "latency.json"
    other.write_text('{"benchmark": "latency"}')
    assert main(["sessions", "--simulate", "--cost", str(other)]) == 1
    assert "expected the JSON of a live run; make one with" in capsys.readouterr().err
