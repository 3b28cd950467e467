"""benchmarks/gpu.sh asks each benchmark for what it says, in words that the benchmark takes."""

import os
import shlex
import subprocess
from pathlib import Path

from benchmarks import decoding, gpu, training
from tests.support.helpers import REPOSITORY

STUB = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in *" stage2 "*) exit 1 ;; esac
"""


def run_script(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """The script with an interpreter that only writes down what it is asked for, and fails at stage 2."""
    stub, log = folder / "python", folder / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)
    names = {"PYTHON": str(stub), "LOG": str(log), "OUT": str(folder / "out"), **environment}
    script = str(REPOSITORY / "benchmarks" / "gpu.sh")
    result = subprocess.run(["bash", script], env={**os.environ, **names}, capture_output=True, text=True)
    return result, [shlex.split(line) for line in log.read_text().splitlines()]


def test_parts_at_the_size_of_lst_7b(tmp_path: Path) -> None:
    result, commands = run_script(tmp_path)
    assert result.returncode == 1 and result.stderr.strip() == "failed: stage2"  # and the parts after it have run
    assert [Path(command[0]).name for command in commands] == ["gpu.py"] * 3 + ["decoding.py", "training.py"]
    parsed = [gpu.parse_args(command[1:]) for command in commands[:3]]
    assert [args.what for args in parsed] == ["stage1", "stage2", "decoding"]
    assert [args.batch for args in parsed] == [16, 4, 16]
    for benchmark, command in zip((decoding, training), commands[3:], strict=True):
        parsed.append(benchmark.build_parser().parse_args(command[1:]))
    for name, args in zip(("stage1", "stage2", "limits", "decoding", "training"), parsed, strict=True):
        assert (args.layers, args.width, args.intermediate, args.vocabulary) == (32, 4096, 11_008, 32_000)
        assert (args.device, args.dtype, args.json) == ("cuda", "bfloat16", tmp_path / "out" / f"gpu-{name}.json")
    assert parsed[0].frontend_layers == 24
    assert [(args.checkpointing, args.update_freq) for args in parsed[:2]] == [(False, 8), (True, 32)]
    assert (parsed[4].arch, parsed[4].train_modules, parsed[4].utterances) == ("lst_7b", "adapter", 256)


def test_another_size_on_a_cpu(tmp_path: Path) -> None:
    sizes = {"LLM_SIZES": "--layers 1 --width 32", "SIZES": "--frontend-layers 1 --seconds 1"}
    _, commands = run_script(tmp_path, DEVICE="cpu", DTYPE="float32", STAGE2_BATCH="2", **sizes)
    first, second = (gpu.build_parser().parse_args(command[1:]) for command in commands[:2])
    assert (first.device, first.dtype, first.layers, first.frontend_layers, first.seconds) == (
        "cpu",
        "float32",
        1,
        1,
        1,
    )
    assert second.batch == 2
    assert decoding.build_parser().parse_args(commands[3][1:]).width == 32
