"""Text that a model wrote, made harmless to look at.

Escape sequences can drive a terminal, and bidirectional overrides and zero-width characters can
make a text read differently from what it is. Here they become visible signs. Markup (HTML,
Markdown) is the business of whoever writes it.
"""

from __future__ import annotations

import unicodedata

# Control, format (bidirectional, zero-width, tags), surrogate, private, unassigned; line and paragraph separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """`text` with every unseen character shown, but for newline and tab.

    ASCII control characters become their control pictures (␛ for escape), all others ⟨U+202E⟩.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_seen(char) else _sign(char) for char in text)


def one_line(text: str, width: int | None = None) -> str:
    """`visible` text with white space folded, cut with an ellipsis at `width` characters."""
    line = visible(" ".join(text.split()))
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def _is_seen(char: str) -> bool:
    return char in "\n\t" or unicodedata.category(char) not in _UNSEEN


def _sign(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
