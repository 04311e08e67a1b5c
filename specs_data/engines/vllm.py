"""The policy in this process, with vLLM.

One thread owns the engine: it takes requests in whenever they come and lets the model make one step
after the other, so that nothing waits for a batch to end. Each response goes out as it finishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from msgspec import Struct

from specs_data.engines import DEFAULTS, ModelOptions
from specs_data.engines.checkpoint import adapter_base, adapter_rank, check_whole, load_processor
from specs_data.engines.images import open_image
from specs_data.engines.nucleus import nuclei_at_top
from specs_data.engines.orphans import end_with_us
from specs_data.engines.refusals import check_images, refusal
from specs_data.engines.templates import Template, fold, tell, template_of
from specs_data.errors import EngineFailed, PromptRefused, Undecided, UserError, require
from specs_data.inert import one_line
from specs_data.records import Likelihood, Request, Response, Sampling
from specs_data.texts import placed

TAKE_IN = 0.25  # seconds for which requests are taken in between two steps of the model
LINGER = 0.002  # seconds to wait for the next one: a step costs nearly the same for one more
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
LOOK = 0.1  # seconds between two looks for the core process of a vLLM that loads
DECODERS = 4  # threads that open images
TOP = 20  # likeliest tokens whose chances vLLM tells, its own default limit
FIRST_WORDS = "first_words"  # of a response, in a chat template
DECODED = 16  # requests whose images are opened ahead: they take megabytes each


class _Job(Struct, eq=False):
    """A request, where its response goes, and its images as parts of a chat once they are opened. `id` is
    vLLM's name for it, once vLLM has taken it. Where its `text` is given, it is how likely that is; `anew`: to be read
    without what is cached."""

    request: Request
    response: Future[Any]
    images: list[dict[str, Any]] = []
    id: str = ""
    text: str = ""
    anew: bool = False


class VLLMEngine:
    """Samples a checkpoint (folder or Hub id) with vLLM.

    `max_model_len` bounds prompt and response together, in tokens; `tensor_parallel_size` is the
    number of GPUs; `gpu_memory_utilization` the share of their memory. `min_pixels` and `max_pixels`
    bound the size images are scaled to, for models whose processor has such bounds. `engine_arg` and what is
    `further` given go to `vllm.LLM` as they are. What is None is vLLM's default. A PEFT adapter's folder is its base
    with the adapter.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        sampling: Sampling,
        options: ModelOptions = DEFAULTS,
        **further: Any,
    ) -> None:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        require("vllm", "vllm")
        self._sampling = sampling
        self._limit_images = options.limit_images
        self._decoders = ThreadPoolExecutor(DECODERS, "specs-data-images")
        self._decoded = threading.Semaphore(DECODED)
        self._inbox: SimpleQueue[_Job | None] = SimpleQueue()
        self._failure: EngineFailed | None = None
        chosen = {
            "tensor_parallel_size": options.tensor_parallel_size,
            "dtype": options.dtype,
            "max_model_len": options.max_model_len,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "mm_processor_kwargs": _given(min_pixels=options.min_pixels, max_pixels=options.max_pixels) or None,
            "limit_mm_per_prompt": {"video": 0} | _given(image=options.limit_images),
        }
        base = adapter_base(checkpoint)
        check_whole(base or checkpoint)
        self._template = Template()
        self._begun: str | None = None
        self._lora: Any = None
        if base is not None:
            lora: Any = require("vllm.lora.request", "vllm")
            self._lora = lora.LoRARequest("policy", 1, str(checkpoint))
            rank = next((each for each in LORA_RANKS if each >= adapter_rank(checkpoint)), LORA_RANKS[-1])
            chosen |= {"enable_lora": True, "max_lora_rank": rank}
        settings = _given(**chosen) | further | dict(options.engine_arg)
        started: Future[int] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(str(base or checkpoint), settings, started), daemon=True
        )
        self._thread.start()
        # Half as many again as run at once: the next ones wait inside vLLM, prepared.
        self.concurrency = started.result() * 3 // 2

    async def generate(self, request: Request) -> Response:
        """Sample one response. Raises PromptRefused, with vLLM's words, Undecided where vLLM gave it up,
        or EngineFailed."""
        response: Response = await self._done(request)
        return response

    async def likelihood(self, request: Request, text: str) -> Likelihood:
        """How likely `text` is as what follows the request's prefill: vLLM tells it of its prompts. What is cached is
        not read again. Raises as `generate`."""
        likelihood: Likelihood = await self._done(request, text)
        return likelihood

    async def _done(self, request: Request, text: str = "") -> Any:
        check_images(len(request.images), self._limit_images)
        if self._failure is not None:
            raise self._failure
        job = _Job(request if self._template.system else fold(request), Future(), text=text)
        self._prepare(job)
        try:
            return await asyncio.wrap_future(job.response)
        except asyncio.CancelledError:
            self._inbox.put(job)  # seen a second time, cancelled: vLLM is told to stop
            raise

    async def close(self) -> None:
        """Release the model. Requests still in flight fail."""
        self._inbox.put(None)
        # After a failure the thread may hang in vLLM; it dies with the process.
        await asyncio.to_thread(self._thread.join, None if self._failure is None else 1.0)
        self._decoders.shutdown(wait=False)

    def _prepare(self, job: _Job) -> None:
        if job.request.images:
            self._decoders.submit(self._open_images, job)
        else:
            self._hand_over(job)

    def _open_images(self, job: _Job) -> None:
        self._decoded.acquire()
        try:
            if self._failure is not None:
                raise self._failure
            job.images = [_part(data) for data in job.request.images]
        except (PromptRefused, EngineFailed) as error:
            self._decoded.release()
            _settle(job.response, error)
        else:
            self._hand_over(job)

    def _hand_over(self, job: _Job) -> None:
        self._inbox.put(job)
        if self._failure is not None:  # asked last: the thread empties the inbox after it failed
            self._fail({})

    def _run(self, checkpoint: str, settings: dict[str, Any], started: Future[int]) -> None:
        """The thread's life: start vLLM, serve until closed or broken, shut vLLM down."""
        waiting: dict[str, _Job] = {}
        # Looked for while it loads: a kill in that minute must not leave one behind either.
        threading.Thread(target=self._watch, args=(_cores(), started, waiting), daemon=True).start()
        try:
            llm = _start(checkpoint, settings)
            self._template, text = _template(llm, checkpoint)
            self._begun = _begun(text, self._template.opened)
        except BaseException as error:  # whatever it is, the caller is waiting for it
            started.set_exception(error)
            return
        started.set_result(int(llm.llm_engine.vllm_config.scheduler_config.max_num_seqs))
        try:
            while self._take_in(llm, waiting):
                for output, job in _deliver(llm.llm_engine.step(), waiting, self._template.opened):
                    self._tell(llm, output, job)
            self._failure = EngineFailed("the vLLM engine is closed")
        except Exception as error:  # vLLM raises RuntimeErrors of many kinds when it is beyond repair
            self._failure = self._failure or EngineFailed(f"vLLM broke down: {_one_line(error)}")
        self._fail(waiting)
        with contextlib.suppress(Exception):
            llm.llm_engine.engine_core.shutdown()

    def _watch(self, others: list[BaseProcess], started: Future[int], waiting: dict[str, _Job]) -> None:
        """vLLM waits for ever for a core process that was killed (by the kernel, out of memory), and a core
        for one of this process that was, with the GPU's memory, which the same command again would lack."""
        cores = _new_cores(others, started)
        if not cores:
            return
        guard = end_with_us([core.pid for core in cores if core.pid])
        wait([core.sentinel for core in cores])
        guard.kill()
        guard.communicate()
        if self._failure is None:
            self._failure = EngineFailed("vLLM's core process died")
            self._fail(waiting)

    def _take_in(self, llm: Any, waiting: dict[str, _Job]) -> bool:
        """Give vLLM what has come in, as long as more keeps coming and the model has brought nothing out,
        but not for longer than TAKE_IN; wait only where the model has nothing to do. False when closed."""
        until = time.monotonic() + TAKE_IN
        # What a core in a process of its own has sent; one in this process makes its steps when it is asked.
        sent = getattr(llm.llm_engine.engine_core, "outputs_queue", None)
        patience = 0.0 if waiting else None
        while True:
            try:
                job = self._inbox.get(timeout=patience) if patience != 0 else self._inbox.get_nowait()
            except Empty:
                return True
            if job is None:
                return False
            self._enqueue(llm, job, waiting)
            if waiting and ((sent is not None and not sent.empty()) or time.monotonic() > until):
                return True
            patience = LINGER if waiting else None

    def _enqueue(self, llm: Any, job: _Job, waiting: dict[str, _Job]) -> None:
        if job.response.cancelled():
            self._let_go(job)
            if waiting.pop(_number(job.id), None) is not None:
                llm.llm_engine.abort_request([job.id], internal=True)
            return
        request = job.request
        begun = request.prefill + job.text
        params = _reading(job.anew) if job.text else _params(request.sampling or self._sampling, request)
        chat = _messages(request, job.images, begun if self._begun is None else "")
        going_on: dict[str, Any] = {}
        if begun and self._begun is not None:
            going_on = {"chat_template": self._begun, "chat_template_kwargs": {FIRST_WORDS: begun}}
        elif begun:
            going_on = {"continue_final_message": True, "add_generation_prompt": False}
        try:
            (job.id,) = llm.enqueue_chat([chat], params, use_tqdm=False, lora_request=self._lora, **going_on)
            waiting[_number(job.id)] = job
        except Exception as error:
            if type(error).__name__ == "EngineDeadError":
                _settle(job.response, EngineFailed(_one_line(error)))
                raise
            # Too long, too many images, an image its processor cannot take: vLLM's and the processors'
            # errors have no common type, and none of them concerns another request.
            _settle(job.response, refusal(_one_line(error)))
        self._let_go(job)

    def _tell(self, llm: Any, output: Any, job: _Job) -> None:
        """How likely the job's text is; where it was cached, once it has been read anew."""
        tokenizer = llm.get_tokenizer()
        before, all_ = (
            len(tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in (job.request.prefill, job.request.prefill + job.text)
        )
        likelihood = _likelihood(output, all_ - before)
        if likelihood is not None or job.anew:
            _settle(job.response, likelihood or EngineFailed("vLLM tells no chances of its prompts"))
        else:
            job.anew = True
            self._prepare(job)

    def _let_go(self, job: _Job) -> None:
        """vLLM has the images now, or nobody wants them: there is room for others."""
        if job.images:
            job.images = []
            self._decoded.release()

    def _fail(self, waiting: dict[str, _Job]) -> None:
        """Give all that wait the failure."""
        jobs: list[_Job | None] = list(waiting.values())
        with contextlib.suppress(Empty):
            while True:
                jobs.append(self._inbox.get_nowait())
        for job in jobs:
            if job is not None:
                self._let_go(job)
                _settle(job.response, self._failure)


def _cores() -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if "EngineCore" in child.name]


def _new_cores(others: list[BaseProcess], started: Future[int]) -> list[BaseProcess]:
    """The core processes of the vLLM that is starting, as soon as there are any. It may start without."""
    while True:
        settled = started.done()
        found = [core for core in _cores() if core not in others]
        if found or settled:
            return found
        time.sleep(LOOK)


def _start(checkpoint: str, settings: dict[str, Any]) -> Any:
    vllm = require("vllm", "vllm")
    if require("vllm.platforms", "vllm").current_platform.is_cpu():
        # On a CPU vLLM cannot wind a seeded request's random numbers back after a part of its prompt.
        settings = {"enable_chunked_prefill": False} | settings
    try:
        llm = vllm.LLM(model=checkpoint, **settings)
    except Exception as error:
        raise UserError(f"vLLM cannot start {checkpoint}: {_one_line(error)}") from None
    try:
        # A checkpoint without a chat template would refuse each prompt later.
        llm.chat([{"role": "user", "content": "?"}], vllm.SamplingParams(max_tokens=1), use_tqdm=False)
    except Exception as error:
        raise UserError(f"vLLM cannot chat with {checkpoint}: {_one_line(error)}") from None
    return llm


def _begun(text: object, opened: str) -> str | None:
    """A chat template, by its `text`, that ends in the first words of a response, in place of those that it has
    `opened`. As an assistant's message templates would rewrite them (DeepSeek-R1's cuts thoughts out)."""
    if not isinstance(text, str):
        return None
    end = f"[:-{len(opened)}]" if opened else ""
    return f"{{% set prompt %}}{text}{{% endset %}}{{{{ prompt{end} + {FIRST_WORDS} }}}}"


def _template(llm: Any, checkpoint: str) -> tuple[Template, object]:
    """The ways of the chat template, the tokenizer's or the processor's, and its text."""
    renderer = llm.get_tokenizer()
    if not getattr(renderer, "chat_template", None):
        try:
            renderer = load_processor(checkpoint)
        except UserError:  # vLLM reads more kinds of checkpoints
            return Template(), None
    template = template_of(renderer, checkpoint, parts=True)
    tell(template, checkpoint)
    return template, renderer.chat_template


def _params(sampling: Sampling, request: Request) -> Any:
    vllm = require("vllm", "vllm")
    # vLLM tells chances as they are at temperature 1; at 0 there is nothing to tell.
    told = TOP if request.nuclei and sampling.temperature == 1 else None
    return vllm.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=request.seed,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        logprobs=told,
    )


def _reading(anew: bool) -> Any:
    """To be told the chances of the prompt's own tokens. vLLM tells them of what it reads now, and not of what it has
    in its cache; it must write a token."""
    vllm = require("vllm", "vllm")
    return vllm.SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False, skip_reading_prefix_cache=anew
    )


def _part(image: bytes) -> dict[str, Any]:
    """The part of a chat that is this image file. vLLM would name it by its pixels, many times as many bytes,
    each time that it is asked about."""
    return {
        "type": "image_pil",
        "image_pil": open_image(image),
        "uuid": hashlib.blake2b(image, digest_size=16).hexdigest(),
    }


def _messages(request: Request, images: list[dict[str, Any]], begun: str) -> list[dict[str, Any]]:
    """The chat for vLLM, every image at its place, and what is begun of the response."""
    messages: list[dict[str, Any]] = []
    for message, pieces in zip(request.messages, placed(request.messages, len(images)), strict=True):
        parts = [{"type": "text", "text": piece} if isinstance(piece, str) else images[piece] for piece in pieces]
        sees = any(isinstance(piece, int) for piece in pieces)
        messages.append({"role": message.role, "content": parts if sees else message.content})
    if begun:
        messages.append({"role": "assistant", "content": begun})
    return messages


def _deliver(outputs: list[Any], waiting: dict[str, _Job], beginning: str) -> list[tuple[Any, _Job]]:
    """Give the responses, each with the `beginning` that its prompt had already, to those who wait for them. What
    was only read is returned with its job."""
    read = []
    for output in outputs:
        job = waiting.pop(_number(output.request_id), None) if output.finished else None
        if job is None:
            continue
        ended = output.outputs[0].finish_reason
        if ended in ("abort", "error"):
            _settle(job.response, Undecided("given up", f"vLLM ended it with {ended!r}"))
        elif job.text:
            read.append((output, job))
        else:
            _settle(job.response, _response(output, job.request, beginning))
    return read


def _response(output: Any, request: Request, beginning: str) -> Response:
    best = output.outputs[0]
    tokens = len(output.prompt_token_ids or ()), len(best.token_ids)
    top = [[chance.logprob for chance in chances.values() if chance.rank <= TOP] for chances in best.logprobs or ()]
    text = best.text if request.prefill else beginning + best.text
    return Response(text, best.finish_reason or "stop", *tokens, nuclei_at_top(top) if top else None)


def _likelihood(output: Any, count: int) -> Likelihood | None:
    """How likely the last `count` tokens of a prompt are; None where some of them were not read but cached."""
    ids, chances = output.prompt_token_ids, output.prompt_logprobs
    # On a GPU vLLM tells nothing at all of what is cached, on a CPU something made up: from the end both are right.
    if not 0 < count < min(len(ids) - (output.num_cached_tokens or 0), len(chances)):
        return None
    told = [of[token] for of, token in zip(chances[-count:], ids[-count:], strict=True)]
    logprob, tokens = sum(one.logprob for one in told), len(output.outputs[0].token_ids)
    return Likelihood(logprob, all(one.rank == 1 for one in told), tokens)


def _settle(future: Future[Any], outcome: object) -> None:
    """Give `future` its result or its exception, unless nobody waits for it any more."""
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _number(request_id: str) -> str:
    """vLLM hands a request's id out as NUMBER-SUFFIX and its results as NUMBER."""
    return request_id.partition("-")[0]


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _one_line(error: BaseException) -> str:
    """The root of an error; vLLM wraps those of processors in dumps of their input."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(str(error), 300) or type(error).__name__
