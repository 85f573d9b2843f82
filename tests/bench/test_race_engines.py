"""Scripts of engines that serve from a GPU, over stand-ins that count as their documents say."""

import asyncio
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from workbench.bench.__main__ import main
from workbench.bench.race import plan, report
from workbench.errors import WorkbenchError

MODULES = ("by_request", "by_async", "wire", "timetable", "on_sglang", "on_tensorrt_llm")
SETTINGS = {"model": "m", "dtype": "bfloat16", "longest": 100, "sequences": 4}


@pytest.fixture
def peers(monkeypatch):
    """Imports a script as peers do: with their folder on the path."""
    monkeypatch.syspath_prepend(str(Path(report.__file__).parent / "peers"))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


class Requests:
    """Each request's tokens are how long its prompt is, and a probability of one in so many."""

    def __init__(self):
        self.prompts, self.ended, self.fault = [], [], None

    async def tokens(self, prompt, number):
        self.prompts.append(prompt)
        for count in range(1, number + 1):
            await asyncio.sleep(0)
            if self.fault:
                raise self.fault
            yield [len(prompt)] * count


@pytest.fixture
def sglang(peers, monkeypatch):
    requests = Requests()

    class Engine:
        def __init__(self, **options):
            self.options, self.loop = options, asyncio.new_event_loop()
            self.tokenizer_manager = SimpleNamespace(abort_request=self.abort)

        def abort(self, rid):
            requests.ended.append(rid)

        def shutdown(self):
            pass

        async def async_generate(
            self, *, input_ids, sampling_params, return_logprob, token_ids_logprob, stream, rid
        ):
            assert stream and sampling_params["temperature"] == 0.0
            assert not [name for name in requests.ended if name.startswith(rid)]
            return self.outputs(input_ids, sampling_params["max_new_tokens"], return_logprob,
                                token_ids_logprob)  # fmt: skip

        async def outputs(self, ids, number, scored, labels):
            live = []
            async for tokens in requests.tokens(ids, number):
                live[:] = tokens
                meta = {}
                if scored:
                    meta["output_token_logprobs"] = [(-float(t), t, None) for t in tokens]
                if labels:
                    meta["output_token_ids_logprobs"] = [[(-1.0 * t, t, None) for t in labels]]
                yield {"output_ids": live, "meta_info": meta}

    module = ModuleType("sglang")
    module.Engine = Engine
    monkeypatch.setitem(sys.modules, "sglang", module)
    peer = peers("on_sglang").SGLang(SETTINGS)
    yield peer, requests
    peer.close()


@pytest.fixture
def tensorrt_llm(peers, monkeypatch):
    requests = Requests()

    class Result:
        def __init__(self, ids, params):
            asyncio.get_running_loop()  # it decides by this how it passes tokens on
            self.ids, self.params = ids, params

        async def __aiter__(self):
            async for tokens in requests.tokens(self.ids, self.params.max_tokens):
                scores = [{t: SimpleNamespace(logprob=-float(t))} for t in tokens]
                output = SimpleNamespace(
                    token_ids=tokens, logprobs=scores if self.params.logprobs else []
                )
                yield SimpleNamespace(outputs=[output])

        def abort(self):
            requests.ended.append(self.ids)

    class LLM:
        def __init__(self, **options):
            self.options = options

        def shutdown(self):
            pass

        def generate_async(self, ids, sampling_params, streaming):
            assert streaming and sampling_params.end_id == -1
            return Result(ids, sampling_params)

    module, api = ModuleType("tensorrt_llm"), ModuleType("tensorrt_llm.llmapi")
    module.LLM, module.SamplingParams = LLM, SimpleNamespace
    api.CudaGraphConfig = api.KvCacheConfig = SimpleNamespace
    monkeypatch.setitem(sys.modules, "tensorrt_llm", module)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", api)
    peer = peers("on_tensorrt_llm").TensorRTLLM(SETTINGS)
    yield peer, requests
    peer.close()


@pytest.fixture(params=["sglang", "tensorrt_llm"])
def engine(request):
    return request.getfixturevalue(request.param)


def question(peers, tokens, choices=None, scored=False):
    return peers("wire").Question([7, 8], tokens, choices, scored)


def test_tokens_come_as_they_are_computed_and_once_each(peers, engine):
    peer, requests = engine
    peer.fill([1, 2, 3])
    peer.begin("warm", 3, 9)
    peer.arrive("warm", [4, 5])
    reply = peer.ask("warm", question(peers, 4))
    assert reply.ids == [7] * 4 and not reply.logprobs and reply.first_at
    assert requests.prompts == [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 7, 8]]
    peer.begin("prefix", 3, 9)
    peer.arrive("prefix", [4])
    assert peer.ask("prefix", question(peers, 1)).ids == [6]
    assert len(requests.prompts) == 4  # the bar was not read by itself


def test_log_probabilities_come_where_they_are_asked_for(peers, engine):
    peer, _ = engine
    peer.fill([1])
    peer.begin("prefix", 1, 9)
    peer.watch("prefix", [question(peers, 3, scored=True) for _ in range(5)])
    found = peer.refresh("prefix", [2, 3])
    assert [reply.ids for reply in found.replies] == [[5] * 3] * 5
    assert [reply.logprobs for reply in found.replies] == [[-5.0] * 3] * 5


def test_a_choice_is_the_likeliest_label(peers, sglang):
    peer, _ = sglang
    peer.fill([1])
    peer.begin("prefix", 1, 9)
    reply = peer.ask("prefix", question(peers, 1, choices=[30, 20, 40]))
    assert reply.ids == [20] and reply.logprobs == [-20.0]


def test_requests_that_are_given_up_are_ended(peers, engine):
    peer, requests = engine
    peer.fill([1])
    keys = [peer.submit([1, n], question(peers, 10**6)) for n in range(3)]
    while len(requests.prompts) < 4:
        peer.step()
    peer.cancel(keys)
    assert len(requests.ended) == 3
    assert not peer.step()


def test_what_the_engine_raises_ends_the_question(peers, engine):
    peer, requests = engine
    peer.fill([1])
    requests.fault = ValueError("out of blocks")
    peer.begin("prefix", 1, 9)
    with pytest.raises(ValueError, match="out of blocks"):
        peer.ask("prefix", question(peers, 2))


def test_engines_race_where_they_compute():
    here, there = plan.chosen([]), plan.chosen([], "cuda")
    assert {"openvino"} == {p.name for p in here} - {p.name for p in there}
    assert {"sglang", "tensorrt-llm"} == {p.name for p in there} - {p.name for p in here}
    for peer, device in (("sglang", "cpu"), ("openvino", "cuda")):
        with pytest.raises(WorkbenchError, match="expected --device"):
            plan.chosen([peer], device)


def test_a_race_on_a_gpu_wants_one(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["race", "--smoke", "--device", "cuda"]) == 1
    assert "torch finds no CUDA device; expected an NVIDIA GPU" in capsys.readouterr().err
