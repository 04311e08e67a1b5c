"""The policy as its own verifier: given the thought again without its answer, does it answer the same?

Worked example, for the response `<think>2 + 3 = 5.</think><answer>6</answer>`:

    question <think>2 + 3 = 5.</think><answer>    how likely is 6 here, and would the policy write it?
    question <think></think><answer>              how likely is it without the thought?
    question <think>2 + 3 = 5.</think><answer>    only where it is another one and likelier: 5

Where the engine has log-probabilities (transformers, vLLM, vLLM's server) nothing is generated but in the third case:
the response's own answer is read, which takes no token, or one where an engine must write one. It is consistent where
the policy would write it and finds it likelier after the thought than after none; where only one of the two holds, it
cannot be told. An engine without them (SGLang's server, Ray) writes the answer anew, which alone decides.

What it cannot see: a thought that states the answer for wrong reasons, a wrong look at the picture by the same
eyes, and two answers of which the thought names the right one last. A small policy trips over thoughts in a style
that it was not taught. (Measured in benchmarks/RESULTS.md; of the probes tried there these two are the best pair,
and a higher threshold than 0 loses more sound thoughts than it catches others. To ask from within the answer's box
saves three tokens, and misleads a policy that does not know the format; to shuffle the choices misleads all.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from specs_data.errors import PromptRefused, Undecided, UserError
from specs_data.format import ResponseFormat, strip_stop_tokens
from specs_data.judges.answers import final_answer
from specs_data.judges.rules import same_answer
from specs_data.plugins import Engine, Scores
from specs_data.records import Judged, Likelihood, Problem, Request, Sampling, Verdict
from specs_data.texts import Text, chat
from specs_data.verifiers import Checker, VerifierOptions

AGREES = "the policy answers the same from this thought"
OTHER_ANSWER = "the policy answers otherwise from this thought"
NO_LIKELIER = "the policy would answer otherwise, and finds the answer no likelier after this thought"
PROBES_DIFFER = "the policy answers the same, or finds the answer likelier after this thought, but not both"
NO_THOUGHT = "the format has no thought"
NO_COMPARISON = "the answers cannot be compared"
LEAST_GAIN = 0.0  # by which the thought must raise the answer's log-probability
SPARE_TOKENS = 8  # that another way to write the answer may take


class Probe(Struct, frozen=True):
    """What the policy made of a thought: its answer (None: it would be another one, and was not asked for), and how
    much likelier, as a difference of log-probabilities, the response's answer is after the thought than after none
    (None: not measured). Tokens are those generated."""

    answer: str | None
    gain: float | None
    tokens: int


class PolicyVerifier:
    """Asks the policy, or another checkpoint (`checker`), to answer from the thought of each response."""

    paid = True

    def __init__(self, checker: Checker, fmt: ResponseFormat) -> None:
        self._engine: Engine = checker.engine
        self._system: Text | None = checker.system
        self._fmt = fmt
        self.model = checker.name
        self._identity = checker.identity

    @property
    def concurrency(self) -> int:
        """As many as keep the engine busy."""
        return self._engine.concurrency

    @property
    def settings(self) -> Mapping[str, str]:
        """The checkpoint, the format and the prompt."""
        system = self._system.sha256 if self._system else ""
        fmt = self._fmt.model_dump_json()
        return {"verifier": "policy", "version": "2", "policy": self._identity, "format": fmt, "system": system}

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """Judge one sample. Raises Undecided where the engine gave no answer, EngineFailed where it can give none."""
        sample = judged.sample
        if self._fmt.thought is None:
            return Verdict(True, NO_THOUGHT)
        answer = judged.judgement.answer or final_answer(sample.response.text, self._fmt) or ""
        try:
            probe = await self.probe(sample.problem, sample.response.text, images)
        except PromptRefused as refusal:
            raise Undecided(refusal.reason, refusal.detail) from None
        return self._verdict(probe, answer, sample.problem)

    async def probe(self, problem: Problem, text: str, images: Sequence[bytes] = ()) -> Probe:
        """What the policy makes of the thought of a well-formed response `text`."""
        after, given, closing = _cut(text, self._fmt)
        greedy = Sampling(0.0, 1.0, len(given) + SPARE_TOKENS, (closing,) if closing else ())
        request = Request(chat(problem, self._system), tuple(images), 0, prefill=after, sampling=greedy)
        likely = await self._likelihood(request, given + closing)
        if likely is None:
            return await self._answer(request, closing, None, 0)
        before = _cut(self._fmt.render("", given), self._fmt)[0]
        unlikely = await self._likelihood(replace(request, prefill=before), given + closing)
        gain = None if unlikely is None else likely.logprob - unlikely.logprob
        tokens = likely.tokens + (unlikely.tokens if unlikely else 0)
        if likely.greedy:  # so it would be generated
            return Probe(final_answer(text, self._fmt), gain, tokens)
        if gain is not None and gain <= LEAST_GAIN:
            return Probe(None, gain, tokens)
        return await self._answer(request, closing, gain, tokens)

    async def _answer(self, request: Request, closing: str, gain: float | None, tokens: int) -> Probe:
        """The policy's own answer. Raises UserError where the engine begins a new response."""
        response = await self._engine.generate(request)
        opens = self._fmt.thought.open if self._fmt.thought and self._fmt.layout == "tags" else ""
        if opens and response.text.lstrip().startswith(opens):
            raise UserError(
                "the engine begins a new response where --verifier policy asks it to go on: it knows no "
                "continue_final_message; name a checkpoint with --verifier-model CKPT, or choose another verifier"
            )
        said = final_answer(request.prefill + response.text + ("" if closing in response.text else closing), self._fmt)
        return Probe(said, gain, tokens + response.completion_tokens)

    async def _likelihood(self, request: Request, text: str) -> Likelihood | None:
        return await self._engine.likelihood(request, text) if isinstance(self._engine, Scores) else None

    def _verdict(self, probe: Probe, answer: str, problem: Problem) -> Verdict:
        told = (probe.answer, self.model, self.model, 0, probe.tokens)
        same = same_answer(answer, probe.answer, problem.answer_type, problem.choices) if probe.answer else False
        supported = same if probe.gain is None else probe.gain > LEAST_GAIN
        if same is None or same != supported:
            return Verdict(False, NO_COMPARISON if same is None else PROBES_DIFFER, *told, undecided=True)
        if probe.answer is None and probe.gain is not None:
            return Verdict(False, NO_LIKELIER, *told)
        return Verdict(same, AGREES if same else OTHER_ANSWER, *told)

    async def close(self) -> None:
        """Nothing to release: the engine belongs to the run."""


def open_policy(options: VerifierOptions) -> PolicyVerifier:
    """The policy that is sampled, or the checkpoint that the recipe names. Raises UserError where there is none."""
    if options.checker is None:
        raise UserError(
            "--verifier policy asks the policy that is sampled, and here none is; name a checkpoint with "
            "--verifier-model CKPT"
        )
    return PolicyVerifier(options.checker, options.fmt)


def _cut(text: str, fmt: ResponseFormat) -> tuple[str, str, str]:
    """A response up to its answer, the answer, and what closes it."""
    text = strip_stop_tokens(text).rstrip()
    if fmt.layout == "json":
        key, parsed = f'"{fmt.answer.open}"', fmt.parse(text)
        if key not in text and not isinstance(parsed, str):  # the key is written in escapes
            text = fmt.render(*parsed)
        start = text.rindex(key) + len(key)
        start = text.index('"', start) + 1
        return text[:start], text[start:].removesuffix("}").rstrip().removesuffix('"'), '"}'
    # An answer that no marker opens begins where the thought is closed.
    opening = fmt.answer.open or (fmt.thought.close if fmt.thought else "")
    start = text.rindex(opening) + len(opening)
    end = text.rindex(fmt.answer.close) if fmt.answer.close else len(text)
    return text[:start], text[start:end], fmt.answer.close
