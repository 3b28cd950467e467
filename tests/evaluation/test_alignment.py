"""Alignment of speech and text, against plain computation on tiny models; and the command's figures and pictures."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from lst_fairseq.cli.main import main
from lst_fairseq.criterions.adapter_collapse import variation, warning
from lst_fairseq.data.audio import read_segment
from lst_fairseq.data.manifest import Manifest, read_manifest
from lst_fairseq.evaluation.alignment import (
    Utterance,
    attention_over_speech,
    cosines,
    encode,
    matching_score,
    measure,
    nearest_cosine,
    nearest_tokens,
    scale,
    spread_rows,
)
from lst_fairseq.evaluation.report.alignment import colour, heat_map, page, runs, token_strip
from lst_fairseq.generation.translator import DecodingOptions, Translator
from lst_fairseq.models.llm.families import embedding_outputs
from tests.support.helpers import SENTENCES, read_tsv, write_tsv
from tests.support.running import first_stage, run_train


def plain_cosine(a: list[float], b: list[float]) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b)) / norms


def utterance(name: str, speech: torch.Tensor, text: torch.Tensor) -> Utterance:
    return Utterance(name, f"text {name}", 1.0, speech, torch.zeros(len(text), dtype=torch.long), text)


@pytest.fixture(scope="module")
def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(7, 5, generator=generator), torch.randn(4, 5, generator=generator)


def test_scores_are_those_of_plain_computation(vectors):
    speech, text = (each.tolist() for each in vectors)
    all_pairs = [[plain_cosine(s, t) for t in text] for s in speech]
    from_speech = sum(max(row) for row in all_pairs) / 7
    from_text = sum(max(row[j] for row in all_pairs) for j in range(4)) / 4
    assert nearest_cosine(*vectors) == pytest.approx(from_speech, abs=1e-6)
    assert matching_score(*vectors) == pytest.approx((from_speech + from_text) / 2, abs=1e-6)
    values, ids = nearest_tokens(*vectors)
    assert ids.tolist() == [row.index(max(row)) for row in all_pairs]
    torch.testing.assert_close(values, torch.tensor([max(row) for row in all_pairs]))
    assert cosines(torch.zeros(1, 5), vectors[1]).abs().max() == 0


def test_retrieval_of_speech_that_is_its_text_and_of_speech_that_is_anothers():
    generator = torch.Generator().manual_seed(4)
    texts = [torch.randn(3, 16, generator=generator) for _ in range(8)]
    right = [utterance(str(i), 2.5 * text.repeat(2, 1), text) for i, text in enumerate(texts)]
    found = measure(right, candidates=8)
    assert found["cosine"] == pytest.approx(1, abs=1e-6) and found["retrieval"] == 1
    assert (found["candidates"], found["segments"], found["vectors_per_token"]) == (8, 8, 2)
    others = [nearest_cosine(u.speech, v.text) for u in right for v in right if u is not v]
    assert found["other_cosine"] == pytest.approx(sum(others) / len(others), abs=1e-6)
    swapped = [utterance(str(i), texts[i ^ 1], text) for i, text in enumerate(texts)]
    assert measure(swapped, candidates=8)["retrieval"] == 0
    # Half of them right.
    assert measure(right[:4] + swapped[4:], candidates=8)["retrieval"] == 0.5


def test_variation_and_scale(vectors):
    """Of vectors that share a part: what is left when their mean is taken away, by plain sums."""
    speech, text = vectors
    shared = torch.full((5,), 3.0)
    same = (speech + shared).double()
    mean = [sum(column) / 7 for column in zip(*same.tolist())]
    left = sum((x - m) ** 2 for row in same.tolist() for x, m in zip(row, mean))
    all_of_it = sum(x**2 for row in same.tolist() for x in row)
    assert variation(same) == pytest.approx(left / all_of_it, abs=1e-9)
    assert variation(shared.repeat(4, 1)) == pytest.approx(0, abs=1e-6)
    assert variation(speech - speech.mean(dim=0)) == pytest.approx(1, abs=1e-6)
    assert scale(2.5 * text, text) == pytest.approx(2.5) and scale(shared[None], torch.eye(5)[:1]) == pytest.approx(
        3 * 5**0.5
    )
    found = measure([utterance(str(i), same[i:].float(), text) for i in range(2)])
    joined = torch.cat([same, same[1:]]).float()
    assert found["variation"] == pytest.approx(variation(joined)) and found["scale"] == pytest.approx(
        scale(joined, text)
    )


def test_a_collapsed_adapter_is_said():
    assert warning(0.051) == ""
    said = warning(0.0018)
    assert "0.2 % varies" in said and "STAGE1_LR" in said
    shared = {"cosine": 0.2, "other_cosine": 0.2, "retrieval": 0.05, "candidates": 20, "segments": 9}
    figures = {"checkpoint": "stage1", **shared, "vectors_per_token": 6.1, "scale": 2.6}
    for variation_, warned in ((0.0018, 1), (0.5, 0)):
        text = page("Alignment", [{**figures, "variation": variation_}], [])
        assert text.count("has collapsed") == warned and f"<td>{100 * variation_:.1f} %</td>" in text


def test_candidates_are_drawn_by_the_seed_and_never_the_own_text():
    generator = torch.Generator().manual_seed(5)
    utterances = [
        utterance(str(i % 6), torch.randn(4, 8, generator=generator), torch.randn(3, 8, generator=generator))
        for i in range(12)
    ]
    few = measure(utterances, candidates=3, seed=2)
    assert few == measure(utterances, candidates=3, seed=2) != measure(utterances, candidates=3, seed=3)
    assert few["candidates"] == 3 and measure(utterances, candidates=99)["candidates"] == 11
    for wrong in ({"utterances": utterances[:1]}, {"utterances": utterances, "candidates": 1}):
        with pytest.raises(ValueError, match="two candidates and two different transcripts at least"):
            measure(**wrong)


# --- of a model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus with transcripts, in another folder."""
    folder = tmp_path_factory.mktemp("spoken")
    for split in ("train", "dev", "test"):
        rows = [{**row, "src_text": SENTENCES[-1 - i]} for i, row in enumerate(read_tsv(corpus / f"{split}.tsv"))]
        write_tsv(folder / f"{split}.tsv", rows)
    (folder / "config.yaml").write_text("target_lang: de\n", encoding="utf-8")
    return folder


def rows_of(folder: Path) -> Manifest:
    return read_manifest(folder / "dev.tsv")


@pytest.fixture(scope="module")
def translator(corpus, backbones) -> Translator:
    return Translator(first_stage(corpus, backbones).path(), options=DecodingOptions(beam=2, max_len_b=5))


def test_what_is_compared_is_what_the_llm_gets(translator, spoken):
    """Speech without its markers, one sentence at a time; text as the embedding layer gives it."""
    rows = rows_of(spoken).rows
    utterances = list(encode(translator, rows, batch_size=3))
    assert [u.id for u in utterances] == [row.id for row in rows]
    encoder, llm = translator.model.encoder, translator.model.decoder.llm
    for row, found in zip(rows, utterances):
        waveform = torch.from_numpy(read_segment(row.segment))
        with torch.no_grad():
            features, lengths = encoder.frontend(waveform[None], torch.tensor([len(waveform)]))
            speech, n_speech = encoder.adapter(features, lengths)
            ids = torch.tensor(translator.task.target_dictionary.encode([row.src_text])[0])
            text = llm.get_input_embeddings()(ids)
        torch.testing.assert_close(found.speech, speech[0, : int(n_speech)], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.text, text)
        assert found.tokens.tolist() == ids.tolist() and found.seconds == pytest.approx(len(waveform) / 16_000)


@pytest.mark.parametrize("layer", [None, 2])
def test_attention_is_the_models_own(layer, translator, spoken):
    """Against one pass over the whole row with eager attention, and the positions counted by hand."""
    row = rows_of(spoken).rows[1]
    found = attention_over_speech(translator, row, layer)
    (translation,) = translator.translate([str(row.segment)])
    (utterance,) = encode(translator, [row])
    decoder, encoder = translator.model.decoder, translator.model.encoder
    embed = decoder.llm.get_input_embeddings()
    prompt, markers = translator.prompt, encoder.markers
    before, after = (embed(torch.tensor(ids, dtype=torch.long)) for ids in (prompt.before, prompt.after))
    tokens = torch.tensor(translation.tokens)
    parts = [before, markers.start[None], utterance.speech, markers.end[None], after, embed(tokens[:-1])]
    decoder.llm.set_attn_implementation("eager")
    with torch.no_grad():
        layers = decoder.llm(inputs_embeds=torch.cat(parts)[None], output_attentions=True).attentions
    decoder.llm.set_attn_implementation("sdpa")
    weights = torch.stack([each[0].mean(0) for each in layers])
    expected = weights.mean(0) if layer is None else weights[layer - 1]
    first, n_speech = len(before) + 1, len(utterance.speech)
    last = first + n_speech + len(after)  # predicts the first token
    torch.testing.assert_close(
        found.weights, expected[last : last + len(tokens), first : first + n_speech], atol=1e-5, rtol=0
    )
    assert found.text == translation.text and len(found.pieces) == len(tokens) and found.pieces[-1] == "</s>"
    assert decoder.llm.config._attn_implementation == "sdpa"
    assert [t.tokens for t in translator.translate([str(row.segment)])] == [translation.tokens]


def test_no_such_layer(translator, spoken):
    with pytest.raises(ValueError, match="--layer 3: the LLM has layers 1 to 2"):
        attention_over_speech(translator, rows_of(spoken).rows[0], 3)


def test_rows_are_spread_and_have_a_transcript(spoken, corpus):
    rows = read_manifest(spoken / "train.tsv").rows
    assert [row.id for row in spread_rows(rows, 4)] == ["train_0", "train_3", "train_6", "train_9"]
    assert len(spread_rows(rows, 99)) == 12 and spread_rows(rows_of(corpus).rows, 5) == []


# --- pictures and command ---------------------------------------------------------------------------------------------


def svg(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(figure)[0]


def texts(root: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_pictures():
    assert (colour(0), colour(1), colour(-1), colour(9)) == ("#ffffff", "#084081", "#ffffff", "#084081")
    assert runs(["a", "a", "b", "a"]) == [(0, 2, "a"), (2, 3, "b"), (3, 4, "a")]
    strip = svg(token_strip(["<a>", "<a>", "b", ""], [0.0, 0.5, 1.0, 0.2], 2.0))
    cells = list(strip.iter("{http://www.w3.org/2000/svg}rect"))
    assert [cell.get("fill") for cell in cells][::2] == ["#ffffff", "#084081"] and len(cells) == 4
    assert [text for text in texts(strip) if text in ("<a>", "b", "·")] == ["<a>", "b", "·"]
    assert {"0 s", "0.5 s", "2 s"} <= set(texts(strip))
    heat = svg(heat_map(["x", "</s>"], [[0.1, 0.3, 0.0], [0.0, 0.0, 0.0]], 1.0))
    cells = [cell.get("fill") for cell in heat.iter("{http://www.w3.org/2000/svg}rect")]
    assert cells == [colour(1 / 3), colour(1), colour(0), *["#ffffff"] * 3]
    assert "40 %" in texts(heat) and "0 %" in texts(heat)


def test_command_on_two_checkpoints(corpus, spoken, backbones, tmp_path, capsys):
    first = first_stage(corpus, backbones).path()
    later = run_train(
        corpus, backbones, tmp_path / "lora", finetune_from_model=first, train_modules="adapter,lora"
    ).path()
    arguments = [
        "--data",
        spoken,
        "--split",
        "dev",
        "--segments",
        4,
        "--candidates",
        3,
        "--pictures",
        1,
        "--max-len",
        4,
    ]
    main(["align", *map(str, [first, later, *arguments, "--out", tmp_path / "out"])])
    said = capsys.readouterr().out
    assert "retrieval" in said and "chance 33.3 %" in said
    found = json.loads((tmp_path / "out" / "alignment.json").read_text())["checkpoints"]
    assert [each["checkpoint"] for each in found] == ["shared_stage1", "lora"] and found[0] != found[1]
    translator = Translator(later)
    utterances = list(encode(translator, spread_rows(rows_of(spoken).rows, 4)))
    expected = measure(utterances, candidates=3)
    assert {key: found[1][key] for key in expected} == pytest.approx(expected, abs=1e-5)
    table = embedding_outputs(translator.model.decoder.llm)
    nearest = nearest_tokens(utterances[0].speech, table)[1].tolist()
    page = (tmp_path / "out" / "alignment.html").read_text()
    root = ElementTree.fromstring(page[page.index("<body>") : page.index("</html>")])
    # A plot, and for each checkpoint the strip and the attention.
    assert len(root.findall(".//figure")) == 1 + 2 * 2 and "<script" not in page
    strips = [figure for figure in root.findall(".//figure") if "nearest token" in "".join(figure.itertext())]
    pieces = [translator.task.target_dictionary.string([token]) for token in nearest]
    titles = [each.text.rpartition(":")[0] for each in strips[1].iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [piece.strip() for piece in pieces] or titles == pieces


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--split": "gone"}, "no such manifest"),
        ({"--candidates": "1"}, "--candidates 1: give 2 or more"),
        ({"--layer": "9"}, "--layer 9: the LLM has layers 1 to 2"),
    ],
)
def test_what_is_wrong_is_one_line(changes, message, corpus, spoken, backbones, tmp_path, capsys):
    flags = {"--data": spoken, "--split": "dev", "--segments": 3, "--max-len": 3, "--out": tmp_path / "out", **changes}
    with pytest.raises(SystemExit) as end:
        main(["align", str(first_stage(corpus, backbones).path()), *(str(x) for pair in flags.items() for x in pair)])
    assert message in f"{end.value.code}{capsys.readouterr().err}" and not (tmp_path / "out").exists()


def test_without_transcripts(corpus, backbones, tmp_path):
    with pytest.raises(SystemExit, match="fewer than two segments with audio and a transcript"):
        checkpoint = str(first_stage(corpus, backbones).path())
        main(["align", checkpoint, "--data", str(corpus), "--out", str(tmp_path / "out")])
