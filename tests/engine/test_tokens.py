"""Templates split around the data, special tokens never parsed from outside, whole characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.engine.tokens import TextStream, Tokens
from workbench.errors import ModelError, QuestionError, RowError
from workbench.testing import byte_tokenizer

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "<s>{{ m.content }}</s>{% endfor %}"
)


def tokens(template=None):
    return Tokens(byte_tokenizer(template), [257])


def spelled(made, ids):
    return made.tokenizer.decode(ids, skip_special_tokens=False)


def test_rows_sit_in_one_open_user_turn():
    made = tokens(CHAT)
    assert spelled(made, made.head("Watch.")) == "<s>system:Watch.</s><s>user:"
    assert spelled(made, made.head(None)) == "<s>user:"
    assert spelled(made, made.question("Up?")) == "Up?</s><s>assistant:"


def test_a_template_without_a_system_role_takes_the_prompt_before_the_rows():
    made = tokens(NO_SYSTEM)
    assert spelled(made, made.head("Watch.")) == "<s>Watch.\n"
    assert spelled(made, made.question("Up?")) == "Up?</s>"


def test_without_a_template_a_line_ends_the_question():
    made = tokens()
    assert spelled(made, made.head("Watch.")) == "Watch.\n"
    assert made.head(None) == []
    assert spelled(made, made.question("Up?")) == "Up?\n"


@pytest.mark.parametrize("part", ["head", "data", "question", "choice"])
def test_what_looks_like_a_special_token_is_plain_text(part):
    made = tokens(CHAT)
    ids = getattr(made, part)("a</s>b<s>")
    assert spelled(made, ids).count("a</s>b<s>") == 1
    own = {"head": 3, "question": 2}.get(part, 0)
    assert sum(i >= 256 for i in ids) == own


@given(st.text())
def test_any_text_comes_back(text):
    made = tokens()
    assert made.text(made.data(text)) == text


def test_a_text_that_ends_inside_a_character_keeps_what_was_shown():
    """Some tokenizers decode a run of bytes as a whole: its last character spoils the others."""
    spelled = "ok안녕".encode()

    class Runs:
        def text(self, ids):
            try:
                return bytes(ids).decode()
            except UnicodeDecodeError:
                return "ok" + "\ufffd" * (len(ids) - 2)

    stream = TextStream(Runs())
    for byte in (*spelled, 0xEC, 0x95):
        stream.add(byte)
    assert stream.text == "ok안녕"
    stream.flush()
    assert stream.text == "ok안녕"


def test_bad_text_is_refused():
    made = tokens()
    with pytest.raises(RowError, match="not valid Unicode"):
        made.data("a\ud800b")
    for words in ("", "  \n"):
        with pytest.raises(QuestionError, match="question is empty"):
            made.question(words)
    with pytest.raises(QuestionError, match="choice '' has no tokens"):
        made.choice("")


@given(st.text(), st.integers(4, 9))
def test_a_long_answer_reads_as_if_all_of_it_were_decoded(text, latest):
    made = tokens()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.engine.tokens.LATEST", latest)
        stream, most = TextStream(made), 0
        for number, i in enumerate(ids := made.data(text), 1):
            stream.add(i)
            assert stream.text == made.text(ids[:number]).rstrip("\ufffd")
            most = max(most, len(stream._ids))
    assert most <= 2 * latest + 3 or "\ufffd" in text


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_a_stream_only_grows_and_never_shows_a_stop(text, stops):
    made = tokens()
    stream = TextStream(made, tuple(stops))
    shown = ""
    for i in made.data(text):
        stream.add(i)
        assert stream.text.startswith(shown)
        assert "\ufffd" not in stream.text or "\ufffd" in text
        shown = stream.text
        if stream.stopped:
            break
    stream.flush()
    assert stream.text.startswith(shown)
    ends = [text.find(s) for s in stops if s in text]
    if not stream.stopped:
        assert stream.text == text and not ends
    else:
        assert not any(s in stream.text for s in stops)
        assert text.startswith(stream.text)


def test_a_choice_that_begins_another_is_meant_with_its_end():
    made = tokens()
    yes, no = made.choices(["yes", "no"])
    assert made.text(yes) == "yes" and 257 not in [*yes, *no]
    found = made.choices(["10", "1", "2"])
    assert [ids[-1] for ids in found] == [257] * 3
    assert [ids[:-1] for ids in found] == [made.choice(text) for text in ("10", "1", "2")]
    endless = Tokens(byte_tokenizer(None), [])
    assert endless.choices(["1", "10"]) == [endless.choice("1"), endless.choice("10")]


ENDS = (
    "{% for m in messages %}<s>{{ m.content }}{{ '<pad>' if m.role == 'assistant' else '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)
THINKS = CHAT + "{% if enable_thinking is not defined or enable_thinking %}(thinks){% endif %}"


def test_a_choice_that_begins_another_ends_as_replies_do():
    """Several tokens may end a reply; the template says which one does."""
    cases = ((ENDS, 257, 258), (CHAT, 256, 257), (None, 257, 257), (None, 99, 256))
    for template, own, end in cases:
        tokenizer = byte_tokenizer(template)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(own)
        made = Tokens(tokenizer, [256, 257, 258])
        assert [ids[-1] for ids in made.choices(["1", "10"])] == [end, end]
    made = tokens(ENDS)
    assert made.choices(["up", "down"]) == [made.data("up"), made.data("down")]


def test_choices_that_read_the_same_are_refused():
    made = tokens()
    plain = made._plain
    made._plain = lambda text, **options: plain(text.lower(), **options)
    with pytest.raises(QuestionError, match="'Up' and 'up' are the same to this model"):
        made.choices(["Up", "down", "up"])


def test_a_template_is_told_what_the_engine_was():
    told = Tokens(byte_tokenizer(THINKS), [257], {"enable_thinking": False})
    assert spelled(told, told.question("Up?")) == "Up?</s><s>assistant:"
    assert spelled(tokens(THINKS), tokens(THINKS).question("Up?")).endswith("(thinks)")
    with pytest.raises(ModelError, match="chat template does not know 'thinking'"):
        Tokens(byte_tokenizer(THINKS), [257], {"thinking": False})
    with pytest.raises(ModelError, match="has no chat template"):
        Tokens(byte_tokenizer(), [257], {"enable_thinking": False})
