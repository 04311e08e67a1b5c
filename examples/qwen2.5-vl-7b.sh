#!/usr/bin/env bash
# The paper's three stages on Qwen2.5-VL-7B-Instruct, with its data, on one machine of 8 GPUs of 80 GB.
#
#   pip install 'specs-data[all]'
#   export GEMINI_API_KEY=...            # verifies reasoning paths and judges open-ended answers
#   bash examples/qwen2.5-vl-7b.sh
#
# Every command resumes where it was interrupted: run the script again. Settings that are not named
# here are the paper's by default; `specs-data train grpo --help` lists them.
set -euo pipefail

BASE=Qwen/Qwen2.5-VL-7B-Instruct
JUDGE=gemini:gemini-3.8-flash
GPUS=8
CONFIGS=$(python -c "from importlib.resources import files; print(files('specs_data.train'))")

# Training on all GPUs: weights, gradients and optimizer state are split over them (see fsdp.yaml).
train() {
  accelerate launch --config_file "$CONFIGS/fsdp.yaml" --num_processes "$GPUS" --no_python specs-data train "$@"
}

# 0. Problems: Orsta-47K as it is on the Hub, ViRL39K unpacked (its images are a zip file).
ORSTA=One-RL-to-See-Them-All/Orsta-Data-47k
VIRL=data/virl39k
hf download TIGER-Lab/ViRL39K --repo-type dataset --local-dir "$VIRL"
[ -e "$VIRL/unpacked" ] || (cd "$VIRL" && unzip -qo images.zip && touch unpacked)
PROBLEMS=(--problems "$ORSTA" --preset orsta --problems "$VIRL" --preset virl39k)

# 1a. GRPO-zero: a brief run on the base model (paper: format 41.6 % -> 96.7 %). The paper does not say how many steps; its
# GRPO-zero already has 68 % of the final gain, so it is more than a run that only learns the format. Fewer steps, or
# `--stop-when-format 0.95` instead (a cheaper choice of this project's), give a policy nearer to the base.
# What a sequence may take bounds what vLLM reserves beside the trainer.
GRPO_ZERO_STEPS=200
grpo() {
  train grpo "${PROBLEMS[@]}" --vllm colocate --max-length 16384 --max-pixels 1003520 --judge-model "$JUDGE" "$@"
}
grpo --model "$BASE" --out ckpt/grpo-zero --steps "$GRPO_ZERO_STEPS"

# 1b-d. Preference data (paper: about 9,000 pairs): right and well-formed responses of GRPO-zero as the chosen side, the base
# model's right answers, each corrupted, as the rejected side. One engine per GPU.
specs-data build --recipe paper --policy ckpt/grpo-zero --rejected-from "$BASE" "${PROBLEMS[@]}" --engine vllm --ray local \
  --replicas "$GPUS" --judge-model "$JUDGE" --holdout 0.02 --out runs/specs-9k
specs-data check runs/specs-9k

# 2. The cold start, from the *base* model: DPO + 1.0 x SFT, batch 64, learning rate 1e-6.
train dpo --model "$BASE" --data runs/specs-9k --out ckpt/cold-start

# 3. The final GRPO, from the cold start.
grpo --model ckpt/cold-start --out ckpt/specs

# The ablation: SFT instead of preference training, then the same GRPO.
# train sft --model "$BASE" --data runs/specs-9k --out ckpt/sft
# grpo --model ckpt/sft --out ckpt/sft-grpo

# From the published weights: the authors' final model as the policy (its prompt is of MM-EUREKA's style). It has been through
# all stages, so this makes data of a stronger policy than the paper's, not the paper's data.
# specs-data build --recipe twins --policy KunChen/SPECS-VL-7B --system-prompt mm-eureka --problems "$ORSTA" --preset orsta \
#   --engine vllm --ray local --replicas "$GPUS" --out runs/published
