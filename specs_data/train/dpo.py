"""Stage 2, the cold start: DPO + SFT on format-only pairs, from the base model (not from GRPO-zero).

    L = L_DPO + lambda * L_SFT(chosen)
    L_DPO = -E log sigmoid( beta * log(pi/ref)(chosen|prompt) - beta * log(pi/ref)(rejected|prompt) )
    L_SFT = -E log pi(chosen|prompt)                                                 (paper, stage 2)

The paper leaves open how L_SFT is averaged, and trainers differ; lambda means something else under each:

per-sequence  the mean over the tokens of each response, then over the responses. It is what the
              authors' trainer does (LLaMA-Factory, `pref_ftx`), so the paper's lambda = 1 is this
              one. The default.
per-token     the mean over all tokens of the batch: long responses weigh more. (TRL's own `sft` term
              is the mean over a micro-batch, which at one pair on a GPU at a time is per-sequence.)

A batch is one optimizer step, over all GPUs; neither depends on how it is cut into micro-batches.

The reference is asked anew in every step. TRL could compute its log-probabilities once, though not where there are
pictures; and in one epoch, the paper's, each of them is asked for once anyway (`benchmarks/reference.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specs_data.engines.templates import template_of
from specs_data.errors import UserError, require
from specs_data.train import run
from specs_data.train.rows import Rows, open_table, preference_rows, shared_rows, whole_rows
from specs_data.train.settings import DpoSettings, PreferenceSettings


@run.quiet()
def train_dpo(settings: DpoSettings) -> Path:
    """Train `settings.model` on preference rows with the hybrid loss; return the checkpoint's folder.

    The same call resumes an interrupted run. Raises UserError for settings or data that cannot work.
    """
    trl = require("trl", "train")
    if not run.begin(settings):
        return settings.out
    config = trl.DPOConfig(
        **run.arguments(settings),
        beta=settings.beta,
        loss_type=settings.loss,
        # Without it, robust is sigmoid, and exo_pair is infinite.
        label_smoothing=0.1 if settings.loss in ("robust", "exo_pair") else 0.0,
        max_length=None,  # TRL would truncate, even to nothing; rows that do not fit are left out before
    )
    model, processor = run.load(settings)
    rows = fitting_rows(settings, model, processor)
    trainer = _trainer(settings)(
        model=model,
        args=config,
        train_dataset=open_table(rows, processor),
        processing_class=processor,
        peft_config=run.lora(settings),
        callbacks=run.callbacks(settings),
    )
    return run.finish("dpo", settings, trainer, rows)


def fitting_rows(settings: PreferenceSettings, model: Any, processor: Any) -> Rows:
    """The preference rows that fit into `max_length` and the model's context."""
    limit = min(settings.max_length, run.context(model))
    fits, template = whole_rows(processor, limit, trained=settings.sides), template_of(processor, settings.model)
    rows = shared_rows(
        settings.out,
        lambda file: preference_rows(
            settings.data, settings.split, fits, settings.limit, file, settings.images, template
        ),
        run.resuming(settings),
    )
    if rows.dropped and settings.overlong == "refuse":
        said = ", ".join(f"{number} {reason}" for reason, number in rows.dropped.items())
        raise UserError(f"rows of {settings.data} do not fit ({said}); raise --max-length or use --overlong drop")
    return rows


def _trainer(settings: DpoSettings) -> type:
    """TRL's DPOTrainer with `sft_weight` times the SFT term on top of its loss."""
    trl = require("trl", "train")

    class HybridTrainer(trl.DPOTrainer):  # type: ignore[name-defined, misc]
        def get_batch_samples(self, batches: Any, number: int, device: Any) -> tuple[list[Any], Any]:
            """The micro-batches of an optimizer step, and the tokens of all its chosen responses on all GPUs."""
            samples, _ = super().get_batch_samples(batches, number, device)
            tokens = sum(_lengths(inputs).sum() for inputs in samples)
            return samples, self.accelerator.gather(tokens.to(device)).sum()

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            policy: list[Any] = []  # the first forward pass is the policy's, a second one the reference's
            seen = model.register_forward_hook(lambda module, inputs, outputs: policy.append(outputs.log_probs))
            try:
                loss = super().compute_loss(model, inputs)
            finally:
                seen.remove()
            chosen, _ = policy[0].chunk(2)  # log-probabilities per token, 0 outside of the response
            if settings.normalise == "per-sequence":
                return loss - settings.sft_weight * (chosen.sum(dim=1) / _lengths(inputs)).mean()
            # Of the losses the mean over all micro-batches on all GPUs is taken: this makes it a sum.
            parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            return loss - settings.sft_weight * chosen.sum() * parts / num_items_in_batch

    return HybridTrainer if settings.sft_weight else trl.DPOTrainer


def _lengths(inputs: Any) -> Any:
    """The tokens of each chosen response of a micro-batch, of which they are the first half."""
    return inputs["completion_mask"][:, 1:].sum(dim=1).chunk(2)[0]
