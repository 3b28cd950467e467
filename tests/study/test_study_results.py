"""Means, spreads, tests and claims of studies, against plain computation."""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sacrebleu.metrics import BLEU

from lst_fairseq.evaluation.comparison import compare, read_scores
from lst_fairseq.study.report import claim_sentence, number, search_part, signature_part
from lst_fairseq.study.results import gpu_use, judge, summaries
from tests.evaluation.test_comparison import system
from tests.support.studies import STUDY, Studies


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studies:
    return Studies(tmp_path, monkeypatch)


def lines_of(folder: Path, wrong: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Cells whose systems get some part of the words wrong, by arm and seed."""
    lines = []
    for label, parts in wrong.items():
        for seed, part in enumerate(parts, start=1):
            name = f"{label}{seed}"
            found = system(name, part)
            (folder / f"{name}.json").write_text(json.dumps(found))
            score = {key: found[key] for key in ("bleu", "chrf", "segments")}
            scores = dict.fromkeys(STUDY["splits"], score)
            files = dict.fromkeys(scores, f"{name}.json")
            shared = {"factors": {"strategy": label}, "chosen": {}, "train_seconds": 10 * seed, "trained_parameters": 5}
            costs = {"cpu_seconds": {"training": 3.0}, "peak_memory_gib": 0.5, "files": files, "logs": []}
            lines.append({"arm": label, "seed": seed, "scores": scores, **shared, **costs})
    return lines


def test_means_spreads_and_tests_are_those_of_plain_computation(studies):
    plan = studies.plan()
    plan.out.mkdir()
    lines = lines_of(plan.out, {"reference": [0.2, 0.2], "one-stage": [0.5, 0.3]})
    arms = summaries(plan, lines, samples=200)
    for label in ("reference", "one-stage"):
        exact = []
        for seed in (1, 2):
            sentences = system(f"{label}{seed}", {"reference": [0.2, 0.2], "one-stage": [0.5, 0.3]}[label][seed - 1])
            exact.append(
                BLEU().corpus_score(sentences["sentences"]["hypotheses"], [sentences["sentences"]["references"]]).score
            )
        score = arms[label]["scores"]["tst-COMMON"]
        assert score["mean"] == pytest.approx(sum(exact) / 2, abs=1e-9)
        assert score["spread"] == pytest.approx(statistics.stdev(exact), abs=1e-9)
        assert arms[label]["train_seconds"] == 15
    for seed in (1, 2):
        pair = [read_scores(plan.out / f"{label}{seed}.json") for label in ("reference", "one-stage")]
        expected = compare(pair, f"reference{seed}", samples=200)["systems"][1]["bleu_p"]
        assert arms["one-stage"]["p"]["tst-COMMON"][seed] == expected
    assert arms["reference"]["p"]["tst-COMMON"] == {}
    assert arms["one-stage"]["p"]["tst-COMMON"][1] < 0.05 < arms["one-stage"]["p"]["tst-COMMON"][2]


VERDICTS = [
    ({"reference": [0.1, 0.1], "one-stage": [0.5, 0.5]}, "holds", "holds (reference against one-stage: +"),
    ({"reference": [0.5, 0.5], "one-stage": [0.1, 0.1]}, "contradicted", "does not hold, the reverse does"),
    ({"reference": [0.1, 0.5], "one-stage": [0.5, 0.1]}, "open", "is neither shown nor contradicted"),
    ({"reference": [0.6, 0.2], "one-stage": [0.2, 0.3]}, "open", "is neither shown nor contradicted"),
    ({"reference": [0.2, 0.2]}, "no result", "Two beat one: has no result yet."),
]


@pytest.mark.parametrize(
    ("wrong", "verdict", "sentence"), VERDICTS, ids=[case[1] + str(i) for i, case in enumerate(VERDICTS)]
)
def test_claims_are_judged_by_every_seed(wrong, verdict, sentence, studies):
    plan = studies.plan()
    plan.out.mkdir()
    lines = lines_of(plan.out, wrong)
    judged = judge(plan, plan.study.claims[0], lines, samples=200)
    assert judged["verdict"] == verdict and sentence in claim_sentence(judged)
    if verdict != "no result":
        by_name = {(line["arm"], line["seed"]): line["scores"]["tst-COMMON"]["bleu"] for line in lines}
        expected = {s: by_name["reference", s] - by_name["one-stage", s] for s in (1, 2)}
        assert judged["differences"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "logged",
    [
        "epoch 001: 1 / 2 loss=1, num_updates=1, gb_free={}, wall=1",
        '{{"epoch": 1, "loss": "1", "num_updates": "1", "gb_free": "{}", "wall": "1"}}',
    ],
    ids=["text", "json"],
)
def test_gpu_use_is_read_from_the_logs(logged, tmp_path):
    log = tmp_path / "train.log"
    started = "2026-01-01 00:00:00 | INFO | train_inner | "
    log.write_text(
        "CUDA enviroments for all 2 workers\nrank   0: capabilities =  9.0  ; total memory = 139.720 GB ; name = H200\n"
        + "".join(started + logged.format(free) + "\n" for free in ("100.5", "90.7"))
    )
    assert gpu_use([str(log)], 30) == {"gpus": 2, "gpu_seconds": 60, "peak_gpu_memory_gib": 49.02}
    log.write_text(f"{started}epoch 001: 1 / 2 loss=1\n")
    assert gpu_use([str(log)], 30) == {}


def test_numbers_among_names():
    assert [number(name) for name in ("25%", "0.5", "300", "1e-3", "lora", "5x")] == [0.25, 0.5, 300, 0.001, None, None]


def test_the_edge_of_a_search_is_by_size():
    def edge(chosen: str, *values: str) -> str:
        tried = {value: None if value == "3" else 1.25 for value in values}
        _, (_, (_, row)) = search_part([{"arm": "a", "setting": "LR", "tried": tried, "chosen": chosen}])
        assert row[:2] == ["a", "LR"] and row[3] == chosen and f"{values[0]}: 1.2" in row[2]
        return row[4]

    assert edge("2e-3", "2e-3", "1e-3", "4e-3") == "" == edge("1e-3", "1e-3", "4e-3")
    assert edge("4e-3", "2e-3", "4e-3", "1e-3") == "at the edge of what was tried" == edge("1", "2", "1", "3")
    assert search_part([]) == []


def test_a_signature_is_written_once_for_the_seeds_that_share_it():
    study = SimpleNamespace(splits=("dev", "tst"))
    signatures = {("a", 1): "x", ("a", 2): "x", ("a", 3): "y", ("b", 1): "x"}
    cells = [
        {"arm": arm, "seed": seed, "scores": {"dev": {}, "tst": {"full_signature": signature}}}
        for (arm, seed), signature in signatures.items()
    ]
    ((_, title), (_, lines)) = signature_part(study, cells)
    assert title == "Signatures" and lines.split("\n") == ["a, seeds 1, 2: x", "a, seed 3: y", "b, seed 1: x"]
    assert signature_part(study, []) == []
