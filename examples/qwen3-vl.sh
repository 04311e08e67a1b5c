#!/usr/bin/env bash
# The same three stages on Qwen3-VL-4B-Instruct (or 8B: SIZE=8B), on one machine of 8 GPUs of 80 GB. The paper did not try it:
# its settings are taken over as they are.
#
#   pip install 'specs-data[all]'
#   export GEMINI_API_KEY=...
#   SIZE=4B bash examples/qwen3-vl.sh
#
# Take the Instruct checkpoints: the template of the Thinking ones opens <think> by itself. In LLaMA-Factory the template is
# `qwen3_vl_nothink`; `qwen3_vl` adds an empty thought to rejected responses and so spoils the pairs.
set -euo pipefail

SIZE=${SIZE:-4B}
BASE=Qwen/Qwen3-VL-$SIZE-Instruct
GPUS=8
PROBLEMS=One-RL-to-See-Them-All/Orsta-Data-47k
CONFIGS=$(python -c "from importlib.resources import files; print(files('specs_data.train'))")

train() {
  accelerate launch --config_file "$CONFIGS/fsdp.yaml" --num_processes "$GPUS" --no_python specs-data train "$@"
}

grpo() {
  train grpo --problems "$PROBLEMS" --preset orsta --vllm colocate --max-length 16384 --max-pixels 1003520 "$@"
}

grpo --model "$BASE" --out "ckpt/$SIZE-zero" --steps 200
specs-data build --recipe paper --policy "ckpt/$SIZE-zero" --rejected-from "$BASE" --problems "$PROBLEMS" --preset orsta \
  --engine vllm --ray local --replicas "$GPUS" --holdout 0.02 --out "runs/$SIZE"
specs-data check "runs/$SIZE"
train dpo --model "$BASE" --data "runs/$SIZE" --out "ckpt/$SIZE-cold-start"
grpo --model "ckpt/$SIZE-cold-start" --out "ckpt/$SIZE-specs"
