"""The words that the rules listen to: where a thought states, concludes, doubts, corrects, and guesses.

English and Chinese. All match a `clean` text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_CHINESE = re.compile("[\u4e00-\u9fff]")


def starts_of(words: Sequence[str], text: str) -> list[int]:
    """Where one of `words` may start in `text`, in whatever case: far cheaper than a pattern tried everywhere."""
    folded = text.lower()
    folded = folded if len(folded) == len(text) else text
    found = []
    for word in words:
        at = folded.find(word)
        while at >= 0:
            found.append(at)
            at = folded.find(word, at + 1)
    return sorted(found)


class Phrases:
    """A pattern whose matches start with one of a few words, but for Chinese ones: it is tried at those alone."""

    def __init__(self, starts: str, pattern: str) -> None:
        self._starts = starts.split()
        self._pattern = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
        self.match = self._pattern.match

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """All of them in `text`, in order."""
        if _CHINESE.search(text):
            yield from self._pattern.finditer(text)
            return
        end = 0
        for start in starts_of(self._starts, text):
            if start >= end and (found := self._pattern.match(text, start)):
                end = found.end()
                yield found


# What stands between "answer" and the answer: "to the question is therefore most likely".
STATES = r"(?:is|are|be|equals|should be|must be|would be|will be|has to be|:|=|为|是|选|应为|应是|应选|就是)"
ADVERB = (
    r"(?:\s*,?\s*(?:therefore|thus|hence|then|so|indeed|simply|clearly|definitely|likely|probably|most likely|actually"
    r"|option|choice|应该)\b,?)*"
)
_BEST = r"(?:correct|right|best|proper|final|appropriate)\s+(?:option|choice|letter|statement|one|match|result|value)"
_OF = r"\s+(?:to|for|of|from|among|in)\s[^.,:;=\n]{1,80}?(?!\s*=)|\s+(?:choice|option|letter|here)"
LABEL = Phrases(
    "answer solution conclusion correct right best proper final appropriate",
    rf"\b(?:answers?|solution|conclusion(?=:)|{_BEST})\b(?:{_OF})?{ADVERB}\s*{STATES}{ADVERB}\s*:?\s*"
    rf"|(?:答案|正确选项|正确的选项|正确答案|最终结果|结论|解集|取值范围)[^.,:;\n是为选]{{0,8}}(?:应该|应当)?{STATES}\s*:?\s*(?:选项)?"
    r"|(?:故|因此|所以|应|可|应该|综上|则|于是|正确)?,?\s*(?:本题|此题|这题)?(?:应)?选择?\s*:?\s*(?=\(?[A-J](?![A-Za-z]))"
    r"|(?<=[.!?\n])\s*(?:答|解得|最终答案|答案)\s*:\s*",
)
OPTION = re.compile(
    r"(?:\b[Oo]ption|\b[Cc]hoice|\b[Ll]etter|\b[Aa]nswer|选项|\b(?:choose|select|pick|go with|marked|labell?ed|as))"
    r"\s*(?:is\s+)?[\"'(\[]?([A-J])(?![A-Za-z])[)\]\"']?"
    r"|(?<![A-Za-z0-9])\(([A-J])\)|(?<=[选 ])\b([A-J])(?=\s*(?:\.|$))|\b([A-J])\s+is\s+(?:the\s+)?(?:correct|right)"
)
# A letter at the start of a statement. A before a small letter is the article.
LEADING = re.compile(
    r"^[\"'(\[{ ]*([A-J])(?![A-Za-z'\d])\s*"
    r"(?:[)\]}\"'.:,;]|$|-|\s(?=[(\"'A-Z\d]|is\b|because|since|as\b|which|with)|选?项)"
)
NOT = re.compile(r"^\s*(?:not|n't|never|neither|unclear|unknown)\b|^不", re.IGNORECASE)
STOP = re.compile(r"[.!?](?=\s|$)|\n")
DENIAL = re.compile(
    r"\bnot\b|n't\b|\bcannot\b|\bneither\b|\bexcept\b|\bincorrect\b|\bwrong\b|\bfalse\b|\brule[sd]? out|\beliminat"
    r"|\bunlike|\brather than\b|\binstead of\b|错误|不正确|不符|不是|不对|排除",
    re.IGNORECASE,
)
AGAINST = re.compile(r"\b(?:instead of|rather than|as opposed to|unlike|in contrast to)\b|而不是|而非", re.IGNORECASE)
# Questions for the one that is not so.
NEGATIVE = re.compile(
    r"\b(?:not|except|false|incorrect|wrong|least|never|cannot)\b|错误|不正确|不是|不属于|不能|不符", re.IGNORECASE
)
_LETTERS = r"(?:options? |choices? )?\(?[A-J]\)?(?:(?:,? and |, | or )\(?[A-J]\)?)*"
RULED_OUT = re.compile(
    rf"(?<![A-Za-z])({_LETTERS}) (?:is|are|must be|cannot be) (?:all |both |therefore |thus |clearly )?"
    r"(?:wrong|false|incorrect|not (?:correct|right|true)|ruled out|eliminated)\b"
    rf"|\b(?:rules?|ruling) out ({_LETTERS})(?![A-Za-z])"
    r"|选项\s*([A-J])(?:也|都|的?说法)?(?:是)?(?:错误|不正确)|排除\s*选?项?\s*([A-J])"
)
CORRECTION = re.compile(
    r"\b(?:wait|no|actually|check|recheck|recount|correct(?! (?:answer|choice|option|one|statement))|correction|mistake"
    r"|wrong|instead|but|hmm|again|rather|sorry"
    r"|however|alternatively|let me|reconsider|re-?examine|at first|initially|first guess|oops|error)\b"
    r"|等等|不对|重新|错了|但是|然而",
    re.IGNORECASE,
)
CHECK = re.compile(
    r"\b(?:check|checking|verif\w+|double-check|confirm\w*|indeed|as required|as expected|consistent|agrees|matches"
    r"|remember|note|also|alternatively|similarly|for comparison|otherwise|if|by the way|incidentally|not asked)\b"
    r"|n't asked|✓|✔|验证|检验|检查|经检验|顺便",
    re.IGNORECASE,
)
ASIDE = re.compile(
    r"\([A-Za-z]{2}.*\)\W*$|where\b"
    r"|(?i:(?:please )?note\b|additional (?:information|notes?)\b|fun fact"
    r"|(?:for|in) comparison|as a side note|by the way|incidentally)"
    r"|备注|注:"
)
# What an equation only holds at: -4, which is reached at x = 1.
CONDITION = re.compile(r"(?:\b(?:at|when|where|for|with|if|given)\s+|[当在]\s*)\w{1,3}\s*=\s*$")
ASKS = re.compile(
    r"\b(?:question|problem|task)\b[^.?!]{0,20}\b(?:asks?|asked|refers?|wants?)\b|\basked (?:for|about|only)\b"
    r"|题目?(?:要求|问)的?是",
    re.IGNORECASE,
)
TABLE_ROW = re.compile(r" ; .* ; ")
CHECKS_FROM_HERE = re.compile(
    r"^[^\w\n]{0,9}(?:(?:now|and),? )?(?:(?:let me|let's|let us|we|I|to|I'll|we can) (?:now |also |quickly |can )?"
    r"(?:double[- ]?check|verify|check|test|confirm)|verif(?:y|ication)|(?:(?:double|sanity)[- ]?)?check(?:ing)?"
    r"|(?:for|as) a (?:quick )?check)\b"
    r"|(?<=[.!?] )(?:let me|let's|let us|I'll|we can|to) (?:now |also |quickly )?"
    r"(?:double[- ]?check|verify|check|test|confirm)\b"
    r"|(?:substitut|plug)\w* (?:\w+ ){0,3}back\b"
    r"|^[^\w\n]{0,9}(?:remarks?|note|why the other|(?:let's|let me) (?:see|look) (?:about|at|whether)"
    r"|going through the rest|the other (?:options|choices)|is it plausible|common mistakes"
    r"|(?:hmm,? )?does (?:that|this|it) make sense)\b"
    r"|(?:验证|检验|验算|代回|补充说明|拓展|易错|说明:|另外)",
    re.IGNORECASE | re.MULTILINE,
)
RETRACTS = re.compile(
    r"\b(?:wait|oops|mistake|wrong|sorry|incorrect|contradict\w*|recount|recheck)\b"
    r"|(?:not|n't) (?:match|fit|agree|work)\b|不对|矛盾|重新|算错",
    re.IGNORECASE,
)
_SO = r"so(?! (?:many|much|far|that|long|large|small))"
CONCLUDES = re.compile(
    rf"\b(?:{_SO}|thus|therefore|hence|consequently|altogether|in total|total|makes|leaves|gives|means|conclude"
    r"|conclusion|finally|overall,|in summary|to sum up|must be|we get|we have|we find|we need|we want)\b"
    r"|因此|所以|故|综上|总共|一共|得到|可得|则|那么",
    re.IGNORECASE,
)
SO = re.compile(rf"\b(?:{_SO}|thus|therefore|hence)\b|因此|所以|故|那么", re.IGNORECASE)
# A sentence that ends in a value as what something is.
COMES_TO = re.compile(
    r"(?:\b(?:is|are|equals?|has|have|was|were|(?<!would )(?<!'d )be|contains?|totals|(?:amounts?|comes?) to"
    r"|comes out (?:as|at))|\b(?:it|that)'s|[=:为是有剩])"
    r"\s*(?:(?:about|approximately|around|exactly|only)\s+)?-?[\d.][\d./]*\s*[%°]?(?:\s*[^\W\d]+){0,2}\W*$",
    re.IGNORECASE,
)
IS = re.compile(r"(?:\b(?:is|are|was)|'s|[是为])\s*(?:an? |the )?$", re.IGNORECASE)
NUMBERS = re.compile(r"\d+(?:\.\d+)?")
SUGGESTS = re.compile(
    r"\b(?:indicat\w+|suggest\w*|characteristic|typical\w*|matches|corresponds?|consistent with|describes?|refers?"
    r"|represents?|known as|called|identified|most likely|closest|best|only|has the|so|thus|therefore|hence|means)\b"
    r"|因此|所以|故|应为|符合|属于",
    re.IGNORECASE,
)
_OPTIONS = r"(?:given |provided |available |answer )?(?:options|choices|answers)"
GUESSED = Phrases(
    "guess choos pick select random safe impossible not n't insufficient without can unable do did none error "
    "mistake typo no assum seem appear may might must discrepanc have had "
    "plausible likely good",
    r"(?:(?<![A-Za-z])|(?=n't))"
    r"(?:(?<!initial )(?<!first )(?<!next )guess(?:ing)?(?! and (?:check|test))(?![^.\n]{0,20}=)"
    r"|(?:choose|pick|select)\w* (?:one )?(?:at random|randomly)|randomly (?:ch|pick|select)\w+"
    r"|safe(?:st)? (?:bet|choice)|(?:n't|not) (?:recall|remember)\b"
    r"|no (?:image|picture|figure|diagram|graph|chart) (?:is|was|has been|available|provided|given)\b"
    r"|without (?:seeing|viewing|looking at|access to) (?:the|an?) |discrepanc"
    r"|assum(?:e|ing) [^.\n]{0,60}\b(?:calculations?|correct)\b"
    r"|(?:seem|appear)s? to be (?:an? |some )?(?:mistake|error|inconsisten|typo|misprint)"
    r"|(?:may|might|must) be (?:an? )(?:mistake|error|inconsisten|typo|misprint) in"
    r"|(?:have|had) to (?:choose|pick|say) (?:something|one)|(?:plausible|likely|good) as any"
    r"|without being (?:sure|certain)|no way (?:of telling|to tell|of knowing|to know)"
    r"|impossible to (?:determine|tell|say|know)"
    r"|(?:not|n't) (?:give|have|provide|contain)\s(?:us )?(?:enough|sufficient) (?:information|data|detail)"
    r"|not enough information|insufficient information|without (?:more|further|additional) information"
    r"|(?:can(?:not|'t)|not possible to) be (?:determined?|computed?|calculated?|found|solved?|answered)"
    r"|(?:can(?:not|'t)|unable to|not able to|not possible to) "
    r"(?:determine|see|compute|calculate|view|find|solve|read|access|answer)"
    r"|(?:does|do|did)(?:n't| not) (?:exactly )?(?:match|appear|correspond|agree)\b"
    r"[^.\n]{0,40}\b(?:option|choice|answer)s?"
    rf"|none of the {_OPTIONS}\b[^.\n]{{0,30}}\b(?:match|is|are|fit|equal|correspond)"
    rf"|(?:not|n't) (?:given )?(?:among|one of|in|listed (?:in|among)|any of) the {_OPTIONS}"
    r"|(?:error|mistake|typo) in the (?:problem|question|options|choices|given|answer|provided))"
    r"|猜测|无法确定|不能确定|无法判断|没有正确|就选(?:它|这个)吧|没有对应的选项|与选项都不|没有(?:提供|给出)图|看不到图|选项有误|题目有误",
)
HEDGE = re.compile(r"\b(?:either|could|might|may|perhaps|possibly|maybe|depending|both)\b|或者|可能", re.IGNORECASE)
OR = re.compile(r"\bor\b|或", re.IGNORECASE)
# What shall be done. "We have" and "we get" say what is.
ANNOUNCES = re.compile(
    r"\b(?:we|I|you) (?:can|could|need to|have to|will|shall|should|must|would|want to|are going to)\b"
    r"|\blet(?:'s| us| me)\b|需要|我们(?:来|可以)",
    re.IGNORECASE,
)
# A choice by its letter at the start of a line, and what choices are called.
OPTION_LINE = re.compile(r"^(?:Option |Choice |Statement |选项)?\W{0,3}([A-J])(?:[).:,]|\s-|项|选项)")
CALLED = re.compile(
    r"(?:(?<![A-Za-z])([A-J])\s*(?:项|选项)?(?:的?说法|叙述)?\s*)?"
    r"((?<!不)正确|不正确|错误|不符合|(?<![不否])符合|\b(?:not )?(?:true|correct)\b|\bfalse\b|\bincorrect\b|\bwrong\b)",
    re.IGNORECASE,
)
HYPOTHESIS = re.compile(
    r"\?$|\b(?:suppose|assume|if|whether|let's say|imagine|were (?:to|it|they|we))\b|如果|假设|若", re.IGNORECASE
)
# One of several is set against the others.
COMPARES = re.compile(
    r"\b(?:than|unlike|rather|instead|not|only|but|while|whereas|both|most|best|least|\w+est|because|since|so|thus|therefore"
    r"|hence)\b|n't\b|比|不|只有|最|而|因此|所以|故",
    re.IGNORECASE,
)
COUNTERFACTUAL = re.compile(r"\bwould\b|\bhad (?:it|they|he|she|we|the)\b|\bunless\b", re.IGNORECASE)
EXCLUDES = re.compile(r"\brul(?:es?|ed|ing) out\b|\beliminat|\bexclud|排除", re.IGNORECASE)
CROSSED = re.compile("[✗✘❌]")
SUPPOSED = re.compile(
    r"\b(?:would|could|might|if|note|otherwise|by the way|trap|distract\w+|tempt\w+)\b|如果|会", re.IGNORECASE
)
BUT = re.compile(r"[,;]?\s{1,3}(?:but|however|yet)\s|但是?|而要?求", re.IGNORECASE)
IMAGINARY = re.compile(r"imaginary|complex|no real|undefined|\bi\b", re.IGNORECASE)
HYPOTHETICAL = re.compile(r"\b(?:if|suppose|try|guess)\b|≠|\\ne", re.IGNORECASE)
TAKEN_BACK = re.compile(
    r"\b(?:wait|no|oops|mistake|wrong|sorry|incorrect|recheck|impossible|contradict\w*|cannot be)\b"
    r"|不对|错误|不可能|矛盾|重新|舍去|不符",
    re.IGNORECASE,
)
SPACED = re.compile(r"(?<![\w/])(\d+)/(\d+)\s+([π√])")
OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true", "是": "否", "否": "是", "对": "错", "错": "对"}
AFFIRMS = re.compile(
    r"\b(?:that's|that is|this is|which is) (?:true|correct|the case|(?P<no>false|wrong|not (?:true|correct|the case)))"
    r"\s*\.?$"
    r"|\bindeed it (?:does|is|has|can)\b",
    re.IGNORECASE,
)
SO_NOT = re.compile(
    r"\b(?:so|thus|therefore|hence)\b[^.!?]{0,80}(?:n't|\bnot|\bcannot)\b(?! (?:only|clear|sure|enough))"
    r"|(?:所以|因此|故)[^.!?]{0,40}不",
    re.IGNORECASE,
)
YES_NO = frozenset(OPPOSITE)
# Words that every statement of a task is made of: they carry no reasoning.
BOILERPLATE = frozenset(
    """
    a an the this that these those it its is are be was were been i we you us me my our your let lets s to of in on
    at for from with by and or so thus therefore hence then now first next finally as can could will would should
    must need needs have has had do does did question problem answer answers option options choice choices correct
    right best final solution solve solving find finding determine identify look looking see careful carefully
    consider consideration considering think thinking step steps reason reasoning analyze analysis analyse
    understand information given provided based using use image picture figure diagram graph chart table photo shown
    shows show above below following asked asks ask asking which what where who how many much when comes come final
    result value number here there okay ok alright well hmm sure yes no know us get go going select choose pick
    letter one some something any them they able after before all each other make made visual text context data
    details evaluate compute calculate apply rules rule function object objects total lines several exact formula
    relevant information required determined observe observing
    """.split()  # noqa: SIM905
)
WORD_OR_MARK = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|[\u4e00-\u9fff]|\d+(?:\.\d+)?|[=+√π^]")
CHINESE_BOILERPLATE = frozenset("答案是为选故因此所以的由图可知题意综上正确项最终我们看看根据中可得以得出")


def content_words(text: str) -> list[str]:
    """The words, numbers and signs that are no boilerplate."""
    return [
        word.group()
        for word in WORD_OR_MARK.finditer(text)
        if word.group().lower() not in BOILERPLATE and word.group() not in CHINESE_BOILERPLATE
    ]
