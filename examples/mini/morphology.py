"""Numbers and noun phrases of the mini corpus in English, German, French and Spanish, with their agreement."""

import re
from dataclasses import dataclass

from lexicon import Adjective, Noun, Phrase

_EN_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_EN_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_DE_UNITS = (
    "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn"
).split()
_DE_TENS = "_ _ zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
_FR_UNITS = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf"
).split()
_FR_TENS = "_ _ vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()
_ES_UNITS = (
    "cero un dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte veintiún veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete "
    "veintiocho veintinueve"
).split()
_ES_TENS = "_ _ veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()


def number_en(n: int) -> str:
    """1 to 99 in words."""
    tens, units = divmod(n, 10)
    if n < 20:
        return _EN_UNITS[n]
    return _EN_TENS[tens] + (f"-{_EN_UNITS[units]}" if units else "")


def number_de(n: int) -> str:
    """1 to 99 in words; 1 is 'ein', as before a noun."""
    tens, units = divmod(n, 10)
    if n < 20:
        return _DE_UNITS[n]
    return (f"{_DE_UNITS[units]}und" if units else "") + _DE_TENS[tens]


def number_fr(n: int, gender: str = "m") -> str:
    """1 to 99 in words before a noun of this gender: 21 is vingt et un or vingt et une."""
    tens, units = divmod(n, 10)
    one = "une" if gender == "f" else "un"
    if n < 20:
        return one if n == 1 else _FR_UNITS[n]
    if tens in (7, 9):
        return _FR_TENS[tens] + (" et " if n == 71 else "-") + _FR_UNITS[10 + units]
    if units == 0:
        return _FR_TENS[tens] + ("s" if tens == 8 else "")
    if units == 1:
        return _FR_TENS[tens] + (f"-{one}" if tens == 8 else f" et {one}")
    return f"{_FR_TENS[tens]}-{_FR_UNITS[units]}"


def number_es(n: int, gender: str = "m") -> str:
    """1 to 99 in words before a noun of this gender: 21 is veintiún or veintiuna, 31 treinta y un or treinta y una."""
    tens, units = divmod(n, 10)
    words = _ES_UNITS[n] if n < 30 else _ES_TENS[tens] + (f" y {_ES_UNITS[units]}" if units else "")
    return re.sub("[uú]n$", "una", words) if gender == "f" and n != 11 else words


# ---------------------------------------------------------------------------------------------------- French elision
_FR_VOWEL = r"(?!onze|huit|oui)[aeiouhàâéèêëîïôöûœ]"  # every h of the lexicon is mute, but for huit


def starts_with_vowel(word: str) -> bool:
    """Whether French elides before this word."""
    return re.match(_FR_VOWEL, word.lower()) is not None


def elide(french: str) -> str:
    """je achète -> j'achète, que il -> qu'il, la école -> l'école."""
    return re.sub(rf"\b([Jj]|[Ll]|[Nn]|[Qq]u)[ea] (?={_FR_VOWEL})", r"\1'", french, flags=re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------ noun phrases
# A determiner is one of these names, or a number.
DETERMINERS = ("the", "a", "this", "my", "your", "our", "his", "her")

_DE_DEFINITE = {
    "nom": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "acc": {"m": "den", "f": "die", "n": "das", "p": "die"},
}
_DE_DEMONSTRATIVE = {
    "nom": {"m": "dieser", "f": "diese", "n": "dieses", "p": "diese"},
    "acc": {"m": "diesen", "f": "diese", "n": "dieses", "p": "diese"},
}
_DE_EIN_ENDINGS = {
    "nom": {"m": "", "f": "e", "n": "", "p": "e"},
    "acc": {"m": "en", "f": "e", "n": "", "p": "e"},
}
_DE_EIN_WORDS = {"a": "ein", "my": "mein", "your": "Ihr", "our": "unser", "his": "sein", "her": "ihr"}
# masculine, feminine, plural; the masculine form also stands before a feminine vowel.
_FR_POSSESSIVES = {
    "my": ("mon", "ma", "mes"),
    "your": ("votre", "votre", "vos"),
    "our": ("notre", "notre", "nos"),
    "his": ("son", "sa", "ses"),
    "her": ("son", "sa", "ses"),
}
_FR_BEFORE_VOWEL = {"nouveau": "nouvel", "vieux": "vieil", "beau": "bel"}
# masculine, feminine, masculine plural, feminine plural
_ES_DETERMINERS = {
    "the": ("el", "la", "los", "las"),
    "a": ("un", "una", "unos", "unas"),
    "this": ("este", "esta", "estos", "estas"),
    "my": ("mi", "mi", "mis", "mis"),
    "your": ("su", "su", "sus", "sus"),
    "our": ("nuestro", "nuestra", "nuestros", "nuestras"),
    "his": ("su", "su", "sus", "sus"),
    "her": ("su", "su", "sus", "sus"),
}
_ES_STRESSED_A = ("aula",)  # feminine, but el aula, un aula


def adjective_de(adjective: Adjective, ending: str) -> str:
    """An inflected German adjective: teuer + e -> teure, müde + e -> müde."""
    stem = adjective.de
    if ending and stem == "teuer":
        stem = "teur"
    return stem.removesuffix("e") + ending if ending else stem


def agreement(gender: str, plural: bool) -> int:
    """Index of an adjective's form among m, f, m plural, f plural."""
    return (gender == "f") + 2 * plural


@dataclass(frozen=True)
class NounPhrase:
    """Determiner (one of DETERMINERS, or the number of things), adjective and noun."""

    noun: Noun
    determiner: str | int
    plural: bool = False
    adjective: Adjective | None = None

    @property
    def person(self) -> int:
        """Index among 1s, 3s, 1p, 3p."""
        return 3 if self.plural else 1

    def _noun(self) -> Phrase:
        return self.noun.plural if self.plural else self.noun.singular

    def en(self) -> str:
        words = f"{self.adjective.en} {self._noun().en}" if self.adjective else self._noun().en
        if isinstance(self.determiner, int):
            return f"{number_en(self.determiner)} {words}"
        determiner = self.determiner
        if determiner == "a" and words[0] in "aeiou":
            determiner = "an"
        elif determiner == "this" and self.plural:
            determiner = "these"
        return f"{determiner} {words}"

    def de(self, case: str) -> str:
        """case: nom or acc."""
        gender = "p" if self.plural else self.noun.gender.de
        if isinstance(self.determiner, int):
            determiner, ending = number_de(self.determiner), "e"
        elif self.determiner in ("the", "this"):
            determiner = (_DE_DEFINITE if self.determiner == "the" else _DE_DEMONSTRATIVE)[case][gender]
            ending = "en" if gender == "p" or (case, gender) == ("acc", "m") else "e"
        else:
            determiner = _DE_EIN_WORDS[self.determiner] + _DE_EIN_ENDINGS[case][gender]
            ending = {"m": "er" if case == "nom" else "en", "f": "e", "n": "es", "p": "en"}[gender]
        adjective = f"{adjective_de(self.adjective, ending)} " if self.adjective else ""
        return f"{determiner} {adjective}{self._noun().de}"

    def fr(self) -> str:
        words, gender = self._noun().fr, self.noun.gender.fr
        if self.adjective:
            form = self.adjective.fr[agreement(gender, self.plural)]
            if self.adjective.before_noun_fr:
                if gender == "m" and not self.plural and starts_with_vowel(words):
                    form = _FR_BEFORE_VOWEL.get(form, form)
                words = f"{form} {words}"
            else:
                words = f"{words} {form}"
        vowel = starts_with_vowel(words)
        if isinstance(self.determiner, int):
            determiner = number_fr(self.determiner, gender)
        elif self.determiner == "the":
            determiner = "les" if self.plural else "la" if gender == "f" else "le"
        elif self.determiner == "a":
            determiner = "une" if gender == "f" else "un"
        elif self.determiner == "this":
            determiner = "ces" if self.plural else "cette" if gender == "f" else "cet" if vowel else "ce"
        else:
            feminine = gender == "f" and not vowel
            determiner = _FR_POSSESSIVES[self.determiner][2 if self.plural else int(feminine)]
        return elide(f"{determiner} {words}")

    def es(self) -> str:
        words, gender = self._noun().es, self.noun.gender.es
        if isinstance(self.determiner, int):
            determiner = number_es(self.determiner, gender)
        else:
            masculine = self.determiner in ("the", "a") and words in _ES_STRESSED_A
            determiner = _ES_DETERMINERS[self.determiner][agreement("m" if masculine else gender, self.plural)]
        if self.adjective:
            words += f" {self.adjective.es[agreement(gender, self.plural)]}"
        return f"{determiner} {words}"


def contract_es(spanish: str) -> str:
    """a el médico -> al médico."""
    return re.sub(r"\ba el ", "al ", spanish)
