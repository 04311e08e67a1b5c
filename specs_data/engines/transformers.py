"""The policy in this process, with Hugging Face transformers: any GPU, or a CPU.

Requests that arrive while the model is busy make up the next batch, so a batch starts as soon as the
model is free. Each sample is drawn with random numbers from its own seed, so it does not depend on
the requests that happen to share its batch (up to the rounding of floating-point sums).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace
from PIL import Image

from specs_data.engines import DEFAULTS, ModelOptions
from specs_data.engines.checkpoint import load_model, load_processor, tokenizer_of
from specs_data.engines.images import open_image
from specs_data.engines.nucleus import P
from specs_data.engines.refusals import NO_IMAGES, TOO_LONG, check_images, refusal
from specs_data.engines.templates import fold, learn, tell
from specs_data.errors import EngineFailed, PromptRefused, SpecsDataError, require
from specs_data.records import Likelihood, Nuclei, Request, Response, Sampling
from specs_data.texts import in_blocks, leading, placed

if TYPE_CHECKING:
    import torch

WAS_CLOSED = "the transformers engine was closed"
LINGER = 0.005  # seconds without a new request after which a batch starts unfilled
SMALL = 50_000_000  # parameters; a smaller model on a CPU is slowed down by more than one thread


class _Job(Struct, frozen=True, eq=False):
    """A request with its images decoded, and where its response goes; or, where its `text` is given, how likely
    that is."""

    request: Request
    images: tuple[Image.Image, ...]
    future: Future[Any]
    text: str = ""

    @property
    def group(self) -> tuple[bool, Sampling | None, bool]:
        """Jobs of the same group may share a batch."""
        return bool(self.images), self.request.sampling, bool(self.text)


class TransformersEngine:
    """Samples a checkpoint (folder or Hub id) in batches of up to `options.batch_size` (32) requests.

    `dtype`: see `load_model`. `min_pixels` and `max_pixels` bound the size that images are scaled
    to. A request with more than `limit_images` images, with a broken image, or with a prompt that
    fills the model's context is refused alone. Raises UserError where the checkpoint cannot be loaded.
    """

    def __init__(self, checkpoint: str | Path, sampling: Sampling, options: ModelOptions = DEFAULTS) -> None:
        self._batch_size = options.batch_size or 32
        self.concurrency = 2 * self._batch_size  # one batch runs while the next one gathers
        self._sampling = sampling
        self._limit_images = options.limit_images
        self._processor: Any = load_processor(checkpoint, options.min_pixels, options.max_pixels)
        self._tokenizer: Any = tokenizer_of(self._processor)
        self._sees = self._processor is not self._tokenizer
        if self._tokenizer.pad_token is None:  # whatever fills a batch up is masked
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)
        self._template = learn(self._render, checkpoint, parts=self._sees)
        tell(self._template, checkpoint, mended=True)
        self._model: Any = load_model(checkpoint, options.dtype)
        self._context: int = getattr(self._model.config.get_text_config(), "max_position_embeddings", 1 << 30)
        self._ends = _end_tokens(self._model, self._tokenizer)
        # What a checkpoint's generation_config.json sets (Qwen2.5-VL: a penalty on repetition) would fill in what a
        # call leaves open. How the policy is sampled is for the recipe to say.
        self._model.generation_config = require("transformers", "transformers").GenerationConfig()
        self._closing_tokens: dict[tuple[str, ...], Any] = {}
        self._waiting: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="transformers-engine", daemon=True)
        self._worker.start()

    async def generate(self, request: Request) -> Response:
        """Sample one response. Raises PromptRefused or EngineFailed."""
        response: Response = await self._done(request)
        return response

    async def likelihood(self, request: Request, text: str) -> Likelihood:
        """How likely `text` is as what follows the request's prefill. Raises as `generate`."""
        likelihood: Likelihood = await self._done(request, text)
        return likelihood

    async def _done(self, request: Request, text: str = "") -> Any:
        if request.images and not self._sees:
            raise PromptRefused(NO_IMAGES)
        check_images(len(request.images), self._limit_images)
        images = await asyncio.to_thread(_decode, request.images) if request.images else ()
        job = _Job(request if self._template.system else fold(request), images, Future(), text)
        with self._wake:
            if self._closed:
                raise EngineFailed("the transformers engine is closed")
            self._waiting.append(job)
            self._wake.notify()
        return await asyncio.wrap_future(job.future)

    async def close(self) -> None:
        """Stop at the token that is being made; requests that run or still wait fail."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._worker.join)
        _fail(self._waiting, EngineFailed(WAS_CLOSED))
        self._model = None

    def _work(self) -> None:
        torch = require("torch", "transformers")
        if self._model.device.type == "cpu" and self._model.num_parameters() < SMALL:
            torch.set_num_threads(1)
        with torch.inference_mode():
            while jobs := self._next_batch():
                self._serve([job for job in jobs if job.future.set_running_or_notify_cancel()])

    def _next_batch(self) -> list[_Job]:
        """Wait for requests and take up to a batch of them, all of one group."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
        count = 0
        while count < len(self._waiting) < self._batch_size:
            count = len(self._waiting)
            time.sleep(LINGER)
        with self._wake:
            if self._closed:
                return []
            group = self._waiting[0].group
            jobs = [job for job in self._waiting if job.group == group][: self._batch_size]
            for job in jobs:
                self._waiting.remove(job)
            return jobs

    def _serve(self, jobs: Sequence[_Job]) -> None:
        """Answer the jobs; where one of them spoils a batch, find it and leave the others unharmed."""
        if not jobs:
            return
        try:
            inputs = self._encode(jobs)
        except Exception as error:  # processors raise whatever they like
            if len(jobs) == 1:
                _fail(jobs, refusal(str(error)))
            else:
                for job in jobs:
                    self._serve([job])
            return
        room = [self._context - length for length in inputs["attention_mask"].sum(1).tolist()]
        if min(room) < 1:
            _fail([job for job, left in zip(jobs, room, strict=True) if left < 1], self._too_long())
            self._serve([job for job, left in zip(jobs, room, strict=True) if left >= 1])
            return
        try:
            answers = self._score(inputs, jobs) if jobs[0].text else self._responses(inputs, jobs, room)
        except Exception as error:
            if _out_of_memory(error) and len(jobs) > 1:
                self._serve(jobs[: len(jobs) // 2])
                self._serve(jobs[len(jobs) // 2 :])
            else:
                _fail(jobs, EngineFailed(f"the policy failed: {type(error).__name__}: {error}"))
            return
        if self._closed:  # the rows may be cut anywhere
            _fail(jobs, EngineFailed(WAS_CLOSED))
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)

    def _responses(self, inputs: Any, jobs: Sequence[_Job], room: Sequence[int]) -> list[Response]:
        sampling = jobs[0].request.sampling or self._sampling
        rows, sizes = self._sample(inputs, sampling, [job.request for job in jobs], max(room))
        responses = []
        for job, row, counted, left in zip(jobs, rows, sizes, room, strict=True):
            response = self._respond(row[:left], sampling.stop, self._context - left)
            if not job.request.prefill:
                response = replace(response, text=self._template.opened + response.text)
            responses.append(_with_nuclei(response, counted) if job.request.nuclei else response)
        return responses

    def _score(self, inputs: Any, jobs: Sequence[_Job]) -> list[Likelihood]:
        """How likely each job's text is, which the inputs end in."""
        torch: Any = require("torch", "transformers")
        counts = [self._length(job.request.prefill + job.text) - self._length(job.request.prefill) for job in jobs]
        most = max(*counts, 1)
        there = {name: _moved(value, self._model) for name, value in inputs.items()}
        logits = self._model(**there, logits_to_keep=most + 1).logits[:, :-1].float()
        ids = there["input_ids"][:, -most:]
        likely = torch.log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0]
        first = logits.argmax(-1) == ids
        return [
            Likelihood(float(row[most - count :].sum()), bool(best[most - count :].all()))
            for row, best, count in zip(likely, first, counts, strict=True)
        ]

    def _length(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode(self, jobs: Sequence[_Job]) -> Any:
        """Tensors of the prompts, padded on the left."""
        # As it would stand there had the policy written it: templates may rewrite what they are given.
        texts = [self._prompt(job) + job.request.prefill + job.text for job in jobs]
        images = {"images": [list(job.images) for job in jobs]} if jobs[0].images else {}
        # The chat template has written all special tokens, the beginning of the text included.
        return self._processor(
            text=texts, **images, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        )

    def _prompt(self, job: _Job) -> str:
        request, blocks = job.request, self._template.parts
        if blocks and (self._template.among or leading(request.messages, len(job.images)) is not None):
            prompt = self._render(_blocks(job))
        else:
            # A template that takes only text has no word for a picture, and some put all of them first: what stands
            # for one goes where it belongs.
            prompt = self._render(_plain(job, self._picture() if job.images else "", blocks=blocks))
        # First words that are given take the place of those that a template has.
        return prompt.removesuffix(self._template.opened) if job.request.prefill else prompt

    def _picture(self) -> str:
        """What stands for a picture in a prompt; Qwen's stand between two tokens of their own."""
        ids = [getattr(self._model.config, name, None) for name in ("vision_start_token_id", "vision_end_token_id")]
        start, end = ("" if each is None else str(self._tokenizer.convert_ids_to_tokens(each)) for each in ids)
        return f"{start}{getattr(self._processor, 'image_token', '')}{end}"

    def _render(self, chat: list[dict[str, Any]]) -> str:
        prompt: str = self._processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return prompt

    def _sample(
        self, inputs: Any, sampling: Sampling, requests: Sequence[Request], room: int
    ) -> tuple[list[list[int]], list[Sequence[int]]]:
        """The token ids of the responses: each row with its ending, and padding behind it; and the sizes of the
        nuclei that each token was drawn from, where one of the requests wants them."""
        transformers = require("transformers", "transformers")
        most = min(sampling.max_tokens, room)
        config = transformers.GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=self._ends,
            pad_token_id=self._ends[-1],
            suppress_tokens=_placeholders(self._model.config) or None,
        )
        width = inputs["input_ids"].shape[1]
        nuclei = _Nuclei(len(requests), sampling.temperature)
        draw: list[Any] = [nuclei] if any(request.nuclei for request in requests) else []
        if sampling.temperature > 0:
            draw.append(_Draw([request.seed for request in requests], sampling, most))
        stop: list[Any] = [self._closing]
        if sampling.stop:
            stop.append(_Stop(self._tokenizer, sampling.stop, self._closers(sampling.stop), width))
        there = {name: _moved(value, self._model) for name, value in inputs.items()}
        output = self._model.generate(**there, generation_config=config, logits_processor=draw, stopping_criteria=stop)
        return output[:, width:].tolist(), nuclei.sizes()

    def _closing(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """A stopping criterion for all rows at once: the engine is closed, and nobody waits for them."""
        return input_ids[:, -1].bool().fill_(self._closed)

    def _respond(self, ids: Sequence[int], stops: Sequence[str], prompt_tokens: int) -> Response:
        count = next((number for number, token in enumerate(ids) if token in self._ends), len(ids))
        text: str = self._tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        ended = count < len(ids) or bool(ends)
        completion = count + (count < len(ids) and not ends)  # a model's own ending is a token of its own
        return Response(text[: min(ends, default=None)], "stop" if ended else "length", prompt_tokens, completion)

    def _closers(self, stops: tuple[str, ...]) -> Any:
        if stops not in self._closing_tokens:
            self._closing_tokens[stops] = _closers(self._tokenizer, stops)
        return self._closing_tokens[stops]

    def _too_long(self) -> PromptRefused:
        return PromptRefused(TOO_LONG, f"it does not fit into the policy's context of {self._context} tokens")


class _Draw:
    """A logits processor that draws each row's next token with a random number of the row's own
    seed, by inverting the cumulative distribution, and leaves only that token possible."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling, most: int) -> None:
        self._torch: Any = require("torch", "transformers")
        self._sampling = sampling
        self._step = 0
        # Drawn on the CPU, so that a seed means the same on every device.
        self._numbers = self._torch.stack([self._row(seed, most) for seed in seeds], dim=1)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        numbers = self._numbers[self._step].to(scores.device)
        self._step += 1
        chances, tokens = (scores.float() / self._sampling.temperature).softmax(-1), None
        if self._sampling.top_p < 1:
            chances, tokens = chances.sort(-1, descending=True)
            chances = chances.where(chances.cumsum(-1) - chances < self._sampling.top_p, 0.0)
        sums = chances.cumsum(-1)
        drawn = self._torch.searchsorted(sums, numbers[:, None] * sums[:, -1:], right=True)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        if tokens is not None:
            drawn = tokens.gather(-1, drawn)
        return self._torch.full_like(scores, float("-inf")).scatter(-1, drawn, 0.0)

    def _row(self, seed: int, most: int) -> Any:
        generator = self._torch.Generator().manual_seed(seed % 2**63)
        return self._torch.rand(most, generator=generator)


class _Nuclei:
    """A logits processor that changes nothing and counts, for each row, the tokens whose chances it takes to reach
    the mass P: see `specs_data.engines.nucleus`. Only the counts leave the device."""

    def __init__(self, rows: int, temperature: float) -> None:
        self._torch: Any = require("torch", "transformers")
        self._rows = rows
        self._temperature = temperature
        self._counts: list[Any] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._temperature == 0:  # one token has all the mass
            counts = self._torch.ones(scores.shape[0], dtype=self._torch.long)
        else:
            chances = (scores.float() / self._temperature).softmax(-1).sort(-1, descending=True).values
            before = chances.cumsum(-1) - chances
            counts = (before < P).sum(-1)
        self._counts.append(counts)
        return scores

    def sizes(self) -> list[Sequence[int]]:
        """The counts by row and token; none where nobody wants them."""
        if not self._counts:
            return [()] * self._rows
        counts: list[Sequence[int]] = self._torch.stack(self._counts, dim=1).tolist()
        return counts


class _Stop:
    """A stopping criterion per row: one of the strings is complete. Only rows whose last token
    might close one are decoded."""

    def __init__(self, tokenizer: Any, strings: Sequence[str], closers: Any, width: int) -> None:
        self._torch: Any = require("torch", "transformers")
        self._tokenizer = tokenizer
        self._strings = strings
        self._closers = closers
        self._width = width
        self._tail = max(len(string.encode()) for string in strings)  # a token has at least one byte

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        done = self._closers.to(input_ids.device)[input_ids[:, -1]]
        for row in done.nonzero().flatten().tolist():
            tail = self._tokenizer.decode(input_ids[row, max(self._width, input_ids.shape[1] - self._tail) :])
            done[row] = any(string in tail for string in self._strings)
        return done


def _with_nuclei(response: Response, sizes: Sequence[int]) -> Response:
    """`response` with the nuclei of its own tokens; behind them a row goes on with padding."""
    own = sizes[: response.completion_tokens]
    return replace(response, nuclei=Nuclei(P, len(own), sum(own)))


def _moved(value: Any, model: Any) -> Any:
    """A tensor on the model's device, numbers that are not whole in the model's type."""
    return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)


def _closers(tokenizer: Any, strings: Sequence[str]) -> Any:
    """Which tokens, by id, may complete one of the strings (a boolean tensor)."""
    torch: Any = require("torch", "transformers")
    lasts = {string[-1] for string in strings} | {"\ufffd"}  # part of a character
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))]) if strings else []
    return torch.tensor([not lasts.isdisjoint(text) for text in texts] + [False] * 1024)  # padded embeddings


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end a response, the padding last."""
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    pad = tokenizer.pad_token_id
    return [*(end for end in ends if end != pad), ends[-1] if pad is None else pad]


def _placeholders(config: Any) -> list[int]:
    """The ids that stand for images in a prompt: in a response they would be taken for one."""
    names = ("image_token_id", "video_token_id")
    return [getattr(config, name) for name in names if isinstance(getattr(config, name, None), int)]


def _plain(job: _Job, picture: str = "", *, blocks: bool = False) -> list[dict[str, Any]]:
    """The messages as texts (in `blocks`, as one of these), with the token of a `picture` where each one stands."""
    messages = job.request.messages
    texts = [
        "".join(each if isinstance(each, str) else picture for each in pieces)
        for pieces in placed(messages, len(job.images))
    ]
    return [
        {"role": message.role, "content": [{"type": "text", "text": text}] if blocks else text}
        for message, text in zip(messages, texts, strict=True)
    ]


def _blocks(job: _Job) -> list[dict[str, Any]]:
    return in_blocks(job.request.messages, len(job.images))


def _decode(images: Sequence[bytes]) -> tuple[Image.Image, ...]:
    return tuple(map(open_image, images))


def _fail(jobs: Sequence[_Job] | deque[_Job], error: SpecsDataError) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)


def _out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"
