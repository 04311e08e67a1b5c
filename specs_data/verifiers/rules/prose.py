r"""What a thought says, without how it is set: Markdown, LaTeX, code, tables, Chinese punctuation.

Worked example:

    **So:**<br>\[ \boxed{\dfrac{1}{2}\text{ cm}} \]    ->  So: \boxed{⟨(1)/(2)⟩ cm}
    ```python
    a = 3  # the radius
    ```                                                ->  (nothing: code is checked by its output)
    面积是36。故选C。                                    ->  面积是36. 故选C.
"""

from __future__ import annotations

import re

from msgspec import Struct

from specs_data.judges.constants import spelled

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"\b(?:def|import|print|return|for|while|function|var|let|const)\b|[{}#;]")
_NUMBER = re.compile(r"\s*-?\d+(?:\.\d+)?\s*")
_OUTPUT = ("output", "text", "result", "console", "stdout")
_WIDE = {
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    **{"。": ". ", "；": "; ", "，": ", ", "：": ": ", "？": "? ", "！": "! ", "、": ", ", "∶": ":"},
    **{"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "⁄": "/", "＝": "=", "≒": "≈"},
    **dict.fromkeys("\u00a0\u2009\u202f\u3000\t", " "),
    **dict.fromkeys("\u200b\u200e\u200f\ufeff", ""),
    **{"½": "(1/2)", "⅓": "(1/3)", "⅔": "(2/3)", "¼": "(1/4)", "¾": "(3/4)", "²": "^2", "³": "^3", "º": "°"},
    **{"∴": " so ", "⇒": " so ", "⟹": " so ", "∵": " since ", "“": '"', "”": '"', "‘": "'", "’": "'"},
}
_SIGNS = str.maketrans(_WIDE | dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)))
# How things are set, and what is said by it. Most thoughts have little of it: a pattern is looked for only where one of
# the signs (or words) before it is there.
_MARKS = tuple(
    (
        frozenset(sign[0] for sign in needed),
        tuple(sign for sign in needed if len(sign) > 1),
        re.compile(pattern, re.MULTILINE),
        plainly,
    )
    for needed, pattern, plainly in (
        (("\\n",), r"\\n(?=[A-Z\d(*\s-]|\\n|$)", "\n"),  # a line break that was escaped once too often
        (
            ("nswer", "ption", "hoice"),
            r"(?i:\b(answer|option|choice)(?: is)?:?) ([A-J])\. (?=BECAUSE|[A-Z][a-z]+ [a-z])",
            r"\1 is \2.\n",
        ),
        ("<", r"<<[^<>\n]{0,80}>>", ""),  # a calculator's annotation
        (">", r"</?(?:[pbiu]|[A-Za-z]{2,20})\s*/?>|<\|\w{1,20}\|>", "\n"),
        ("】", r"【\s*(?:答案|故选|最终答案)\s*】\s*:?\s*", "\n答案: "),
        ("】", r"【[^【】\n]{1,8}】", "\n"),
        ("#", r"^[ \t]*####[ \t]*(?=[-$\d\\(])", "The answer is "),
        ("#", r"^[ \t]*#{1,6}[ \t]*([^\n]*(?:[Aa]nswer|答案)[^\n:]*?):?[ \t*]*\n+", r"\1: "),
        ("*_", r"^[ \t]*(?:\*\*|__)([^\n*]*(?:[Aa]nswer|答案)[^\n*:]*?):?(?:\*\*|__):?[ \t]*\n+", r"\1: "),
        ("#", r"^[ \t]*#{1,6}[ \t]*", ""),
        ("*_`", r"\*\*|__|`", ""),
        ("*", r"(?<![\w*)])\*(?=[A-Za-z])([^*\n]{1,200})(?<=[A-Za-z.!?])\*(?![\w*])", r"\1"),
        ("-*•+‣.)", r"^[ \t]*(?:[-*•+‣]|[-*•]?[ \t]*\(?\d{1,2}[.)])[ \t]+", ""),
        ("Ss步", r"^[ \t]*(?:[Ss]tep|步骤)[ \t]*\d{1,2}[ \t]*[.:)]?", ""),
        ("-|:", r"^[ \t|:-]{3,}$", ""),
        ("|", r"[ \t]*\|[ \t]*$|^[ \t]*\|[ \t]*", ""),
        ("|", r"[ \t]\|[ \t]", " ; "),
        (
            ("\\begin", "\\end", "\\\\"),
            r"\\begin\{[^{}]{1,20}\}(?:\[\w\])?|\\end\{[^{}]{1,20}\}|\\\\(?:\[\w{1,6}\])?",
            "\n",
        ),
        ("&", r"(?<!\\)&", " "),
        # A display stands within its sentence.
        (("$$",), r"\s{0,9}\$\$\s{0,9}([^$]{1,2000}?)\s{0,9}\$\$", r" \1"),
        (("\\[", "$$"), r"\s{0,9}(?:\\\[|\$\$)\s{0,9}", " "),
        (("\\]",), r"\s{0,9}\\\](?:\s{0,9}\n)?", "\n"),
        (("\\(", "\\)"), r"\\[()]", ""),
        ("$", r"\\\$|\$", ""),
        (("\\%",), r"\\%", "%"),
        (
            "\\",
            r"\\[ ,;:!]|\\(?:quad|qquad|displaystyle|left|right|big|Big|bigl|bigr|Bigl|Bigr|limits)(?![A-Za-z])",
            " ",
        ),
        (("frac",), r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        ("^\\", r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])", "°"),
        (("\\times", "\\cdot", "\\ast"), r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (("\\div",), r"\\div(?![A-Za-z])", "/"),
        ("\\≃≅", r"\\(?:approx|simeq|sim|cong)(?![A-Za-z])|≃|≅", "≈"),
        (
            "\\>⟶→",
            r"\\(?:therefore|implies|Rightarrow|Longrightarrow|rightarrow|to)(?![A-Za-z])|=>|⟶|→",
            " so ",
        ),
        (("\\angle",), r"\\angle(?![A-Za-z])", "∠"),
        (("\\equiv",), r"\\equiv(?![A-Za-z])", "≡"),
        (("\\pmod",), r"\\pmod\s*(?:\{([^{}]*)\}|(\d))", r" (mod \1\2)"),
        (("\\le",), r"\\(?:le|leq)(?![A-Za-z])", "≤"),
        (("\\ge",), r"\\(?:ge|geq)(?![A-Za-z])", "≥"),
        ("xX", r"([\d)])(?:(?<=\d)[ ]?[xX](?=[ ]?\d)|[ ][xX](?=[ ][\d(]))", r"\1 *"),
        (",", r"(\d)(?:,(?=\d{3}(?!\d))|\{,\}(?=\d))", r"\1"),
    )
)
_UNSPELLED = ("\\", "{", "^", "*", "√", "pi", "sqrt")
_MATRIX = re.compile(r"\\begin\{([bpv]?matrix|array)\}(?:\{[lcr|]+\})?(.{1,200}?)\\end\{\1\}", re.DOTALL)
_TEXT_MACRO = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathsf|operatorname|mbox)\s*\{([^{}]*)\}")
_END = re.compile(r"[.!?\n](?:(?<=\n)\n*|(?<=[.!?])[.!?]*[\"')\]]*(?=\s|$))")
SHORT_LINE = 60
_INITIAL = re.compile(r"(?:\b(?:e\.g|i\.e|vs|approx|resp|cf|Fig|No|Dr|Mr|Mrs|St)|\b[A-Z]|^\s*\(?\w{1,2})\.?$")

# A capital A at the end is a choice, and 是 after a colon an answer.
_UNFINISHED = re.compile(
    r"(?:[-+*/=,;:(<>&]|\b(?:(?i:and|or|the|an|of|is|are|so|to|with|then|because|therefore|we|that|in|for|but|gives?|by|as"
    r"|from|which|if|when|top|both|has|have|was|be)|a)"
    r"|需要(?:进一步)?(?:考虑|分析|计算|判断|确定)"
    r"|(?:因为|所以|因此|但是|而且|以及|那么|等于|得到|则|为|(?<!:)(?<!: )是|和|与|的))$"
)
_END_MARKS = re.compile(r"(?:\s*<(?:\|\w{1,20}\||eo[a-z]|/s)>)+\s*\Z")
_BARE_NUMBERING = re.compile(r"\n\s*(?:\d{1,2}[.)]|[-*•])$")
_ENDINGS = tuple(".!?:)]}$\"'*`。！？）】」》>|✓✔✅…%°")


class Sentence(Struct, frozen=True):
    """A sentence and where it starts in the text that it comes from."""

    start: int
    text: str

    @property
    def end(self) -> int:
        """Where it ends in that text."""
        return self.start + len(self.text)


def clean(thought: str) -> str:
    """`thought` as plain sentences: no emphasis, tags, code or table lines; mathematics `spelled` on the line."""
    text = thought if thought.isascii() else thought.translate(_SIGNS)
    if "```" in text:
        text = _FENCE.sub(_told_by_code, text)
    if "matrix" in text or "array" in text:
        text = _MATRIX.sub(_on_a_line, text)
    while "\\" in text:
        text, changed = _TEXT_MACRO.subn(r" \1 ", text)
        if not changed:
            break
    letters = set(text)
    for starts, words, pattern, plainly in _MARKS:
        if not (starts.isdisjoint(letters) or (words and not any(word in text for word in words))):
            text = pattern.sub(plainly, text)
    signs = [sign for sign in _UNSPELLED if sign in text]
    parts = text.split(". ") if signs else [text]
    return ". ".join(spelled(part) if any(sign in part for sign in signs) else part for part in parts)


def sentences(text: str) -> list[Sentence]:
    """The sentences of a `clean` text, in order. A line is one, too."""
    found: list[Sentence] = []
    start = 0
    for end in _END.finditer(text):
        if end.group()[0] == "." and _INITIAL.search(text[max(start, end.start() - 8) : end.start()]):
            continue
        _add(found, start, text[start : end.end()])
        start = end.end()
    _add(found, start, text[start:])
    return found


def _add(found: list[Sentence], start: int, text: str) -> None:
    stripped = text.strip()
    if any(map(str.isalnum, stripped)):
        found.append(Sentence(start + text.index(stripped), stripped))


def _on_a_line(matrix: re.Match[str]) -> str:
    rows = re.split(r"\\\\(?:\[\w{1,6}\])?", matrix[2])
    return f"[{' ; '.join(' '.join(row.replace('&', ' ; ').split()) for row in rows if row.strip())}]"


def _told_by_code(fence: re.Match[str]) -> str:
    language, body = fence.groups()
    is_told = language.lower() in _OUTPUT or (not language and not _CODE.search(body))
    if _NUMBER.fullmatch(body):  # what a program comes to is a result
        body = f"output = {body.strip()}"
    return f"\n{body}\n" if is_told else "\n"


def without_end_marks(thought: str) -> str:
    """`thought` without emphasis, blanks and a model's own marks (<eoa>, <|im_end|>) at its end."""
    thought = thought.rstrip(" \t\r\n*_`")
    return _END_MARKS.sub("", thought).rstrip(" \t\r\n*_`") if thought.endswith(">") else thought


def is_unfinished(raw: str, text: str) -> bool:
    """Does a thought end in a word or sign that must go on, or in an item that is not there?"""
    return bool(_UNFINISHED.search(text.rstrip()[-24:]) or _BARE_NUMBERING.search(raw[-8:]))


def breaks_off(raw: str) -> bool:
    """Does a thought end within a sentence? One that ends in a line of its own (a sum, a value) does not."""
    last = raw.rpartition("\n")[2]
    is_line = "\n" in raw and len(last) < SHORT_LINE
    is_sum = re.search(r"[=≈]\s*[^=]{1,24}$", last) is not None
    return not (raw.endswith(_ENDINGS) or is_line or is_sum or last[-1:] >= "\u4e00")
