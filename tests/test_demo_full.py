"""The closed loop in miniature does what the paper says: each stage keeps the format better."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_data.demo import Stage, demo_full, table


@pytest.mark.slow
def test_the_format_rises_from_stage_to_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = demo_full(tmp_path)
    assert [stage.name for stage in stages] == ["base", "GRPO-zero", "cold start", "final"]
    base, zero, cold, final = (stage.format for stage in stages)
    assert base < 0.6 and zero > 0.9
    assert base < cold < final
    assert stages[-1].accuracy > stages[0].accuracy - 0.05  # four standard errors or so
    assert (tmp_path / "loop.svg").exists()
    assert table(stages) in capsys.readouterr().out


def test_the_table_is_markdown(tmp_path: Path) -> None:
    assert table([Stage("base", tmp_path, 0.414, 0.5, 12.3)]).splitlines()[-1] == "| base | 41.4% | 50.0% | 12 s |"
