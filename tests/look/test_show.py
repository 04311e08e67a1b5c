"""Pairs in the terminal."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from rich.console import Console

from specs_data.errors import UserError
from specs_data.look.show import save_picture, show
from specs_data.pairs.parquet import write_shards

CHOSEN = "<think>2 + 3 = 5.</think>\n<answer>\\boxed{5}</answer>"


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


PICTURE = png(Image.new("RGB", (56, 50), "teal"))


def row(corruption: str | None = "remove_think_tags", **more: Any) -> dict[str, Any]:
    return {
        "id": "a1",
        "images": [{"bytes": PICTURE, "path": "a.png"}],
        "prompt": [{"role": "user", "content": "What is 2 + 3?"}],
        "chosen": [{"role": "assistant", "content": CHOSEN}],
        "rejected": [{"role": "assistant", "content": "2 + 3 = 5.\nAnswer: \\boxed{5}"}],
        "answer": "5",
        "answer_type": "numeric",
        "corruption": corruption,
        "rejected_from": "chosen",
    } | more


def printed(folder: Path, rows: list[dict[str, Any]], count: int = 3, width: int = 80, **console: Any) -> str:
    write_shards(rows, folder, "train")
    file = io.StringIO()
    show(folder, count, console=Console(file=file, width=width, **console))
    return file.getvalue()


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMUX", "STY", "TERM_PROGRAM", "KITTY_WINDOW_ID", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("width", [80, 140])
def test_the_difference_is_readable_without_colour(tmp_path: Path, width: int) -> None:
    text = printed(tmp_path, [row()], width=width)
    assert "\x1b" not in text
    assert "[-<think>-]2 + 3 = 5.[-</think>-]" in text
    assert "[-<answer>-]{+Answer: +}\\boxed{5}[-</answer>-]" in text
    assert "<think>2 + 3 = 5.</think>" in text
    for expected in ("What is 2 + 3?", "answer  5", "a1 · remove_think_tags · numeric", "1 picture, not drawn"):
        assert expected in text


def test_side_by_side_where_there_is_room(tmp_path: Path) -> None:
    assert re.search(r"chosen +rejected", printed(tmp_path, [row()], width=140))
    assert not re.search(r"chosen +rejected", printed(tmp_path, [row()], width=80))


def test_different_operators_are_shown_first(tmp_path: Path) -> None:
    rows = [row("a"), row("a"), row("a"), row("b"), row(None)]
    text = printed(tmp_path, rows)
    assert [kind for kind in ("a ·", "b ·", "none ·") if kind in text] == ["a ·", "b ·", "none ·"]
    assert text.count("What is 2 + 3?") == 3
    assert printed(tmp_path, rows, count=5).count("What is 2 + 3?") == 5
    assert printed(tmp_path, rows, count=9).count("What is 2 + 3?") == 5


def test_hostile_text_cannot_drive_the_terminal(tmp_path: Path) -> None:
    bad = "\x1b]0;owned\a\x1b[2J[bold]x[/bold] :smile: \r\x9b31m\u202e"
    said = {"role": "assistant", "content": bad}
    example = row(bad, id=bad, answer=bad, answer_type=bad, chosen=[said], rejected=[said], rejected_from=bad)
    text = printed(tmp_path, [example])
    assert not {"\x1b", "\a", "\r", "\x9b", "\u202e"} & set(text)
    assert "[bold]x[/bold] :smile:" in text  # no markup of rich's either
    coloured = printed(tmp_path, [example], force_terminal=True, color_system="truecolor")
    assert set(re.findall(r"\x1b.", coloured)) == {"\x1b["}
    assert "\x1b[2J" not in coloured


def test_a_picture_in_half_blocks(tmp_path: Path) -> None:
    text = printed(tmp_path, [row()], force_terminal=True, color_system="truecolor")
    assert text.count("▀") == 36 * 16
    assert "not drawn" not in text


def test_a_picture_in_kitty_s_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITTY_WINDOW_ID", "1")
    noise = Image.effect_noise((200, 200), 90)  # does not compress, so that it takes several chunks
    example = row(images=[{"bytes": png(noise), "path": "n.png"}])
    text = printed(tmp_path, [example], force_terminal=True, color_system="truecolor")
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(chunks) > 1
    assert chunks[0][0].startswith("a=T,f=100,")
    assert [keys[-3:] for keys, _ in chunks] == ["m=1"] * (len(chunks) - 1) + ["m=0"]
    sent = base64.b64decode("".join(data for _, data in chunks))
    assert Image.open(io.BytesIO(sent)).size == (200, 200)


def test_a_picture_for_iterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM_PROGRAM", "iTerm.app")
    text = printed(tmp_path, [row()], force_terminal=True, color_system="truecolor")
    (data,) = re.findall(r"\x1b]1337;File=inline=1;[^:]*:([^\a]*)\a", text)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (56, 50)


def test_a_broken_picture_is_left_out(tmp_path: Path) -> None:
    example = row(images=[{"bytes": b"\x89PNG\r\n\x1a\nbroken", "path": "a.png"}])
    assert "1 picture, not drawn here" in printed(tmp_path, [example], force_terminal=True, color_system="truecolor")


def test_the_picture_for_a_readme(tmp_path: Path) -> None:
    write_shards([row()], tmp_path, "train")
    svg = save_picture(tmp_path, tmp_path / "docs" / "pair.svg").read_text()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(root.itertext()).replace("\xa0", " ")
    assert "[-<think>-]" in text
    assert "▀" in text
    assert "url(http" not in svg
    assert svg == save_picture(tmp_path, tmp_path / "again.svg").read_text()


def test_other_columns_and_bad_rows(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"win": "a", "lose": null}\n{"win": "good", "lose": "bad"}\n')
    out = io.StringIO()
    show(file, columns={"chosen": "win", "rejected": "lose"}, console=Console(file=out, width=80))
    assert "good" in out.getvalue() and "[-good-]" in out.getvalue()


def test_as_many_pairs_as_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n' * 520)
    out = io.StringIO()
    show(tmp_path, 510, console=Console(file=out, width=80))
    assert out.getvalue().count("chosen") == 510


def test_what_a_row_does_not_say_is_no_title(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    out = io.StringIO()
    show(tmp_path, console=Console(file=out, width=80))
    assert "none" not in out.getvalue()


def test_no_rows_is_said(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(UserError, match="no rows"):
        show(tmp_path)
