"""Reading a model's output: what all kinds share. Strict about meaning, lenient about form.

A right answer must not count as wrong because of its formatting, and an undecided one must not be guessed right: where
an output names two different choices without saying which is the answer, nothing is returned.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from bioquant.config import LabelConfig

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```[^\n`]*$\n?", re.MULTILINE)
# The heads of the prompt's blocks. A model that goes on with an example of its own making has answered already.
_NEXT_EXAMPLE = re.compile(r"\n[ \t]*(?:Text|Context|Question|Input|Example[ \t]*\d*):")
_BOXED = re.compile(r"\$?\\boxed\{(?:\\text\{)?([^{}]*)\}{1,2}\$?")
_LONE_LETTER = re.compile(r"[(\[{]\s*([A-Za-z])\s*[)\]}]")
BULLET = re.compile(r"^(?:[-*•–+>]|\d{1,2}[.)])\s+(?=\S)")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_QUOTES = "\"'“”‘’«»`*"

# What may stand after a choice that is also an everyday word or letter ("no", "A"): the end, a stop, or an explanation.
_STOP = r"[\"'”’]*\s*(?:$|[)\]}.:,;!\n—–]|-\s)"
_EXPLANATION = (
    r"\s+(?:because|since|as|due|based|according|given|the|this|that|it|there|these|those|they|we|which|for)\b"
)
_CORRECT = r"\s+is\s+(?:the\s+)?(?:most\s+)?(?:single\s+)?(?:correct|right|best|answer)\b"
_ENDS = re.compile(f"(?:{_STOP}|{_EXPLANATION}|{_CORRECT})", re.IGNORECASE)
_ABBREVIATION = re.compile(r"\.\s?[a-z]")  # the "E." of "E. coli" is no option letter
_AND = re.compile(r"^\s*[)\]]?\s*(?:,\s*)?(?:[/,&|]|\bor\b|\band\b)\s*", re.IGNORECASE)
_NOUNS = (
    r"(?:answer|label|class(?:ification)?|category|relation(?:ship)?|interaction|option|choice|prediction|output|"
    r"decision|conclusion|response)"
)
_MARKER = re.compile(
    rf"\b{_NOUNS}\b(?:\s+type)?(?:\s+(?:to|for|of|between|in)\b[^.:\n]{{0,100}}?)?"
    r"(?:[\"']?\s*(?:[:=→]|->)|\s+(?:is|would\s+be|should\s+be|must\s+be)\b)\s*:?\s*"
    r"|\b(?:choose|select|pick)\s+"
    r"|\b(?:option|choice|answer)\s+(?=[A-Za-z]\)?\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b)",
    re.IGNORECASE,
)
_FILLER = re.compile(
    rf"^(?:(?:the|most\s+likely|likely|probably|definitely|clearly|indeed|actually|certainly|therefore|thus|simply|{_NOUNS}|letter)\b[\s:]*)+(?=\S)",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|without|exclud\w+|rul\w+ out|rather than|instead of)\b|n['’]t\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n+")
_CLAUSE = re.compile(r"[,.;:!?\n]|\b(?:but|however|although|though)\b", re.IGNORECASE)
# Labels that prose uses in passing: they count as the answer itself, never as a word of a sentence.
_EVERYDAY = frozenset({"yes", "no", "maybe", "true", "false", "none", "not", "other", "positive", "negative"})
_NO_WORD = r"(?<![\w-])"
_NO_MORE = r"(?![\w-])"


def own_words(output: str) -> str:
    """The output without a reasoning model's thinking, code fences, and any next example it made up."""
    text = _FENCE.sub("", _THINKING.sub("", output)).strip()
    return _NEXT_EXAMPLE.split(text, maxsplit=1)[0].strip()


def plain(text: str) -> str:
    """The text without bold, headings and LaTeX boxes; `(C)` becomes `C)`."""
    boxed = _BOXED.sub(r"\nanswer: \1\n", text)
    unmarked = re.sub(r"\*\*|__|`|^\s*#+\s+", "", boxed, flags=re.MULTILINE)
    return _LONE_LETTER.sub(r"\1)", unmarked).strip()


def bare(text: str) -> str:
    """The text without surrounding bullet, quotes, brackets and closing stop."""
    while True:
        inner = BULLET.sub("", text.strip()).strip(_QUOTES).strip().rstrip(".,;!").strip()
        if inner[:1] in _PAIRS and inner.endswith(_PAIRS[inner[0]]):
            inner = inner[1:-1]
        if inner == text:
            return inner
        text = inner


def folded(text: str) -> str:
    """The text for comparison: case, and blanks, hyphens and underscores alike."""
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()


def from_json(text: str) -> Json:
    """The JSON value that the text is, or None."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return None
    try:
        return cast(Json, json.loads(text))
    except json.JSONDecodeError:
        return None


def answered(
    value: Json, keys: Iterable[str] = ("answer", "label", "labels", "final_answer", "relation", "class")
) -> Json:
    """The answer inside a JSON value: the item under a telling key, or the only item."""
    if isinstance(value, dict):
        by_key = {key.casefold(): item for key, item in value.items()}
        told = [by_key[key] for key in keys if key in by_key] or (list(value.values()) if len(value) == 1 else [])
        return told[0] if told else None
    return value


@dataclass(frozen=True, slots=True)
class Choices:
    """A closed set of answers. forms: each folded string that stands for an answer -> the answer's name."""

    forms: Mapping[str, str]

    @staticmethod
    def of_labels(labels: Sequence[LabelConfig]) -> "Choices":
        """Names and aliases; a name wins over another label's alias."""
        names = {folded(label.name): label.name for label in labels}
        aliases = {folded(alias): label.name for label in labels for alias in label.aliases}
        return Choices(aliases | names)

    @staticmethod
    def of_options(letters: Sequence[str], options: Sequence[str]) -> "Choices":
        """The letters, the options' texts where only one option has that text, and both together."""
        texts = [folded(bare(text)) for text in options]
        unique = {text: letter for letter, text in zip(letters, texts, strict=True) if text and texts.count(text) == 1}
        both = {
            folded(f"{letter}{mark} {text}"): letter
            for letter, text in zip(letters, texts, strict=True)
            for mark in (")", ".", ":", "", "),", " -")
        }
        return Choices(both | unique | {letter.casefold(): letter for letter in letters})

    def exact(self, text: str) -> str | None:
        """The choice that the whole text is."""
        return self.forms.get(folded(bare(text))) or self.forms.get(folded(text))

    def first(self, text: str) -> tuple[str, str, str] | None:
        """The choice the text begins with: (choice, its form, what follows), the longest form first."""
        for form in sorted(self.forms, key=len, reverse=True):
            if match := re.match(_pattern(form), text, re.IGNORECASE):
                return self.forms[form], form, text[match.end() :]
        return None

    def mentioned(self, text: str) -> list[str]:
        """The different choices that stand in the text as whole words and are not denied, in order of appearance."""
        forms = sorted((form for form in self.forms if _telling(form)), key=len, reverse=True)
        if not forms:
            return []
        found = re.finditer("|".join(_pattern(form) for form in forms), text, re.IGNORECASE)
        kept = [self.forms[folded(match.group())] for match in found if not _denied(text[: match.start()])]
        return list(dict.fromkeys(kept))


def _pattern(form: str) -> str:
    """A whole-word pattern for a folded form: blanks stand for blanks, hyphens and underscores."""
    return _NO_WORD + r"[\s_-]+".join(map(re.escape, form.split(" "))) + _NO_MORE


def _telling(form: str) -> bool:
    """Whether a sentence that holds the form can only mean the choice."""
    return len(form) > 2 and form not in _EVERYDAY and not form.isdigit()


def _denied(before: str) -> bool:
    """Whether the clause so far holds a negation."""
    return bool(_NEGATION.search(_CLAUSE.split(before)[-1]))


def _ends(form: str, after: str) -> bool:
    """Whether what follows a form leaves it a word of its own."""
    abbreviation = len(form) == 1 and _ABBREVIATION.match(after)
    return bool(_ENDS.match(after)) and not abbreviation


def leading(text: str, choices: Choices, *, ends: bool) -> str | None:
    """The choice that the text begins with, where the text goes on with no other.

    ends: whether an end, a stop or an explanation must follow. It always must after an everyday word or letter,
    which may be the beginning of something else ("no evidence", "A patient", "E. coli").
    """
    start = BULLET.sub("", text.strip()).lstrip(_QUOTES + "([{ \n")
    found = choices.first(start) or choices.first(_FILLER.sub("", start))
    if found is None:
        return None
    choice, form, after = found
    if (ends or not _telling(form)) and not _ends(form, after):
        return None
    return None if _names_another(after, choice, choices) else choice


def _names_another(after: str, choice: str, choices: Choices) -> bool:
    """Whether what follows a choice is another one ("yes or no", "B) the text of option C")."""
    if joined := _AND.match(after):
        second = choices.first(after[joined.end() :])
        if second and second[0] != choice:
            listed = _names_another(second[2], second[0], choices)  # "yes, no or maybe"
            if listed or _telling(second[1]) or _ends(second[1], second[2]):
                return True
    rest = choices.exact(after.split("\n")[0].lstrip(" ).:,;-—–"))
    return rest is not None and rest != choice


def marked(text: str, choices: Choices) -> str | None:
    """The choice after the last "the answer is" (or "Label:", "I choose") that is followed by one."""
    for match in reversed(list(_MARKER.finditer(text))):
        if choice := leading(text[match.end() :].split("\n")[0], choices, ends=False):
            return choice
    return None


def _opening(lines: Sequence[str], choices: Choices) -> str | None:
    """The choice that the first line begins with, where no other line begins with another (a list of all choices)."""
    begun = {leading(line, choices, ends=True) for line in lines} - {None}
    return leading(lines[0], choices, ends=True) if len(begun) == 1 else None


def _in_passing(text: str, choices: Choices) -> str | None:
    """The only choice that a complete text names."""
    complete = text.endswith((".", "!", ")", '"')) or len(_SENTENCE.split(text)) == 1
    named = choices.mentioned(text)
    begun = choices.first(text)
    contradicts = begun and begun[0] not in named and _ENDS.match(begun[2])  # "B) the text of option C"
    return named[0] if complete and len(named) == 1 and not contradicts else None


def _agreed(found: Iterable[str | None]) -> str | None:
    """The one choice that was found; None where none was, or several."""
    kept = set(found) - {None}
    return kept.pop() if len(kept) == 1 else None


def read_choice(output: str, choices: Choices) -> str | None:
    """The one choice that an output names, or None where it names none or does not decide.

    In order: the whole output; JSON; a first or last line that is a choice, and an explicit "answer is"; a first line
    that begins with a choice; a complete text that names one choice only.
    """
    text = plain(own_words(output))
    if not text:
        return None
    if whole := choices.exact(text):
        return whole
    value = answered(from_json(text))
    item = value[0] if isinstance(value, list) and len(value) == 1 else value
    if item is not None:
        return (
            None
            if isinstance(item, list | dict)
            else choices.exact(str(item)) or leading(str(item), choices, ends=True)
        )
    lines = [line for line in text.split("\n") if line.strip()]
    explicit = {choices.exact(lines[0]), marked(text, choices), choices.exact(lines[-1])} - {None}
    if explicit:
        return _agreed(explicit)
    return _opening(lines, choices) or _in_passing(text, choices)
