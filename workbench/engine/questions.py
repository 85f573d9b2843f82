"""The query plane: questions, flash evaluations and stateless requests, from the ask to the end."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from workbench.answer import Answer
from workbench.cells.line import STRETCH, Line
from workbench.cells.sequence import Sequence as Cells
from workbench.engine.batch import Part
from workbench.engine.core import Core
from workbench.engine.logits import Logits
from workbench.engine.sampler import Sampler, chances_of
from workbench.engine.speculate import MAX_DRAFTS, propose, worthwhile
from workbench.engine.tokens import TextStream
from workbench.engine.work import Ingest, Mark, Question
from workbench.errors import (
    Cancelled,
    CellsExhausted,
    QuestionError,
    SessionClosed,
    WorkbenchError,
)
from workbench.events import Answered, TokenOut
from workbench.scheduler.scheduler import Kind


class Questions:
    """Everything that is asked: where it waits, what it runs in a step, and what it gets."""

    def __init__(self, core: Core) -> None:
        self.core = core
        # Stateless prompts being computed, by their first stretch: whose, and who waits to share.
        self._prompts: dict[bytes, tuple[Question, list[Question]]] = {}

    # From the ask to a place in the scheduler.

    def add(self, question: Question) -> None:
        """Take a question; it starts at a step boundary, when its scratch cells are free."""
        if (error := self._refusal(question)) is not None:
            question.answer.end("error", error)
            return
        self.core.works[question.work] = question
        session = question.session
        if session is not None:
            session.questions[question.work] = question
        if question.answer.cancelled:
            self.end(question, "cancelled", Cancelled("cancelled before it began"))
        elif session is None:
            self._place_stateless(question)
        elif not session.ready or question.awaited is not None:
            session.held.append(question)
        else:
            self._queue(question)

    def _refusal(self, question: Question) -> WorkbenchError | BaseException | None:
        session, watermark = question.session, self.core.watermark
        position = 0
        if session is not None:
            position = self._position(question, session)
            if session.closed:
                msg = f"session {session.name!r} is closed; open it again to ask"
                return SessionClosed(msg)
            if session.error is not None and (question.after or session.line.pending):
                return session.error
        if question.cells > watermark:
            return CellsExhausted(
                f"the question needs {question.cells:,} cells ({len(question.ids):,} of its own "
                f"tokens and {question.cells - len(question.ids):,} for the answer), questions "
                f"have {watermark:,}; shorten it, lower max_tokens, or open the engine with a "
                "larger watermark"
            )
        return self._too_far(question, position)

    def _too_far(self, question: Question, position: int) -> QuestionError | None:
        """Why a question cannot begin there: it goes on past the model's positions."""
        most = self.core.decoder.max_positions
        if position + question.cells <= most:
            return None
        return QuestionError(
            f"the question ends {question.cells:,} tokens past position {position:,}, the model "
            f"has {most:,} positions; shorten it or lower max_tokens"
        )

    def _position(self, question: Question, session: Ingest) -> int:
        """Where its branch will begin, as far as one can tell before it does."""
        try:
            return session.as_of(question.at).position
        except QuestionError:
            return session.now.position

    def _place_stateless(self, question: Question) -> None:
        """Prompts that begin alike are computed once: the later ones wait for the first."""
        first = array("i", question.ids[:STRETCH]).tobytes()
        leader, waiting = self._prompts.setdefault(first, (question, []))
        if leader is not question and len(question.ids) > STRETCH and question.reuse:
            waiting.append(question)
        else:
            self._queue(question)

    def _prompt_done(self, question: Question) -> None:
        """A stateless prompt is computed, or will not be: who waited to share it goes on."""
        first = array("i", question.ids[:STRETCH]).tobytes()
        if first in self._prompts and self._prompts[first][0] is question:
            for follower in self._prompts.pop(first)[1]:
                if follower.work in self.core.works:
                    self._queue(follower)

    def _queue(self, question: Question) -> None:
        session = question.session
        context = 0 if session is None else self._position(question, session)
        if self._guesses(question):
            assert session is not None
            question.guess = session.guesses.of(question.ids)[: question.sampling.max_tokens - 1]
        self.core.scheduler.add(
            question.work, question.kind, prefill=question.prefill, tail=question.tail,
            cells=question.cells, context=context, group=0 if session is None else session.work,
        )  # fmt: skip

    def release(self, session: Ingest) -> None:
        """Queue what waited for data that is visible now, or for cells that are back."""
        if not session.ready:
            return
        ready = [q for q in session.held if q.awaited is None]
        session.held = [q for q in session.held if q not in ready]
        for question in ready:
            self._queue(question)

    def hold_back(self, session: Ingest) -> None:
        """Let nothing more of a session begin; what waits keeps its turn for later."""
        for question in session.questions.values():
            if question.branch is None and question not in session.held:
                self.core.scheduler.remove(question.work)
                session.held.append(question)

    def fail_held(self, session: Ingest, error: BaseException) -> None:
        """What waited for data or cells that will not come ends with the reason."""
        for question in list(session.held):
            self.end(question, "error", error)

    # In a step.

    def begin(self, question: Question) -> bool:
        """Branch off its session's line, or start a line of its own; take the scratch cells.

        Returns:
            Whether the plan no longer fits: another line has computed part of a stateless prompt,
            or the moment that was asked for is not there, or too near the model's last position.
        """
        own = len(question.ids) + (0 if question.choices else question.sampling.max_tokens - 1)
        shared = 0
        if question.session is None:
            self.core.scratch += question.cells
            shared = self._begin_stateless(question, own)
        else:
            try:
                mark = question.session.as_of(question.at)
            except QuestionError as error:
                self.fail(question, error)
                return True
            if (far := self._too_far(question, mark.position)) is not None:  # it has grown since
                self.fail(question, far)
                return True
            self.core.scratch += question.cells
            self._begin_branch(question, question.session, mark, own)
        assert question.branch is not None
        start = question.start + len(question.ids)
        for ids in question.choices:
            child = question.branch.branch(start)
            child.grow(len(ids) - 1, high=True)
            question.choice_branches.append(child)
        question.sampler = Sampler(question.sampling)
        question.stream = TextStream(self.core.tokens, question.sampling.stop)
        if shared:
            self.core.scheduler.ran(question.work, shared)
        return shared > 0

    def _begin_branch(self, question: Question, session: Ingest, mark: Mark, own: int) -> None:
        session.last_used = self.core.num_steps
        assert session.ready, "a question began before its session's cells were there"
        session.turn_tokens += question.cells
        self.core.reclaim(question.cells)
        question.branch = session.sequence.branch(mark.position)
        question.branch.grow(own, high=True)
        question.start = mark.position
        question.answer.begin(session.line.token_ids, mark.position - session.sequence.gap,
                              mark.position, mark.version, mark.rows)  # fmt: skip

    def _begin_stateless(self, question: Question, own: int) -> int:
        line = question.line = Line(Cells(self.core.pool), question.ids)
        reuse = question.reuse
        match = self.core.prefixes.match(line, question.ids[:-1]) if reuse else None
        if match is not None:
            line.sequence = match.line.sequence.branch(match.end)
            self.core.touch(match.line)
        shared = line.computed
        self.core.reclaim(question.cells - shared)
        line.sequence.grow(own - shared, high=True)
        self.core.prefixes.add(line)
        question.branch = line.sequence
        told = question.as_of or Mark(0, 0, 0)
        question.answer.begin(array("i"), 0, told.position, told.version, told.rows)
        question.answer.shared_tokens = shared
        return shared

    def parts(self, question: Question, length: int) -> list[Part]:
        """What ``length`` planned tokens of a question compute, the choices' tokens included."""
        branch, answer = question.branch, question.answer
        assert branch is not None
        start = branch.length
        if answer.token_ids:
            ids = [answer.token_ids[-1], *question.drafts[: length - 1]]
            return [Part(branch, start, ids, range(len(ids)))]
        done = start - question.start  # of the question's own tokens
        if done + length < question.prefill:
            return [Part(branch, start, question.ids[done : done + length])]
        ids = [*question.ids[done:], *question.guess]
        kept = range(len(ids) - 1 - len(question.guess), len(ids))
        firsts = [[choice[0] for choice in question.choices]] if question.choices else ()
        parts = [Part(branch, start, ids, kept, firsts)]
        for child, (first, *rest) in zip(question.choice_branches, question.choices, strict=True):
            if rest:
                each = [[token] for token in rest]  # scored after the one before it
                parts.append(Part(child, child.length, [first, *rest[:-1]], range(len(rest)), each))
        return parts

    def commit(self, question: Question, parts: list[Part], logits: Logits) -> None:
        """Take what a step says after the kept rows of the parts: nothing, a verdict, or tokens."""
        branch, answer = question.branch, question.answer
        assert branch is not None and question.stream is not None
        if answer.token_ids:
            self._commit_decode(question, logits)
            return
        guessed = len(question.guess) if len(logits) else 0
        branch.length += len(parts[0].ids) - guessed
        self.core.scheduler.ran(question.work, sum(len(part.ids) for part in parts))
        if question.line is not None:
            self.core.prefixes.note(question.line)
        if not len(logits):
            return  # a chunk of a long question
        if question.session is None:
            self._prompt_done(question)
        if question.choices:
            self._choose(question, logits)
        else:
            answer.drafted += len(question.guess)
            if not self._take(question, logits, question.guess):
                branch.length += len(answer.token_ids) - 1  # of the guess, what was right

    def _choose(self, question: Question, logits: Logits) -> None:
        firsts, at, logprobs = logits.scored(0).labels, 1, []
        for first, ids in zip(firsts, question.choices, strict=True):
            end = at + len(ids) - 1
            logprobs.append([first, *(logits.scored(row).labels[0] for row in range(at, end))])
            at = end
        chances = chances_of(logprobs)
        best = max(range(len(chances)), key=chances.__getitem__)
        question.answer.choose(dict(zip(question.choice_texts, chances, strict=True)),
                               question.choices[best], logprobs[best],
                               self.core.decoder.choice_temperature)  # fmt: skip
        self.end(question, "choice")

    def _commit_decode(self, question: Question, logits: Logits) -> None:
        """The last token's logits, then those of the drafts, of which a first part may be right."""
        branch, answer, before = question.branch, question.answer, len(question.answer.token_ids)
        assert branch is not None
        drafts = question.drafts[: len(logits) - 1]
        answer.drafted += len(drafts)
        fed = [answer.token_ids[-1], *drafts]
        if self._take(question, logits, drafts):
            return
        taken = len(answer.token_ids) - before  # each was computed from the one before it
        branch.length += taken
        if question.line is not None:
            question.line.token_ids.extend(fed[:taken])
            self.core.prefixes.note(question.line)
        self.core.scheduler.ran(question.work, taken)

    def _take(self, question: Question, logits: Logits, drafts: Sequence[int]) -> bool:
        """Pick tokens row by row, as long as the drafts they were computed from are right.

        Returns:
            Whether the answer has ended.
        """
        answer, sampler, stream = question.answer, question.sampler, question.stream
        assert sampler is not None and stream is not None
        for row in range(len(logits)):
            answer.accepted += row > 0  # the draft that this row was computed from
            token, logprob = sampler.pick(logits, row)
            answer.add(token, logprob)
            if token in self.core.tokens.eos_ids:
                self.end(question, "stop")
                return True
            before = stream.text
            stream.add(token)
            self._show(question, before)
            if stream.stopped or question.tokens_left == 0:
                self.end(question, "stop" if stream.stopped else "length")
                return True
            if row < len(drafts) and token != drafts[row]:
                break
        question.drafts = self._drafts(question)
        self.core.scheduler.set_decoding(question.work, drafts=len(question.drafts))
        return False

    def _drafts(self, question: Question) -> Sequence[int]:
        answer = question.answer
        num = min(MAX_DRAFTS, question.tokens_left - 1)
        limits = self.core.scheduler.limits
        if num <= 0 or not limits.draft_questions or question.sampling.temperature > 0:
            return ()
        if not worthwhile(answer.drafted, answer.accepted):
            return ()
        return propose(answer.context_bytes(), [*question.ids, *answer.token_ids], num)

    def _show(self, question: Question, before: str) -> None:
        assert question.stream is not None
        text, answer = question.stream.text, question.answer
        if text != before:
            answer.show(text)
            if question.kind is Kind.QUESTION:
                self.core.events.emit(TokenOut(session=answer.session_name or None,
                                               question=answer.question,
                                               text=text[len(before) :]))  # fmt: skip

    # The end.

    def end(self, question: Question, reason: str, error: BaseException | None = None) -> None:
        """Forget a question and tell its caller, in that order: its cells are free by then."""
        if self.core.works.pop(question.work, None) is None:
            return
        self.core.scheduler.remove(question.work)
        if question.session is None:
            self._prompt_done(question)
        else:
            question.session.questions.pop(question.work, None)
            question.session.held = [q for q in question.session.held if q is not question]
        if question.stream is not None and not question.choices:
            before = question.stream.text
            question.stream.flush()
            self._show(question, before)
        self._drop(question, keep=error is None)
        if error is None and self._guesses(question):
            assert question.session is not None
            question.session.guesses.learn(question.ids, question.guess, question.answer.token_ids)
        question.answer.end(reason, error)
        if error is None and question.kind is Kind.QUESTION:
            self.core.events.emit(answered(question.answer))

    def _guesses(self, question: Question) -> bool:
        """Whether its answer may be guessed from the one before: greedy, open, of a session."""
        if question.session is None or question.choices or question.sampling.temperature > 0:
            return False
        return self.core.scheduler.limits.draft_questions > 0

    def _drop(self, question: Question, *, keep: bool) -> None:
        """Give the scratch cells back; a stateless prompt's stay while nobody needs them."""
        if question.branch is None:
            return
        self.core.scratch -= question.cells
        for child in question.choice_branches:
            child.drop()
        if question.line is None:
            question.branch.drop()
        elif keep and question.reuse:
            self.core.park(question.line)
        else:
            self.core.prefixes.remove(question.line)
            question.line.sequence.drop()
        question.branch, question.choice_branches = None, []

    def fail(self, question: Question, error: BaseException) -> None:
        """An error reaches the caller it belongs to, and nobody else."""
        if not isinstance(error, WorkbenchError):
            trace = error
            error = QuestionError(f"the model failed on this question: {trace!r}")
            error.__cause__ = trace
        self.end(question, "error", error)

    def cancel(self, work: int) -> None:
        """End a question now; its answer keeps the text that has arrived."""
        question = self.core.works.get(work)
        if isinstance(question, Question):
            shown = len(question.answer.token_ids)
            tokens = f"{shown} token{'s' * (shown != 1)}"
            error = Cancelled(f"cancelled after {tokens}; the text so far is kept")
            self.end(question, "cancelled", error)


def answered(answer: Answer) -> Answered:
    """The event of a finished answer."""
    return Answered(
        session=answer.session_name or None, question=answer.question, position=answer.position,
        queue_ms=answer.queue_ms, ttft_ms=answer.ttft_ms, total_ms=answer.total_ms,
        num_tokens=len(answer.token_ids), from_flash=answer.from_flash,
        choices=tuple(answer.probabilities), drafted=answer.drafted, accepted=answer.accepted,
        stateless=answer.stateless, context=answer.context, shared_tokens=answer.shared_tokens,
    )  # fmt: skip
