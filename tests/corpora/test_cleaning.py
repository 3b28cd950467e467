"""Cleaning of training data: what is taken off, what is not, what is left out, and the counts."""

import argparse

import pytest

from lst_fairseq.corpora.cleaning import (
    Cleaner,
    CleaningOptions,
    strip_speaker_labels,
    strip_stage_directions,
)
from lst_fairseq.utils.flags import add_settings, settings_of
from tests.support.helpers import lst


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("Chris Anderson: Thank you.", "Chris Anderson: Danke.", ("Thank you.", "Danke.")),
        ("CA: Thank you.", "CA: Danke.", ("Thank you.", "Danke.")),
        ("C.A.: Thank you.", "C.A.: Danke.", ("Thank you.", "Danke.")),
        ("Ludwig van Beethoven: Freude.", "Ludwig van Beethoven : Joie.", ("Freude.", "Joie.")),
        ("J. K. Rowling: No.", "J. K. Rowling: Nein.", ("No.", "Nein.")),
        ("Man 2: No.", "Mann 2: Nein.", ("No.", "Nein.")),
        ("Audience: Yes.", "Publikum: Ja.", ("Yes.", "Ja.")),
        ("Audience member: Yes.", "Une spectatrice : Oui.", ("Yes.", "Oui.")),
        ("Chris Anderson: Thanks.", "克里斯·安德森：谢谢。", ("Thanks.", "谢谢。")),
        ("- Chris Anderson: Thanks.", "- Крис Андерсон: Спасибо.", ("Thanks.", "Спасибо.")),
        ("Chris Anderson: Thanks.", "Danke.", ("Thanks.", "Danke.")),  # the translator left it out
        ("CA: I said: go.", "Ich sagte: los.", ("I said: go.", "Ich sagte: los.")),  # no name: a verb in lower case
        ("CA:", "CA:", ("", "")),
    ],
)
def test_speaker_labels_are_taken_off(source, target, expected):
    assert strip_speaker_labels(source, target) == expected


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("The answer: forty-two.", "Die Antwort: zweiundvierzig."),
        ("The United States: a history.", "Die Vereinigten Staaten: eine Geschichte."),
        ("Remember: breathe.", "Achtung: atmen."),
        ("At 10:30 we left.", "Um 10:30 gingen wir."),
        ("TED: ideas.", "TED: Ideen."),
        ("I told Chris Anderson: no.", "Ich sagte Chris Anderson: nein."),
        ("So Chris Anderson said: no.", "Also: nein."),
        ("", "Chris Anderson: Danke."),  # without a transcript there is no telling
        ("Thank you.", "Meine Damen: danke."),
    ],
)
def test_what_is_no_speaker_label_stays(source, target):
    assert strip_speaker_labels(source, target) == (source, target)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thank you. (Applause)", "Thank you."),
        ("(Laughter) And then (laughter) it went on.", "And then it went on."),
        ("[Applause] Danke. (Beifall)", "Danke."),
        ("Merci. (Applaudissements) (Rires) Bon.", "Merci. Bon."),
        ("谢谢。（掌声）", "谢谢。"),
        ("Thanks. (Applause) [...] ♪ La la ♪", "Thanks. La la"),
        ("Well. (Mock Japanese) Next.", "Well. Next."),
        ("So […] it was.", "So it was."),
        ("(Applause)", ""),
        ("(Laughter).", ""),
        ("♫ ♪", ""),
    ],
)
def test_stage_directions_are_taken_out(text, expected):
    assert strip_stage_directions(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "I was (believe me) late.",
        "We met. (It was in May.) Then we left.",
        "[He] said so.",
        "I flew to Paris (France).",
        "The second one (2012) failed.",
        "Bring it to him. (The tall one, I mean) Now.",
        "No brackets,  two spaces.",
    ],
)
def test_what_somebody_says_in_brackets_stays(text):
    assert strip_stage_directions(text) == text


def test_nothing_is_done_unless_it_is_asked_for():
    cleaner = Cleaner(CleaningOptions())
    for texts in (("CA: (Laughter)", ""), ("a", "b" * 1000)):
        assert cleaner.clean(*texts, 0.001) == texts
        assert cleaner.clean(*texts, 1000.0) == texts
    assert cleaner.summary(4) == ""
    assert cleaner.clean("Hello.", "Hallo.", 0.0) is None  # no manifest can hold a segment without samples


def test_each_reason_is_counted():
    cleaner = Cleaner(
        CleaningOptions(
            clean_speaker_labels=True,
            clean_stage_directions=True,
            drop_empty=True,
            min_seconds=0.1,
            max_seconds=30,
            min_length_ratio=0.5,
            max_length_ratio=2,
        )
    )
    assert cleaner.clean("(Video) Man: One two.", "(Video) Mann: Eins zwei.", 1.0) == ("One two.", "Eins zwei.")
    assert cleaner.clean("Same.", "Gleich.", 0.1) == ("Same.", "Gleich.")
    assert cleaner.clean("Long.", "Lang.", 30.0) == ("Long.", "Lang.")
    assert cleaner.clean("(Applause)", "(Beifall)", 1.0) is None
    assert cleaner.clean("Gone.", " ", 1.0) is None
    assert cleaner.clean("Short.", "Kurz.", 0.099) is None
    assert cleaner.clean("Long.", "Lang.", 30.001) is None
    source = "a" * 20
    assert cleaner.clean(source, "b" * 40, 1.0) == (source, "b" * 40)
    assert cleaner.clean(source, "b" * 41, 1.0) is None
    assert cleaner.clean(source, "b" * 10, 1.0) == (source, "b" * 10)
    assert cleaner.clean(source, "b" * 9, 1.0) is None
    assert cleaner.clean("a" * 4, "b" * 19, 1.0) == ("a" * 4, "b" * 19)  # too short to judge
    assert cleaner.clean("", "b" * 100, 1.0) == ("", "b" * 100)  # no transcript
    assert cleaner.changed == {"stage directions": 2, "speaker labels": 1}
    assert cleaner.summary(13) == (
        "; taken off: stage directions in 2, speaker labels in 1; left out 6 of 13: 2 with an empty target, "
        "1 shorter than 0.1 s, 1 longer than 30 s, 1 with a target over 2 times the source's length, "
        "1 with a target under 0.5 times the source's length"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_seconds": 3, "max_seconds": 2}, "--min-seconds and --max-seconds: 3 is more than 2"),
        ({"max_seconds": -1}, "--min-seconds and --max-seconds: limits have to be numbers from 0 on"),
        ({"max_length_ratio": float("nan")}, "--min-length-ratio and --max-length-ratio: limits"),
    ],
)
def test_limits_that_nothing_keeps_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CleaningOptions(**options)


def test_flags(capsys):
    parser = argparse.ArgumentParser()
    usual = CleaningOptions(min_seconds=0.1, drop_empty=True)
    add_settings(parser, CleaningOptions, usual)
    assert settings_of(parser.parse_args([]), CleaningOptions) == usual
    flags = "--no-drop-empty --clean-speaker-labels --clean-stage-directions --min-seconds 1 --max-seconds 2"
    args = parser.parse_args([*flags.split(), "--min-length-ratio", "0.2", "--max-length-ratio", "5"])
    assert settings_of(args, CleaningOptions) == CleaningOptions(
        clean_speaker_labels=True,
        clean_stage_directions=True,
        drop_empty=False,
        min_seconds=1,
        max_seconds=2,
        min_length_ratio=0.2,
        max_length_ratio=5,
    )
    text = " ".join(parser.format_help().split())
    assert "leave out shorter segments, for example 0.1 (default: 0.1)" in text
    assert "leave out longer segments, for example 30 (default: no limit)" in text
    with pytest.raises(SystemExit) as caught:
        lst("prep", "mustc", "--data-root", "x", "--tgt-lang", "de", "--out", "o", "--max-seconds", "0.01")
    shown = capsys.readouterr().err
    assert caught.value.code == 2 and "usage: lst prep mustc" in shown
    assert "--min-seconds and --max-seconds: 0.1 is more than 0.01" in shown
