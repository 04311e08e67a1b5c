"""Stage 2, the cold start: DPO + SFT on format-only pairs, from the base model (not from GRPO-zero).

    L = L_DPO + lambda * L_SFT(chosen)
    L_DPO = -E log sigmoid( beta * log(pi/ref)(chosen|prompt) - beta * log(pi/ref)(rejected|prompt) )
    L_SFT = -E log pi(chosen|prompt)                                                 (paper, stage 2)

The paper leaves open how L_SFT is averaged, and trainers differ; lambda means something else under each:

per-sequence  the mean over the tokens of each response, then over the responses. It is what the
              authors' trainer does (LLaMA-Factory, `pref_ftx`), so the paper's lambda = 1 is this
              one, and it does not depend on how a batch is cut into micro-batches. The default.
per-token     the mean over all tokens of a micro-batch: TRL's own `sft` term. Long responses weigh
              more, and the loss changes with the micro-batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    per_token = settings.normalise == "per-token"
    config = trl.DPOConfig(
        **run.arguments(settings),
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if per_token else ["sigmoid"],
        loss_weights=[1.0, settings.sft_weight] if per_token else [1.0],
        max_length=None,  # TRL would truncate, even to nothing; rows that do not fit are left out before
    )
    model, processor = run.load(settings)
    rows = fitting_rows(settings, model, processor)
    trainer = _trainer(0.0 if per_token else settings.sft_weight)(
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
    fits = whole_rows(processor, limit)
    rows = shared_rows(
        settings.out,
        lambda file: preference_rows(settings.data, settings.split, fits, settings.limit, file),
        run.resuming(settings),
    )
    if rows.dropped and settings.overlong == "refuse":
        said = ", ".join(f"{number} {reason}" for reason, number in rows.dropped.items())
        raise UserError(f"rows of {settings.data} do not fit ({said}); raise --max-length or use --overlong drop")
    return rows


def _trainer(sft_weight: float) -> type:
    """TRL's DPOTrainer with `sft_weight` times the per-sequence SFT term on top of its loss."""
    trl = require("trl", "train")

    class HybridTrainer(trl.DPOTrainer):  # type: ignore[name-defined, misc]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            policy: list[Any] = []  # the first forward pass is the policy's, a second one the reference's
            seen = model.register_forward_hook(lambda module, inputs, outputs: policy.append(outputs.log_probs))
            try:
                loss = super().compute_loss(model, inputs)
            finally:
                seen.remove()
            chosen, _ = policy[0].chunk(2)  # log-probabilities per token, 0 outside of the response
            lengths, _ = inputs["completion_mask"][:, 1:].sum(dim=1).chunk(2)
            return loss - sft_weight * (chosen.sum(dim=1) / lengths).mean()

    return HybridTrainer if sft_weight else trl.DPOTrainer
