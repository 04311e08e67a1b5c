"""GRPO, stages 1a (GRPO-zero, a brief run on the base model) and 3 (the final training).

The reward is that of rewards.py. No KL term, clipping as in DAPO: the ratio may rise further than it
may fall. Each round samples `rollouts` responses to each of `rollout_batch` problems and takes
rollout_batch * rollouts / batch optimizer steps on them, as MM-EUREKA, the authors' trainer, reads
"rollout batch 128, train batch 128": with the paper's numbers 1,024 responses and 8 steps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specs_data.engines.templates import Template, template_of
from specs_data.errors import UserError, require
from specs_data.format import ResponseFormat, load_format
from specs_data.judges.model import open_judge
from specs_data.judges.rules import RuleJudge
from specs_data.problems import sources_of
from specs_data.recipe import Recipe
from specs_data.services.opening import open_budget
from specs_data.texts import system_prompt
from specs_data.train import run
from specs_data.train.rewards import RIGHT, judge_with, reward_function
from specs_data.train.rows import Rows, open_table, problem_rows, shared_rows, whole_rows
from specs_data.train.settings import ROUNDS_AVERAGED, GrpoSettings
from specs_data.train.window import fill, further_rows


@run.quiet()
def train_grpo(settings: GrpoSettings) -> Path:
    """Train `settings.model` on problems; return the checkpoint's folder.

    The same call resumes an interrupted run. Raises UserError for settings or data that cannot work.
    """
    trl = require("trl", "train")
    if settings.vllm:
        require("vllm", "vllm")
    if not run.begin(settings):
        return settings.out
    format = load_format(settings.format)
    config = trl.GRPOConfig(
        **_arguments(settings),
        num_generations=settings.rollouts,
        generation_batch_size=settings.rollout_batch * settings.rollouts,
        max_completion_length=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        epsilon=settings.epsilon,
        epsilon_high=settings.epsilon_high,
        delta=settings.delta,
        beta=settings.beta,
        use_vllm=settings.vllm is not None,
        vllm_mode=settings.vllm or "colocate",
        vllm_server_base_url=settings.vllm_server,
        vllm_gpu_memory_utilization=settings.vllm_memory,
        vllm_max_model_length=settings.max_length,
    )
    model, processor = run.load(settings)
    template = template_of(processor, settings.model)
    rows = shared_rows(
        settings.out, lambda file: _problems(settings, format, model, processor, template, file), run.resuming(settings)
    )
    if rows.count < settings.rollout_batch:
        raise UserError(
            f"{rows.source} has {rows.count} problems to train on, and a round takes {settings.rollout_batch}; "
            f"give more problems, or a --rollout-batch of at most {rows.count}"
        )
    recipe = Recipe.model_validate(settings.model_dump(include={"judge_model", "judge_base_url"}))
    judge = open_judge(recipe, open_budget(recipe))
    with RuleJudge() as rules:
        trainer = _trainer(settings)(
            model=model,
            reward_funcs=reward_function(
                format, judge_with(rules, judge, format), settings.consistency_weight, template.opened
            ),
            args=config,
            train_dataset=open_table(rows, processor),
            processing_class=processor,
            peft_config=run.lora(settings),
            callbacks=[*run.callbacks(settings), *_stop_when_format(settings)],
        )
        run.finish("grpo", settings, trainer, rows)
    if judge is not None:  # in the event loop where it worked
        asyncio.run_coroutine_threadsafe(judge.close(), trainer.async_loop).result()
    return settings.out


def _trainer(settings: GrpoSettings) -> type:
    """TRL's GRPOTrainer with an order of problems that depends on the seed and the epoch alone, and without the
    groups outside the accuracy window.

    TRL's sampler draws each epoch's order from one generator, which starts anew on resuming: the
    second epoch would be in the first one's order. accelerate tells a sampler that listens its epoch.
    """
    trl = require("trl", "train")

    class OrderedTrainer(trl.GRPOTrainer):  # type: ignore[name-defined, misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(dataset)
            sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(sampler.seed + epoch)
            return sampler

        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, Any]:
            # For a prompt without pictures among others with some TRL 1.16 has None, over which processors stumble.
            ids, images, fields = super()._tokenize_prompts(prompts)
            return ids, images and [of or [] for of in images], fields

        def _generate_single_turn(self, prompt_ids: list[list[int]], images: Any, *further: Any, **named: Any) -> Any:
            # TRL 1.16 hands the vLLM beside it prompts in which each picture has all its tokens already, and vLLM
            # would put them in once more (trl issue 6294). A server gets tokens and pictures apart.
            if settings.vllm == "colocate" and images is not None:
                token = getattr(self.processing_class, "image_token_id", None)
                prompt_ids = [once_each(ids, token, len(of)) for ids, of in zip(prompt_ids, images, strict=True)]
            images = images and [of or None for of in images]  # as vLLM has it
            return super()._generate_single_turn(prompt_ids, images, *further, **named)

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: list[list[int]]) -> Any:
            # Where a tokenizer says how its responses are taken apart, TRL has: thought here, answer there. What is
            # judged is the whole of it.
            texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
            whole = [[{"role": "assistant", "content": text}] for text in texts]
            return super()._calculate_rewards(inputs, prompts, whole, ids)

        def _get_per_token_logps_and_entropies(self, model: Any, *rows: Any, **named: Any) -> Any:
            # Of rows without pictures among others with some TRL 1.16 hands over no pixels, over which models stumble.
            def seeing(**inputs: Any) -> Any:
                return model(**{name: each for name, each in inputs.items() if 0 not in getattr(each, "shape", ())})

            return super()._get_per_token_logps_and_entropies(seeing, *rows, **named)

        def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, Any]:
            score, size = super()._generate_and_score_completions, settings.rollouts

            def generate(rows: list[Any]) -> dict[str, Any]:
                # TRL's has room for a round, and what is drawn may be more: processes may share groups, and draw whole.
                self._logs["extra"][RIGHT] = deque()
                return dict(score(rows))

            def draw(groups: int, number: int) -> dict[str, Any]:
                seed = f"{settings.seed}/{self.state.global_step}/{number}"
                return generate(further_rows(self.train_dataset, groups, size, seed, self.accelerator))

            def right() -> list[bool | None]:
                return list(self._logs["extra"][RIGHT])

            batch = generate(inputs)
            if settings.accuracy_window == (0.0, 1.0):
                return batch
            batch, outside = fill(batch, right, draw, settings.accuracy_window, size, self.accelerator)
            self._metrics["train"]["outside_window"].append(outside)
            return batch

    return OrderedTrainer


def once_each(ids: Sequence[int], token: int | None, pictures: int) -> list[int]:
    """A prompt's token ids with one `token` for each of its pictures, where a processor wrote as many as the picture
    has patches. Raises UserError where the pictures cannot be told apart."""
    shrunk = [each for each, before in zip(ids, (None, *ids), strict=False) if each != token or before != token]
    if shrunk.count(token) != pictures:  # type: ignore[arg-type]
        raise UserError(
            "this model's prompts do not show where one picture ends and the next begins, as --vllm colocate needs it: "
            "use --vllm server"
        )
    return shrunk


def _arguments(settings: GrpoSettings) -> dict[str, Any]:
    """The common arguments; checkpoints fall on the ends of rounds, where nothing is left to resume."""
    rounds = -(-settings.save_every // settings.steps_per_round)
    return {**run.arguments(settings), "save_steps": rounds * settings.steps_per_round}


def _problems(
    settings: GrpoSettings, format: ResponseFormat, model: Any, processor: Any, template: Template, file: Path
) -> Rows:
    """The problems whose prompt leaves room for a whole response, and whose answers can be judged."""
    context = run.context(model)
    fits = whole_rows(processor, min(settings.max_length or context, context), answer_room=settings.max_tokens)
    return problem_rows(
        sources_of(Recipe(problems=settings.problems, preset=settings.preset)),
        settings.columns,
        system_prompt(settings.system_prompt, format.instruction),
        fits,
        settings.limit,
        file,
        take_open=settings.judge_model is not None,
        template=template,
    )


def _stop_when_format(settings: GrpoSettings) -> list[Any]:
    """A callback that ends the run when enough responses, on average over some rounds, have the format."""
    threshold = settings.stop_when_format
    if threshold is None:
        return []
    transformers = require("transformers", "train")

    class StopWhenFormat(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            shares = [row["format"] for row in state.log_history if "format" in row][-ROUNDS_AVERAGED:]
            if len(shares) == ROUNDS_AVERAGED and sum(shares) / ROUNDS_AVERAGED >= threshold:
                control.should_training_stop = True

    return [StopWhenFormat()]
