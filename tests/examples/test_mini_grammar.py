"""The mini corpus's grammar: the same sentences for a seed, parts that share none, and right agreement."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "mini"))
import grammar
import lexicon as lex
import morphology as m


def noun(english: str) -> lex.Noun:
    nouns = lex.THINGS + lex.ANIMALS + lex.FOODS + lex.PEOPLE + lex.PLACES + lex.EVENTS
    return next(n for n in nouns if n.singular.en == english)


def adjective(english: str) -> lex.Adjective:
    adjectives = lex.THING_ADJECTIVES + lex.PERSON_ADJECTIVES + lex.EVENT_ADJECTIVES
    return next(a for a in adjectives if a.en == english)


def test_samples_depend_on_the_seed_alone():
    first = grammar.sample(50, 7, "train")
    assert first == grammar.sample(50, 7, "train") == grammar.sample(80, 7, "train")[:50]
    assert first != grammar.sample(50, 8, "train")
    assert grammar.sample(2, 7, "train")[0].en == first[0].en


def test_parts_share_no_sentence():
    train = {grammar.normalise(s.en) for s in grammar.sample(1500, 1, "train")}
    heldout = {grammar.normalise(s.en) for s in grammar.sample(200, 2, "heldout")}
    assert len(train) == 1500 and len(heldout) == 200 and not train & heldout
    assert not any(map(grammar.is_heldout, train)) and all(map(grammar.is_heldout, heldout))
    with pytest.raises(ValueError, match="train, heldout"):
        grammar.sample(1, 1, "test")


def test_english_is_spoken_words_with_one_translation():
    sentences = grammar.sample(2500, 3, "train")
    translations = {}
    for s in sentences:
        words = grammar.normalise(s.en).split()
        assert 4 <= len(words) <= 12 and not any(c.isdigit() for text in s for c in text)
        assert s.en[0].isupper() and s.en[-1] in ".?" and all("  " not in text for text in s)
        assert translations.setdefault(s.en, s) == s
        question = s.en[-1] == "?"
        assert s.fr.endswith(" ?") == s.es.startswith("¿") == s.de.endswith("?") == question
    assert 380 <= len({w for s in sentences for w in grammar.normalise(s.en).split()}) <= 430


NOUN_PHRASES = [
    # determiner, plural, adjective, noun: English, German nominative and accusative, French, Spanish
    ("a", False, "old", "friend", "an old friend", "ein alter Freund", "einen alten Freund", "un vieil ami",
     "un amigo viejo"),
    ("my", False, "yellow", "orange", "my yellow orange", "meine gelbe Orange", "meine gelbe Orange",
     "mon orange jaune", "mi naranja amarilla"),
    ("this", False, None, "man", "this man", "dieser Mann", "diesen Mann", "cet homme", "este hombre"),
    ("this", False, "new", "computer", "this new computer", "dieser neue Computer", "diesen neuen Computer",
     "ce nouvel ordinateur", "este ordenador nuevo"),
    ("this", True, "expensive", "map", "these expensive maps", "diese teuren Landkarten", "diese teuren Landkarten",
     "ces cartes chères", "estos mapas caros"),
    ("our", True, "beautiful", "bird", "our beautiful birds", "unsere schönen Vögel", "unsere schönen Vögel",
     "nos beaux oiseaux", "nuestros pájaros hermosos"),
    ("your", False, "tired", "daughter", "your tired daughter", "Ihre müde Tochter", "Ihre müde Tochter",
     "votre fille fatiguée", "su hija cansada"),
    ("the", False, None, "classroom", "the classroom", "das Klassenzimmer", "das Klassenzimmer", "la salle de classe",
     "el aula"),
    ("the", False, None, "school", "the school", "die Schule", "die Schule", "l'école", "la escuela"),
    ("her", False, "broken", "bicycle", "her broken bicycle", "ihr kaputtes Fahrrad", "ihr kaputtes Fahrrad",
     "son vélo cassé", "su bicicleta rota"),
    (21, True, "red", "flower", "twenty-one red flowers", "einundzwanzig rote Blumen", "einundzwanzig rote Blumen",
     "vingt et une fleurs rouges", "veintiuna flores rojas"),
    (31, True, "old", "book", "thirty-one old books", "einunddreißig alte Bücher", "einunddreißig alte Bücher",
     "trente et un vieux livres", "treinta y un libros viejos"),
    (21, True, None, "hat", "twenty-one hats", "einundzwanzig Hüte", "einundzwanzig Hüte", "vingt et un chapeaux",
     "veintiún sombreros"),
]  # fmt: skip


@pytest.mark.parametrize("determiner,plural,adj,word,en,nominative,accusative,fr,es", NOUN_PHRASES)
def test_noun_phrases_agree(determiner, plural, adj, word, en, nominative, accusative, fr, es):
    phrase = m.NounPhrase(noun(word), determiner, plural, adjective(adj) if adj else None)
    assert (phrase.en(), phrase.de("nom"), phrase.de("acc"), phrase.fr(), phrase.es()) == (
        en, nominative, accusative, fr, es,
    )  # fmt: skip


def test_numbers():
    assert [m.number_fr(n) for n in (71, 80, 81, 91, 99)] == [
        "soixante et onze", "quatre-vingts", "quatre-vingt-un", "quatre-vingt-onze", "quatre-vingt-dix-neuf",
    ]  # fmt: skip
    assert [m.number_es(n, "f") for n in (1, 11, 21, 22, 41)] == [
        "una", "once", "veintiuna", "veintidós", "cuarenta y una",
    ]  # fmt: skip
    assert (m.number_de(1), m.number_de(16), m.number_de(77)) == ("ein", "sechzehn", "siebenundsiebzig")
    for number in (m.number_en, m.number_de, m.number_fr, m.number_es):
        assert len({number(n) for n in range(1, 100)}) == 99


def test_elision():
    assert m.elide("je achète") == "j'achète" and m.elide("Je oublie que il") == "J'oublie qu'il"
    assert m.elide("que Anna ne est pas") == "qu'Anna n'est pas" and m.elide("que onze") == "que onze"
    assert m.contract_es("entiende a el médico") == "entiende al médico"


def find(template, english: str) -> lex.Phrase:
    """The sentence that a template gives for these English words."""
    rng = random.Random(0)
    return next(x for x in (template(rng) for _ in range(5_000)) if x.en == english)


def test_clock():
    assert find(grammar.clock_time, "at half past one") == (
        "at half past one", "um halb zwei", "à une heure et demie", "a la una y media",
    )  # fmt: skip
    assert find(grammar.clock_time, "at half past twelve").de == "um halb eins"
    assert find(grammar.clock_time, "at one o'clock")[1:] == ("um ein Uhr", "à une heure", "a la una")
    assert find(grammar.clock_time, "at quarter to four")[1:] == (
        "um Viertel vor vier", "à quatre heures moins le quart", "a las cuatro menos cuarto",
    )  # fmt: skip


def test_ser_and_estar_and_negation():
    rng = random.Random(1)
    sentences = [grammar.quality(rng) for _ in range(1500)]
    (broken, *_) = (s for s in sentences if s.en.endswith("is broken"))
    assert broken.de.endswith("ist kaputt") and " est cassé" in broken.fr and " está rot" in broken.es
    (boring, *_) = (s for s in sentences if s.en.endswith("is not boring"))
    assert boring.de.endswith("ist nicht langweilig") and " ne est pas ennuyeu" in boring.fr
    assert " no es aburrid" in boring.es


def test_no_hiatus_is_left_in_french():
    for s in grammar.sample(1500, 4, "train"):
        for word, following in zip(s.fr.lower().split(), s.fr.lower().split()[1:]):
            if m.starts_with_vowel(following):
                assert word not in {"je", "le", "la", "que", "ne", "ce", "ma", "sa", "nouveau", "beau"}, s.fr
        assert " a el " not in s.es and " à le " not in s.fr
