"""The plan's numbers, against models, checkpoints and saved tensors that are really there."""

import argparse
import json
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import tasks
from transformers import AutoConfig, Wav2Vec2Config, Wav2Vec2Model

from lst_fairseq.cli import plan as verb
from lst_fairseq.models.architectures import apply_architecture
from lst_fairseq.models.trained_parts import module_of
from lst_fairseq.planning import activations, plan, what_fits
from lst_fairseq.planning.activations import Activations, Batch
from lst_fairseq.planning.planned_run import PlannedRun
from lst_fairseq.utils.flags import settings_of
from tests.conftest import save_llama
from tests.support.helpers import batch_of, lst
from tests.support.running import run_train, train_configuration

KEYS = {"engine", "precision", "weights", "gradients", "optimizer", "activations", "total"}
LLAMA_LAYER = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32  # conftest's: q, o; k, v (grouped); MLP; two norms


def arguments(backbones: dict[str, str], *extra: str, **settings: Any) -> list[str]:
    flags = {
        "arch": "lst_tiny",
        "adapter_channels": 24,
        "speech_encoder": backbones["wav2vec2"],
        "llm": backbones["llama"],
        **settings,
    }
    named = [item for name, value in flags.items() for item in (f"--{name.replace('_', '-')}", str(value))]
    return [*extra, *named]


def read(*arguments_: str) -> tuple[PlannedRun, Namespace]:
    """The run and the settings of its model, as ``lst plan`` reads them."""
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    args, rest = parser.parse_known_args(arguments_)
    return settings_of(args, PlannedRun), verb.model_settings(rest)


def parsed(*arguments_: str) -> Namespace:
    """Both in one, with what the architecture sets."""
    run, cfg = read(*arguments_)
    apply_architecture(cfg, run.arch)
    return Namespace(**vars(cfg), **vars(run))


def empty_model(args: Namespace) -> Any:
    return plan.build_empty(args, plan._llm_config(args), plan._frontend_settings(args))


def planned(*arguments_: str) -> dict[str, Any]:
    return plan.plan(*read(*arguments_))


def estimate(result: dict[str, Any], engine: str, precision: str) -> dict[str, Any]:
    (found,) = [e for e in result["estimates"] if (e["engine"], e["precision"]) == (engine, precision)]
    return found


def real_model(corpus: Path, backbones: dict[str, str], **settings: Any) -> tuple[Any, Any]:
    """(task, model), built as fairseq-train builds them."""
    cfg = train_configuration(corpus, backbones, corpus, max_source_seconds=2.0, **settings)
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model).train()


def counted(model: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters of each module: all, and the trained ones."""
    parameters, trained = Counter(), Counter()
    for name, parameter in model.named_parameters():
        parameters[module_of(name)] += parameter.numel()
        trained[module_of(name)] += parameter.numel() * parameter.requires_grad
    return parameters, trained


# Sizes of LLaMA-2 as Meta's releases have them.
@pytest.mark.parametrize("arch, llm, width", [("lst_7b", 6_738_415_616, 4096), ("lst_13b", 13_015_864_320, 5120)])
def test_the_papers_models(arch, llm, width):
    """LLaMA-2, wav2vec 2.0 large, and the adapter: convolutions 1024 -> 1024 -> 1024 with GLU, and a linear layer."""
    with torch.device("meta"):
        large = Wav2Vec2Model(
            Wav2Vec2Config(
                hidden_size=1024,
                num_hidden_layers=24,
                num_attention_heads=16,
                intermediate_size=4096,
                conv_bias=True,
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
            )
        )
    parameters, trained = counted(empty_model(parsed("--arch", arch)))
    first, second = 1024 * 1024 * 3 + 1024, 512 * 2048 * 3 + 2048
    adapter = first + second + (1024 + 1) * width + 2 * width
    assert parameters == {"frontend": sum(p.numel() for p in large.parameters()), "adapter": adapter, "llm": llm}
    assert parameters["frontend"] == 315_438_720
    assert +trained == {"adapter": adapter}


@pytest.mark.parametrize(
    "modules, settings",
    [
        ("adapter", {}),
        ("adapter,llm", {"adapter": "qformer"}),
        ("adapter,lora", {"lora_r": 3, "lora_targets": "q_proj,down_proj", "adapter": "stack"}),
        ("frontend,adapter", {"frontend_top_layers": 1, "adapter": "ctc"}),
        ("frontend,lora", {"frontend_layer": 1}),
    ],
)
def test_parameters_of_each_module(modules, settings, corpus, backbones):
    """Those of the model that fairseq-train builds with the same flags."""
    _, model = real_model(corpus, backbones, train_modules=modules, **settings)
    result = planned(*arguments(backbones, train_modules=modules, seconds=1, target_tokens=3, **settings))
    parameters, trained = counted(model)
    assert {name: n for name, n in result["parameters"].items() if n} == +parameters
    assert {name: n for name, n in result["trained_parameters_by_module"].items() if n} == +trained
    assert result["total_parameters"] == sum(p.numel() for p in model.parameters())
    assert result["trained_parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "modules, precision, settings",
    [
        ("adapter", "fp32", {"adapter_channels": 256}),
        ("adapter,llm", "fp32", {}),
        ("adapter,llm", "bf16", {}),
        ("frontend,adapter", "fp32", {"frontend_top_layers": 1, "adapter_channels": 256}),
    ],
)
def test_checkpoints_are_as_large(modules, precision, settings, corpus, backbones, tmp_path):
    """As planned, within 2 % and what of a small file is settings, with and without optimiser state."""
    llm = tmp_path / "llm"
    save_llama(llm, hidden_size=128, intermediate_size=512)  # large enough for that
    settings = {"train_modules": modules, **settings}
    options = {"bf16": True, "fp16_no_flatten_grads": True} if precision == "bf16" else {}
    run = run_train(
        corpus, backbones, tmp_path / "run", llm=llm, max_update=1, no_epoch_checkpoints=True, **options, **settings
    )
    result = planned(*arguments(backbones, llm=llm, seconds=1, **settings))
    key = "checkpoint_bytes" if precision == "fp32" else "checkpoint_bytes_mixed_precision"
    settings_bytes = 40_000
    assert 0 < run.path().stat().st_size - result[key] < 0.02 * result[key] + settings_bytes
    held = sum(v.numel() * 4 for k, v in run.checkpoint()["model"].items() if v.is_floating_point())
    assert held == result["checkpoint_bytes_without_optimizer"]


def measured(model: Any, net_input: dict[str, Any]) -> int:
    """Bytes of the storages that autograd saves in a real forward pass, without parameters."""
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**net_input)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


SIZES = {
    "small": {},
    "wide": {"hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 1},
    "deep": {"hidden_size": 48, "intermediate_size": 200, "num_hidden_layers": 5, "num_key_value_heads": 4},
}


@pytest.mark.skipif(
    [int(part) for part in torch.__version__.split(".")[:2]] < [2, 13],
    reason="earlier releases of torch save up to half as much again",
)
@pytest.mark.parametrize(
    "size, modules, flags",
    [
        ("small", "frontend,adapter", {"speech_encoder": "whisper", "adapter": "qformer"}),
        ("small", "frontend,adapter", {"speech_encoder": "wav2vec2_bert", "adapter": "stack"}),
        ("small", "adapter", {}),
        ("wide", "adapter,llm", {}),
        ("deep", "adapter,llm", {}),
        ("small", "adapter,llm", {"llm_gradient_checkpointing": True}),
        ("deep", "adapter", {"llm_gradient_checkpointing": True}),
        ("wide", "adapter,lora", {"lora_dropout": 0.1}),
        ("small", "adapter,llm", {"attn_implementation": "eager"}),
        ("small", "frontend,adapter", {}),
    ],
)
def test_saved_tensors(size, modules, flags, corpus, backbones, tmp_path):
    """Within 5 % of what the real model saves on the CPU for a batch of one long segment three times.

    Where sentences stand side by side, the third is a shorter one, since there would be no mask otherwise.
    """
    save_llama(tmp_path / "llm", **SIZES[size])
    flags = {"speech_encoder": "wav2vec2", **flags}
    settings = {
        "llm": tmp_path / "llm",
        "train_modules": modules,
        "speech_encoder": backbones[flags.pop("speech_encoder")],
    }
    task, model = real_model(corpus, backbones, **settings, **flags)
    task.load_dataset("train")
    by_length = sorted(range(12), key=lambda i: task.dataset("train").n_frames[i])
    third = by_length[-1 if model.decoder.packs else -2]
    net_input = batch_of(task, "train", [by_length[-1], by_length[-1], third])["net_input"]
    model.encoder.frontend.eval()  # the plan counts no dropout there
    before, after = net_input["prompt_before"], net_input["prompt_after"]
    batch = Batch(
        rows=3,
        seconds=net_input["src_tokens"].size(1) / 16_000,
        prompt_tokens=before.size(1) + after.size(1),
        target_tokens=net_input["prev_output_tokens"].size(1),
    )
    named = {name: value for name, value in flags.items() if value is not True}
    switches = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value is True]
    empty = empty_model(parsed(*arguments(backbones, *switches, **settings, **named)))
    assert activations.activations(empty, batch).saved == pytest.approx(measured(model, net_input), rel=0.05)


def test_parts_of_activations(backbones):
    """With checkpointing, what one layer saves is counted once; the loss takes three fp32 tensors of logits."""
    batch = Batch(rows=2, seconds=2.0, prompt_tokens=5, target_tokens=4)
    flags = arguments(backbones, train_modules="adapter,llm")
    plain = activations.activations(empty_model(parsed(*flags)), batch)
    checkpointed = activations.activations(empty_model(parsed("--llm-gradient-checkpointing", *flags)), batch)
    vocabulary = AutoConfig.from_pretrained(backbones["llama"]).vocab_size
    assert plain.loss == checkpointed.loss == 3 * 4 * 2 * 4 * vocabulary
    assert plain.recomputed == 0
    assert checkpointed.recomputed == (plain.saved - checkpointed.saved) // 2 > plain.loss
    # wav2vec 2.0's norm after its first convolution (16 channels, kernel 10, stride 5) reads and writes the most.
    assert plain.frontend == checkpointed.frontend == 2 * 4 * 2 * 16 * ((32_000 - 10) // 5 + 1)
    assert activations.activations(empty_model(parsed(*flags)).requires_grad_(False), batch).saved == 0


@pytest.mark.parametrize("sizes, peak", [((9, 5, 2, 3), 9), ((1, 5, 2, 3), 8), ((1, 5, 4, 3), 9)])
def test_the_largest_moment(sizes, peak):
    """The frontend's run, or what is saved with the larger of loss and recomputed layer."""
    frontend, saved, loss, recomputed = sizes
    assert Activations(frontend, saved, loss, recomputed).peak == peak


def test_states_without_sharding(backbones):
    """Everything on every GPU: fp32 is 4 + 4 + 8 bytes a trained parameter, half precision 2 + 6 + 12."""
    result = planned(*arguments(backbones, train_modules="adapter,llm", seconds=1))
    total, trained = result["total_parameters"], result["trained_parameters"]
    for precision, weight, gradient, optimizer in (("fp32", 4, 4, 8), ("bf16", 2, 6, 12), ("fp16", 2, 6, 12)):
        found = estimate(result, "legacy_ddp", precision)
        states = found["weights"], found["gradients"], found["optimizer"]
        assert states == (weight * total, gradient * trained, optimizer * trained)
        assert found["total"] == sum(states) + found["activations"]
    two = planned(*arguments(backbones, train_modules="adapter,llm", seconds=1, gpus=2))
    buffer = estimate(two, "legacy_ddp", "bf16")["gradients"] - estimate(result, "legacy_ddp", "bf16")["gradients"]
    assert buffer == 2 * total  # all of so small a model fits into the buffer
    assert estimate(two, "legacy_ddp", "bf16")["optimizer"] == 12 * trained


@pytest.mark.parametrize("shard_frozen", [False, True])
def test_sharding(shard_frozen, backbones):
    """Divided by the GPUs: what is trained, and on request what is not; one layer and the rest are whole in use."""
    flags = ["--shard-frozen"] if shard_frozen else []
    result = planned(*arguments(backbones, *flags, train_modules="adapter,llm", seconds=1, gpus=4))
    parameters, trained = result["parameters"], result["trained_parameters"]
    outside = parameters["adapter"] + parameters["llm"] - 2 * LLAMA_LAYER
    whole, divided, everywhere = outside + 2 * LLAMA_LAYER, 0, parameters["frontend"]
    if shard_frozen:
        args = parsed(*arguments(backbones, train_modules="adapter,llm"))
        frontend = empty_model(args).encoder.frontend
        layers = [sum(p.numel() for p in layer.parameters()) for layer in frontend.layers()]
        whole = outside + parameters["frontend"] - sum(layers) + 2 * max(LLAMA_LAYER, *layers)
        divided, everywhere = parameters["frontend"], 0
    largest = max(outside, LLAMA_LAYER)  # one unit's gradients, and the fp32 copy that is sent; then the whole sums
    for precision, weight in (("fp32", 4), ("bf16", 2)):
        found = estimate(result, "fully_sharded", precision)
        assert found["weights"] == weight * (everywhere + whole) + -(-(4 * trained + weight * divided) // 4)
        assert found["gradients"] == trained + (weight + 4) * largest + 4 * trained
        assert found["optimizer"] == 2 * trained
        assert found["activations"] == estimate(result, "legacy_ddp", precision)["activations"]


def test_the_cheapest_setting_that_fits(backbones, capsys):
    """Smaller GPUs ask for more: each proposal fits, and the one before it did not."""
    flags = arguments(backbones, train_modules="adapter,llm", seconds=1, gpus=4, batch_size=2)
    args = parsed(*flags)
    model = empty_model(args).to(torch.bfloat16)
    batch = Batch(2, 1.0, args.prompt_tokens, args.target_tokens)
    seen, usable = [], 2.0**40
    while found := what_fits.cheapest(model, batch, 4, usable):
        assert found["total"] <= usable
        seen.append(found["flags"])
        usable = found["total"] - 1
    assert seen[0] == "--bf16 --ddp-backend legacy_ddp --batch-size 2 --update-freq 1"
    assert "--cpu-offload" in seen[-1] and len(seen) == len(set(seen)) > 2
    order = [s.flags(-(-2 // s.rows)) for s in what_fits.settings(2, 4, checkpointing=False)]
    assert [order.index(flags) for flags in seen] == sorted(order.index(flags) for flags in seen)
    (whole, *_) = (s.flags(1, brought=True) for s in what_fits.settings(2, 4, checkpointing=False))
    assert whole == "--bf16 --ddp-backend legacy_ddp --no-llm-gradient-checkpointing --batch-size 2 --update-freq 1"
    for memory_gib, said in ((80, "cheapest that fits, 0."), (1e-6, "nothing fits, whatever the setting")):
        assert lst("plan", *flags, "--gpu-memory", memory_gib) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(said)


def test_a_frozen_llm_in_half_precision(backbones):
    """--llm-dtype counts in fp32 training, and --bf16 makes all of the model half."""
    result = planned(*arguments(backbones, seconds=1, llm_dtype="bfloat16"))
    parameters = result["parameters"]
    whole, half = (estimate(result, "legacy_ddp", precision) for precision in ("fp32", "bf16"))
    assert whole["weights"] == 4 * (parameters["frontend"] + parameters["adapter"]) + 2 * parameters["llm"]
    assert half["weights"] == 2 * result["total_parameters"]


def test_json(backbones, capsys):
    """One object on standard output, and nothing else."""
    assert lst("plan", "--json", *arguments(backbones, seconds=1)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trained_parameters"] == result["parameters"]["adapter"] < result["total_parameters"]
    assert result["total_parameters"] == sum(result["parameters"].values())
    assert result["checkpoint_bytes"] == pytest.approx(12 * result["trained_parameters"], abs=8)  # and the scale
    engines = [(e["engine"], e["precision"]) for e in result["estimates"]]
    assert engines == [(e, p) for e in ("legacy_ddp", "fully_sharded") for p in ("fp32", "bf16", "fp16")]
    assert all(e.keys() >= KEYS for e in result["estimates"])


def test_the_table_says_what_fits(backbones, capsys):
    """A run fits if it leaves a tenth of the GPU free."""
    largest = max(e["total"] for e in planned(*arguments(backbones, seconds=1))["estimates"])
    for share, verdicts in ((0.899, {"fits"}), (0.901, {"fits", "does not fit"})):
        assert lst("plan", *arguments(backbones, seconds=1, gpu_memory=f"{largest / share / 2**30:.9f}")) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = [line for line in lines if line.startswith(("legacy_ddp", "fully_sharded"))]
        assert len(rows) == 6 and {row.rsplit("  ", 1)[1] for row in rows} == verdicts


ERRORS = {
    "no backbone": (["--arch", "lst"], "--arch lst says nothing .* give --llm DIR .*lst_7b, lst_13b"),
    "no config": (["--arch", "lst_7b", "--llm", "."], r"--llm \.: no config.json there; give a directory"),
    "LLM type": (["--arch", "lst_7b", "--llm-dtype", "int8"], "--llm-dtype int8: unknown; known: float32, bfloat16"),
    "trained half": (
        ["--arch", "lst_7b", "--llm-dtype", "float16", "--train-modules", "llm"],
        "--llm-dtype float16 is for an LLM that keeps its weights",
    ),
    "modules": (["--arch", "lst_7b", "--train-modules", "decoder"], "'decoder': valid are frontend, adapter"),
    "adapter": (["--arch", "lst_7b", "--adapter", "mean"], "--adapter mean: unknown; known: conv"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(case, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags, message = ERRORS[case]
    with pytest.raises(SystemExit) as stopped:
        lst("plan", *flags)
    error = str(stopped.value)
    assert error.startswith("error: ") and "\n" not in error
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)


def test_wrong_flags(capsys):
    """An unknown architecture is answered with the known ones."""
    for flags, message in (
        (["--arch", "lst_70b"], "'lst_70b' (choose from"),
        (["--arch", "lst_7b", "--seconds", "-1"], "-1 is not a number above 0"),
        (["--arch", "lst_7b", "--gpus", "0"], "0 is not a whole number from 1 on"),
    ):
        with pytest.raises(SystemExit) as stopped:
            lst("plan", *flags)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
    with pytest.raises(SystemExit):
        lst("plan", "--arch", "lst_70b")
    error = capsys.readouterr().err
    assert all(arch in error for arch in ("lst_tiny", "lst_7b", "lst_13b"))
