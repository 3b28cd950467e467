"""English sentences with their German, French and Spanish translations, from a grammar: travel, time, people, objects.

    python examples/mini/grammar.py --count 20 --seed 3

Sentences have 4 to 12 English words, numbers are written out, and an English sentence has one translation a
language. One sentence in ten, chosen by its words alone, is held out: `sample(..., part="heldout")` and
`part="train"` never share a sentence, whatever their seeds.
"""

import argparse
import random
import re
import zlib
from typing import NamedTuple, Protocol

import lexicon as lex
from lexicon import Adjective, Noun, Phrase, Verb
from morphology import (
    NounPhrase,
    adjective_de,
    agreement,
    contract_es,
    elide,
    number_de,
    number_en,
    number_es,
    number_fr,
)

MIN_WORDS, MAX_WORDS = 4, 12
PARTS = ("train", "heldout")
NOTHING = Phrase()


class Subject(Protocol):
    """What can be the subject of a clause: a noun phrase, a pronoun or a name."""

    person: int  # index among 1s, 3s, 1p, 3p

    def en(self) -> str: ...
    def de(self, case: str) -> str: ...
    def fr(self) -> str: ...
    def es(self) -> str: ...


class Word(NamedTuple):
    """A pronoun or a name."""

    person: int
    words: Phrase

    def en(self) -> str:
        return self.words.en

    def de(self, case: str) -> str:
        return self.words.de

    def fr(self) -> str:
        return self.words.fr

    def es(self) -> str:
        return self.words.es


def normalise(english: str) -> str:
    """The words as they are spoken: lower-case letters, apostrophes and single spaces."""
    return " ".join(re.sub(r"[^a-z' ]", "", english.lower().replace("-", " ")).split())


def is_heldout(english: str) -> bool:
    """Whether this sentence is kept for dev and test sets."""
    return zlib.crc32(normalise(english).encode()) % 10 == 0


def join(*words: str) -> str:
    return " ".join(word for word in words if word)


# -------------------------------------------------------------------------------------------------- time and place
def clock_time(rng: random.Random) -> Phrase:
    hour = rng.randint(1, 12)
    en, fr, es = number_en(hour), f"{number_fr(hour, 'f')} heure{'s' * (hour > 1)}", number_es(hour, "f")
    es = f"la {es}" if hour == 1 else f"las {es}"
    # After "um Viertel nach" and "um halb" one o'clock is "eins", before "Uhr" it is "ein".
    bare = "eins" if hour == 1 else number_de(hour)
    kind = rng.random()
    if kind < 0.45:
        return Phrase(f"at {en} o'clock", f"um {number_de(hour)} Uhr", f"à {fr}", f"a {es}")
    if kind < 0.75:
        following = hour % 12 + 1  # half past one is "halb zwei"
        half = "eins" if following == 1 else number_de(following)
        return Phrase(f"at half past {en}", f"um halb {half}", f"à {fr} et demie", f"a {es} y media")
    if kind < 0.88:
        return Phrase(f"at quarter past {en}", f"um Viertel nach {bare}", f"à {fr} et quart", f"a {es} y cuarto")
    return Phrase(f"at quarter to {en}", f"um Viertel vor {bare}", f"à {fr} moins le quart", f"a {es} menos cuarto")


def on_day(rng: random.Random) -> Phrase:
    day = rng.choice(lex.DAYS)
    return Phrase(f"on {day.en}", f"am {day.de}", day.fr, f"el {day.es}")


def in_month(rng: random.Random) -> Phrase:
    month = rng.choice(lex.MONTHS)
    return Phrase(f"in {month.en}", f"im {month.de}", f"en {month.fr}", f"en {month.es}")


def past_time(rng: random.Random) -> Phrase:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(lex.PAST_TIMES)
    if kind < 0.55:
        n = rng.randint(2, 12)
        return Phrase(
            f"{number_en(n)} days ago", f"vor {number_de(n)} Tagen", f"il y a {number_fr(n)} jours",
            f"hace {number_es(n)} días",
        )  # fmt: skip
    return in_month(rng) if kind < 0.75 else on_day(rng)


def coming_time(rng: random.Random) -> Phrase:
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(lex.COMING_TIMES)
    if kind < 0.45:
        return on_day(rng)
    if kind < 0.6:
        return in_month(rng)
    if kind < 0.8:
        n, span = rng.randint(2, 12), rng.choice(lex.SPANS)
        return Phrase(
            f"in {number_en(n)} {span.en}", f"in {number_de(n)} {span.de}", f"dans {number_fr(n)} {span.fr}",
            f"dentro de {number_es(n)} {span.es}",
        )  # fmt: skip
    return clock_time(rng)


def in_place(rng: random.Random) -> Phrase:
    place = NounPhrase(rng.choice(lex.PLACES), "the")
    noun = place.noun.singular
    de = ("in der " if place.noun.gender.de == "f" else "im ") + noun.de
    return Phrase(f"in {place.en()}", de, f"dans {place.fr()}", f"en {place.es()}")


def to_place(rng: random.Random) -> Phrase:
    if rng.random() < 0.5:
        city = rng.choice(lex.CITIES)
        return Phrase(f"to {city.en}", f"nach {city.de}", f"à {city.fr}", f"a {city.es}")
    place = NounPhrase(rng.choice(lex.DESTINATIONS), "the")
    de = ("zur " if place.noun.gender.de == "f" else "zum ") + place.noun.singular.de
    fr = re.sub(r"^à le ", "au ", f"à {place.fr()}")
    return Phrase(f"to {place.en()}", de, fr, contract_es(f"a {place.es()}"))


# --------------------------------------------------------------------------------------------- subjects and objects
def some_noun(
    rng: random.Random,
    nouns: list[Noun],
    adjectives: list[Adjective],
    adjective_share: float,
    determiners: str,
    number_share: float = 0.0,
    plural_share: float = 0.25,
) -> NounPhrase:
    """A noun phrase; `number_share` of them count their noun (two to ninety-nine)."""
    noun = rng.choice(nouns)
    adjective = rng.choice(adjectives) if rng.random() < adjective_share else None
    if rng.random() < number_share:
        number = rng.randint(2, 12) if rng.random() < 0.8 else rng.randint(13, 99)
        return NounPhrase(noun, number, True, adjective)
    determiner = rng.choice(determiners.split())
    return NounPhrase(noun, determiner, determiner != "a" and rng.random() < plural_share, adjective)


def some_person(rng: random.Random, adjective_share: float = 0.25) -> NounPhrase:
    determiners = "the the my your our this his her a"
    return some_noun(rng, lex.PEOPLE, lex.PERSON_ADJECTIVES, adjective_share, determiners, plural_share=0.2)


def some_subject(rng: random.Random) -> Subject:
    kind = rng.random()
    if kind < 0.5:
        return Word(*rng.choice(lex.PRONOUNS))
    if kind < 0.65:
        return Word(1, Phrase(*[rng.choice(lex.NAMES)] * 4))
    return some_person(rng, 0.15)


def some_action(rng: random.Random) -> tuple[Verb, NounPhrase | None, str]:
    """A verb, its object if it takes one, and the object in Spanish (with the personal a)."""
    kind = rng.random()
    determiners = "the a my your our this his her the a"
    if kind < 0.48:
        verb = rng.choice(list(lex.THING_VERBS.values()))
        noun = some_noun(rng, lex.THINGS, lex.THING_ADJECTIVES, 0.45, determiners, 0.1)
    elif kind < 0.55:
        verb = rng.choice(list(lex.ANIMAL_VERBS.values()))
        noun = some_noun(rng, lex.ANIMALS, lex.ANIMAL_ADJECTIVES, 0.35, determiners, 0.1)
    elif kind < 0.68:
        verb = rng.choice(list(lex.FOOD_VERBS.values()))
        noun = some_noun(rng, lex.FOODS, lex.FOOD_ADJECTIVES, 0.3, "the a this my", 0.25)
    elif kind < 0.86:
        verb, noun = rng.choice(list(lex.PERSON_VERBS.values())), some_person(rng)
        return verb, noun, contract_es(f"a {noun.es()}")
    else:
        return rng.choice(list(lex.INTRANSITIVE_VERBS.values())), None, ""
    return verb, noun, noun.es()


# ------------------------------------------------------------------------------------------------------- sentences
_HAVE_DE = ("habe", "hat", "haben", "haben")
_HAVE_FR = ("ai", "a", "avons", "ont")


def _verb_group(rng: random.Random, verb: Verb, tense: str, person: int) -> tuple[Phrase, Phrase]:
    """Finite form, and what follows it (infinitive or participle; last in German)."""
    if tense == "present":
        return Phrase(*(verb.present[language][person] for language in lex.LANGUAGES)), NOTHING
    if tense == "modal":
        modal = rng.choice(list(lex.MODALS.values()))
        return Phrase(*(forms[person] for forms in modal)), verb.infinitive
    finite = Phrase(verb.past_en, _HAVE_DE[person], _HAVE_FR[person], verb.past_es[person])
    return finite, Phrase("", verb.participle_de, verb.participle_fr, "")


def clause(rng: random.Random, order: str = "main", time_share: float = 0.6) -> Phrase:
    """order: main; time (the time comes first, and German inverts); that (German puts the finite verb last)."""
    subject, (verb, thing, object_es) = some_subject(rng), some_action(rng)
    tense = rng.choice(("present", "modal") if order == "that" else ("present", "modal", "modal", "past"))
    has_time = order == "time" or rng.random() < time_share
    time = (past_time if tense == "past" else coming_time)(rng) if has_time else NOTHING
    long_object = thing is not None and thing.adjective is not None
    has_place = rng.random() < (0.3 if long_object else 0.45) and not (has_time and long_object)
    # An intransitive verb alone would be too short a sentence.
    place = in_place(rng) if has_place or (thing is None and not has_time) else NOTHING
    finite, rest = _verb_group(rng, verb, tense, subject.person)
    things = Phrase(thing.en(), thing.de("acc"), thing.fr(), object_es) if thing else NOTHING

    def svo(words: Phrase, position: int) -> str:
        time_words = time[position]
        tail = join(words[position], finite[position], rest[position], things[position], place[position])
        return join(time_words, tail) if order == "time" else join(tail, time_words)

    subjects = Phrase(subject.en(), subject.de("nom"), subject.fr(), subject.es())
    if order == "time":
        de = join(time.de, finite.de, subjects.de, things.de, place.de, rest.de)
    elif order == "that":
        de = join(subjects.de, time.de, things.de, place.de, rest.de, finite.de)
    else:
        de = join(subjects.de, finite.de, time.de, things.de, place.de, rest.de)
    return Phrase(svo(subjects, 0), de, svo(subjects, 2), svo(subjects, 3))


def that_clause(rng: random.Random) -> Phrase:
    pronoun = rng.random() < 0.6
    subject = Word(*rng.choice(lex.PRONOUNS)) if pronoun else Word(1, Phrase(*[rng.choice(lex.NAMES)] * 4))
    verb = Phrase(*(forms[subject.person] for forms in rng.choice(lex.SAYING)))
    content = clause(rng, "that", time_share=0.25)
    return Phrase(
        f"{subject.en()} {verb.en} that {content.en}",
        f"{subject.de('nom')} {verb.de}, dass {content.de}",
        f"{subject.fr()} {verb.fr} que {content.fr}",
        f"{subject.es()} {verb.es} que {content.es}",
    )


def travel(rng: random.Random) -> Phrase:
    subject, to = some_subject(rng), to_place(rng)
    vehicle = rng.choice(lex.VEHICLES) if rng.random() < 0.6 else NOTHING
    time = coming_time(rng) if rng.random() < 0.7 else NOTHING
    tense = "modal" if rng.random() < 0.4 else "present"
    finite, rest = _verb_group(rng, lex.TRAVEL, tense, subject.person)
    return Phrase(
        join(subject.en(), finite.en, rest.en, to.en, vehicle.en, time.en),
        join(subject.de("nom"), finite.de, time.de, vehicle.de, to.de, rest.de),
        join(subject.fr(), finite.fr, rest.fr, to.fr, vehicle.fr, time.fr),
        join(subject.es(), finite.es, rest.es, to.es, vehicle.es, time.es),
    )


def event(rng: random.Random) -> Phrase:
    determiners = "the the our my this"
    adjectives = lex.EVENT_ADJECTIVES + lex.THING_ADJECTIVES[:2]
    what = some_noun(rng, lex.EVENTS, adjectives, 0.4, determiners, plural_share=0)
    begins = rng.random() < 0.5
    verb = Phrase(*("begins beginnt commence empieza" if begins else "ends endet finit termina").split())
    day, clock = on_day(rng) if rng.random() < 0.6 else NOTHING, clock_time(rng)
    return Phrase(
        join(what.en(), verb.en, day.en, clock.en),
        join(what.de("nom"), verb.de, day.de, clock.de),
        join(what.fr(), verb.fr, day.fr, clock.fr),
        join(what.es(), verb.es, day.es, clock.es),
    )


def quality(rng: random.Random) -> Phrase:
    """The lamp is very old. The meeting is not boring."""
    kind = rng.random()
    if kind < 0.45:
        adjectives = lex.THING_ADJECTIVES
        what = some_noun(rng, lex.THINGS, adjectives[:4], 0.2, "the my your this our his her")
    elif kind < 0.75:
        what, adjectives = some_person(rng, 0), lex.PERSON_ADJECTIVES
    else:
        adjectives = lex.EVENT_ADJECTIVES
        what = some_noun(rng, lex.EVENTS, adjectives, 0, "the this our", plural_share=0)
    adjective = rng.choice([a for a in adjectives if a is not what.adjective])
    negated = rng.random() < 0.25
    degree = Phrase("not", "nicht", "", "") if negated else rng.choice([NOTHING, *lex.DEGREES])
    plural = what.plural
    be_fr = "sont" if plural else "est"
    be_es = ("están" if plural else "está") if adjective.estar else ("son" if plural else "es")
    return Phrase(
        join(what.en(), "are" if plural else "is", degree.en, adjective.en),
        join(what.de("nom"), "sind" if plural else "ist", degree.de, adjective_de(adjective, "")),
        join(
            what.fr(), f"ne {be_fr} pas" if negated else be_fr, degree.fr,
            adjective.fr[agreement(what.noun.gender.fr, plural)],
        ),
        join(
            what.es(), "no" if negated else "", be_es, degree.es,
            adjective.es[agreement(what.noun.gender.es, plural)],
        ),
    )  # fmt: skip


def price(rng: random.Random) -> Phrase:
    what = some_noun(rng, lex.THINGS + lex.FOODS, lex.FOOD_ADJECTIVES, 0.35, "the this your the", plural_share=0)
    n = rng.randint(2, 99)
    return Phrase(
        f"{what.en()} costs {number_en(n)} euros",
        f"{what.de('nom')} kostet {number_de(n)} Euro",
        f"{what.fr()} coûte {number_fr(n)} euros",
        f"{what.es()} cuesta {number_es(n)} euros",
    )


def where(rng: random.Random) -> Phrase:
    if rng.random() < 0.7:
        what = some_noun(rng, lex.THINGS, lex.THING_ADJECTIVES, 0.4, "the my your our")
    else:
        what = some_person(rng)
    be = Phrase("are", "sind", "sont", "están") if what.plural else Phrase("is", "ist", "est", "está")
    return Phrase(
        f"where {be.en} {what.en()}", f"wo {be.de} {what.de('nom')}", f"où {be.fr} {what.fr()}",
        f"dónde {be.es} {what.es()}",
    )  # fmt: skip


def request(rng: random.Random) -> Phrase:
    verb, thing, object_es = some_action(rng)
    time = coming_time(rng) if rng.random() < 0.5 or thing is None else NOTHING
    things = Phrase(thing.en(), thing.de("acc"), thing.fr(), object_es) if thing else NOTHING
    return Phrase(
        join("can you", verb.infinitive.en, things.en, time.en),
        join("können Sie", time.de, things.de, verb.infinitive.de),
        join("pouvez-vous", verb.infinitive.fr, things.fr, time.fr),
        join("puede usted", verb.infinitive.es, things.es, time.es),
    )


def existence(rng: random.Random) -> Phrase:
    number = rng.randint(2, 12) if rng.random() < 0.5 else rng.randint(13, 99)
    adjective = rng.choice(lex.THING_ADJECTIVES) if rng.random() < 0.4 else None
    what, place = NounPhrase(rng.choice(lex.THINGS), number, True, adjective), in_place(rng)
    return Phrase(
        f"there are {what.en()} {place.en}", f"es gibt {what.de('acc')} {place.de}",
        f"il y a {what.fr()} {place.fr}", f"hay {what.es()} {place.es}",
    )  # fmt: skip


def time_first(rng: random.Random) -> Phrase:
    return clause(rng, "time")


STATEMENTS = ((clause, 0.36), (time_first, 0.14), (that_clause, 0.10), (travel, 0.10), (event, 0.09), (quality, 0.05),
              (price, 0.04), (existence, 0.06))  # fmt: skip
QUESTIONS = ((where, 0.02), (request, 0.04))


def sentence(rng: random.Random) -> Phrase:
    """One sentence in the four languages, with capitals and punctuation."""
    templates = [*STATEMENTS, *QUESTIONS]
    (template,) = rng.choices([t for t, _ in templates], [weight for _, weight in templates])
    words = template(rng)
    words = words._replace(fr=elide(words.fr))
    en, de, fr, es = (text[0].upper() + text[1:] for text in words)
    if template in [question for question, _ in QUESTIONS]:
        return Phrase(f"{en}?", f"{de}?", f"{fr} ?", f"¿{es}?")
    return Phrase(f"{en}.", f"{de}.", f"{fr}.", f"{es}.")


def sample(count: int, seed: int, part: str) -> list[Phrase]:
    """`count` different sentences of a part ("train" or "heldout"); the first n of a seed are those of any count."""
    if part not in PARTS:
        raise ValueError(f"no part {part!r}; there are: {', '.join(PARTS)}")
    rng = random.Random(seed)
    seen, sentences, misses = set(), [], 0
    while len(sentences) < count:
        candidate = sentence(rng)
        key = normalise(candidate.en)
        fits = MIN_WORDS <= len(key.split()) <= MAX_WORDS and is_heldout(key) == (part == "heldout")
        if fits and key not in seen:
            seen.add(key)
            sentences.append(candidate)
            misses = 0
        elif (misses := misses + 1) > 100_000:
            raise ValueError(f"the grammar has no {count} sentences in part {part!r}")
    return sentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="number of sentences (default 20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", choices=PARTS, default="train")
    args = parser.parse_args()
    for translations in sample(args.count, args.seed, args.part):
        print("\n   ".join(translations))


if __name__ == "__main__":
    main()
