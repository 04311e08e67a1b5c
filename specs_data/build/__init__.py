"""The main job: problems -> samples -> judged -> verified -> pairs -> dataset."""
