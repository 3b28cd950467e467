"""Scores of hypotheses against raw references, and the signature that says what each is a score of.

BLEU, chrF2 and TER by sacreBLEU, error rates of words and characters by jiwer, COMET by its own package in an
environment of its own.

References come from the manifest, never from the target dictionary that fairseq's own scorers read them back from.
"""

import hashlib
import io
import json
import re
import subprocess
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER

from lst_fairseq.data.audio import SAMPLE_RATE, AudioError
from lst_fairseq.data.manifest import Row, audio_headers
from lst_fairseq.evaluation.languages import DEFAULT_TOKENIZER, base_language, is_spaceless, missing_tokenizer
from lst_fairseq.utils.shapes import ShapeError, check_shape
from lst_fairseq.utils.text_files import Unreadable, read_data

#: Before the description of the model, as JSON, in fairseq-generate's log.
SIGNATURE = "lst signature: "
#: Bounds in seconds of the bins that a score is broken down by; a bin holds its lower bound and not its upper one.
DURATION_BINS = (0, 5, 10, 20, 50)
_HYPOTHESIS = re.compile(r"D-(\d+)\t([^\t]*)\t(.*)", re.DOTALL)
_SPEED = re.compile(r"Translated [\d,]+ sentences .*\((\d+(?:\.\d+)?) sentences/s")
_SEPARATORS = re.compile(r"[|:\s]+")
_APOSTROPHES = str.maketrans("", "", "'’ʼ")
#: Languages whose characters sacreBLEU's TER parts by itself, and the tokenisers of such.
_SPLIT_BY_TER = ("zh", "ja")
_SPACELESS_TOKENIZERS = ("zh", "ja-mecab", "char")

# Runs in COMET's own environment: argument 1 is the checkpoint, 2 the sentences, 3 where the score goes.
_COMET = """
import json, sys
import torch
from comet import load_from_checkpoint

checkpoint, sentences, out = sys.argv[1:]
with open(sentences, encoding="utf-8") as file:
    data = json.load(file)
result = load_from_checkpoint(checkpoint).predict(data, batch_size=8, gpus=int(torch.cuda.is_available()))
with open(out, "w", encoding="utf-8") as file:
    json.dump(float(result.system_score), file)
"""


class ScoreError(ValueError):
    """Hypotheses that cannot be scored as they are; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Score:
    """A corpus-level result."""

    bleu: float  # 0 to 100
    chrf: float  # chrF2, 0 to 100
    ter: float  # edits in 100 reference words
    segments: int
    signature: str  # sacreBLEU's, of BLEU
    chrf_signature: str
    ter_signature: str

    def line(self, name: str) -> str:
        """``NAME: BLEU = 67.12, chrF2 = 80.1, TER = 21.5 (300 segments, signature ...)``."""
        scores = f"BLEU = {self.bleu:.2f}, chrF2 = {self.chrf:.1f}, TER = {self.ter:.1f}"
        return f"{name}: {scores} ({self.segments} segments, signature {self.signature})"


# --- what fairseq-generate wrote --------------------------------------------------------------------------------------


def read_generated(path: str | Path) -> dict[int, str]:
    """Hypotheses in a file that fairseq-generate wrote: index (row number in the manifest, from 0) -> text.

    Takes the detokenised ``D-INDEX<tab>SCORE<tab>TEXT`` lines and ignores all others. Raises ScoreError for a file
    that is missing or holds none, a line cut short, n-best lists, and an index that occurs twice.
    """
    try:
        # Split at \n alone: str.splitlines would also split at U+2028, \x85 and the like inside a hypothesis.
        data = read_data(path, "translate first (fairseq-generate --results-path DIR)")
        lines = data.decode("utf-8").split("\n")
    except Unreadable as error:
        raise ScoreError(str(error)) from None
    except UnicodeDecodeError as error:
        raise ScoreError(f"{path}: not UTF-8 text ({error.reason}); give fairseq-generate's output") from None
    hypotheses: dict[int, str] = {}
    doubled: list[int] = []
    previous = -1
    for number, line in enumerate(lines, start=1):
        if not line.startswith("D-"):
            continue
        match = _HYPOTHESIS.fullmatch(line.removesuffix("\r"))
        if not match:
            raise ScoreError(
                f"{path}:{number}: {line[:60]!r} is not D-INDEX<tab>SCORE<tab>TEXT; the file is cut short or was "
                "changed, translate again"
            )
        index = int(match[1])
        if index == previous:
            raise ScoreError(
                f"{path}:{number}: several hypotheses in a row for index {index}, an n-best list; "
                "translate again with --nbest 1"
            )
        if index in hypotheses:
            doubled.append(index)
        hypotheses[index] = match[3]
        previous = index
    if doubled:
        raise ScoreError(
            f"{path}: {_some(doubled)} more than once; the file holds several outputs, "
            "translate again into an empty folder"
        )
    if not hypotheses:
        raise ScoreError(
            f"{path}: holds no hypothesis (no line D-INDEX<tab>SCORE<tab>TEXT); give fairseq-generate's output "
            "file generate-SUBSET.txt, written without --quiet"
        )
    return hypotheses


def read_signature(path: str | Path) -> dict[str, Any] | None:
    """What the model says about itself in fairseq-generate's log: speech encoder, LLM, adapter, prompt.

    None where it says nothing, as other models do.

    Raises:
        ScoreError: the log cannot be read, or that line was cut short or changed.
    """
    for number, line in enumerate(_log_lines(path), start=1):
        _, found, text = line.partition(SIGNATURE)
        if found:
            try:
                check_shape(model := json.loads(text), {"trained?": ([str], None)})
            except (ValueError, RecursionError) as error:
                reason = str(error) if isinstance(error, ShapeError) else f"no JSON: {error}"
                where = f"--log {path}:{number}: what the model says of itself"
                raise ScoreError(f"{where} was changed ({reason}); give the log as it was written") from None
            return model
    return None


def read_speed(path: str | Path) -> float | None:
    """Segments a second in fairseq-generate's log (model and search alone, loading left out); None if it says none."""
    found = [match[1] for line in _log_lines(path) if (match := _SPEED.search(line))]
    return float(found[-1]) if found else None


def in_order(hypotheses: Mapping[int, str], segments: int) -> list[str]:
    """The hypotheses of segments 0 to ``segments`` - 1; ScoreError naming what is missing or too much."""
    missing = [index for index in range(segments) if index not in hypotheses]
    beyond = sorted(index for index in hypotheses if index >= segments)
    if missing or beyond:
        problems = [f"no hypothesis for {_some(missing)}"] if missing else []
        problems += [f"hypotheses without a reference for {_some(beyond)}"] if beyond else []
        raise ScoreError(
            f"{len(hypotheses)} hypotheses for {segments} references: {'; '.join(problems)}; translate the whole of "
            "the manifest's split, and give the manifest that was translated"
        )
    return [hypotheses[index] for index in range(segments)]


def after_marker(texts: Sequence[str], marker: str) -> tuple[list[str], int]:
    """What follows the last ``marker`` in each text, and how many texts lack it: of these nothing is left.

    White space around marker and text does not count.
    """
    parts = [text.rpartition(marker.strip()) for text in texts]
    return [end.strip() if found else "" for _, found, end in parts], sum(not found for _, found, _ in parts)


# --- scores -----------------------------------------------------------------------------------------------------------


def bleu_metric(tokenize: str) -> BLEU:
    """sacreBLEU's BLEU with that tokeniser; ScoreError where a package or a model that it needs cannot be had."""
    try:
        return BLEU(tokenize=tokenize)
    except (ImportError, RuntimeError, OSError, AssertionError, SystemExit) as error:
        raise ScoreError(missing_tokenizer(tokenize, str(error))) from None


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    tokenize: str = DEFAULT_TOKENIZER,
    language: str = "",
) -> Score:
    """Corpus BLEU and chrF2 (mixed case) and TER (lower case) of hypotheses against one reference each.

    Args:
        tokenize: sacreBLEU's for BLEU; ``languages.tokenizer_for`` knows which.
        language: code; TER counts the characters of one that writes no spaces. Empty: what the tokeniser is for.
    """
    if len(hypotheses) != len(references) or not references:
        raise ScoreError(f"{len(hypotheses)} hypotheses for {len(references)} references; one for each is needed")
    spaceless = is_spaceless(language) if language else tokenize in _SPACELESS_TOKENIZERS
    metrics = bleu_metric(tokenize), CHRF(), TER(normalized=spaceless, asian_support=spaceless)
    texts = [(hypotheses, references)] * len(metrics)
    parted = bool(language) and spaceless and base_language(language) not in _SPLIT_BY_TER
    if parted:
        texts[-1] = tuple([" ".join(text) for text in sentences] for sentences in texts[-1])
    scores = [
        metric.corpus_score(said, [meant]).score for metric, (said, meant) in zip(metrics, texts, strict=True)
    ]
    signatures = [str(metric.get_signature()) for metric in metrics]
    if parted:
        signatures[-1] += "|chars:yes"
    return Score(*scores, len(references), *signatures)


def plain_words(text: str) -> str:
    """Lower case without punctuation: apostrophes vanish (``don't`` -> ``dont``), other marks become a space."""
    text = unicodedata.normalize("NFC", text).lower().translate(_APOSTROPHES)
    return " ".join("".join(" " if unicodedata.category(c).startswith("P") else c for c in text).split())


def word_error_rates(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Errors in 100 reference words, by jiwer: ``wer`` of :func:`plain_words`, ``wer_raw`` of the text as it is."""
    plain = [[plain_words(text) for text in texts] for texts in (hypotheses, references)]
    return {"wer": _error_rate(*plain, "words"), "wer_raw": _error_rate(hypotheses, references, "words")}


def character_error_rates(hypotheses: Sequence[str], references: Sequence[str], language: str = "") -> dict[str, float]:
    """Errors in 100 reference characters: ``cer`` of :func:`plain_words`, ``cer_raw`` of the text as it is.

    Spaces count, one between two words, unless the language writes none.
    """
    between = "" if is_spaceless(language) else " "
    raw = [[between.join(text.split()) for text in texts] for texts in (hypotheses, references)]
    plain = [[between.join(plain_words(text).split()) for text in texts] for texts in (hypotheses, references)]
    return {"cer": _error_rate(*plain, "characters"), "cer_raw": _error_rate(*raw, "characters")}


def transcript_error_rates(
    hypotheses: Sequence[str], references: Sequence[str], language: str = ""
) -> dict[str, float]:
    """What transcripts are scored by: errors of words, where the language parts them by spaces, and of characters."""
    words = {} if is_spaceless(language) else word_error_rates(hypotheses, references)
    return words | character_error_rates(hypotheses, references, language)


def by_duration(
    hypotheses: Sequence[str],
    references: Sequence[str],
    seconds: Sequence[float | None],
    tokenize: str = DEFAULT_TOKENIZER,
    word_errors: bool = False,
    language: str = "",
) -> dict[str, dict[str, float]]:
    """BLEU of the segments of each duration: ``{"0-5": {"segments": 120, "bleu": 31.2}, ...}``, without empty bins.

    ``seconds`` holds each segment's length, None for one without audio. ``word_errors`` adds ``wer`` and ``cer``, as
    :func:`transcript_error_rates` has them for the language.
    """
    bleu = bleu_metric(tokenize)
    bins: dict[str, dict[str, float]] = {}
    for low, high in zip(DURATION_BINS, (*DURATION_BINS[1:], float("inf")), strict=True):
        at = [i for i, length in enumerate(seconds) if length is not None and low <= length < high]
        if not at:
            continue
        said, meant = [hypotheses[i] for i in at], [references[i] for i in at]
        name = f"{low}-{high}" if high in DURATION_BINS else f"{low}+"
        bins[name] = {"segments": len(at), "bleu": bleu.corpus_score(said, [meant]).score}
        if word_errors and any(plain_words(text) for text in meant):
            rates = transcript_error_rates(said, meant, language)
            bins[name] |= {key: rates[key] for key in ("wer", "cer") if key in rates}
    return bins


def segment_seconds(
    manifest: str | Path, rows: Sequence[Row], rate: int | None = None
) -> tuple[list[float | None], int]:
    """Length of each of a manifest's segments in seconds, ``n_frames`` over the rate of its audio file.

    Args:
        rate: of all files, in Hz; None: what each file's header says, and 16 kHz where it cannot be read.

    Returns the lengths (None for a row without audio), and for how many of them 16 kHz had to be assumed.
    """
    # read_manifest has checked the file; its rows do not keep this column.
    lines = [line.removesuffix("\r") for line in Path(manifest).read_bytes().decode("utf-8-sig").split("\n")]
    at = lines[0].split("\t").index("n_frames")
    frames = [line.split("\t")[at] for line in lines[1:] if line.strip(" ")]
    headers = {} if rate else audio_headers(row.segment.path for row in rows if not row.is_text)
    seconds: list[float | None] = []
    assumed = 0
    for row, count in zip(rows, frames, strict=True):
        if row.is_text:
            seconds.append(None)
            continue
        header = headers.get(row.segment.path)
        unknown = not rate and isinstance(header, AudioError)
        assumed += unknown
        seconds.append(int(count) / (rate or (SAMPLE_RATE if unknown else header.rate)))
    return seconds, assumed


def comet_score(
    checkpoint: str | Path, python: str, sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> float:
    """COMET of a corpus, by the package ``comet`` in the environment of the interpreter ``python``.

    ``checkpoint`` is a COMET model: a ``.ckpt`` file, or the directory that holds one. Raises ScoreError where either
    is missing or COMET fails; it says why on standard error itself.
    """
    path = Path(checkpoint)
    found = [path] if path.is_file() else sorted(path.rglob("*.ckpt"))
    if not found:
        raise ScoreError(f"--comet {checkpoint}: no .ckpt file there; give the directory of a downloaded COMET model")
    try:
        there = subprocess.run([python, "-c", "import comet"], capture_output=True).returncode == 0
    except OSError as error:
        raise ScoreError(f"--comet-python {python}: cannot be run ({error.strerror}); give a Python's path") from None
    if not there:
        raise ScoreError(
            f"--comet: no COMET in the environment of {python}; `pip install unbabel-comet` in an environment of its "
            "own (it asks for other versions of transformers) and name that one's Python with --comet-python"
        )
    with tempfile.TemporaryDirectory() as folder:
        sentences, out = Path(folder, "sentences.json"), Path(folder, "score.json")
        triples = zip(sources, hypotheses, references, strict=True)
        data = [{"src": source, "mt": hypothesis, "ref": reference} for source, hypothesis, reference in triples]
        sentences.write_text(json.dumps(data), encoding="utf-8")
        done = subprocess.run([python, "-c", _COMET, str(found[0]), str(sentences), str(out)])
        if done.returncode:
            raise ScoreError(f"--comet {checkpoint}: COMET failed (exit status {done.returncode}), as it says above")
        return json.loads(out.read_text(encoding="utf-8"))


# --- signature --------------------------------------------------------------------------------------------------------


def full_signature(
    sacrebleu: str, segments: int, settings: Mapping[str, Any], model: Mapping[str, Any] | None = None
) -> str:
    """All that a score depends on, in sacreBLEU's style and with its signature at the end.

    ``corpus:mustc-en-de|split:tst-COMMON|n:2641|frontend:NAME#HASH|adapter:conv|llm:NAME#HASH|stage:adapter,llm|beam:4|
    lenpen:1.0|prompt:HASH|nrefs:1|...``; what is not known is left out.

    Args:
        settings: of these ``corpus``, ``split``, ``system``, ``beam``, ``lenpen`` and ``after`` are taken.
        model: as :func:`read_signature` gives it; where it is None, ``system`` stands for the model.
    """
    fields: dict[str, Any] = {name: settings.get(name) for name in ("corpus", "split")}
    fields["n"] = segments
    if model:
        fields |= {name: model.get(name) for name in ("frontend", "adapter", "llm")}
        fields["stage"] = ",".join(model.get("trained") or ())
    else:
        fields["system"] = settings.get("system")
    fields |= {name: settings.get(name) for name in ("beam", "lenpen", "after")}
    if model and model.get("prompt"):
        fields["prompt"] = hashlib.sha256(json.dumps(model["prompt"], sort_keys=True).encode()).hexdigest()[:8]
    known = {name: _SEPARATORS.sub("_", str(value)) for name, value in fields.items() if value not in (None, "")}
    return "|".join([*(f"{name}:{value}" for name, value in known.items()), sacrebleu])


def _log_lines(path: str | Path) -> list[str]:
    try:
        data = read_data(path, "give what fairseq-generate wrote to standard error")
    except Unreadable as error:
        raise ScoreError(f"--log {error}") from None
    # Progress bars end lines with \r; str.splitlines would also split inside a prompt.
    return io.StringIO(data.decode("utf-8", errors="replace"), newline=None).readlines()


def _error_rate(hypotheses: Sequence[str], references: Sequence[str], unit: str) -> float:
    """Errors in 100 ``words`` or ``characters`` of the references."""
    try:
        import jiwer
    except ImportError:
        raise ScoreError("error rates of transcripts need jiwer: pip install 'jiwer>=3'") from None
    process, parts = {
        "words": (jiwer.process_words, str.split),
        "characters": (jiwer.process_characters, list),
    }[unit]
    # jiwer takes no empty reference; all that is said there is too much.
    pairs = [(reference, said) for reference, said in zip(references, hypotheses, strict=True) if reference.strip()]
    if not pairs:
        raise ScoreError("no word error rate: no reference holds a word; check the manifest's tgt_text")
    silent = (said for reference, said in zip(references, hypotheses, strict=True) if not reference.strip())
    counts = process([reference for reference, _ in pairs], [said for _, said in pairs])
    errors = counts.substitutions + counts.deletions + counts.insertions + sum(len(parts(said)) for said in silent)
    return 100 * errors / (counts.hits + counts.substitutions + counts.deletions)


def _some(indices: Sequence[int], limit: int = 10) -> str:
    shown = ", ".join(map(str, indices[:limit]))
    return f"index {shown}" + (f" and {len(indices) - limit} more" if len(indices) > limit else "")
