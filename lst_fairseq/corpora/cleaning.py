"""Cleaning of training data: what a segment's texts lose, and which segments are left out, each counted.

Development and test data are never cleaned; ``base.prepare`` sees to that.
"""

from collections import Counter
from dataclasses import dataclass

import regex

from lst_fairseq.utils.arguments import UsageError
from lst_fairseq.utils.flags import setting

#: Below so many characters in both texts their ratio says nothing: "Yes." and "Ja, natürlich."
SHORT_TEXT = 20

# --- speaker labels ---------------------------------------------------------------------------------------------------
_ROLES = (
    "announcer audience boy boys child children computer crowd father girl girls host interpreter interviewer man men "
    "moderator mother narrator newscaster participant recording reporter robot singer speaker student students teacher "
    "translator voice voiceover woman women"
).split()
_NAME = r"\p{Lu}[\p{L}\p{M}'’.-]*"
_PARTICLE = r"(?:al|bin|da|de|del|della|den|der|di|du|el|ibn|la|le|van|von)"
_COLON = r"\s?(?:：\s*|:(?:\s+|$))"
_INITIALS = r"(?P<initials>\p{Lu}\.?(?:\p{Lu}\.?){1,3})"
_FULL_NAME = rf"(?P<name>{_NAME}(?:\s+(?:{_PARTICLE}\s+)*{_NAME}){{1,3}})"
_ROLE = rf"(?P<role>(?i:{'|'.join(_ROLES)})(?:\s+(?i:member|\d+))?)"
_SOURCE_LABEL = regex.compile(rf"\s*(?:-\s*)?(?:{_INITIALS}|{_ROLE}|{_FULL_NAME}){_COLON}")
_TARGET_NAME = regex.compile(rf"\s*(?:-\s*)?(?P<label>[\p{{L}}\p{{M}}'’.·・\s-]{{1,40}}?){_COLON}")
#: Capitalised beginnings of a sentence, and acronyms, that no speaker is called.
_NOT_NAMES = frozenset(
    "a an and at but chapter faq for from here how i if in it lesson my number ok on one our part ps question rule so "
    "step ted that the then there these this three to tv two uk us usa we what when where which who why you "
    "your".split()
)

# --- stage directions -------------------------------------------------------------------------------------------------
_BRACKETED = regex.compile(
    r"\(([^()]*)\)|\[([^\[\]]*)\]|（([^（）]*)）|［([^［］]*)］|【([^【】]*)】"
)
_MUSIC_NOTES = regex.compile("[\u2669-\u266c]+")
_SPACES = regex.compile(r"[ \t]{2,}")
#: What may stand before a stage direction, if not the beginning of the text.
_SENTENCE_END = frozenset(".!?…。！？\"'”’»)]）］】")
_DIRECTIONS = frozenset(
    direction.strip()
    for direction in """
    applause | applauds | audio | beatboxing | cheering | cheers | chuckles | claps | clapping | coughs | crying | gasps
    | inaudible | laughing | laughs | laughter | music | music ends | ringing | sighs | silence | singing | sings
    | unclear | video | whistling | laughter and applause | applause and cheers
    | applaus | beifall | gelächter | gesang | jubel | lachen | musik | publikum lacht | singt | unverständlich
    | applaudissements | chant | musique | rire | rires | vidéo
    | aplausos | canto | inaudible | música | risas | risa | vídeo
    | applausi | applauso | musica | risate | risa
    | risos | riso | aplauso
    | applaus | gelach | gejuich | muziek
    | aplauze | muzică | râsete
    | аплодисменты | видео | музыка | смех
    | alkış | alkışlar | gülüşmeler | kahkahalar | müzik | smích | potlesk | hudba
    | 拍手 | 掌声 | 笑 | 笑い | 笑声 | 音楽 | 音乐 | 鼓掌 | ビデオ
    """.replace("\n    |", " |")
    .replace("\n", "|")
    .split("|")
    if direction.strip()
)


@dataclass(frozen=True, kw_only=True)
class CleaningOptions:
    """What is done to training data; nothing by default.

    Raises:
        UsageError: limits that nothing can keep; the message names the flags.
    """

    min_seconds: float | None = setting(
        "leave out shorter segments, for example 0.1", None, metavar="S", unset="no limit"
    )
    max_seconds: float | None = setting(
        "leave out longer segments, for example 30", None, metavar="S", unset="no limit"
    )
    drop_empty: bool = setting(
        "leave out segments with an empty target, or one that the flags below leave empty: "
        '"(Applause)"',
        False,
    )
    clean_speaker_labels: bool = setting(
        'take the speaker off the beginning of source and target: "Chris Anderson: Thank you.", "CA: '
        'Thank you." and "Audience: Thank you." -> "Thank you."; of the target only where the source '
        "has one too",
        False,
    )
    clean_stage_directions: bool = setting(
        'take directions and music notes out of source and target: "Thanks. (Applause) [...] ♪ La la '
        '♪" -> "Thanks. La la"; what somebody says in brackets stays: "I was (believe me) late."',
        False,
    )
    max_length_ratio: float | None = setting(
        "leave out segments whose target has more than R times the source's characters: with 3, a "
        "target of 130 for a source of 40; texts that are both shorter than "
        f"{SHORT_TEXT} characters are not judged",
        None,
        metavar="R",
        unset="no limit",
    )
    min_length_ratio: float | None = setting(
        "likewise less than R times: with 0.3, a target of 10 for a source of 40 (for Chinese or "
        "Japanese, 0.1)",
        None,
        metavar="R",
        unset="no limit",
    )

    def __post_init__(self) -> None:
        for what in ("seconds", "length_ratio"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            flags = f"--min-{what} and --max-{what}".replace("_", "-")
            if any(limit is not None and not limit >= 0 for limit in (low, high)):
                raise UsageError(f"{flags}: limits have to be numbers from 0 on")
            if low is not None and high is not None and low > high:
                raise UsageError(f"{flags}: {low:g} is more than {high:g}, which leaves nothing")


class Cleaner:
    """Applies the options to one split of training data, and counts.

    Attributes:
        changed: what was taken off -> number of segments.
        left_out: reason -> number of segments.
    """

    def __init__(self, options: CleaningOptions):
        self.options = options
        self.changed: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def clean(self, src_text: str, tgt_text: str, seconds: float) -> tuple[str, str] | None:
        """Source and target as they are to be trained on, or None where the segment is left out.

        A segment without any samples is always left out: no manifest can hold it.
        """
        options = self.options
        if seconds == 0 or seconds < (options.min_seconds or 0):
            return self._leave_out(f"shorter than {options.min_seconds or 0:g} s")
        if options.max_seconds is not None and seconds > options.max_seconds:
            return self._leave_out(f"longer than {options.max_seconds:g} s")
        texts = (src_text, tgt_text)
        # Directions first: a label may follow one, "(Video) Narrator: ...".
        if options.clean_stage_directions:
            texts = self._change(
                texts, tuple(map(strip_stage_directions, texts)), "stage directions"
            )
        if options.clean_speaker_labels:
            texts = self._change(texts, strip_speaker_labels(*texts), "speaker labels")
        if options.drop_empty and not texts[1].strip():
            return self._leave_out("with an empty target")
        source, target = map(len, texts)
        if source and max(source, target) >= SHORT_TEXT:
            if options.min_length_ratio is not None and target < options.min_length_ratio * source:
                return self._leave_out(
                    f"with a target under {options.min_length_ratio:g} times the source's length"
                )
            if options.max_length_ratio is not None and target > options.max_length_ratio * source:
                return self._leave_out(
                    f"with a target over {options.max_length_ratio:g} times the source's length"
                )
        return texts

    def summary(self, total: int) -> str:
        """What was taken off and left out, to follow the number of segments kept."""
        parts = []
        if self.changed:
            counts = ", ".join(f"{what} in {count}" for what, count in self.changed.most_common())
            parts.append(f"; taken off: {counts}")
        if self.left_out:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in self.left_out.most_common()
            )
            parts.append(f"; left out {self.left_out.total()} of {total}: {reasons}")
        return "".join(parts)

    def _leave_out(self, reason: str) -> None:
        self.left_out[reason] += 1

    def _change(
        self, before: tuple[str, str], after: tuple[str, str], what: str
    ) -> tuple[str, str]:
        self.changed[what] += before != after
        return after


def strip_speaker_labels(src_text: str, tgt_text: str) -> tuple[str, str]:
    """Source and target without the label of the speaker that subtitles of talks begin with.

    A label in the source is two to four initials ("CA:"), a role ("Audience:", "Man 2:") or two to four capitalised
    words that do not begin like a sentence ("Chris Anderson:"). The target loses its own only where the source has
    one, since there is no telling a name from a noun in a language that capitalises nouns: up to a colon, words that
    begin with a capital or belong to a script without capitals; for a role, up to three words of any kind.
    A text that is empty without its label becomes empty.
    """
    source = _SOURCE_LABEL.match(src_text)
    if not source:
        return src_text, tgt_text
    named = source["initials"] or source["name"]
    if named and named.split()[0].replace(".", "").casefold() in _NOT_NAMES:
        return src_text, tgt_text
    target = _TARGET_NAME.match(tgt_text)
    if target:
        words = target["label"].split()
        capitalised = all(
            not word[0].islower() or regex.fullmatch(_PARTICLE, word) for word in words
        )
        if not words or len(words) > 5 or not (capitalised or (source["role"] and len(words) <= 3)):
            target = None
    elif source["role"]:  # "Man 2:"
        target = regex.match(rf"\s*\p{{L}}+\s+\d+{_COLON}", tgt_text)
    return src_text[source.end() :].strip(), (
        tgt_text[target.end() :].strip() if target else tgt_text
    )


def strip_stage_directions(text: str) -> str:
    """The text without directions such as "(Applause)", "[Laughter]" or "[...]", and without music notes.

    In any kind of brackets: a known word for applause, laughter, music and the like, wherever it stands, nothing but
    dots, or up to four words, the first capitalised (or of a script without capitals) and none ending a sentence, that
    stand between sentences: "Thank you. (Mock Japanese) Next." Anything else in brackets is what somebody says.
    """
    if not regex.search("[(\\[（［【\u2669-\u266c]", text):
        return text
    stripped = _MUSIC_NOTES.sub(
        " ", _BRACKETED.sub(lambda match: " " if _is_direction(match) else match[0], text)
    )
    if stripped == text:
        return text
    stripped = _SPACES.sub(" ", stripped).strip()
    return stripped if regex.search(r"[\p{L}\p{N}]", stripped) else ""


def _is_direction(match: regex.Match[str]) -> bool:
    content = next(group for group in match.groups() if group is not None).strip()
    if not content.strip(".…") or content.casefold().strip(".!") in _DIRECTIONS:
        return True
    if (
        not content[0].isalpha()
        or content[0].islower()
        or len(content.split()) > 4
        or len(content) > 40
    ):
        return False
    if regex.search(r"[.!?:;,。！？：；，、]", content):
        return False
    before, after = match.string[: match.start()].rstrip(), match.string[match.end() :].lstrip()
    return (not before or before[-1] in _SENTENCE_END) and not (
        after and (after[0].islower() or after[0] in ".,;:")
    )
