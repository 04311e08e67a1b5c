"""Finding the final answer in a response, and writing it plainly.

Worked example, for the think-answer format:

    <think>3 + 2 = 5.</think>
    <answer>\\boxed{5}</answer>     ->  5
    3 + 2 = 5. Answer: \\boxed{5}    ->  5      (the format is broken, the answer is still stated)
    3 + 2 = 5, so I think that      ->  None   (nothing is stated)
"""

from __future__ import annotations

import re

from specs_data.format import THINK_ANSWER, ResponseFormat, boxes, strip_stop_tokens
from specs_data.judges.constants import Rewriting, rewritten
from specs_data.judges.units import adjoining_unit, in_latin

# A malformed response states its answer near its end; reading more would only cost time.
READ_AT_MOST = 50_000
LONGEST_BARE = 200
LONGEST_SAID = 1_000  # of a sentence; where there is more its end counts
LONGEST_LAST_LINE = 60
LONGEST_SUM = 100  # of a last line that has a number

_BARE_BOX = re.compile(r"\\boxed\s+([A-Za-z\d])(?![\w{])|(?<![\\\w])boxed\s*\{([^{}\\]*)\}")
_ONLY_BOX = re.compile(r"\\boxed\{([^{}\\]*)\}")
_LINK = re.compile(
    r"(?:[ \t,;$/&，；]|\(\d\)|\\[()\[\],; ]|\\quad|\\text\s*\{\s*(?:and|or)\s*\}|and\b|or\b)*"
    r"(?:[A-Za-z](?:_\w)?\s*=[ \t$]*)?"
)
_LINKING = re.compile(r"[,;/，；]|\b(?:and|or)\b")
_PART = re.compile(r"\(\d\)")
_FRACTION_OPENS = re.compile(r"\\[dtc]?frac\s*\{\s*\Z")
# What stands next to a box and belongs to its answer: a sign or a currency before it.
_SIGN = re.compile(
    r"(?:(?:^|(?<=[\s=≈$(\[,:;>*_]))(?<![\d)}] )[-\u2212]|[=≈$(]\s*[-\u2212]\s*|(\\pm|±|\\\$|[€£¥₹]|(?<=US)\$)\s*)\$?\Z"
)
_TIMES = re.compile(r"(?<![\w.])\d+(?:\.\d+)?\Z")  # 2\boxed{7} is not 7
_UNSIGNED = re.compile(
    r"(?:[^A-Za-z%°$€£¥₹\\]|\\[^A-Za-z%°$€£¥₹]|\\(?:[dtc]?frac|sqrt|pi|times|cdot|left|right)(?![A-Za-z]))*"
)
_FACTOR = re.compile(r"\s*(?:\\pi(?![A-Za-z])|π|(?:\\times|×)\s*10\s*\^\s*\{?-?\d+\}?|\^\s*\{?\d+\}?|\\sqrt\s*\{\d+\})")
_ALONE_BEFORE = frozenset(("", " ", "\n", ">", ":"))
_ALONE_AFTER = frozenset(("", "\n", "<"))
_LABEL = re.compile(
    r"(?<!\w)[Aa](?:nswers?|NSWERS?)"
    r"(?:[\s*_]{0,4}:[\s*_}]*|\s+(?:is|are|would be|must be|should be)\b[\s*_}]*(?::[\s*_]*)?)"
    r"|[Cc]orrect (?:option|choice)(?:[\s*_]{0,4}:[\s*_]*|\s+is\b[\s*_]*(?::[\s*_]*)?)"
    r"|(?:答案|正解|正确选项|解答)\s*(?:[为是はを]|[:：])[\s*_:：]*"
)
_LABEL_STEMS = ("nswer", "NSWER", "orrect option", "orrect choice", "答案", "正解", "正确选项", "解答")
HESITATION = re.compile(r"\b(?:wait|hmm|actually|sorry|correction|on second thoughts?|instead)\b|\bno, ", re.IGNORECASE)
_SO = re.compile(
    r"\A(?!.*[.。]\s)[^\n]*[,;] (?:so|thus|hence|therefore)[ ,]+(?:the )?(?:correct )?"
    r"(?:answer|option|choice)\b[^\n]*\Z"
)
_SENTENCES = re.compile(r"(?<=[.!])\s+(?=[A-Z$*\\∴\u4e00-\u9fff])|(?<=[\u4e00-\u9fff\d$°])[.。](?=[\u4e00-\u9fff])|\n+")
_SENTENCE_END = re.compile(r"\n|。|\.(?=\s+[A-Z]|\s*$)")
# What an answer may begin with before it says anything.
LEAD = re.compile(
    r"\A(?:(?:so|thus|therefore|hence|then|finally|clearly|in conclusion|ans|correct|solution|total|result|is|are|was"
    r"|it(?:'s| is| must be| should be)?|i(?: would|'d| will)? (?:choose|pick|select|say|go with|get|find)"
    r"|i think(?: that)?|we|have|get|obtain|count|see|found|costs|a total of|in total|in the year|year|in(?= \d{4}$)"
    r"|after \w+(?=,)|among the (?:options|choices))\b[\s,.:]*"
    r"|(?:the\s+)?(?:(?:final|correct|right|best|appropriate|most|possible)\s+)*"
    r"(?:options?|choices?|answers?|\$?letter)\b(?:\s+letter)?(?:\s+to\s+th\w+\s+\w+)?"
    r"(?:\s*-+>?\s+(?=\(?(?-i:[A-Z])\b)|(?:\s+(?:is|are|would be|should be|must be)\b)?(?:=>|[\s:→=])*)|the\b\s*"
    r"|(?:=>|[•,:=→⇒∴]|>\s*(?=\(?(?-i:[A-Z])\b)|\\(?:Rightarrow|therefore|implies)(?![A-Za-z]))\s*"
    r"|[故因此所以综上述本题应,【]*(?:正确的?)?(?:答案|选项)?】?(?:应?选择?|[是为])?\s*[,:]?\s*"
    r"(?<=[\u4e00-\u9fff,:】 ]))+",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"(?=.?[A-Za-z(∠△])[^=<>≈\n]{1,150}?\s(?:is|are|was|were|be|equals?|has|have|costs?|gives?|gets?|measures|becomes"
    r"|needs?|weighs|pays?|makes|counts?|totals|remains?)\s+(?:(?:equal to|that|still|just)\s+)?(\S.*)",
    re.DOTALL,
)
_LABELLED = re.compile(r"[A-Za-z][A-Za-z' ]{0,40}:\s+(\S.*)", re.DOTALL)
_SOLUTION = re.compile(
    r"(.*\S)\s+(?:(?:is|are)\s+(?:(?:the|our|a)?\s*(?:(?:correct|final|required|right) )*"
    r"(?:answer|solution|result|value|total)s?|left|needed|required|remaining)|remains?)(?: in total)?",
    re.DOTALL,
)
_REASON = re.compile(
    r",?\s(?:because|since|as (?:the|it|we|there|this|that|both)|which (?:is|corresponds|matches|equals|means)|"
    r"to (?:buy|pay|get|make|reach|fill|complete|have)|in (?:all|total)$)(?:\s.*|$)|,?此时.*",
    re.DOTALL | re.IGNORECASE,
)
# A sentence with one number in it, and the unit behind that.
_ONLY_NUMBER = re.compile(
    r"(?!.*\b(?:half|twice|thrice|double|triple|root|third|quarter|every|each|minus|negative|plus)\b)"
    r"(?:(?:[A-Za-z][A-Za-z'-]+ )+"
    r"(?!(?:of|but|before|after|by|beyond|past|until|from|near|to|with|without|or|and) )[A-Za-z][A-Za-z'-]+ "
    r"|(?=\S+(?: [A-Za-z'-]+){3}))"
    r"((?:\$ ?)?\d[\d,]*(?:\.\d+|:\d\d)?(?! ?(?:of(?! the)|per|times|out|squared|cubed|and|or|to|by|x|pi)\b)"
    r"(?: ?[ap]\.?m\b| ?%|°C?| ?[A-Za-z]+(?:/[A-Za-z]+)?(?:\^\d)?)?)"
    r"(?:[ ,]+(?!of\b(?! the)|per\b|squared|cubed)[A-Za-z][A-Za-z'-]*)*\.?"
)
CONCLUSION = re.compile(
    r"[,;.]\s+(?:(?:and )?(?:so|thus|therefore|hence),?|i\.e\.,?|that is,?|which is(?! the| a)|in total,?) (.*)",
    re.DOTALL | re.IGNORECASE,
)
# A remark in brackets at the end, which leaves the number what it is.
_REMARK = re.compile(
    r"\s\((?![^()]*\b(?:or|not?|mod|base|in|negative|false|wrong|hundreds?|thousands?|millions?|billions?|dozens?)\b)"
    r"(?=[^()]*[A-Za-z]{3})[^()\\]*\)$",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:not|cannot|no|never|"
    r"than|least|most|less|more|if|unless|(?<!gap )(?<!difference )(?<!distance )(?<!angle )between"
    r"|over|under|either|neither|none|up to|close to|suppose|assum\w+|maybe|wait|actually"
    r"|wrong|incorrect)\b|n't|\?",
    re.IGNORECASE,
)
_WORDED = re.compile(r"[^\W\d_]{2}|[→⇒∴:].", re.DOTALL)
_CHINESE_LEAD = re.compile(
    r"(?=[A-Z∠△]*\s*[\u4e00-\u9fff])(?:[\u4e00-\u9fff,:\s]|[A-Za-z∠△](?=[A-Za-z∠△]*\s*[\u4e00-\u9fff]))+(?=[^\u4e00-\u9fff,:\s])"
)
_CHINESE_UNSURE = re.compile("[不没无非约或]|[大小]于|至[少多]|最[多少]|超过|以[上下]")
_POINT = re.compile(
    r"(?:ordered pair|points?|pair|coordinates?|interval|set|vector)\s+(?=[A-Z]?'?\s*[(\[{]|[A-Z]?\\[{])", re.IGNORECASE
)
_TEXT_MACRO = re.compile(
    r"\\(?:text|textbf|textit|textnormal|underline|emph|mathrm|mathbf|mathit|mathsf|operatorname|mbox)\s*\{([^{}]*)\}"
)
_MACROS = {
    name: sign
    for names, sign in (
        ("quad qquad displaystyle left right big Big bigl bigr", " "),
        ("bf it rm sf large Large LARGE huge Huge normalsize small limits", ""),
        *(("times cdot", "*"), ("div", "/"), ("pm", "±"), ("approx simeq", "≈"), ("colon", ":"), ("cup", "∪")),
        *(("le leq leqslant", "≤"), ("ge geq geqslant", "≥"), ("ne neq", "≠"), ("lt", "<"), ("gt", ">"), ("in", "∈")),
        *(("land wedge", "∧"), ("lor vee", " or "), ("emptyset varnothing", "∅"), ("angle", "∠"), ("triangle", "△")),
        *(("langle", "("), ("rangle", ")"), ("lbrace", "\\{"), ("rbrace", "\\}"), ("dfrac tfrac cfrac", "\\frac")),
        *(("pi", "π"), ("mu", "μ"), ("Omega", "Ω")),
    )
    for name in names.split()
}
# A system of equations, one a row, each of which names its unknown.
_SYSTEM = r"\\begin\{(cases|aligned|array)\}((?:(?:\{l*\})?\s*[a-z]\s*&?=[^=&\\]+(?:\\\\)?)+)\\end\{\1\}"
_LATEX: Rewriting = (
    ("\\begin", re.compile(_SYSTEM), lambda rows: rows[2].strip("\\ ").replace("\\\\", ", ").replace("&", "")),
    ("mod", re.compile(r"\(?\\[pb]?mod(?![A-Za-z])\s*\{?\s*(\w+)\s*\}?\)?"), r"mod \1"),
    ("{{", re.compile(r"(?<![A-Za-z\\])([ckdm])\{\{m\}\^\{(\d)\}\}"), r"\1m^{\2}"),  # c{{m}^{2}}
    ("{}^", re.compile(r"\{\}(?=\^)"), ""),
    ("color", re.compile(r"\\(?:text)?color\s*\{[A-Za-z]+\}(?:\s*\{([^{}]*)\})?"), r"\1"),
    ("\\over", re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (",", re.compile(r"(?<=\d)(?:,\\!\s*|\{,\}(?:\\!)?|\\,|,\\,)(?=\d{3}(?!\d))"), ""),  # thousands
    ("\\", re.compile(r"\\([A-Za-z]+)"), lambda macro: _MACROS.get(macro[1], macro[0])),
    ("μ", re.compile(r"μ\s+(?=[A-Za-z])"), "μ"),
    ("∈", re.compile(r"[,\s(]*\b[kn]\s*∈\s*(?:\\(?:mathbb|mathbf)\s*\{?\s*Z\s*\}?|Z|ℤ)[\s)$]*$"), ""),
    ("\\", re.compile(r"\*?\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![A-Za-z]))"), "°"),
    ("\\", re.compile(r"\\(?:overline|vec|overrightarrow)\s*\{\s*([A-Z]{2}|[a-z])\s*\}"), r"\1"),
    ("\\%", re.compile(r"\\%"), "%"),
    ("\\$", re.compile(r"\\\$"), "$ "),
    ("", re.compile(r"(?<!\\)\\[,;:!> ()\[\]]|~"), " "),
)
_MARKS: Rewriting = (
    ("{", re.compile(r"\{([,:])\}"), r"\1"),
    ("(mod ", re.compile(r"\((mod \w+)\)"), r"\1"),
    ("+", re.compile(r"\+/-|\A\+-"), "±"),
    ("=", re.compile("[<>!]="), lambda sign: {"<": "≤", ">": "≥", "!": "≠"}[sign[0][0]]),
    (" x ", re.compile(r"(?<=\d) x (?=\d)"), "*"),
)
_WIDE = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_ODD = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007\u3000", " "),
        **dict.fromkeys("\u200b\u200e\u200f\u202a\u202b\u202c\u2060\ufeff", ""),
        **dict.fromkeys("×·⋅∙", "*"),
        **dict.fromkeys("‘’′", "'"),
        **dict.fromkeys("“”″", '"'),
        **{"∞": "\\infty ", "÷": "/", "⁄": "/", "µ": "μ", "\u2126": "Ω", "\u212a": "K", "\u212b": "Å"},
        **{"º": "°", "℃": "°C", "℉": "°F"},
        **{"。": ".", "、": ",", "∶": ":", "或": " or ", "和": " and "},
        **{"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅛": " 1/8"},
        **_WIDE,
    }
)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉"
_SMALL = re.compile(f"[{_RAISED}]+|[{_LOWERED}]+")
_LARGE = str.maketrans(_RAISED + _LOWERED, "0123456789+-n0123456789")
_DISPLAY = re.compile(r"\\[\[\]]|\$\$")
_INDEX = re.compile(r"(?<=[A-Za-z)\]])_\{?(\d+)\}?")
_EDGES = " \t\r\n`*_#"
_QUOTED = ("'", '"')
_BOLD = re.compile(r"(?<![\w)])\*\*(?=\S)([^*]+)(?<=\S)\*\*(?!\w)")


def final_answer(text: str, fmt: ResponseFormat = THINK_ANSWER) -> str | None:
    """The answer that `text` finally states, or None.

    In a well-formed response it is the answer part. Otherwise it is what the text states last of: a
    balanced \\boxed{}, a bare answer part (its markers may be misplaced or unclosed), a bare
    `Answer:` or "the answer is"; failing these, a last line that stands alone and is bare.
    Of several boxes the last one counts, together with those that only a comma, `and`, `or`, `/`,
    `y =` or blanks link to it: `\\boxed{3} or \\boxed{4}` is the answer "3 or 4", not 4. A sign right
    before a box and a unit right after it belong to its answer.
    """
    parsed = fmt.parse(text)
    return last_stated(text, fmt) if isinstance(parsed, str) else _stated(parsed[1])


def last_stated(text: str, fmt: ResponseFormat) -> str | None:
    """`final_answer` of a text that is known to break the format."""
    text = fmt.unwrapped(strip_stop_tokens(text)[-READ_AT_MOST:])
    box = _last_box(text)
    after = box[0] if box else 0
    found = [find for find in (box, _last_part(text, after, fmt), _last_label(text, after, fmt)) if find]
    return max(found)[1] if found else _last_line(text, fmt)


def unboxed(text: str) -> str:
    """`text`, or what its box says; of several boxes what all of them say: 3, 7."""
    found = boxes(text)
    if not found:
        return text
    linked = _last_box(text)
    if len(found) > 1 and linked and linked[1] == found[-1][2].strip():
        return ", ".join(content for _, _, content in found)
    return linked[1] if linked else ""


def plain(text: str) -> str:
    """`text` without typography: Unicode signs as ASCII, spacing and text macros, math and markdown
    delimiters and a final full stop taken away. What a number or a word looks like afterwards does
    not depend on who typeset it."""
    if text.isascii():
        if text.isalnum():
            return text
    else:
        text = in_latin(_SMALL.sub(_on_the_line, text).translate(_ODD))
    if "**" in text:
        text = _BOLD.sub(r"\1", text)
    text = text.strip(_EDGES)
    if len(text) > 2 and text[0] == text[-1] == "$":
        text = text[1:-1]
    if "\\" in text:
        for _ in range(4):
            text = _TEXT_MACRO.sub(r" \1 ", text)
        text = rewritten(text, _LATEX)
    text = rewritten(text, _MARKS)
    if text.count("$") % 2 == 0:
        text = text.replace("$", "")
    text = text.strip(_EDGES)
    while text[:1] in _QUOTED and len(text) > 1 and text[0] == text[-1]:  # a quote on one side may be a prime
        text = text[1:-1].strip(_EDGES)
    return text[:-1].rstrip(_EDGES) if text.endswith(".") and not text.endswith("..") else text


def without_indices(text: str) -> str:
    """`text` with its indices on the line, as H2O for H_2O."""
    return _INDEX.sub(r"\1", text) if "_" in text else text


def _on_the_line(small: re.Match[str]) -> str:
    """A run of exponents as ^2 or ^{10}, of indices as _2."""
    text = small[0].translate(_LARGE)
    return ("^" if small[0][0] in _RAISED else "_") + (text if len(text) == 1 else f"{{{text}}}")


def said(answer: str) -> str | None:
    """What a plain sentence says: what follows its verb or its label, without a lead and a reason.
    None where `answer` is no such sentence, or is not sure."""
    last = last_sentence(answer[-LONGEST_SAID:])
    concluded = CONCLUSION.search(last)
    sentence = concluded[1] if concluded else last
    sentence = _REMARK.sub("", _REASON.sub("", sentence))
    if _UNSURE.search(sentence) or not _WORDED.search(answer):
        return None
    text = _CHINESE_LEAD.sub("", sentence)
    if text != sentence and _CHINESE_UNSURE.search(sentence):
        return None
    text = LEAD.sub("", text)
    if found := _SOLUTION.fullmatch(text) or _STATEMENT.fullmatch(text) or _LABELLED.fullmatch(text):
        text = found[1]
    if number := _ONLY_NUMBER.fullmatch(text):
        text = number[1]
    text = _POINT.sub("", text.strip(_EDGES))
    return text if text and text != answer else None


def last_sentence(text: str) -> str:
    """The last of several sentences."""
    return _SENTENCES.split(text.strip())[-1]


def _stated(part: str) -> str | None:
    """What an answer part states: its last box, what follows its last label, or all of it."""
    part = part[-READ_AT_MOST:]
    if box := _last_box(part):
        return box[1]
    ends = [] if _SO.search(part) else _labels(part)
    return (_after_last(part, ends[-1]) if ends else "") or part.strip() or None


def _after_last(text: str, label: int) -> str:
    """What the last label, which ends at `label`, announces: the line after a colon, else the rest of the sentence,
    or all that follows it where that takes it back."""
    if HESITATION.search(text, label):
        return text[label:].strip()
    if text[max(0, label - 8) : label].rstrip(" *_").endswith((":", "：")):
        stop = text.find("\n", label)
        return text[label : stop if stop >= 0 else len(text)].strip()
    found = _SENTENCE_END.search(text, label)
    return text[label : found.start() if found else len(text)].strip().removesuffix(".")


def _last_box(text: str) -> tuple[int, str] | None:
    if text.count("\\boxed") == 1 and "\\fbox" not in text and (only := _ONLY_BOX.search(text)):
        answer = _with_neighbours(text, *only.span(), only[1].strip())
        return (only.end(), answer) if answer else None
    found = boxes(text)
    if not found and "boxed" in text:
        found = [(bare.start(), bare.end(), bare[1] or bare[2]) for bare in _BARE_BOX.finditer(text)]
    if not found:
        return None
    first = last = len(found) - 1
    while first and _is_linked(text, *found[first - 1][:2], found[first][0]):
        first -= 1
    contents = [_with_neighbours(text, start, end, _innermost(content)) for start, end, content in found[first:]]
    answer = contents[0]
    for at, content in enumerate(contents[1:], start=first) if len(set(contents)) > 1 else ():
        link = _PART.sub("", text[found[at][1] : found[at + 1][0]].replace("$", "").replace("&", ","))
        if link.strip() == "}{":
            return found[last][1], f"\\frac{{{answer}}}{{{content}}}"
        answer += (link if _LINKING.search(link) else ", " + link.strip()) + content
    answer = answer.strip()
    return (found[last][1], answer) if answer else None


def _is_linked(text: str, start: int, end: int, following: int) -> bool:
    """Does the box between `start` and `end` make one answer with the `following` one? So do two in a fraction."""
    if _LINK.fullmatch(text, end, following):
        return True
    fraction = text[end : end + 1] == "}" and _FRACTION_OPENS.search(text, max(0, start - 10), start)
    return bool(fraction) and text[end:following].strip() == "}{"


def _with_neighbours(text: str, start: int, end: int, content: str) -> str:
    """What the box says, with the sign right before it and the unit right after it."""
    before = text[max(0, start - 2) : start]
    if text[end : end + 1] in _ALONE_AFTER and before[-1:] in _ALONE_BEFORE and "-" not in before:
        return content  # so it mostly is, and this tells it fast
    if not content or not _UNSIGNED.fullmatch(content):
        return content
    if sign := _SIGN.search(text, max(0, start - 12), start):
        content = (sign[1] or "-") + content
    elif times := _TIMES.search(text, max(0, start - 12), start):
        content = f"{times[0]}*{content}"
    if factor := _FACTOR.match(text, end):
        content, end = content + factor[0], factor.end()
    line = text[end : end + 60].partition("\n")[0].replace("\\$", " ").replace("$", " ")
    unit = adjoining_unit(plain(line)) if line.strip() else ""
    return f"{content} {unit}" if unit else content


def _innermost(content: str) -> str:
    while (inner := boxes(content)) and content.strip() == content[inner[0][0] : inner[0][1]]:
        content = inner[0][2]
    return content.strip()


def _last_part(text: str, after: int, fmt: ResponseFormat) -> tuple[int, str] | None:
    """What the last answer part states: closed by its own marker, or unclosed and bare."""
    if fmt.layout == "json" or not fmt.answer.open:
        return None
    start = text.rfind(fmt.answer.open, after)
    if start < 0:
        return None
    inside = start + len(fmt.answer.open)
    ends = [(end, marker) for marker in fmt.markers if (end := text.find(marker, inside)) >= 0]
    end, marker = min(ends, default=(len(text), ""))
    body = text[inside:end].strip()
    # Another marker has been moved into other text.
    told = marker == fmt.answer.close if marker else _is_bare(body)
    answer = _stated(body) if told else None
    return (inside, answer) if answer else None


def _last_label(text: str, after: int, fmt: ResponseFormat) -> tuple[int, str] | None:
    """What the last answer label announces, if it is bare and no box."""
    ends = _labels(text, after)
    labels = (*fmt.labels, f"{fmt.answer.open}:") if fmt.layout == "json" else fmt.labels
    ends += [start + len(label) for label in labels if (start := text.rfind(label, after)) >= 0]
    if not ends:
        return None
    body = _without_markers(_after_last(text, max(ends)), fmt).strip().removesuffix(".")
    return (max(ends), body) if _is_bare(body) and "\\boxed" not in body else None


def _labels(text: str, after: int = 0) -> list[int]:
    """Where the answer labels from `after` on end. (Looking for their stems is much faster than a regex.)"""
    return [label.end() for label in _LABEL.finditer(text, after)] if any(stem in text for stem in _LABEL_STEMS) else []


def _last_line(text: str, fmt: ResponseFormat) -> str | None:
    lines = _DISPLAY.sub("\n", _without_markers(text[-2000:], fmt)).split("\n")
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    longest = LONGEST_SUM if any(map(str.isdigit, line)) else LONGEST_LAST_LINE
    return line if line and len(line) <= longest else None


def _without_markers(text: str, fmt: ResponseFormat) -> str:
    for marker in fmt.markers:
        text = text.replace(marker, "\n" if len(marker) > 2 else marker)
    return text


def _is_bare(body: str) -> bool:
    return 0 < len(body) <= LONGEST_BARE and "\n" not in body
