"""Turns raced anew take the place of a file's, and nothing else of it changes."""

import json

import pytest

from workbench.bench.__main__ import main
from workbench.bench.race import again, files, report
from workbench.bench.race.options import PARTS
from workbench.errors import WorkbenchError

SAMPLE = {
    "context": 300, "position": 310, "between": 1, "answer": "8", "arrivals_ms": 1.0,
    "ttft_ms": 2.0,
}  # fmt: skip
EVENT = {"kind": "question", "at": 0.5, "first_ms": 3.0, "finished": True}


def peer(name, ms, *, mix=None):
    """A peer's turns; every time it took is ``ms``."""
    found = {
        "peer": name, "engine": name, "systems": {name: {"reads": "arrival", "what": "it"}},
        "failed": None, "bandwidth": {"before": 1e9, "after": 1e9}, "reading": [], "equality": [],
        "samples": [SAMPLE | {"system": name, "total_ms": ms}],
        "standing": {"systems": {name: "so"}, "equality": [], "samples": [
            {"system": name, "context": 300, "position": 310, "questions": 1, "answer": "8",
             "read_ms": None, "total_ms": ms},
        ]},
    }  # fmt: skip
    if mix is not None:
        run = {"system": name, "sessions": 8, "reading_s": 1.0, "ended_s": 2.0, "processors": 0.5}
        events = [EVENT | {"last_ms": mix}, EVENT | {"kind": "bar", "last_ms": 1.0}]
        found["mix"] = {
            "failed": None, "systems": {name: "so"}, "equality": [],
            "bandwidth": {"before": 1e9, "after": 1e9}, "runs": [run | {"events": events}],
        }  # fmt: skip
    return found


def race(*peers, command="first", parts=PARTS, **settings):
    return {
        "benchmark": "race", "command": command, "began": "then", "machine": {"cpu": "a cpu"},
        "model": {"parameters": 1}, "floor": {"weight_bytes": 10, "kv_bytes_per_token": 1},
        "settings": {"parts": list(parts), "question_tokens": 16, "contexts": (300,)} | settings,
        "peers": list(peers),
    }  # fmt: skip


def times(result):
    """By system: of single questions, of standing ones, of the mix."""
    parts = ("cells", "total_ms"), ("standing_cells", "total_ms"), ("mix_cells", "last_ms")
    return [{c["system"]: c[key]["p50"] for c in result[part]} for part, key in parts]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "race.json"
    files.write(report.summarize(race(peer("a", 10.0, mix=5.0), peer("b", 20.0))), path)
    return path


def test_a_file_is_read_as_it_was_written(file):
    read = files.read(file)
    assert report.summarize(read)["cells"] == json.loads(file.read_text())["cells"]
    before = {path: path.read_bytes() for path in file.parent.iterdir()}
    files.write(report.summarize(read), file)
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before


def test_a_mix_raced_anew_leaves_the_rest(file):
    new = race(peer("b", 99.0, mix=7.0), command="second", parts=["mix"])
    whole = report.summarize(again.put_into(files.read(file), new))
    assert times(whole) == [{"a": 10.0, "b": 20.0}, {"a": 10.0, "b": 20.0}, {"a": 5.0, "b": 7.0}]
    assert whole["command"] == "first"
    a, b = whole["peers"]
    assert "raced" not in a and "raced" not in b and "raced" not in a["mix"]
    assert b["mix"]["raced"] == {"command": "second", "began": "then"}
    files.write(whole, file)
    assert times(report.summarize(files.read(file))) == times(whole)


def test_contexts_raced_anew_leave_the_mix(file):
    new = race(peer("a", 99.0), peer("c", 30.0), command="second", parts=["single", "standing"])
    whole = report.summarize(again.put_into(files.read(file), new))
    assert times(whole)[0] == {"a": 99.0, "b": 20.0, "c": 30.0}
    assert times(whole)[2] == {"a": 5.0}
    assert [p["peer"] for p in whole["peers"]] == ["a", "b", "c"]
    assert whole["peers"][0]["raced"]["command"] == "second"


def test_all_of_a_peer_raced_anew(file):
    new = race(peer("a", 99.0, mix=88.0), command="second")
    whole = report.summarize(again.put_into(files.read(file), new))
    assert [part["a"] for part in times(whole)] == [99.0, 99.0, 88.0]


def failed(name):
    """A peer that did not start, in both of its turns."""
    found = peer(name, 0.0, mix=0.0) | {"failed": "it is not installed", "samples": []}
    found["standing"]["samples"] = []
    found["mix"] |= {"failed": "it is not installed", "runs": []}
    return found


@pytest.mark.parametrize("parts", [PARTS, ["mix"], ["single", "standing"]])
def test_an_attempt_that_measured_nothing_leaves_what_the_file_has(file, parts):
    old = files.read(file)
    before = times(report.summarize(old))
    whole = report.summarize(again.put_into(old, race(failed("a"), failed("c"), parts=parts)))
    assert times(whole) == before
    a, b, c = whole["peers"]
    assert a["failed"] is None and a["mix"]["failed"] is None and "raced" not in a
    assert a["tried"] == {"command": "first", "began": "then", "failed": "it is not installed"}
    assert "tried" not in b and c["failed"] == "it is not installed"
    files.write(whole, file)
    later = again.put_into(files.read(file), race(peer("a", 99.0, mix=8.0)))
    assert "tried" not in later["peers"][0]


def test_a_file_says_all_parts_that_it_has(file):
    old = report.summarize(race(peer("a", 10.0), parts=["single", "standing"]))
    files.write(old, file)
    assert not file.with_name("race-mix.parquet").exists()  # of the race that was there before
    whole = again.put_into(files.read(file), race(peer("a", 1.0, mix=2.0), parts=["mix"]))
    assert whole["settings"]["parts"] == list(PARTS)


def test_what_does_not_belong_together_is_not_put_together(file):
    old = files.read(file)
    with pytest.raises(WorkbenchError, match=r"settings are not those of this race \(seed\)"):
        again.put_into(old, race(peer("a", 1.0), seed=3))
    with pytest.raises(WorkbenchError, match="this race's: another"):
        again.put_into(old, race(peer("a", 1.0)) | {"machine": old["machine"] | {"cpu": "another"}})
    with pytest.raises(WorkbenchError, match="the file's threads: .*, this race's: 7"):
        again.put_into(old, race(peer("a", 1.0)) | {"machine": old["machine"] | {"threads": 7}})
    with pytest.raises(WorkbenchError, match="the file's cpu_model: None, this race's: 17"):
        again.put_into(old, race(peer("a", 1.0)) | {"machine": old["machine"] | {"cpu_model": 17}})
    with pytest.raises(WorkbenchError, match="the file's gpu: None, this race's: H200"):
        again.put_into(old, race(peer("a", 1.0)) | {"machine": old["machine"] | {"gpu": "H200"}})
    with pytest.raises(WorkbenchError, match=r"not those of this race \(together\)"):
        again.put_into(old, race(peer("a", 1.0), together=True))
    again.put_into(old, race(peer("a", 1.0), together=False))  # as all were, before it was said
    for parts in (["single"], ["standing", "mix"]):
        with pytest.raises(WorkbenchError, match="single and standing together"):
            again.check(parts)


def test_a_file_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["race", "--into", str(tmp_path / "no.json")]) == 1
    assert "expected a file that a race wrote" in capsys.readouterr().err
