"""The ablation of stage 2: SFT on the chosen responses instead of preference training."""

from __future__ import annotations

from pathlib import Path

from specs_data.errors import require
from specs_data.train import run
from specs_data.train.dpo import fitting_rows
from specs_data.train.rows import open_table
from specs_data.train.settings import SftSettings


@run.quiet()
def train_sft(settings: SftSettings) -> Path:
    """Train `settings.model` on the chosen responses; return the checkpoint's folder.

    The loss is the mean over the response tokens of a batch (an optimizer step, over all GPUs), the
    prompt left out. The same call resumes an interrupted run. Raises UserError for settings or data
    that cannot work.
    """
    trl = require("trl", "train")
    if not run.begin(settings):
        return settings.out
    config = trl.SFTConfig(**run.arguments(settings), completion_only_loss=True, max_length=None)
    model, processor = run.load(settings)
    rows = fitting_rows(settings, model, processor)
    trainer = trl.SFTTrainer(
        model=model,
        args=config,
        train_dataset=open_table(rows, processor).remove_columns("rejected").rename_column("chosen", "completion"),
        processing_class=processor,
        peft_config=run.lora(settings),
        callbacks=run.callbacks(settings),
    )
    # TRL then divides by the tokens of the whole batch; otherwise each micro-batch would weigh the same. It
    # asks the model, and Qwen-VL says no, but it is TRL that computes the loss, not the model.
    trainer.model_accepts_loss_kwargs = True
    return run.finish("sft", settings, trainer, rows)
