"""Prompt texts: system prompts by format, and the rubrics for judge models."""
