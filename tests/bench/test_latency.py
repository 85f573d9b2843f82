import json
import subprocess

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.bench import contenders, latency, machine, report
from workbench.bench.__main__ import main
from workbench.bench.batching import Batching
from workbench.bench.peers import Stateless, Warm, WarmCompiled, WarmStatic
from workbench.bench.stream import bars, take
from workbench.engine.floor import Floor
from workbench.errors import WorkbenchError


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What the command writes, at a size that takes a second or two."""
    out = tmp_path_factory.mktemp("bench") / "latency.json"
    command = "latency --size tiny --dtype float32 --threads 1 --contexts 300 600 --repeats 1"
    assert main([*command.split(), "--stateless-repeats", "1", "--out", str(out)]) == 0
    return json.loads(out.read_text())


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=48, vocab_size=64, initializer_range=0.3,
        tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_the_result_says_what_it_was_measured_with(result):
    assert result["benchmark"] == "latency"
    assert result["command"].startswith("python -m workbench.bench latency --size tiny")
    assert result["versions"]["torch"] == torch.__version__
    assert {"python", "transformers", "triton"} <= set(result["versions"])
    assert {"cpu", "threads", "memory_bytes"} <= set(result["machine"])
    source = result["source"]  # None where the tests run outside a checkout
    assert source is None or len(source["commit"]) == 40
    assert result["model"]["dtype"] == "float32"
    assert result["bandwidth"]["best"] >= max(result["bandwidth"]["bytes_per_s"]) > 0
    assert len(result["bandwidth"]["bytes_per_s"]) == 3


def test_the_commit_is_that_of_the_checkout_and_of_no_other(tmp_path, monkeypatch):
    def git(*arguments):
        options = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *options, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "machine.py"
    file.write_text("1")
    monkeypatch.setattr(machine, "__file__", str(file))
    git("init")
    (tmp_path / "theirs").write_text("1")
    git("add", "theirs")
    git("commit", "-m", "a")
    assert machine.source() is None  # a checkout around it, of something else
    git("add", "machine.py")
    git("commit", "-m", "b")
    assert machine.source() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    file.write_text("2")
    assert machine.source()["changed"]


def test_every_system_is_measured_at_every_context(result):
    ours = {contenders.ONE, contenders.EIGHT, contenders.CHOICES, contenders.FLASH, contenders.BAR}
    warm = {contenders.ONE, contenders.EIGHT, contenders.BAR}
    expected = {
        contenders.OURS: ours,
        Warm.name: warm,
        WarmStatic.name: warm,
        Stateless.name: {contenders.ONE, contenders.EIGHT},
    }
    assert [block["context"] for block in result["contexts"]] == [300, 600]
    for block in result["contexts"]:
        got: dict[str, set[str]] = {}
        for entry in block["measured"]:
            got.setdefault(entry["system"], set()).add(entry["kind"])
            assert 0 < entry["min_ms"] <= entry["median_ms"] <= entry["p90_ms"]
            assert entry["samples"] == len(entry["all_ms"]) == len(entry["positions"])
            assert abs(entry["position"] - block["context"]) < 100
        assert got == expected


def test_reading_is_timed_for_the_session_and_the_warm_peer(result):
    for block in result["contexts"]:
        assert block["reading"]["tokens"] > 0
        assert set(block["reading"]["seconds"]) == {contenders.OURS, Warm.name}
        assert min(block["reading"]["seconds"].values()) > 0


def test_ratios_follow_from_the_medians(result):
    for block in result["contexts"]:
        at = {(entry["system"], entry["kind"]): entry for entry in block["measured"]}
        ours = at[contenders.OURS, contenders.EIGHT]
        ratios = block["ratios"][contenders.EIGHT]
        assert ratios["ours/floor"] == ours["median_ms"] / ours["floor_ms"]
        peer = at[Warm.name, contenders.EIGHT]
        assert ratios[f"ours/{Warm.name}"] == ours["median_ms"] / peer["median_ms"]


def test_everyone_agrees_and_the_comparison_would_see_a_missing_bar(result):
    for block in result["contexts"]:
        equality = block["equality"]
        assert set(equality["max_difference"]) == {Warm.name, WarmStatic.name, Stateless.name}
        assert max(equality["max_difference"].values()) <= equality["bound"] == 1e-3
        assert equality["difference_if_the_last_bar_were_missing"] > 100 * equality["bound"]
        assert equality["same_greedy_tokens"] == {Warm.name: True, WarmStatic.name: True}


def test_nothing_is_measured_when_answers_differ():
    equality = {
        "position": 2600,
        "max_difference": {"a peer": 0.5},
        "choice_difference": 0.0,
        "bound": 0.3,
    }
    with pytest.raises(WorkbenchError, match=r"differ by 0\.5 from a peer, bound 0\.3"):
        latency.check(equality)
    equality["max_difference"]["a peer"] = float("nan")
    with pytest.raises(WorkbenchError, match="differ by nan"):
        latency.check(equality)


def test_what_was_measured_before_an_interrupt_is_kept(tmp_path, monkeypatch, capsys):
    measured = latency._measure

    def interrupted(contenders, context, *rest):
        if context == 600:
            raise KeyboardInterrupt
        return measured(contenders, context, *rest)

    monkeypatch.setattr(latency, "_measure", interrupted)
    out = tmp_path / "latency.json"
    command = "latency --size tiny --dtype float32 --threads 1 --contexts 300 600 --repeats 1"
    assert main([*command.split(), "--stateless-repeats", "1", "--out", str(out)]) == 130
    assert "what was written before stays" in capsys.readouterr().err
    assert [block["context"] for block in json.loads(out.read_text())["contexts"]] == [300]


def test_what_was_asked_is_compared_with_the_roofline_too(result):
    assert result["arithmetic"]["flops_per_s"] > 0 and result["arithmetic"]["of"]
    for block in result["contexts"]:
        for entry in block["measured"]:
            asked = entry["kind"] in (contenders.ONE, contenders.EIGHT, contenders.CHOICES)
            assert ("roofline_ms" in entry) == asked
            if asked:
                assert entry["roofline_ms"] >= 0.999 * entry["floor_ms"]
                assert entry["over_roofline"] == entry["median_ms"] / entry["roofline_ms"]


def test_the_table_has_a_line_per_measurement(result):
    shown = report.table(result)
    assert "roofline: of each forward that, or its arithmetic at" in shown
    assert shown.count(contenders.OURS + "  ") == 2 * 5
    assert "context 300 tokens" in shown and "context 600 tokens" in shown


def test_floor_counts_weights_and_cache_but_not_the_embedding_table(llama):
    floor = Floor.of(llama)
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32
    layer = attention + 3 * 32 * 48 + 2 * 32
    assert floor.weight_bytes == 4 * (2 * layer + 32 + 64 * 32)
    assert floor.kv_bytes_per_token == 2 * 2 * 2 * 8 * 4
    one = floor.weight_bytes + 116 * floor.kv_bytes_per_token
    assert floor.bytes_read(100, 16, 1) == one
    assert floor.bytes_read(100, 16, 2) == 2 * one + floor.kv_bytes_per_token
    assert floor.ms(100, 16, 1, bandwidth=1e6) == one / 1e3


def test_floor_counts_a_tied_table_since_the_head_reads_it():
    shape = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 48, "vocab_size": 64,
    }  # fmt: skip
    tied = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **shape))
    loose = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **shape))
    assert Floor.of(tied) == Floor.of(loose)


def test_peers_give_the_same_answers_again_after_cutting_back(llama):
    context = torch.randint(0, 64, (700,), generator=torch.Generator().manual_seed(1)).tolist()
    question = [5, 6, 7]
    expected = Stateless(llama).ask(context, question, 8)
    score = Stateless(llama).score(context, question, expected.token_ids)
    warm = Warm(llama)
    warm.advance(context[:600])
    static = WarmStatic(llama, warm, room=120)
    for peer in (warm, static):
        peer.advance(context[600:])
        for _ in range(2):
            reply = peer.ask(question, 8)
            assert reply.token_ids == expected.token_ids
            assert 0 < reply.ttft_ms < reply.total_ms
            assert peer.score(question, reply.token_ids) == pytest.approx(score, abs=1e-4)
        peer.forget(50)
        peer.advance(context[-50:])
        assert peer.ask(question, 8).token_ids == expected.token_ids
        assert peer.length == 700


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_compiled_peer_gives_the_answers_of_the_others(llama):
    del llama.model.layers[1:]
    llama.config.num_hidden_layers = 1
    context = torch.randint(0, 64, (90,), generator=torch.Generator().manual_seed(1)).tolist()
    warm = Warm(llama)
    warm.advance(context[:80])
    peers = [warm, WarmCompiled(llama, warm, room=60)]
    for peer in peers:
        peer.advance(context[80:])
    expected, *others = ([peer.ask([5, 6, 7], 8).token_ids for _ in range(2)] for peer in peers)
    assert others == [expected]


def test_continuous_batching_gives_the_answers_of_the_others(llama):
    context = torch.randint(0, 64, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    question, other = [5, 6, 7], [9, 9]
    expected = Stateless(llama).ask(context, question, 8).token_ids
    score = Stateless(llama).score(context, question, expected)
    wrong = [*expected[:3], (expected[3] + 1) % 64, *expected[4:]]
    peer = Batching(llama, cells=1024)
    try:
        peer.advance(context[:100])
        peer.ask(other, 2)
        peer.advance(context[100:])
        assert peer.length == 150
        for _ in range(2):
            reply = peer.ask(question, 8)
            assert reply.token_ids == expected
            assert 0 < reply.ttft_ms < reply.total_ms
        assert peer.score(question, expected) == pytest.approx(score, abs=1e-4)
        assert peer.score(question, wrong) == pytest.approx(score[:3], abs=1e-4)
    finally:
        peer.close()


def test_a_peer_that_may_fail_is_out_with_its_reason(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(contenders.WarmCompiled, "__init__", broken)
    command = "latency --size tiny --dtype float32 --threads 1 --contexts 300 --repeats 1"
    out = tmp_path / "more.json"
    more = ["--stateless-repeats", "1", "--more-peers", "--out", str(out)]
    assert main([*command.split(), *more]) == 0
    result = json.loads(out.read_text())
    assert result["unavailable"] == {WarmCompiled.name: "no compiler here"}
    assert f"{WarmCompiled.name} is not there: no compiler here" in capsys.readouterr().out
    (block,) = result["contexts"]
    systems = {entry["system"] for entry in block["measured"]}
    assert Batching.name in systems and WarmCompiled.name not in systems
    assert block["equality"]["max_difference"][Batching.name] <= 1e-3
    assert f"ours/{Batching.name}" in block["ratios"][contenders.EIGHT]


def test_a_peer_that_may_fail_is_out_where_it_answers_otherwise(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(contenders.WarmCompiled, "__init__", broken)
    monkeypatch.setattr(Batching, "score", lambda self, question, tokens: [-9.0] * len(tokens))
    command = "latency --size tiny --dtype float32 --threads 1 --contexts 300 --repeats 1"
    out = tmp_path / "more.json"
    more = ["--stateless-repeats", "1", "--more-peers", "--out", str(out)]
    assert main([*command.split(), *more]) == 0
    result = json.loads(out.read_text())
    assert result["unavailable"][Batching.name].startswith("differs by ")
    (block,) = result["contexts"]
    assert Batching.name not in {entry["system"] for entry in block["measured"]}
    assert Batching.name not in block["equality"]["max_difference"]


def test_every_peer_has_its_place_in_the_table():
    assert {WarmCompiled.name, WarmStatic.name, Warm.name, Stateless.name, Batching.name} == set(
        report.PEERS
    )


def test_the_stream_has_the_tokens_asked_for_and_is_the_same_again():
    def encode(text):
        return list(text.encode())

    rows = take(bars(3), 1000, encode)
    assert rows == take(bars(3), 1000, encode)
    assert rows != take(bars(4), 1000, encode)
    assert set(rows[0]) == {"o", "h", "l", "c", "v"}
    assert 20 < len(rows) < 40


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon"),
        ("", "cpu"),
    ],
)
def test_a_cpu_has_a_name_that_fits_a_file(name, short):
    assert machine.short_name(name) == short


def test_a_machine_is_called_by_its_processor_also_where_its_name_hides_which(monkeypatch):
    text = "vendor_id : AMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nmodel : 9\n"
    monkeypatch.setattr(machine.Path, "exists", lambda path: True)
    monkeypatch.setattr(machine.Path, "read_text", lambda path: text)
    assert machine.cpu_numbers() == {"cpu_family": 25, "cpu_model": 17}
    described = machine.describe(2)
    assert machine.called(described) == "2 threads of AMD EPYC (family 25, model 17)"
    assert machine.called({"threads": 1, "cpu": "Apple M4"}) == "1 threads of Apple M4"
    assert machine.called(described | {"gpu": "H200"}) == "H200"
    monkeypatch.setattr(machine.Path, "read_text", lambda path: "Processor : ARMv8\n")
    assert machine.cpu_numbers() == {}


def test_kernels_are_measured_on_a_gpu_alone(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["kernels"]) == 1
    assert "expected an NVIDIA GPU" in capsys.readouterr().err


def test_a_wrong_option_is_one_line_and_no_file(tmp_path, capsys):
    out = tmp_path / "x.json"
    command = ["latency", "--size", "tiny", "--contexts", "900", "300", "--out", str(out)]
    assert main(command) == 1
    assert "expected ascending numbers of tokens" in capsys.readouterr().err
    assert not out.exists()
