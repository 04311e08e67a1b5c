"""The values that flow through specs-data, in order.

    Problem -> Sample -> Judged -> Verified -> Pair

Each record is its predecessor plus the one value its stage added, so a pair traces back to its
problem, its response, its verdicts and its operator. The added values (Response, Judgement,
Verdict, Rejected) are what the store keeps.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

AnswerType = Literal["multiple_choice", "numeric", "math", "text", "open"]
Role = Literal["system", "user", "assistant"]


class Message(Struct, frozen=True, gc=False):
    """One chat message with plain text content."""

    role: Role
    content: str


class Problem(Struct, frozen=True, gc=False):
    """A question with its gold answer. `images` are sha256 hex digests of the image files' bytes."""

    id: str
    question: str
    answer: str
    answer_type: AnswerType
    choices: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    source: str = ""


class Sampling(Struct, frozen=True, gc=False):
    """How a policy is sampled. `stop` strings end a response and are kept in its text."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 2048
    stop: tuple[str, ...] = ()


class Request(Struct, frozen=True, gc=False):
    """One response asked of an engine: chat messages, image files' bytes (placed before the first
    user text), and the seed that alone decides the sample."""

    messages: tuple[Message, ...]
    images: tuple[bytes, ...]
    seed: int


class Response(Struct, frozen=True, gc=False):
    """What an engine returned. `finish_reason` is "stop", "length", or the engine's own word."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Sample(Struct, frozen=True, gc=False):
    """The `index`-th response to a problem."""

    problem: Problem
    index: int
    response: Response


class Judgement(Struct, frozen=True, gc=False):
    """Is the answer right? `right` is None where it cannot be judged; `rule` names what decided.
    `answer` is the final answer that was found in the response, None if there is none.
    Tokens count only for answers judged by a model. `gold` and `read` are the values that were read in
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


class Judged(Struct, frozen=True, gc=False):
    """A sample, whether it is right, and the named reason it fails the response format (None: it passes)."""

    sample: Sample
    judgement: Judgement
    fault: str | None


class Verdict(Struct, frozen=True, gc=False):
    """Does the reasoning lead to the final answer (paper, section on reasoning-path filtering)?

    `answer` is what the reasoning leads to, in the verifier's words. `model` was asked for and
    `served` answered; both are empty for rules."""

    consistent: bool
    reason: str
    answer: str | None = None
    model: str = ""
    served: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Verified(Struct, frozen=True, gc=False):
    """A judged sample and the verifier's verdict on it."""

    judged: Judged
    verdict: Verdict


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


class Pair(Struct, frozen=True, gc=False):
    """A chosen response (verified) and its rejected twin."""

    chosen: Verified
    rejected: Rejected


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
