"""Prompts without a session: beside the sessions' work, in the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.answer import Answer
from workbench.asking import (
    check_not_drawn,
    closed_answers,
    result_of,
    result_of_async,
    stops,
)
from workbench.engine.engine import StepEngine
from workbench.engine.sampler import Sampling
from workbench.engine.work import Question
from workbench.errors import QuestionError
from workbench.scheduler.scheduler import Kind
from workbench.waiting import seconds


class StatelessEngine(StepEngine):
    """A step engine that also answers single prompts."""

    def generate(
        self,
        prompt: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Answer one prompt, without a session: beside the sessions' work, in the same steps.

        It takes scratch cells as a question does, its whole prompt included. What it has in common
        with the beginning of any session or recent prompt is not computed again.

        Args:
            prompt: the whole text (a user's turn of the chat template, where there is one).
            choices, max_tokens, stop, temperature, top_p, seed, timeout: as in `Session.ask`.

        Raises:
            QuestionError, CellsExhausted: it cannot be asked like this. EngineClosed. TimeoutError.
        """
        timeout = seconds(timeout)
        answer = self.generate_start(
            prompt, choices=choices, max_tokens=max_tokens, stop=stop, temperature=temperature,
            top_p=top_p, seed=seed,
        )  # fmt: skip
        return result_of(answer, timeout)

    async def generate_async(self, prompt: str, **options: Any) -> Answer:
        """`generate` for a coroutine; cancelling the coroutine cancels the request."""
        timeout = seconds(options.pop("timeout", None))
        answer = self.generate_start(prompt, **options)
        return await result_of_async(answer, timeout)

    def generate_start(
        self,
        prompt: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Answer:
        """`generate`, but return at once with an `Answer` to iterate, await, or cancel."""
        if not isinstance(prompt, str):
            msg = f"expected the prompt as text, got {type(prompt).__name__}"
            raise QuestionError(msg)
        answer = Answer(prompt, "")
        answer.stateless = True
        closed = closed_answers(choices)
        sampling = Sampling(max_tokens, stops(stop), temperature, top_p, seed)
        check_not_drawn(closed, sampling)
        question = Question(
            self.core.next_id(), Kind.QUESTION, None, answer, self.tokens.prompt(prompt), sampling,
            self.tokens.choices(closed), list(closed),
        )  # fmt: skip

        answer.context = len(question.ids)

        def cancel() -> None:
            if not self.closed:
                self.post(lambda: self.questions.cancel(question.work))

        answer.asks_with(question.ids, cancel)
        self.post(lambda: self.questions.add(question))
        return answer
