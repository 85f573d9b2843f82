"""A real race of tiny processes, the wire when peers fail, and the report's sums."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import polars as pl
import pytest

from workbench.bench.__main__ import main
from workbench.bench.race import command, frames, plan, referee, report, tables
from workbench.bench.race.material import make_material
from workbench.bench.race.plan import Cell, Process, System, cells
from workbench.bench.race.process import PeerFailed, PeerProcess
from workbench.tape import weights_path

PEERS = Path(referee.__file__).parent / "peers"

# Answers every command, with settings for what goes wrong.
FAKE = """
import os, sys, time
sys.path.insert(0, {peers!r})
from wire import Peer, Reply, serve

class Fake(Peer):
    def __init__(self, settings):
        print("a line of chatter that is no answer")
        {at_open}
        self.bars = []
    def about(self):
        return {{"weights": "float32", "cache": "float32"}}
    def begin(self, mode, length, room):
        self.room = room
    def arrive(self, mode, ids):
        self.bars.append(ids)
        time.sleep(0.01)
    def ask(self, mode, question):
        {at_ask}
        first = time.perf_counter()
        time.sleep(0.02)
        return Reply([len(self.bars)] * question.tokens, first, [-float(self.room)])

serve(Fake)
"""


@pytest.fixture
def fake(tmp_path):
    """Starts a peer that does what it is told to."""
    started = []
    material = tmp_path / "material.json"
    material.write_text(json.dumps({"context": list(range(100))}))

    def start(at_open="pass", at_ask="pass", python=sys.executable):
        script = tmp_path / "fake.py"
        script.write_text(FAKE.format(peers=str(PEERS), at_open=at_open, at_ask=at_ask))
        peer = PeerProcess(python, script, os.environ, tmp_path / "log.txt")
        started.append(peer)
        return peer, {"material": str(material)}

    yield start
    for peer in started:
        peer.kill()


def trial(peer, **more):
    asked = {"mode": "m", "length": 50, "bars": [[1, 2], [3]], "question": [4], "tokens": 2}
    return peer.ask("trial", 20, **(asked | {"scored": False} | more))


def test_times_are_taken_in_the_peer(fake):
    peer, settings = fake()
    opened = peer.ask("open", 20, settings=settings)
    assert opened["weights"] == "float32" and opened["versions"]["python"]
    assert peer.ask("fill", 20, length=50)["seconds"] >= 0
    answer = trial(peer)
    assert answer["ids"] == [2, 2]
    assert answer["logprobs"] == [-(3 + 1 + 2)]  # room for bars, question and answer
    assert len(answer["arrivals_ms"]) == 2 and min(answer["arrivals_ms"]) >= 10
    assert 0 <= answer["ttft_ms"] <= answer["total_ms"] - 20
    peer.close()


def test_a_peer_that_dies_is_reported_with_what_it_said_last(fake):
    peer, settings = fake(at_ask="print('out of cheese'); os._exit(7)")
    peer.ask("open", 20, settings=settings)
    with pytest.raises(PeerFailed, match=r"trial: it ended with code 7; it said: .*out of cheese"):
        trial(peer)


def test_a_peer_that_lacks_its_package_is_reported_by_name(fake):
    peer, settings = fake(at_open="import no_such_engine.part")
    with pytest.raises(PeerFailed, match="open: No module named 'no_such_engine'") as failed:
        peer.ask("open", 20, settings=settings)
    assert failed.value.missing == "no_such_engine"


def test_a_script_that_cannot_even_import_its_engine_is_reported(fake, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("import no_such_engine\n")
    peer = PeerProcess(sys.executable, script, os.environ, tmp_path / "log.txt")
    with pytest.raises(PeerFailed, match="ended with code 1.*No module named 'no_such_engine'"):
        peer.ask("open", 20, settings={})
    peer.kill()


def test_an_error_of_the_engine_is_one_line(fake):
    peer, settings = fake(at_ask="raise RuntimeError('two\\nlines')")
    peer.ask("open", 20, settings=settings)
    with pytest.raises(PeerFailed, match="trial: RuntimeError: two lines$"):
        trial(peer)
    assert peer.ask("fill", 20, length=50)  # and it goes on


def test_a_peer_that_hangs_is_stopped_with_its_children(fake):
    peer, settings = fake(at_ask="os.system('echo $$ > child; exec sleep 600')")
    peer.ask("open", 20, settings=settings)
    began = time.monotonic()
    with pytest.raises(PeerFailed, match="trial took more than 1 s; it was stopped"):
        peer.ask("trial", 1, mode="m", length=5, bars=[], question=[4], tokens=1, scored=False)
    assert time.monotonic() - began < 10


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at what the system says of it")
def test_between_two_questions_a_peer_stands_still(fake):
    def threads(peer):
        """The state of each of its threads: "T" is stopped."""
        tasks = Path(f"/proc/{peer._process.pid}/task").iterdir()
        return {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks}

    work = "import threading; threading.Thread(target=exec, args=['while True: pass'], daemon=1)"
    peer, settings = fake(at_open=f"{work}.start()")
    peer.ask("open", 20, settings=settings)
    for _ in range(3):
        assert len(trial(peer)["ids"]) == 2
        began = time.monotonic()
        while threads(peer) != {"T"} and time.monotonic() < began + 10:
            pass
        assert threads(peer) == {"T"}
    began = time.monotonic()
    peer.close()
    assert time.monotonic() < began + 10 and peer._process.returncode is not None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_peers_end_with_a_referee_that_is_killed(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text(FAKE.format(peers=str(PEERS), at_open="pass", at_ask="pass"))
    (tmp_path / "material.json").write_text(json.dumps({"context": [1]}))
    referee_code = f"""
        import os, sys, time
        from pathlib import Path
        from workbench.bench.race.process import PeerProcess
        peer = PeerProcess(sys.executable, Path({str(script)!r}), os.environ, Path("log.txt"))
        peer.ask("open", 20, settings={{"material": "material.json"}})
        print(peer._process.pid, flush=True)
        time.sleep(60)
    """
    killed = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(referee_code)], stdout=subprocess.PIPE, cwd=tmp_path
    )
    assert killed.stdout is not None
    with killed.stdout:
        number = int(killed.stdout.readline())
    killed.kill()
    killed.wait()
    began = time.monotonic()
    while _runs(number) and time.monotonic() < began + 10:
        time.sleep(0.01)
    assert not _runs(number)


def _runs(number):
    """Whether there is such a process, and it is not just a name that nobody has read yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_answer_of_the_wrong_length_is_an_error(fake):
    peer, settings = fake(
        at_ask="question.tokens = 1 if question.ids == [4] else 2; return Reply([])"
    )
    peer.ask("open", 20, settings=settings)
    with pytest.raises(PeerFailed, match="expected 1 tokens, got 0"):
        trial(peer)


def test_a_python_that_is_not_there(tmp_path):
    with pytest.raises(PeerFailed, match="its Python cannot be started: No such file"):
        PeerProcess(str(tmp_path / "python"), tmp_path / "x.py", {}, tmp_path / "log.txt")


def test_after_one_bar_all_kinds_are_asked_and_after_more_the_main_one():
    system = System("s", "m", "arrival", "what")
    found = cells(system, (1, 10), ("1", "8", "64", "choice"), 9)
    assert found == [
        Cell(1, "8", 9), Cell(1, "1", 9), Cell(1, "choice", 9), Cell(10, "8", 3), Cell(1, "64", 3),
    ]  # fmt: skip
    whole = System("s", "m", "never kept", "what", kinds="main")
    assert cells(whole, (1, 10), ("1", "8", "64", "choice"), 9) == [Cell(1, "8", 9)]
    unclosed = System("s", "m", "arrival", "what", kinds="open")
    assert Cell(1, "choice", 9) not in cells(unclosed, (1, 10), ("8", "choice"), 9)


def test_material_is_the_same_for_the_same_seed_and_ends_with_a_bar():
    one = make_material(weights_path(), (100, 300), 3)
    again = make_material(weights_path(), (100, 300), 3)
    assert one.context == again.context and len(one.question) == 16
    newline = one.tokens.data("\n")[-1]
    for wanted, length in one.lengths.items():
        assert wanted <= length < wanted + 64
        assert one.context[length - 1] == newline
    bars, same = one.fresh(), again.fresh()
    assert [next(bars) for _ in range(5)] == [next(same) for _ in range(5)]
    assert one.tokens.text(next(bars)) not in one.tokens.text(one.context)


def test_slope_is_that_of_the_least_squares_line():
    assert report.slope([(0, 1.0), (1, 3.0), (2, 5.0)]) == pytest.approx(2.0)
    assert report.slope([(0, 0.0), (1, 1.0), (2, 5.0)]) == pytest.approx(2.5)
    assert report.slope([(7, 1.0), (7, 2.0)]) is None


def test_percentiles_of_few_samples_lie_between_them():
    found = report.percentiles([float(n) for n in range(1, 102)])
    assert found == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "min": 1.0}


def made_up(samples, **peer):
    """A result with one peer, as the referee gives it."""
    bandwidth = {"before": 1e9, "after": 1e9}
    return {
        "floor": {"weight_bytes": 1_000_000, "kv_bytes_per_token": 1_000},
        "settings": {
            "contexts": [100, 200], "between": [1], "answers": ["8"], "question_tokens": 16,
            "budget_s": 20, "mix": {"seconds": 10.0},
        },
        "model": {"name": "m", "parameters": 1_000_000, "dtype": "bfloat16"},
        "machine": {"threads": 2, "cpu": "c"},
        "peers": [
            {
                "peer": "p", "engine": "p", "bandwidth": bandwidth, "samples": samples,
                "failed": None, "equality": [],
                "systems": {plan.OURS: {"reads": "arrival", "what": "w"}},
            }
            | peer
        ],
    }  # fmt: skip


def sample(context, total_ms, arrivals_ms=4.0, between=1):
    return {
        "system": plan.OURS, "context": context, "position": context, "between": between,
        "answer": "8", "ttft_ms": total_ms / 2, "total_ms": total_ms, "arrivals_ms": arrivals_ms,
    }  # fmt: skip


def test_cells_floors_and_slopes_follow_from_the_samples():
    samples = [sample(100, 20.0), sample(100, 30.0), sample(100, 40.0), sample(200, 50.0)]
    result = report.summarize(made_up(samples))
    first, second = result["cells"]
    assert first["samples"] == 3 and first["total_ms"]["p50"] == 30.0
    assert first["ttft_ms"]["p50"] == 15.0
    assert first["work_ms_per_bar"] == 34.0
    # Eight forwards read the weights, and the cells of all that is before them.
    read = 8 * 1_000_000 + 1_000 * sum(100 + 16 + step for step in range(8))
    assert first["floor_ms"] == pytest.approx(read / 1e9 * 1e3)
    assert second["over_floor"] == pytest.approx(50.0 / second["floor_ms"])
    (slope,) = result["slopes"]
    assert slope["ms_per_1000_tokens"] == pytest.approx(1e3 * (50.0 - 30.0) / 100)
    assert slope["floor_ms_per_1000_tokens"] == pytest.approx(8 * 1_000 / 1e9 * 1e3 * 1e3)


def test_what_a_bar_costs_is_a_share_of_what_arrived_together():
    result = report.summarize(made_up([sample(100, 20.0, arrivals_ms=40.0, between=10)]))
    (cell,) = result["cells"]
    assert cell["arrival_ms"] == 4.0 and cell["work_ms_per_bar"] == 6.0


def test_drift_within_a_peers_turn_is_said():
    drifted = made_up([sample(100, 20.0)], bandwidth={"before": 1e9, "after": 5e8})
    shown = tables.table(report.summarize(drifted))
    assert "drifted by more than 15% in the turn of p" in shown
    assert "drifted" not in tables.table(report.summarize(made_up([sample(100, 20.0)])))


def test_a_peer_that_failed_has_its_reason_in_the_table():
    shown = tables.table(report.summarize(made_up([], failed="open: no cheese")))
    assert "did not finish: open: no cheese" in shown


def test_wrong_is_only_who_was_judged():
    check = {"system": plan.OURS, "max_difference": 4.0, "agrees": False, "disagreements": []}
    shown = tables.table(report.summarize(made_up([])))
    assert "WRONG" not in shown
    shown = tables.table(report.summarize(made_up([], equality=[check])))
    assert "4.000 WRONG, not measured" in shown
    assert "WRONG as standing" not in shown and "WRONG in the mix" not in shown


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """The command itself: the judge, sessions, transformers, and an engine that is not there."""
    folder = tmp_path_factory.mktemp("race")
    out = folder / "race.json"
    missing = Process("vllm", "vllm", str(folder / "absent.py"), (System("absent", "m", "-", "w"),))
    (folder / "absent.py").write_text(
        textwrap.dedent(f"""
            import sys
            sys.path.insert(0, {str(PEERS)!r})
            from wire import serve
            def make(settings):
                import vllm_that_is_not_there
            serve(make)
        """)
    )
    peers = tuple(p for p in plan.PROCESSES if p.name in ("workbench", "transformers-warm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "PROCESSES", (*peers, missing))
        words = "race --smoke --dtype float32 --threads 1 --repeats 1 --only"
        only = ["workbench", "transformers-warm", "vllm"]
        assert main([*words.split(), *only, "--out", str(out)]) == 0
    beside = {"": "race.parquet", "standing": "race-standing.parquet", "mix": "race-mix.parquet"}
    read = {part: pl.read_parquet(folder / name) for part, name in beside.items()}
    return json.loads(out.read_text()), read


def test_everyone_is_measured_and_agrees_with_the_judge(raced):
    result, files = raced
    rows = files[""]
    ours = {(1, "1"), (1, "4"), (1, "choice"), (2, "4")}
    expected = {
        "workbench": ours,
        "workbench, flash hit": {(1, "choice")},
        "transformers, kept warm": ours,
        "transformers, static, kept warm": ours,
    }
    for context in (200, 400):
        got: dict[str, set[tuple[int, str]]] = {}
        for cell in result["cells"]:
            if cell["context"] == context:
                got.setdefault(cell["system"], set()).add((cell["between"], cell["answer"]))
                assert 0 < cell["ttft_ms"]["p50"] <= cell["total_ms"]["p50"]
        assert got == expected
    checks = [check for peer in result["peers"] for check in peer["equality"]]
    # At each context an open answer of everyone's and a choice, of the flash hit that alone.
    assert len(checks) == 2 * (2 * len(expected) - 1)
    for check in checks:
        assert check["agrees"] and check["max_difference"] <= check["bound"] == 1e-3
    seen = [c["difference_if_the_last_bar_were_missing"] for c in checks if c["tokens"] > 1]
    assert min(seen) > 100 * checks[0]["bound"]
    assert set(rows["system"]) == set(expected) and rows["total_ms"].min() > 0


def test_standing_questions_are_measured_and_agree_with_the_judge(raced):
    result, files = raced
    rows = files["standing"]
    systems = {"workbench", "transformers, kept warm", "transformers, static, kept warm"}
    cells = result["standing_cells"]
    kinds = {(c["system"], c["context"], c["questions"], c["answer"]) for c in cells}
    assert kinds == {
        (s, c, k, a) for s in systems for c in (200, 400) for k in (1, 3) for a in ("4", "choice")
    }  # fmt: skip
    for cell in cells:
        assert 0 < cell["read_ms"] <= cell["total_ms"]["p50"]
        assert cell["times_ours"] == 1 if cell["system"] == plan.OURS else cell["times_ours"] > 0
    checks = [c for p in result["peers"] if p.get("standing") for c in p["standing"]["equality"]]
    # The first, the middle and the last of three, of either kind of answer, at either context.
    assert len(checks) == len(systems) * 3 * 2 * 2
    assert {check["question"] for check in checks} == {0, 1, 2}
    assert all(check["agrees"] and check["max_difference"] <= 1e-3 for check in checks)
    assert set(rows["questions"]) == {1, 3} and rows["total_ms"].min() > 0


def test_the_mix_is_served_and_agrees_with_the_judge(raced):
    result, files = raced
    rows = files["mix"]
    systems = {"workbench", "transformers, kept warm"}
    assert {(c["system"], c["sessions"]) for c in result["mix_cells"]} == {(s, 3) for s in systems}
    first, second = result["mix_cells"]
    assert (first["questions"], first["bars"]) == (second["questions"], second["bars"])
    assert first["questions"] == 5 and first["bars"] > 3
    checks = [c for p in result["peers"] if p.get("mix") for c in p["mix"]["equality"]]
    rehearsed = [check for check in checks if check["max_difference"] is not None]
    assert len(rehearsed) == 2 * 3 * len(systems) and len(checks) > len(rehearsed)
    assert all(check["agrees"] for check in checks)
    assert max(check["max_difference"] for check in rehearsed) <= 1e-3
    assert min(c["difference_if_the_last_bar_were_missing"] for c in rehearsed) > 0.1
    assert set(rows["kind"]) == {"bar", "question"} and rows["finished"].all()
    asked = rows.filter(pl.col("kind") == "question")
    assert (asked["first_ms"] <= asked["last_ms"]).all() and asked["first_ms"].min() > 0
    assert all(cell["processors"] > 0 for cell in result["mix_cells"])


def test_an_engine_that_is_not_there_is_listed_with_the_reason(raced):
    result, _ = raced
    absent = next(peer for peer in result["peers"] if peer["peer"] == "vllm")
    assert "No module named 'vllm_that_is_not_there'" in absent["failed"]
    assert "--python vllm=PATH" in absent["failed"]
    assert not [cell for cell in result["cells"] if cell["system"] == "absent"]


def test_the_file_says_what_it_was_measured_with(raced):
    result, _ = raced
    assert result["command"].startswith("python -m workbench.bench race --smoke")
    assert result["versions"]["torch"] and result["machine"]["cpu"]
    assert all(len(peer["bandwidth"]["seen"]) == 3 for peer in result["peers"])
    assert len({str(peer["bandwidth"]) for peer in result["peers"]}) == 1  # they were together
    assert result["settings"]["together"]
    assert result["judge"]["is"] == "plain transformers in float32"


def test_frames_have_a_row_for_every_cell_and_peer(raced):
    result, _ = raced
    cells = frames.cells_frame(result)
    assert len(cells) == len(result["cells"])
    ours = cells.filter(system=plan.OURS)
    assert (ours["times_ours"] == 1).all() and (cells["ms"] >= cells["first_ms"]).all()
    hits = cells.filter(pl.col("system").str.contains("flash hit"))
    assert hits["floor_ms"].is_null().all() and (hits["times_ours"] < 1).all()
    standing = frames.standing_frame(result)
    assert len(standing) == len(result["standing_cells"])
    assert (standing.filter(questions=1)["over_fewest"] == 1).all()
    mix = frames.mix_frame(result)
    assert len(mix) == len(result["mix_cells"]) and (mix["unanswered"] == 0).all()
    peers = frames.peers_frame(result)
    missing = peers.filter(system="absent")
    assert missing["agrees"].item() is None and "No module" in missing["failed"].item()
    measured = peers.filter(pl.col("failed").is_null())
    assert set(measured["system"]) == set(cells["system"]) and measured["agrees"].all()
    assert measured["differs_by"].max() <= 1e-3


def test_frames_of_a_race_without_a_part_are_empty():
    result = report.summarize(made_up([sample(100, 20.0)]))
    assert len(frames.cells_frame(result)) == 1
    assert frames.standing_frame(result).is_empty() and frames.mix_frame(result).is_empty()
    assert frames.standing_frame(result).columns == list(frames.STANDING)


def test_where_things_are_on_a_machine_stays_out_of_the_file():
    given = "python -m workbench.bench race --python vllm=/some/where/python --out /any/race.json"
    assert command.without_paths(given) == (
        "python -m workbench.bench race --python vllm=PATH --out race.json"
    )
    assert command.without_paths("race --out data/race.json") == "race --out data/race.json"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--contexts 900 300", "contexts (900, 300): expected ascending"),
        ("--answers choice", "expected at least one number of tokens"),
        ("--repeats 0", "repeats 0: expected positive numbers"),
        ("--between 0", "between (0,): expected ascending whole numbers from 1 on"),
        ("--standing 4 1", "standing (4, 1): expected ascending whole numbers from 1 on"),
        ("--mix 0", "mix (0,): expected ascending whole numbers from 1 on"),
        ("--mix-bars 0 --mix-grace -1", "mix_bars 0.0, mix_grace -1.0: expected positive numbers"),
        ("--only sglang", "peer 'sglang' computes on cuda alone, and this race is on cpu"),
        ("--only mlx", "peer 'mlx': expected some of"),
        ("--python mlx=x", "--python mlx=x: expected ENGINE=PATH, with one of"),
    ],
)
def test_a_wrong_option_is_one_line(words, said, capsys):
    assert main(["race", *words.split()]) == 1
    assert said in capsys.readouterr().err
