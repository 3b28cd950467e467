"""lst compare: systems on the same segments, against sacreBLEU's own tests called directly."""

import json
import random
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from lst_fairseq.cli.main import main
from lst_fairseq.errors import ComparisonError
from lst_fairseq.evaluation.comparison import compare, most_different, read_scores
from lst_fairseq.evaluation.report.comparison import cells, markdown, verdicts
from lst_fairseq.evaluation.report.plots import plot, ticks
from lst_fairseq.evaluation.training_curve import CURVE_POINTS, read_curve

WORDS = "der die das Haus Baum sieht findet kauft alt neu rot <b> & heute".split()
BLEU_SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"

TRAIN_LOG = """\
2026-01-01 10:00:00 | INFO | fairseq_cli.train | {'loss': 3}
2026-01-01 10:00:10 | INFO | train_inner | epoch 001:     50 / 235 loss=4.5, nll_loss=4.25, ppl=19, wps=769.8, \
num_updates=50, lr=3.9e-05, gnorm=3.3, train_wall=20, wall=22
2026-01-01 10:00:20 | INFO | train_inner | epoch 001:    100 / 235 loss=2, nll_loss=1.5, num_updates=100, lr=1, wall=43
2026-01-01 10:00:21 | INFO | dev | epoch 001 | valid on 'dev' subset | loss 3.5 | nll_loss 3.25 | num_updates 100
2026-01-01 10:00:21 | INFO | dev_asr | epoch 001 | valid on 'dev_asr' subset | loss 9 | nll_loss 9 | num_updates 100
2026-01-01 10:00:30 | INFO | train_inner | epoch 002:     15 / 235 loss=9, nll_loss=9, num_updates=150, lr=1, wall=60
2026-01-01 10:00:40 | INFO | train_inner | epoch 001:    140 / 235 loss=1, nll_loss=1, num_updates=140, lr=1, wall=3
2026-01-01 10:00:50 | INFO | train_inner | epoch 001:    190 / 235 loss=nan, nll_loss=nan, num_updates=190, wall=5
2026-01-01 10:00:50 | INFO | train | epoch 001 | loss 7 | nll_loss 7 | num_updates 200 | wall 70
"""
# As --log-format json writes it, the second line by fairseq-hydra-train's logger; without nll_loss.
JSON_LOG = """\
2026-01-01 10:00:10 | INFO | train_inner | {"epoch": 1, "update": 0.2, "loss": "0.9", "num_updates": "10", "wall": "5"}
[2026-01-01 10:00:12,345][dev][INFO] - {"epoch": 1, "dev_loss": "0.8", "dev_ppl": null, "dev_num_updates": "10"}
2026-01-01 10:00:13 | INFO | train | {"epoch": 1, "train_loss": "0.7", "train_num_updates": "10", "train_wall": "6"}
2026-01-01 10:00:14 | INFO | train_inner | {"epoch": 1, "update": 0.
"""


def sentences(count: int = 30) -> list[str]:
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) + "." for _ in range(count)]


def system(name: str, wrong: float = 0.0, **entries: object) -> dict[str, object]:
    """A system that gets some part of the words wrong, as lst score describes one."""
    rng = random.Random(name)
    references = sentences()
    hypotheses = [" ".join(w if rng.random() >= wrong else "?" for w in text.split()) for text in references]
    return {
        "name": name,
        "bleu": BLEU().corpus_score(hypotheses, [references]).score,
        "chrf": CHRF().corpus_score(hypotheses, [references]).score,
        "segments": len(references),
        "signature": BLEU_SIGNATURE,
        "tokenize": "13a",
        "split": "tst",
        "sentences": {
            "ids": [f"id_{i}" for i in range(len(references))],
            "sources": [f"Source {i} | <i>." for i in range(len(references))],
            "references": references,
            "hypotheses": hypotheses,
        },
        **entries,
    }


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_intervals_and_p_values_are_sacrebleus() -> None:
    """In whatever order the systems are given, with the seed that sacreBLEU takes by default."""
    systems = [system("good", 0.2), system("base", 0.4), system("same", 0.0)]
    systems[2]["sentences"]["hypotheses"] = systems[1]["sentences"]["hypotheses"]
    results = compare(systems, "base", samples=200)
    hypotheses = {each["name"]: each["sentences"]["hypotheses"] for each in systems}
    named = [(name, hypotheses[name]) for name in ("base", "good")]
    _, expected = PairedTest(named, {"B": BLEU(), "C": CHRF()}, [sentences()], test_type="bs", n_samples=200)()
    good, base, same = results["systems"]
    for key, metric in (("bleu", "BLEU"), ("chrf", "chrF2")):
        for found, wanted in ((base, expected[metric][0]), (good, expected[metric][1])):
            assert (found[key], found[f"{key}_ci"], found[f"{key}_mean"]) == (wanted.score, wanted.ci, wanted.mean)
        assert good[f"{key}_p"] == expected[metric][1].p_value < 0.05
    assert "bleu_p" not in base and all("sentences" not in each for each in results["systems"])
    assert (same["bleu_p"], same["chrf_p"]) == (1.0, 1.0)  # the same output is no significant difference
    assert results["bootstrap"]["signatures"]["BLEU"].startswith("nrefs:1|bs:200|seed:12345|")
    assert verdicts(results) == [
        f"good is significantly above base: {good['bleu'] - base['bleu']:+.1f} BLEU, p = {good['bleu_p']:.2g}.",
        "same does not differ significantly from base: +0.0 BLEU, p = 1.",
    ]


def test_seed_decides() -> None:
    systems = [system("good", 0.2), system("base", 0.4)]
    first, again, other = (compare(systems, "base", samples=100, seed=seed) for seed in (7, 7, 8))
    assert first == again and first["systems"][0]["bleu_ci"] != other["systems"][0]["bleu_ci"]
    with pytest.raises(ComparisonError, match="--seed 0: give 1 or more"):
        compare(systems, "base", seed=0)


def test_without_a_baseline_there_is_no_test() -> None:
    results = compare([system("only", 0.2)], samples=100)
    assert results["systems"][0]["bleu_ci"] > 0 and "bleu_p" not in results["systems"][0]
    assert results["differences"] == [] and verdicts(results) == []
    assert cells(results)[0] == ["system", "BLEU", "chrF2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "tst-HE"}, "split of 'b' is tst-HE, and of 'a' tst; compare systems on one split"),
        ({"segments": 29}, "segments of 'b' is 29, and of 'a' 30"),
        ({"tokenize": "zh"}, "tokenize of 'b' is zh"),
        ({"name": "a"}, "two systems are called 'a'"),
        ({"sentences": None}, "score file of 'b' holds no sentences; score that system again"),
        ({"ids": 3}, r"ids of 'b' and 'a' differ from segment 3 on \(id_3\)"),
        ({"references": 5}, r"references of 'b' and 'a' differ from segment 5 on \(id_5\)"),
    ],
)
def test_systems_that_do_not_belong_together(change: dict[str, object], message: str) -> None:
    a, b = system("a"), system("b")
    for key, value in change.items():
        if key in b["sentences"]:
            b["sentences"][key][value] = "another"
        elif value is None:
            del b[key]
        else:
            b[key] = value
    with pytest.raises(ComparisonError, match=message):
        compare([a, b], "a")


def test_unknown_names_are_listed() -> None:
    systems = [system("LST"), system("base")]
    with pytest.raises(ComparisonError, match=r"no system is called 'bse'; there are: LST, base"):
        compare(systems, "bse")
    with pytest.raises(ComparisonError, match=r"no system is called 'lst'; there are: LST, base"):
        compare(systems, "base", {"lst": ["train.log"]})


def test_sentences_that_differ_most() -> None:
    mine, theirs = system("mine", 0.3), system("theirs", 0.3)
    found = most_different(mine, theirs, 4)
    scores = [
        [CHRF().sentence_score(each["sentences"]["hypotheses"][i], [reference]).score for each in (mine, theirs)]
        for i, reference in enumerate(sentences())
    ]
    order = sorted(range(30), key=lambda i: scores[i][0] - scores[i][1])
    assert [row["id"] for row in found["below"]] == [f"id_{i}" for i in order[:4]]
    assert [row["id"] for row in found["above"]] == [f"id_{i}" for i in order[::-1][:4]]
    best = order[-1]
    assert found["above"][0] == {
        "id": f"id_{best}",
        "source": f"Source {best} | <i>.",
        "reference": sentences()[best],
        "system": mine["sentences"]["hypotheses"][best],
        "baseline": theirs["sentences"]["hypotheses"][best],
        "chrf": scores[best],
    }
    assert most_different(mine, mine, 4) == {"system": "mine", "baseline": "mine", "above": [], "below": []}


def test_curves_of_two_stages(tmp_path: Path) -> None:
    """Text and JSON; a resumed run replaces what it does again; the second stage goes on where the first ended."""
    (tmp_path / "1.log").write_text(TRAIN_LOG)
    (tmp_path / "2.log").write_text(JSON_LOG)
    first = {"train": [[50, 22, 4.25], [100, 43, 1.5], [140, 63, 1]], "dev": [[100, 43, 3.25]]}
    assert read_curve([tmp_path / "1.log"]) == first
    assert read_curve([tmp_path / "1.log", tmp_path / "2.log"]) == {
        "train": [*first["train"], [150, 68, 0.9]],
        "dev": [*first["dev"], [150, 68, 0.8]],
    }
    with pytest.raises(ComparisonError, match=r"gone.log: no such training log"):
        read_curve([tmp_path / "gone.log"])


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    lines = (f"x | INFO | train_inner | loss={i}, num_updates={i}, wall={i}" for i in range(1, 2001))
    (tmp_path / "train.log").write_text("\n".join(lines))
    points = read_curve([tmp_path / "train.log"])["train"]
    assert len(points) == CURVE_POINTS and points[0] == [1, 1, 1] and points[-1] == [2000, 2000, 2000]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.13, 0.98, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (7, 7, [6, 8]),
        (0, 0, [0, 0.2]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_plot_puts_points_in_their_places() -> None:
    drawn = ElementTree.fromstring(plot({"<a>": [(0, 0), (50, 10), (100, 5)]}, "x & y", "loss"))
    line = drawn.find(".//polyline").get("points")
    # 60 to 525 across, 215 (0) to 10 (10) upwards.
    assert line == "60.0,215.0 292.5,10.0 525.0,112.5"
    texts = [text.text for text in drawn.iter("text")]
    assert {"<a>", "x & y", "loss", "100", "10"} <= set(texts)
    bins = ElementTree.fromstring(plot({"a": [(0, 20), (1, 40)]}, "s", "BLEU", ["0-5", "5-10"]))
    assert [dot.get("cx") for dot in bins.iter("circle")] == ["176.2", "408.8"]


class Balanced(HTMLParser):
    """Fails for tags that are not closed in order; gathers the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}  # one file, and nothing from elsewhere
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1.log").write_text(TRAIN_LOG)
    (tmp_path / "2.log").write_text(JSON_LOG)
    durations = {"0-5": {"segments": 20, "bleu": 70.0}, "10-20": {"segments": 10, "bleu": 60.0}}
    lst = system(
        "LST | two-stage", 0.1, saw="speech, transcripts", train_seconds=812.5, trained_parameters=3_993_856,
        segments_per_second=20.81, durations=durations, full_signature="corpus:mini|" + BLEU_SIGNATURE, corpus="mini",
        log=f"{tmp_path}/1.log:{tmp_path}/2.log",
    )  # fmt: skip
    base = system("base", 0.5, corpus="mini", log="gone.log", trained_parameters="", ter=55.55)
    files = [write(tmp_path / "lst.json", lst), write(tmp_path / "base.json", base)]
    arguments = [*files, "--baseline", "base", "--samples", "100", "--examples", "2", "--set", "language=de"]
    main(["compare", *arguments, "--out", str(tmp_path / "one")])
    captured = capsys.readouterr()
    assert caplog.messages == ["no training curve of base: gone.log is not there; see --logs"]
    assert captured.err == ""
    printed = captured.out.splitlines()
    assert printed[0].startswith(f"LST | two-stage: BLEU = {lst['bleu']:.2f} (30 segments, signature nrefs:1|case")
    assert printed[0].endswith(", trained 3.99 M parameters in 812.5 s")
    assert printed[2].startswith("LST | two-stage is significantly above base: +")

    results = json.loads((tmp_path / "one" / "results.json").read_text(encoding="utf-8"))
    assert (results["language"], results["corpus"], results["split"], results["segments"]) == ("de", "mini", "tst", 30)
    assert results["systems"][0]["curve"] == read_curve([tmp_path / "1.log", tmp_path / "2.log"])
    assert "curve" not in results["systems"][1] and "log" not in results["systems"][0]
    assert results["machine"]["cpus"] >= 1 and results["machine"]["processor"] and "sacrebleu" in results["versions"]
    assert [len(results["differences"][0][side]) for side in ("above", "below")] == [2, 2]
    head, first, second = cells(results)
    scored, spent = ["BLEU", "p (BLEU)", "chrF2", "p (chrF2)", "TER"], ["trained parameters", "training", "decoding"]
    assert head == ["system", *scored, "trained on", *spent]
    assert first[2] == "0.0099" and first[5:] == ["", "speech, transcripts", "3.99 M", "812 s", "20.8 segments/s"]
    assert second[1] == f"{base['bleu']:.1f} ± {results['systems'][1]['bleu_ci']:.1f}"
    assert second[2] == "" and second[5:] == ["55.5", "", "", "", ""]

    text = (tmp_path / "one" / "results.md").read_text(encoding="utf-8")
    assert text == markdown(results) and text.startswith("# mini, tst\n\n| system | BLEU |")
    assert f"| LST \\| two-stage | {first[1]} | 0.0099 |" in text
    assert "| LST \\| two-stage | 70.0 (20) | 60.0 (10) |\n| base |  |  |" in text
    assert "## LST \\| two-stage furthest above base (chrF2 of the sentence)\n\n- id\\_" in text
    assert "- LST \\| two-stage: `corpus:mini|nrefs:1|" in text

    html = (tmp_path / "one" / "results.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(html)
    assert parser.open == [] and html.count("<svg") == 5 and "<b>" not in html and "http" not in html
    assert {"speech, transcripts", "loss on dev", "10-20 (10)", results["differences"][0]["above"][0]["reference"]} <= {
        *parser.said
    }

    # The same again, byte for byte; and a log that is given in place of the one in the score file.
    main(["compare", *arguments, "--out", str(tmp_path / "two")])
    for name in ("results.json", "results.md", "results.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    main(["compare", *arguments, "--out", str(tmp_path / "two"), "--logs", f"base={tmp_path}/2.log"])
    results = json.loads((tmp_path / "two" / "results.json").read_text(encoding="utf-8"))
    assert results["systems"][1]["curve"]["dev"] == [[10, 5, 0.8]]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"name": 5}, "name is 5, and should be a text"),
        ({"bleu": None}, "bleu is None, and should be a number"),
        ({"segments": 1e400}, "segments is inf, and should be a whole number"),
        ({"sentences": 7}, "sentences is 7, and should be names with values"),
        ({"sentences": {**system("x")["sentences"], "hypotheses": [{}] * 30}}, "sentences.hypotheses.0 is {}"),
        ({"sentences": {**system("x")["sentences"], "hypotheses": ["a"] * 29}}, "sentences.hypotheses has 29 texts"),
        ({"sentences": {key: [] for key in ("ids", "sources", "references", "hypotheses")}, "segments": 0}, "0 texts"),
        ({"durations": {"x": {}}}, "durations.'x': no such name"),
        ({"durations": {"0-5": {"segments": 1}}}, "durations.0-5.bleu is missing"),
        ({"tokenize": "abc"}, "tokenize is 'abc', and sacreBLEU has no such tokeniser"),
        ({"tokenize": {}}, "tokenize is {}, and should be a text"),
    ],
)
def test_score_files_with_entries_of_other_kinds(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    path = write(tmp_path / "bad.json", {**system("bad"), **entries})
    with pytest.raises(ComparisonError) as caught:
        read_scores(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: not a score file of lst score (") and message in text
    assert text.endswith("; score that system again") and "\n" not in text


def test_what_users_add_to_score_files_may_be_anything(tmp_path: Path) -> None:
    odd = {"corpus": 5, "split": None, "trained_parameters": "", "train_seconds": 10**400, "saw": [], "curve": 7}
    paths = [write(tmp_path / f"{name}.json", system(name, **odd)) for name in "ab"]
    main(["compare", *paths, "--out", str(tmp_path / "out"), "--samples", "5"])
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8").startswith("# 5\n")


def test_command_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = write(tmp_path / "good.json", system("good"))
    out = str(tmp_path / "out")
    for arguments, message in (
        ([str(tmp_path / "gone.json")], "gone.json: no such file; translate and score"),
        ([write(tmp_path / "list.json", [1])], "list.json: not a score file"),
        ([good, "--baseline", "bad"], "no system is called 'bad'; there are: good"),
        ([good, "--logs", "good=gone.log"], "gone.log: no such training log"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{message}") as caught:
            main(["compare", *arguments, "--out", out])
        assert "\n" not in caught.value.code and not Path(out).exists()
    for flag, value in (("seed", "0"), ("samples", "0"), ("examples", "-1"), ("logs", "good="), ("set", "novalue")):
        with pytest.raises(SystemExit):
            main(["compare", good, "--out", out, f"--{flag}", value])
        assert f"--{flag}" in capsys.readouterr().err
