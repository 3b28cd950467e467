"""Each benchmark runs at a tiny size, and what it says is true of what it measured."""

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import authors_way, decoding, features, gpu, growth, host_memory, imports, loading, many
from benchmarks.common import PeakMemory, Timing, ratios
from benchmarks.growth import Curve, Point
from benchmarks.model import Training, batch, lst_model
from lst_fairseq.models.llm import cuda_graphs
from tests.support.replay import RecordedGraph
from tests.support.running import first_stage

LLM = "--layers 2 --width 32 --heads 4 --kv-heads 2 --intermediate 48 --vocabulary 97".split()
FRONTEND = "--frontend-layers 1 --frontend-width 32 --frontend-heads 2 --adapter-channels 16".split()
TINY = [*LLM, *FRONTEND, "--threads", "1"]
CORPUS = "--encoder-width 32 --encoder-layers 1 --width 32 --layers 1 --lines 6 --max-tokens 600 --threads 1".split()


def run(module: Any, folder: Path, *arguments: str) -> dict[str, Any]:
    """What the benchmark writes."""
    module.main([*arguments, "--json", str(folder / "sub" / "result.json")])
    return json.loads((folder / "sub" / "result.json").read_text(encoding="utf-8"))


def test_decoding_is_identical_to_generate(tmp_path: Path) -> None:
    sizes = "--batch 3 --prefix 9 --tokens 22 --beam 3 --repeats 1 --threads 1".split()
    result = run(decoding, tmp_path, *LLM, *sizes)
    assert result["identical"] is True and result["score_difference"] < 1e-5
    seconds = result["seconds"]
    assert result["ratio"] == pytest.approx(seconds["transformers"][0] / seconds["plugin"][0])
    assert result["settings"]["beam"] == 3 and result["machine"]["device"] == "CPU"


def test_the_authors_way_gives_the_same(tmp_path: Path) -> None:
    sizes = "--batch 3 --tokens 6 --seconds 1 --beam 3".split()
    result = run(authors_way, tmp_path, *TINY, *sizes)
    assert result["identical"] is True and result["score_difference"] < 1e-5 and result["ratio"] > 0


def test_loading_reads_segments_only(tmp_path: Path) -> None:
    result = run(loading, tmp_path, *CORPUS, "--workers", "0")
    assert result["bytes_read_over_segments"] < 1.2 < 50 < result["whole_files_over_segments"]
    assert result["ratio"] > 0 and result["batches"] > 1


def test_features_cost_what_their_size_says(tmp_path: Path) -> None:
    result = run(features, tmp_path, *CORPUS)
    vectors_an_hour = 3600 * 50
    assert result["disk_bytes_an_hour"] == pytest.approx(vectors_an_hour * 32 * 2, rel=0.03)
    if result["pays_after_epochs"] is not None:
        saved = result["epoch_seconds_an_hour"] - result["cached_epoch_seconds_an_hour"]
        assert result["pays_after_epochs"] == pytest.approx(result["fill_seconds_an_hour"] / saved)


def test_generation_keeps_no_memory(tmp_path: Path) -> None:
    result = run(host_memory, tmp_path, "--sentences", "300", "--max-tokens", "1500", "--threads", "1")
    assert result["sentences"] == 300 and len(result["resident_mib"]) == host_memory.LOOKS
    assert result["growth_mib"] < 30  # of a process of hundreds; --sentences 10000 says more


def test_growth_writes_a_table_and_plots(tmp_path: Path) -> None:
    axes = "--batches 1,2 --seconds 1,2 --beams 1,2 --widths 32,64 --lines 40,80 --tokens 3 --at-batch 1 --at-seconds 1"
    growth.main(["--out", str(tmp_path), *TINY, *axes.split()])
    text = (tmp_path / "growth.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2 + 3 + 4 + 3
    assert "| training | seconds of speech | 1 - 2 |" in text and "| decoding | beam | 1 - 2 |" in text
    curves = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))["growth"]
    assert all(len(curve["points"]) == 2 for curve in curves)
    page = (tmp_path / "growth.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 5 and "log10 lines of the manifest" in page


@pytest.mark.parametrize(("power", "limit", "said"), [(1.0, 1.15, "1.00"), (2.0, 1.15, "2.00, more than 1.15")])
def test_exponent(power: float, limit: float, said: str) -> None:
    """Of the larger half: what small sizes cost is overhead."""
    curve = Curve("work", "size", limit, [Point(x, 5 if x < 4 else 3 * x**power) for x in (1, 2, 4, 8, 16)])
    assert curve.exponent("seconds") == pytest.approx(power) and curve.verdict("seconds") == said
    assert curve.exponent("mib") is None and curve.verdict("mib") == ""


def test_parameters_of_an_llm() -> None:
    args = growth.build_parser().parse_args(["--out", "x", *LLM])
    llm = lst_model(args, torch.device("cpu")).decoder.llm
    norms = sum(p.numel() for p in llm.parameters() if p.dim() == 1)
    assert growth.parameters_of(args) == sum(p.numel() for p in llm.parameters()) - norms


def test_peak_memory_is_that_of_the_block() -> None:
    with PeakMemory(torch.device("cpu")) as memory:
        torch.ones(64 * 2**20 // 4).sum()
    assert 60 * 2**20 < memory.added < 90 * 2**20


def test_ratios_are_of_medians() -> None:
    timings = {"a": Timing([1.0, 2.0, 9.0], [1.0] * 3), "b": Timing([5.0, 6.0, 70.0], [2.0] * 3)}
    assert ratios(timings, "a", "b") == {"ratio": 3.0, "cpu_ratio": 2.0}


@pytest.mark.parametrize("what", ["stage1", "stage2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_utilisation_and_memory_of_a_stage(what: str, dtype: str, tmp_path: Path) -> None:
    sizes = f"--batch 2 --update-freq 2 --seconds 1 --target-tokens 5 --matrix 64 --repeats 1 --dtype {dtype}".split()
    result = run(gpu, tmp_path, what, *TINY, *sizes)
    assert result["ratio"] == pytest.approx(
        result["update_tflop"] / result["update_seconds"] / result["peak_tflops"], rel=1e-6
    )
    assert result["planned_bytes"] > 0 and result["peak_over_planned"] > 0
    assert result["settings"]["checkpointing"] is (what == "stage2")
    args = gpu.parse_args([what, *TINY, *sizes])
    row = gpu.row_flops(Training(lst_model(args, torch.device("cpu"), gpu.STAGES[what])), 1.0, 5)
    assert result["update_tflop"] == pytest.approx(2 * 2 * row / 1e12)
    assert result["title"].endswith("recomputed" if what == "stage2" else "kept")


def test_arithmetic_of_a_row() -> None:
    """A trained linear map costs 2 FLOP a weight and position forwards and 4 backwards, a frozen one 2 and 2."""
    args = gpu.build_parser().parse_args(["stage2", *TINY])
    counts = {}
    for what, train in gpu.STAGES.items():
        model = lst_model(args, torch.device("cpu"), train, checkpointing=True)
        counts[what] = gpu.row_flops(Training(model), 1.0, 5)
    layers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    positions = 49 // 4 + 1 + 2 + 24 + 4  # speech, markers, prompt, target
    gradients = 2 * (layers * positions + 32 * 97 * 5)
    assert counts["stage2"] - counts["stage1"] == pytest.approx(gradients, rel=0.02)


@pytest.mark.parametrize("recorded", [False, True])
def test_decoding_against_the_limits(recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if recorded:
        monkeypatch.setitem(cuda_graphs.GRAPHS, "cpu", RecordedGraph)
    sizes = "--batch 2 --prefix 8 --tokens 5 --matrix 64 --copy-mib 1 --repeats 1".split()
    result = run(gpu, tmp_path, "decoding", *TINY, *sizes)
    assert result["limit_seconds"] > result["prefill_limit_seconds"] > 0
    assert result["ratio"] == pytest.approx(result["limit_seconds"] / result["seconds"][0])
    assert result["recorded"] is recorded and len(result["seconds_step_by_step"]) == 1


def test_bf16_updates_are_not_lost() -> None:
    """Steps of 2e-5 of a weight are below bf16's resolution; the fp32 master weights add them up."""
    args = Namespace(**{**vars(gpu.build_parser().parse_args(["stage1", *TINY])), "dtype": "bfloat16"})
    losses = {}
    for dtype in ("float32", "bfloat16"):
        args.dtype = dtype
        model = lst_model(args, torch.device("cpu"), "adapter,llm")
        training, sample = Training(model, lr=2e-5), batch(model, [1.0, 0.5], [6, 4])
        losses[dtype] = [float(training.step(sample)) for _ in range(40)]
    fell = {dtype: values[0] - values[-1] for dtype, values in losses.items()}
    assert fell["float32"] > 0.05 and math.isclose(fell["bfloat16"], fell["float32"], rel_tol=0.25)


def test_imports_are_measured_in_turns():
    sides = {"nothing": ["-c", "pass"], "some": ["-c", "import json, decimal, argparse"]}
    measured = imports.measure(sides, 2)
    assert list(measured) == list(sides) and measured["nothing"]["ratio"] == 1
    assert all(row["cpu_seconds"] > 0 for row in measured.values())
    with pytest.raises(RuntimeError, match=r"python -c raise SystemExit.3.: ended with status 3"):
        imports.cpu_seconds(["-c", "raise SystemExit(3)"])


@pytest.mark.slow
def test_many_files_and_processes_give_the_same_texts(
    tmp_path: Path, corpus: Path, backbones: dict[str, str]
) -> None:
    checkpoint = ["--checkpoint", str(first_stage(corpus, backbones).path())]
    sizes = "--processes 2 --files 6 --beam 2 --tokens 4".split()
    result = run(many, tmp_path, *checkpoint, *sizes)
    assert result["beside"]["equal"] is True and len(result["beside"]["peaks_mib"]) == 2
    assert result["one_call"]["equal"] is True and result["one_call"]["files"] == 6
