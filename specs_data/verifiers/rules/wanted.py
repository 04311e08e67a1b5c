"""The answer that a thought should reach, read once, and whether other words say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache

from specs_data.judges.choices import find_choice, read_choice
from specs_data.judges.numbers import Quantity
from specs_data.judges.rules import same_answer
from specs_data.judges.values import fold
from specs_data.records import Problem
from specs_data.verifiers.rules.prose import clean
from specs_data.verifiers.rules.sums import Term, close, read_sums, value_of
from specs_data.verifiers.rules.words import AFFIRMS, BOILERPLATE, LEADING, OPPOSITE, OPTION, SO_NOT, SPACED, YES_NO

MOST_OWN_WORDS = 0.6
LONGEST_ALONE = 400  # characters of a choice
_CIRCLED = re.compile(r"[①-⑳](?:(?:, |[和与及、 ])?[①-⑳])*")  # statements by their numbers: ② and ③
_A_LETTER = re.compile(r"[A-Za-z] [A-J](?![A-Za-z])")
_LETTER_ALONE = re.compile(r"\W*(?:is\s+)?[A-J]\W*")
_LETTERED = re.compile(r"^\W*[A-J](?:[).:]+|\s-)\s*")
_ENDS_HERE = re.compile(r"(?![A-Za-z0-9_]|\.\d)")
_WITH_ABBREVIATION = re.compile(r"(?<=\w{3})\s+\([A-Z]\w{0,5}\)$")


class Wanted:
    """The response's answer, read once, and whether other words say the same."""

    def __init__(self, answer: str, problem: Problem) -> None:
        self.answer = answer
        self.kind = problem.answer_type
        self.choices = problem.choices
        self.is_choice = self.kind == "multiple_choice"
        self.letters = (read_choice(answer, self.choices).letters or None) if self.is_choice else None
        self.letter = next(iter(self.letters)) if self.letters and len(self.letters) == 1 else ""
        chosen = self.choices[ord(self.letter) - ord("A") :][:1] if self.letter else (answer,)
        self.content = re.sub(r"^\(?[A-J][).:]\s+", "", "".join(chosen))
        self.folded = fold(self.content)
        self.quantity = None if self.kind == "text" else value_in(self.content)
        self.cleaned = cleaned(self.content).strip(" .")
        self.items = _items(self.cleaned) if self.quantity is None else ()
        self.is_yes_no = self.folded in YES_NO

    @cached_property
    def folded_answer(self) -> str:
        """The answer as the judge folds it."""
        return fold(self.answer)

    @cached_property
    def contents(self) -> list[str]:
        """The choices without their letters."""
        return [re.sub(r"^\(?[A-J][).:]\s+", "", choice) for choice in self.choices]

    @cached_property
    def short(self) -> tuple[str, ...]:
        """The choices as a sentence may end in them."""
        return tuple(one.lower().rstrip(".") for one in self.contents if len(one) > 1)

    @cached_property
    def listed(self) -> frozenset[str]:
        """The choices as they are when a thought only lists them."""
        return frozenset(said for one in self.contents for said in (squeezed(clean(one)), squeezed(one)))

    @cached_property
    def values(self) -> list[Quantity | None]:
        """The choices' values."""
        return [value_in(choice) for choice in self.choices]

    def says(self, content: str, about: bool = False) -> bool | None:
        """Is `content`, all of it, this answer? None where that cannot be told."""
        content = content.strip(" .,;:*\n")
        if self.is_choice and (letters := letters_of(content, self.choices)):
            return letters == self.letters and self._is_of_its_letter(content)
        if self.folded and (fold(content) == self.folded or content == self.cleaned):
            return True
        if not self.is_choice and same_answer(self.answer, content, self.kind):
            return True
        value = value_in(content)
        if value and self.quantity:
            return close(self.quantity, value, about)
        return None

    def _is_of_its_letter(self, content: str) -> bool:
        """Is what stands after a letter, up to a comma, not another choice?"""
        letter = LEADING.match(content)
        rest = content[letter.end() :] if letter else ""
        said = {squeezed(one.strip(" .:)")) for one in (rest, rest.partition(",")[0])} - {"", squeezed(self.content)}
        return said.isdisjoint(squeezed(one) for one in self.contents if one != self.content)

    def is_all_of(self, text: str) -> bool:
        """Is `text` the answer, a letter, or a choice with or without its letter, and no more?"""
        if len(text) > LONGEST_ALONE:
            return False
        if fold(text) in (self.folded, self.folded_answer, ""):
            return True
        if not self.is_choice:
            return False
        return bool(_LETTER_ALONE.fullmatch(text)) or squeezed(_LETTERED.sub("", text)) in self.listed

    @cached_property
    def own_stems(self) -> list[frozenset[str]]:
        """The words of each choice that no other one has."""
        words = [frozenset(stems(choice)) for choice in self.contents]
        return [mine.difference(*(words[:at] + words[at + 1 :])) for at, mine in enumerate(words)]

    def meant_by(self, text: str) -> frozenset[str]:
        """The letter of the one choice whose own words `text` uses, in another order or form."""
        said = frozenset(stems(text))
        used = [at for at, own in enumerate(self.own_stems) if own & said]
        found = [at for at in used if len(self.own_stems[at] & said) >= MOST_OWN_WORDS * len(self.own_stems[at])]
        return frozenset(chr(ord("A") + at) for at in found if used == found and len(found) == 1)

    def is_term(self, term: Term, about: bool) -> bool:
        """Is this the answer's value?"""
        if self.quantity is None:
            return False
        share = Quantity(term.value / 100) if term.unit == "%" and not self.quantity.unit else None
        return close(self.quantity, term.quantity, about) or bool(share and close(self.quantity, share))

    def choice_of(self, term: Term, about: bool = False) -> str:
        """The letter of the one choice whose value this is."""
        found = [
            chr(ord("A") + at) for at, value in enumerate(self.values) if value and close(value, term.quantity, about)
        ]
        return found[0] if len(found) == 1 else ""

    def in_words(self, text: str) -> bool:
        """Does `text` name the answer, as words or as it is written?"""
        if not self.folded or self.folded in ("a", "i"):
            return False
        if self.quantity is not None and self.cleaned.lstrip("-").isdigit():
            return False  # numbers are terms
        if self.items:
            terms = [term.quantity for term in read_sums(text).terms]
            return all(any(close(item, term) for term in terms) for item in self.items)
        return names(text, self.content, self.cleaned)


cleaned = lru_cache(4096)(clean)  # for choices, which each sentence is compared with


@lru_cache(4096)
def squeezed(text: str) -> str:
    """`text` as the judge folds it, without blanks."""
    return fold(text).replace(" ", "")


def letters_of(content: str, choices: tuple[str, ...]) -> frozenset[str] | None:
    """The letter that a short statement starts with, or the choice that it is."""
    content = re.sub(r"^(?:option|choice|letter|选项)\s*", "", content, flags=re.IGNORECASE)
    most = chr(ord("A") + len(choices) - 1) if choices else "J"
    leading = LEADING.match(content)
    if leading and leading[1] <= most:
        return frozenset(leading[1])
    if content[:1].isalpha() and content[1:2] == " ":
        return None
    found = read_choice(content, choices).letters
    if found and len(found) == 1 and not (len(content) > 3 and content[:2] in ("A ", "I ")):
        return found
    return frozenset(find_choice(content, choices)) or None


def option_letters(text: str, choices: Sequence[str]) -> frozenset[str]:
    """The letters that a sentence names as options."""
    most = chr(ord("A") + len(choices) - 1) if choices else "J"
    for choice in choices:
        if len(choice) > 1 and _A_LETTER.search(choice):  # vitamin D
            text = re.sub(re.escape(choice), "", text, flags=re.IGNORECASE)
    found = {next(filter(None, one.groups())) for one in OPTION.finditer(text)}
    return frozenset(letter for letter in found if letter <= most)


def named_choices(text: str, choices: Sequence[str]) -> frozenset[str]:
    """The letters of the choices whose content is spoken of in `text`; of two, one within the other, the longer."""
    found: dict[str, str] = {}
    if any(map(_CIRCLED.fullmatch, choices)):
        text = _CIRCLED.sub(lambda run: "".join(one for one in run.group() if "①" <= one <= "⑳"), text)
    for number, choice in enumerate(choices):
        content = re.sub(r"^\(?[A-J][).:]\s+", "", choice)
        is_letter = len(fold(content)) < 2 and content.isalpha() and content.isascii()
        short = _WITH_ABBREVIATION.sub("", content)
        if is_letter or not content:
            continue
        if names(text, content, cleaned(content).strip(" .")) or (short != content and names(text, short, short)):
            found[chr(ord("A") + number)] = fold(content)
    return frozenset(
        letter for letter, said in found.items() if not any(said != other and said in other for other in found.values())
    )


def names(text: str, content: str, cleaned: str) -> bool:
    """Does `text` name `content`, as it is written or `cleaned`, as a whole word or formula?"""
    for words in {content, cleaned}:
        if not words.strip():
            continue
        is_sign = words.isupper() and len(words) < 4  # OR, AND, IF are no words
        if _stands_in(text, words) if is_sign else _stands_in(text.lower(), words.lower()):
            return True
    squeezed = _squeezed(cleaned)
    return len(squeezed) > 3 and not squeezed.isalpha() and squeezed in _squeezed(text)


def _stands_in(text: str, words: str) -> bool:
    """Do the words stand in `text` by themselves? Looked for by hand, as a pattern of each choice takes far longer to
    compile than to use."""
    starts_word, ends_word = (edge.isalnum() and edge.isascii() for edge in (words[0], words[-1]))
    has_plural = words[-1].isalpha() and words.isascii() and len(words) > 2
    at = text.find(words)
    while at >= 0:
        end = at + len(words)
        begins = not starts_word or at == 0 or not (text[at - 1].isalnum() or text[at - 1] in "_.")
        ends = not ends_word or any(
            _ENDS_HERE.match(text, end + len(ending))
            for ending in ("", "s", "es")[: 3 if has_plural else 1]
            if text.startswith(ending, end)
        )
        if begins and ends:
            return True
        at = text.find(words, at + 1)
    return False


def _squeezed(text: str) -> str:
    """A formula without blanks, signs of products and brackets around a single exponent."""
    return re.sub(r"\^\(([-\w.]+)\)", r"^\1", re.sub(r"[\s*]", "", text))


def says_yes(text: str, wanted: Wanted) -> bool | None:
    """Whether a sentence says yes or no by itself: at its start, its end, or before a comma."""
    folded = wanted.folded
    for word in (folded, OPPOSITE[folded]):
        if word.isascii():
            pattern = (
                rf"(?:^|\b(?:so|therefore|thus|hence|answer is|is)\b:?,?\s*[\"']?){word}\b(?=[\s\"']*[.,!:;]|[\"'\s]*$)"
                rf"|[,:-]\s*{word}\s*\.?$"
            )
        else:
            pattern = rf"(?:^|答案[是为]?:?\s*){word}(?=[.,]|$)"
        if re.search(pattern, text.strip(), re.IGNORECASE):
            return word == folded
    is_yes = folded in ("yes", "true", "是", "对")
    if found := AFFIRMS.search(text):
        return (found["no"] is None) == is_yes
    return not is_yes if SO_NOT.search(text) else None


def stems(text: str) -> list[str]:
    """The words that tell one choice from another, without their endings."""
    found = (word.group().lower() for word in re.finditer(r"[A-Za-z]{3,}", text))
    return [word[:6].rstrip("s") for word in found if word not in BOILERPLATE]


@lru_cache(4096)  # the choices of a problem are read with each of its responses
def value_in(text: str) -> Quantity | None:
    """The value that `text` is, cleaned or not."""
    return value_of(text) or value_of(SPACED.sub(r"⟨(\1)/(\2)⟩\3", clean(text).strip(" .")))


def _items(text: str) -> tuple[Quantity, ...]:
    """The values of a list, where it is one."""
    parts = re.split(r",\s*|;|\band\b|\bor\b", text.strip("{}"))
    values = [value_in(part) for part in parts if part.strip()] if len(parts) > 1 and "(" not in text else []
    return tuple(value for value in values if value) if all(values) else ()
