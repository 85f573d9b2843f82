"""The smaller benchmarks run, compare like with like, and write what they print."""

import json

import pytest

from workbench.bench.__main__ import main


def run(tmp_path, capsys, name, *arguments):
    out = tmp_path / f"{name}.json"
    assert main([name, "--model", "tiny", *arguments, "--out", str(out)]) == 0
    return json.loads(out.read_text()), capsys.readouterr().out


def test_flash_queries_together_and_one_by_one(tmp_path, capsys):
    found, shown = run(tmp_path, capsys, "flash", "--queries", "1", "3", "--context", "300",
                       "--repeats", "2")  # fmt: skip
    assert [(r["kind"], r["queries"]) for r in found["rows"]] == [
        ("choice", 1), ("choice", 3), ("open", 1), ("open", 3),
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["context"] >= 300 and len(row["all"]["together_ms"]) == 3
        assert row["in_steps_ms"] > 0 and row["asked_ms"] > 0 and row["transformers_warm_ms"] > 0
    assert "asked in turn" in shown and found["versions"]["torch"]


def test_sharing_computes_and_holds_once(tmp_path, capsys):
    found, shown = run(tmp_path, capsys, "sharing", "--sessions", "4", "--context", "300")
    shared, apart = found["rows"]
    assert shared["tokens_served"] == 4 * shared["tokens_computed"]
    assert shared["cells_held"] * 4 == shared["cells_filled"]
    assert apart["tokens_computed"] > 3.9 * shared["tokens_computed"]
    assert apart["cells_held"] > 0.9 * apart["cells_filled"]
    assert "a prompt each" in shown


def test_windows_keep_memory_flat(tmp_path, capsys):
    found, shown = run(tmp_path, capsys, "windows", "--ticks", "300", "--cells", "800")
    assert found["rebuilds"] > 5 and len(found["samples"]) == 20
    for sample in found["samples"]:
        assert sample["kept_tokens"]["rebuild"] <= 400 and sample["kept_tokens"]["evict"] <= 800
    assert "windows rebuilt" in shown


def test_an_unknown_model_is_refused():
    with pytest.raises(SystemExit):
        main(["flash", "--model", "huge"])
