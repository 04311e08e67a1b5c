"""Thin trainers on TRL, one short module per stage of the paper.

grpo.py      GRPO with the reward of section 3: stage 1a (GRPO-zero, a brief run) and stage 3
dpo.py       the DPO + SFT hybrid cold start: stage 2
sft.py       SFT on the chosen responses: the ablation
rewards.py   R = 0.5 format + 1.0 accuracy, from the same code that builds the data
rows.py      what the trainers read: preference rows and problems, measured, nothing truncated
run.py       what every trainer shares: settings, resuming, the checkpoint that is left behind
report.py    metrics as JSONL, the curves, the model card
"""
