"""Make the mini corpus: sentences of the grammar in synthetic voices, in MuST-C's own layout.

    python examples/mini/make_corpus.py data/mini                       # train, dev, tst-COMMON, tst-HE; de, fr, es
    python examples/mini/make_corpus.py data/mini --langs de --train 500 --dev 50 --test 50
    python examples/mini/make_corpus.py data/digits --text data/digits/en-de/data/train/txt --voices 120

writes OUT/en-LANG/data/SPLIT/{wav,txt}: long 16 kHz mono wavs of some twenty segments each, txt/SPLIT.yaml with one
line a segment, txt/SPLIT.en and txt/SPLIT.LANG. Wavs are shared between languages by hard links.

train       sentences of the grammar's part "train"
dev         unseen sentences, voices of train
tst-COMMON  unseen sentences, unseen voice variants of train's accents
tst-HE      unseen sentences, unseen voice variants, unseen accents

With --text, the sentences of a parallel text (the txt folder of a MuST-C split) are spoken instead, in voices like
those of train, as one further split (--split).

Running it again goes on where it was interrupted and keeps what is finished: espeak-ng does not say a sentence twice in
the same way, so a corpus is made once and kept. Other settings for a split that exists are an error.
"""

import argparse
import json
import os
import random
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
from grammar import sample
from synth import SAMPLE_RATE, Synthesiser, check_voice, list_variants

TRAIN_ACCENTS = ("en", "en-us", "en-gb-x-rp", "en-us-nyc", "en-gb-x-gbclan")
TEST_ACCENTS = ("en-029", "en-gb-scotland", "en-gb-x-gbcwmd")
TEST_VARIANTS = tuple("Alicia Annie Denis Jacky belinda benjamin boris f3 f5 linda m4 m7 quincy travis".split())
# Hard to understand, or nothing like a voice.
ODD_VARIANTS = tuple("Demonic Storm UniRobot anikaRobot croak fast whisper whisperf".split())
# Short talks in the smaller splits, so that these too have many voices.
SEGMENTS_PER_TALK = {"dev": 8, "tst-COMMON": 8, "tst-HE": 8}
SEGMENTS_PER_TRAINING_TALK = 20
LANGUAGES = ("de", "fr", "es")


@dataclass(frozen=True)
class Voice:
    """One speaker: name is espeak-ng's ACCENT+VARIANT; pitch and pitch_range are 0 to 99; rate is in words a minute."""

    name: str
    pitch: int
    pitch_range: int
    rate: int


@dataclass(frozen=True)
class Talk:
    """One wav: sentences of one voice, with silence between them, under noise `snr` dB weaker than the speech."""

    name: str
    voice: Voice
    sentences: tuple[str, ...]
    snr: float
    gain: float  # peak amplitude
    word_pauses: float  # share of the sentences spoken word by word
    seed: str


def draw_voices(count: int, accents: tuple[str, ...], variants: tuple[str, ...], rng: random.Random) -> list[Voice]:
    """`count` voices: every accent and variant as evenly as possible, random pitch and rate."""
    names = [f"{accent}+{variant}" for accent in accents for variant in variants]
    rng.shuffle(names)
    voices = []
    for i in range(count):
        check_voice(names[i % len(names)])
        rate = min(max(rng.gauss(150, 15), 110), 195)
        voices.append(Voice(names[i % len(names)], rng.randint(25, 75), rng.randint(30, 70), round(rate)))
    return voices


def training_variants() -> tuple[str, ...]:
    return tuple(v for v in list_variants() if v not in TEST_VARIANTS + ODD_VARIANTS)


def plan_talks(split: str, sentences: list[str], voices: list[Voice], seed: int, word_pauses: float) -> list[Talk]:
    rng = random.Random(f"{seed}/{split}/talks")
    talks, size = [], SEGMENTS_PER_TALK.get(split, SEGMENTS_PER_TRAINING_TALK)
    for start in range(0, len(sentences), size):
        name = f"talk_{split}_{len(talks):04d}"
        part = tuple(sentences[start : start + size])
        snr, gain = rng.uniform(15, 40), rng.uniform(0.3, 0.9)
        talks.append(Talk(name, voices[len(talks) % len(voices)], part, snr, gain, word_pauses, f"{seed}/{name}"))
    return talks


# ---------------------------------------------------------------------------------------------- in the worker processes
_synthesiser: Synthesiser | None = None


def _start_worker() -> None:
    global _synthesiser
    _synthesiser = Synthesiser()


def _say(talk: Talk, sentence: str, rng: random.Random) -> np.ndarray:
    voice = talk.voice
    rate = round(voice.rate * rng.uniform(0.94, 1.06))
    settings = {"voice": voice.name, "rate": rate, "pitch": voice.pitch, "pitch_range": voice.pitch_range}
    if rng.random() >= talk.word_pauses:
        return _synthesiser.say(sentence, **settings)
    words = [_synthesiser.say(word, **settings) for word in sentence.rstrip(".?!").split()]
    pause = np.zeros(round(rng.uniform(0.0, 0.1) * SAMPLE_RATE), np.float32)  # besides the margins words have
    return np.concatenate([piece for word in words for piece in (pause, word)][1:])


def _noise(samples: int, rng: random.Random) -> np.ndarray:
    """Noise between white and pink, of unit power."""
    generator = np.random.default_rng(rng.getrandbits(32))
    # Eight seconds, repeated: the FFT of an arbitrary length would take longer than all the speech.
    spectrum = np.fft.rfft(generator.standard_normal(2**17))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** -rng.uniform(0, 0.5)
    noise = np.fft.irfft(spectrum)
    return np.resize(noise / noise.std(), samples).astype(np.float32)


def make_talk(talk: Talk, folder: Path) -> None:
    """Write folder/NAME.wav and folder/NAME.json: [offset, samples] of every segment."""
    rng = random.Random(talk.seed)
    pieces, segments, position, power = [], [], 0, 0.0
    for sentence in talk.sentences:
        silence = rng.randrange(3_200, 9_600)
        waveform = _say(talk, sentence, rng)
        pieces += [np.zeros(silence, np.float32), waveform]
        segments.append((position + silence, len(waveform)))
        position += silence + len(waveform)
        power += float(np.square(waveform).sum())
    audio = np.concatenate([*pieces, np.zeros(4_800, np.float32)])
    power /= sum(samples for _, samples in segments)
    audio += _noise(len(audio), rng) * np.sqrt(power / 10 ** (talk.snr / 10))
    audio *= talk.gain / np.abs(audio).max()
    partial = folder / f"{talk.name}.partial"
    soundfile.write(partial, audio, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    partial.rename(folder / f"{talk.name}.wav")
    # Written last: it says that the talk is finished.
    write_text(folder / f"{talk.name}.json", json.dumps(segments))


# ---------------------------------------------------------------------------------------------------- writing a split
def write_text(path: Path, text: str) -> None:
    """Beside, then renamed: a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def _progress(split: str, done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total or done % max(1, total // 10) == 0:
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        print(f"{split}: {done}/{total} talks", end=end, file=sys.stderr, flush=True)


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _claim(state: Path, settings: dict, folders: list[Path]) -> None:
    """Record a split's settings, or check them against the record of an earlier run."""
    record = state / "settings.json"
    if record.exists():
        earlier = json.loads(record.read_text(encoding="utf-8"))
        different = [key for key in settings if settings[key] != earlier.get(key)]
        if different:
            changes = ", ".join(f"{key}: {earlier.get(key)} there, {settings[key]} asked for" for key in different)
            raise SystemExit(f"{folders[0]} was made with other settings ({changes}); choose another OUT or remove it")
        return
    for folder in folders:
        if folder.exists():
            raise SystemExit(f"{folder} exists and was not made by this script; choose another OUT or --split")
    state.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(settings, indent=1))


def make_split(
    out: Path, split: str, texts: dict[str, list[str]], voices: list[Voice], settings: dict, workers: int
) -> None:
    """Speak texts["en"] and write the split for every other language of texts (lists of equal length)."""
    languages = [language for language in texts if language != "en"]
    folders = {language: out / f"en-{language}" / "data" / split for language in languages}
    state = out / ".mini_corpus" / split
    _claim(state, settings, list(folders.values()))
    if (state / "finished").exists():
        print(f"{split}: kept ({len(texts['en'])} segments)", file=sys.stderr)
        return

    talks = plan_talks(split, texts["en"], voices, settings["seed"], settings["word_pauses"])
    made = state / "talks"
    made.mkdir(exist_ok=True)
    missing = [talk for talk in talks if not (made / f"{talk.name}.json").exists()]
    if missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
            finished = len(talks) - len(missing)
            for _ in pool.map(make_talk, missing, [made] * len(missing)):
                finished += 1
                _progress(split, finished, len(talks))

    yaml, seconds = [], 0.0
    for talk in talks:
        for sentence, (offset, samples) in zip(
            talk.sentences, json.loads((made / f"{talk.name}.json").read_text()), strict=True
        ):
            seconds += samples / SAMPLE_RATE
            yaml.append(
                f"- {{duration: {samples / SAMPLE_RATE:.6f}, offset: {offset / SAMPLE_RATE:.6f}, "
                f"rW: {len(sentence.split())}, uW: 0, speaker_id: spk.{talk.voice.name}, wav: {talk.name}.wav}}"
            )
    for language, folder in folders.items():
        for name in ("wav", "txt"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for talk in talks:
            _link(made / f"{talk.name}.wav", folder / "wav" / f"{talk.name}.wav")
        for suffix, lines in (("yaml", yaml), ("en", texts["en"]), (language, texts[language])):
            write_text(folder / "txt" / f"{split}.{suffix}", "\n".join(lines) + "\n")
    write_text(state / "finished", "")
    shutil.rmtree(made)
    print(f"{split}: {len(yaml)} segments, {len(talks)} talks, {seconds / 3600:.2f} h of speech", file=sys.stderr)


def read_parallel(folder: Path, languages: list[str]) -> dict[str, list[str]]:
    """The sentences of ROOT/en-LANG/data/SPLIT/txt by language; what the folder lacks is looked for in its siblings."""
    (english,) = folder.glob("*.en")
    split = english.stem
    texts = {"en": english.read_text(encoding="utf-8").splitlines()}
    for language in languages:
        sibling = folder.resolve().parents[3] / f"en-{language}" / "data" / split / "txt"
        for path in (folder / f"{split}.{language}", sibling / f"{split}.{language}"):
            if path.exists():
                texts[language] = path.read_text(encoding="utf-8").splitlines()
                break
        else:
            raise SystemExit(f"no {split}.{language} in {folder} or {sibling}; see --langs")
        if len(texts[language]) != len(texts["en"]):
            raise SystemExit(f"{path} has {len(texts[language])} lines, {english} {len(texts['en'])}")
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the corpus")
    parser.add_argument("--langs", nargs="+", choices=LANGUAGES, default=list(LANGUAGES), help="default: de fr es")
    parser.add_argument("--train", type=int, default=6000, help="segments of train (default 6000, about 4.5 h)")
    parser.add_argument("--dev", type=int, default=200, help="segments of dev (default 200)")
    parser.add_argument("--test", type=int, default=300, help="segments of tst-COMMON and of tst-HE (default 300)")
    parser.add_argument("--voices", type=int, default=200, help="voices of train (default 200)")
    parser.add_argument("--text", type=Path, metavar="TXT", help="speak this txt folder's sentences instead")
    parser.add_argument("--split", default="train_synthetic", help="name of --text's split (default train_synthetic)")
    parser.add_argument(
        "--word-pauses", type=float, default=0.0, metavar="SHARE", help="share of sentences spoken word by word"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a CPU)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    rng = random.Random(f"{args.seed}/voices")
    voices = draw_voices(args.voices, TRAIN_ACCENTS, training_variants(), rng)
    settings = {"langs": args.langs, "seed": args.seed, "voices": args.voices, "word_pauses": args.word_pauses}

    if args.text:
        texts = read_parallel(args.text, args.langs)
        settings |= {"segments": len(texts["en"])}
        make_split(args.out, args.split, texts, voices, settings, args.workers)
        return

    unseen = sample(args.dev + 2 * args.test, args.seed, "heldout")
    splits = (
        ("train", sample(args.train, args.seed, "train"), voices),
        ("dev", unseen[: args.dev], rng.sample(voices, len(voices))),
        ("tst-COMMON", unseen[args.dev :][: args.test], draw_voices(args.test, TRAIN_ACCENTS, TEST_VARIANTS, rng)),
        ("tst-HE", unseen[args.dev + args.test :], draw_voices(args.test, TEST_ACCENTS, TEST_VARIANTS, rng)),
    )
    for split, sentences, split_voices in splits:
        texts = {language: [getattr(s, language) for s in sentences] for language in ("en", *args.langs)}
        make_split(args.out, split, texts, split_voices, settings | {"segments": len(sentences)}, args.workers)


if __name__ == "__main__":
    main()
