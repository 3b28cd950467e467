"""What scoring has to know about a language: whether it writes spaces, and which of sacreBLEU's tokenisers fits it."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from lst_fairseq.utils.messages import one_line

#: Of languages that are written with spaces, and of those that nothing is known of.
DEFAULT_TOKENIZER = "13a"
#: sacreBLEU's own choice where a language has a tokeniser of its own.
_OWN_TOKENIZER = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
#: Languages that write no spaces between words.
SPACELESS = frozenset(("zh", "ja", "th", "lo", "km", "my", "bo", "dz"))
#: Tokenisers that take what stands between spaces for words, or part punctuation from it.
WORD_TOKENIZERS = frozenset(("13a", "intl", "none", "ko-mecab"))
#: sacreBLEU downloads a model for each of these.
_DOWNLOADED = ("flores101", "flores200", "spm", "spBLEU-1K")
#: Tokenisers that fit texts in several languages: into characters, or pieces of words.
LANGUAGE_NEUTRAL = ("char", *_DOWNLOADED)

# Codes of three letters, and of languages that are written as another one is.
_SAME = {
    **dict.fromkeys(("zho", "chi", "cmn", "yue", "wuu", "nan", "hak", "gan", "hsn", "lzh"), "zh"),
    **dict.fromkeys(("jpn", "jp"), "ja"),
    **dict.fromkeys(("kor",), "ko"),
    **dict.fromkeys(("tha",), "th"),
    **dict.fromkeys(("lao",), "lo"),
    **dict.fromkeys(("khm",), "km"),
    **dict.fromkeys(("mya", "bur"), "my"),
    **dict.fromkeys(("bod", "tib"), "bo"),
    **dict.fromkeys(("dzo",), "dz"),
}
# Scripts that are written without spaces, by the first words of a character's Unicode name.
_SCRIPTS = {"HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh", "THAI": "th", "LAO": "lo", "KHMER": "km"}
_SCRIPTS |= {"MYANMAR": "my", "TIBETAN": "bo"}
#: Part of the letters that have to be kana where Japanese is to be told from Chinese.
_KANA = 0.05
#: Letters that are looked at.
_ENOUGH = 20_000


class LanguageError(ValueError):
    """A language and a tokeniser that do not go together; the message names both and what does."""


def base_language(code: str) -> str:
    """The language of a code without region and script: ``zh`` of zh-CN, zh_TW, cmn and zho_Hans; empty of an empty
    one."""
    base = re.split("[-_]", code.strip())[0].lower()
    return _SAME.get(base, base)


def is_spaceless(code: str) -> bool:
    """Whether the language writes no spaces between words, so that its characters are counted."""
    return base_language(code) in SPACELESS


def script_language(texts: Iterable[str]) -> str:
    """A language without spaces that most letters of the texts are written in; empty where there is none."""
    counts: dict[str, int] = {}
    letters = 0
    for text in texts:
        for character in text:
            if character.isalpha():
                letters += 1
                if character > "\u0dff":  # nothing before is of these scripts
                    script = unicodedata.name(character, "").split(" ")[0]
                    if script in _SCRIPTS:
                        counts[_SCRIPTS[script]] = counts.get(_SCRIPTS[script], 0) + 1
        if letters >= _ENOUGH:
            break
    if not counts or 2 * sum(counts.values()) <= letters:
        return ""
    if counts.get("ja", 0) > _KANA * letters:
        return "ja"
    return max(counts, key=counts.__getitem__)


def language_of(codes: Iterable[str], texts: Sequence[str], default: str = "") -> str:
    """The one language of texts, as far as scoring can tell them apart; empty where nothing is known.

    Languages that are scored alike (German and French) count as one. Texts whose script is written without spaces, and
    which no code names the language of, have the script's.

    Args:
        codes: of each text; empty ones stand for ``default``.
        texts: whose language it is.
        default: code where a text has none.

    Raises:
        LanguageError: the texts need more than one tokeniser, or their script is not the one of the language named.
    """
    named = {base_language(code or default): code or default for code in codes}
    script = script_language(texts)
    if script and set(named) <= {""}:
        return script
    kinds = {_kind(base): code for base, code in named.items()}
    if len(kinds) > 1:
        raise LanguageError(
            f"segments in {' and '.join(sorted(code or 'no language named' for code in kinds.values()))}, which no "
            "one tokeniser fits: score each language with a manifest of its own, or give --tokenize char or flores200"
        )
    ((base, code),) = list(named.items())[:1]
    if script and base not in SPACELESS:
        raise LanguageError(
            f"the language named is {code}, and most letters are of a script that is written without spaces "
            f"({script}): correct tgt_lang in the manifest, or --target-lang"
        )
    return base


def tokenizer_for(language: str, wanted: str | None = None) -> str:
    """sacreBLEU's tokeniser for a language, or the one that is wanted, if it fits.

    Args:
        language: code; empty: not known.
        wanted: name of a tokeniser; None: zh, ja-mecab and ko-mecab for their languages, ``char`` for others that write
            no spaces, else 13a.

    Raises:
        LanguageError: the language writes no spaces, and the tokeniser counts what stands between them.
    """
    base = base_language(language)
    own = _OWN_TOKENIZER.get(base, "char" if base in SPACELESS else DEFAULT_TOKENIZER)
    if wanted is None:
        return own
    others = WORD_TOKENIZERS | (set(_OWN_TOKENIZER.values()) - {own})
    if base in SPACELESS and wanted in others:
        fitting = ", ".join(dict.fromkeys((own, "char", "flores200")))
        raise LanguageError(
            f"--tokenize {wanted}: {language} writes no spaces between words, so that whole sentences would count as "
            f"words; choose one of {fitting}, or leave the flag out"
        )
    return wanted


def missing_tokenizer(tokenize: str, reason: str) -> str:
    """What to do about a tokeniser of sacreBLEU's that cannot be had, in one line."""
    reason = one_line(reason, 200)
    if tokenize in _DOWNLOADED:
        return (
            f"tokeniser {tokenize}: sacreBLEU downloads a model for it to ~/.sacrebleu/models, which failed "
            f"({reason}): run it once where there is a network and copy that folder here, or give --tokenize char"
        )
    if tokenize in _OWN_TOKENIZER.values():
        return (
            f"tokeniser {tokenize}: its package is not installed: pip install 'sacrebleu[{tokenize.split('-')[0]}]', "
            "or give --tokenize char"
        )
    return f"tokeniser {tokenize}: {reason}; give another one with --tokenize"


def _kind(base: str) -> str:
    """Languages of one kind are scored alike."""
    return base if base in _OWN_TOKENIZER else "spaceless" if base in SPACELESS else "spaced"
