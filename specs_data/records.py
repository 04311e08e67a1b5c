"""The values that flow through specs-data, in order.

    Problem -> Sample -> Judged -> Pair

A sample is its problem and a response to it, a judged one is the sample and its judgement, and a pair is a row of the
dataset: what the judged sample, its verdict and its rejected twin come to. Response, Judgement, Verdict and Twin are
what the store keeps.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

AnswerType = Literal["multiple_choice", "numeric", "math", "text", "open"]
Role = Literal["system", "user", "assistant"]


class Message(Struct, frozen=True, gc=False):
    """One chat message with plain text content."""

    role: Role
    content: str


class Policy(Struct, frozen=True, gc=False, omit_defaults=True):
    """How the source of a problem wants numbers compared: rounded to `precision` decimal places, with a gold that is
    in `unit`, or within `tolerance` of the gold, as a share of it. Without one, `judges` says how."""

    precision: int | None = None
    unit: str = ""
    tolerance: float = 0.0


class Problem(Struct, frozen=True, gc=False):
    """A question with its gold answer. `images` are sha256 hex digests of the image files' bytes; they stand at the
    question's `<image>`s, or before it if it has none (see `places`). `policy` is set where the source has one."""

    id: str
    question: str
    answer: str
    answer_type: AnswerType
    choices: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    source: str = ""
    policy: Policy | UnsetType = UNSET


class Sampling(Struct, frozen=True, gc=False):
    """How a policy is sampled. `stop` strings end a response and are kept in its text."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 2048
    stop: tuple[str, ...] = ()


class Request(Struct, frozen=True, gc=False):
    """One response asked of an engine: chat messages, image files' bytes (their places: see `places`), and the seed
    that alone decides the sample. With `nuclei` the engine also counts the nuclei that it draws from, where it can.
    With a `prefill` the response goes on from these first words, which are not repeated; `sampling` takes the place
    of the engine's own."""

    messages: tuple[Message, ...]
    images: tuple[bytes, ...]
    seed: int
    nuclei: bool = False
    prefill: str = ""
    sampling: Sampling | None = None


class Nuclei(Struct, frozen=True, gc=False):
    """The nuclei of mass `p` at the `tokens` of a response, in the distribution that was sampled from (before top_p):
    the sum of their sizes, each the number of tokens whose chances it takes to reach p. `beyond` of them were larger
    than the engine could tell, and stand in `sizes` with the least that they can be."""

    p: float
    tokens: int
    sizes: int
    beyond: int = 0


class Response(Struct, frozen=True, gc=False):
    """What an engine returned. `finish_reason` is "stop", "length", or the engine's own word."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nuclei: Nuclei | None = None


class Likelihood(Struct, frozen=True, gc=False):
    """How likely an engine finds a given text: its log-probability, base e, and whether it is what the engine writes
    greedily. `tokens` were generated to find out."""

    logprob: float
    greedy: bool
    tokens: int = 0


class Sample(Struct, frozen=True, gc=False):
    """The `index`-th response to a problem."""

    problem: Problem
    index: int
    response: Response


class Judgement(Struct, frozen=True, gc=False):
    """Is the answer right? `right` is None where it cannot be judged; `rule` names what decided.
    `answer` is the final answer that was found in the response, None if there is none.
    Tokens count only for answers judged by a model. `malformed` says why a response that is not right breaks the
    format as well, None where it keeps it. `gold` and `read` are the values that were read in
    the gold and in the answer, where they were compared by rule."""

    right: bool | None
    rule: str
    answer: str | None = None
    model: str = ""
    served: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    gold: str = ""
    read: str = ""
    malformed: str | None = None


class Judged(Struct, frozen=True, gc=False):
    """A sample, and whether it is right."""

    sample: Sample
    judgement: Judgement


class Verdict(Struct, frozen=True, gc=False):
    """Does the reasoning lead to the final answer (paper, section on reasoning-path filtering)?

    `answer` is what the reasoning leads to, in the verifier's words. `model` was asked for and
    `served` answered; both are empty for rules. `undecided`: the verifier cannot tell, and did not call it
    consistent."""

    consistent: bool
    reason: str
    answer: str | None = None
    model: str = ""
    served: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    undecided: bool = False


class Rejected(Struct, frozen=True, gc=False):
    """The losing side of a pair. `corruption` is the operator's name, None for a response that was
    malformed by itself; `origin` is "chosen" or the policy that wrote the text."""

    text: str
    corruption: str | None
    origin: str = "chosen"


class Twin(Struct, frozen=True, gc=False):
    """What the corruption operators made of a response: the rejected side, None if none of them could
    make one, and their results that were refused on the way: (operator, reason)."""

    rejected: Rejected | None
    refused: tuple[tuple[str, str], ...] = ()


class Picture(Struct, frozen=True, gc=False):
    """An image file: its bytes, and its name without folders, None where it has none."""

    content: bytes
    name: str | None = None


class Pair(Struct, frozen=True, gc=False):
    """A row of a preference dataset, whoever made it: `chosen` and `rejected` are responses to `prompt`, as their
    models wrote them. What a row does not state is None. `corruption` is None for a response that was malformed by
    itself as well; `rejected_from` is "chosen" or the policy that wrote the rejected text. `pass_rate` is the share of
    right ones of the policy's responses to the problem that were judged until it had its pairs, 0 to 1; `solved_blind`
    says whether the policy solves the problem without its picture, None where nobody tried."""

    id: str
    images: tuple[Picture, ...]
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    problem_id: str | None = None
    answer: str | None = None
    answer_type: str | None = None
    corruption: str | None = None
    rejected_from: str | None = None
    policy: str | None = None
    verifier: str | None = None
    pass_rate: float | None = None
    solved_blind: bool | None = None
    # Ours have none. In somebody else's, chosen and rejected may be talks that part ways before their last turn.
    turns_before: tuple[tuple[Message, ...], tuple[Message, ...]] = ((), ())

    @property
    def system(self) -> str:
        """What the system prompt says; empty if there is none."""
        return self._said("system")

    @property
    def question(self) -> str:
        """What the user asks."""
        return self._said("user")

    @property
    def kind(self) -> str:
        """The operator that made the rejected side, "none" if none did."""
        return self.corruption or "none"

    def _said(self, role: Role) -> str:
        return "\n\n".join(message.content for message in self.prompt if message.role == role)


class Payment(Struct, frozen=True):
    """What one call to a judging service cost, whatever became of its answer. `stage` is what it was for
    (verification, judging), `model` was asked for and `served` answered; `dollars` are US dollars at the
    prices of that day, None where no price is known."""

    stage: str
    model: str
    served: str
    prompt_tokens: int
    completion_tokens: int
    batch: bool
    dollars: float | None


class Paid(Struct, frozen=True):
    """What a stage has cost over all runs. `dollars` are those of known price; `priced` says that these are all."""

    prompt_tokens: int
    completion_tokens: int
    dollars: float
    priced: bool
