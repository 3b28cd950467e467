"""fairseq's own speech checkpoints as frontends, against fairseq's own encoders on the same files."""

import json
import os
import zipfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data.dictionary import Dictionary
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.hubert.hubert_asr import HubertCtc, HubertCtcConfig, HubertEncoder
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc, Wav2VecEncoder
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig, HubertPretrainingTask
from omegaconf import OmegaConf
from torch import Tensor, nn

from lst_fairseq.models.frontends import FrontendOptions, build_frontend
from lst_fairseq.models.frontends.fairseq_checkpoint import FairseqFrontend, load_fairseq_frontend
from lst_fairseq.models.frontends.fairseq_settings import parse_convolutions

AUTO = FrontendOptions()
CTC = FrontendOptions(ctc=True)
#: Samples of the shortest input and between two vectors, of the convolutions in SHAPE.
FIELD, STEP = 10 + 7 * 5 + 3 * 40, 320
SHAPE: dict[str, Any] = {
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 8, 8)] + [(16, 4, 8)] * 1",
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 2,
    "final_dim": 8,
    "conv_pos": 9,
    "conv_pos_groups": 4,
    "mask_length": 3,
    "encoder_layerdrop": 0.1,
}
BASE = {"extractor_mode": "default", "layer_norm_first": False}
LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
FILES = ("wav2vec2_args", "wav2vec2_dict", "hubert_config", "hubert_dict")
CTC_FILES = ("wav2vec_ctc_args", "wav2vec_ctc_dict", "hubert_ctc_config")


def training_state(model: nn.Module, **settings: Any) -> dict[str, Any]:
    """A checkpoint as fairseq's trainer writes it, without an optimiser's state, as the public ones."""
    history = {"criterion_name": "W", "optimizer_name": "A", "lr_scheduler_state": {"best": np.float64(1.5)}}
    return {
        **settings,
        "model": model.state_dict(),
        "optimizer_history": [{**history, "num_updates": 7}],
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": np.float32(2.5), "best": np.int64(3)},
        "last_optimizer_state": None,
    }


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Norms and biases too, so that none of them can be left out unnoticed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save_wav2vec2(root: Path) -> None:
    """wav2vec_small.pt's structure (a flat Namespace, without newer fields), and that of newer files, plain dicts."""
    config = Wav2Vec2Config(**SHAPE, **BASE, quantize_targets=True, latent_vars=4)
    old = {k: v for k, v in asdict(config).items() if k not in ("_name", "layer_type", "required_seq_len_multiple")}
    old |= {"latent_temp": "(2,0.5,0.999995)", "dropout": np.float64(0.1)}
    args = Namespace(**old, arch="wav2vec2", task="audio_pretraining", criterion="wav2vec", normalize=False, data="/x")
    model = randomise(Wav2Vec2Model(config), 1)
    torch.save(training_state(model, args=args), root / "wav2vec2_args.pt")

    config = Wav2Vec2Config(**SHAPE, **LARGE, quantize_targets=True, latent_vars=4)
    task = {**asdict(AudioPretrainingConfig(data="/x", normalize=True)), "_name": "audio_pretraining"}
    cfg = {"model": {**asdict(config), "_name": "wav2vec2"}, "task": {**task, "tpu": False, "seed": 1}}
    model = randomise(Wav2Vec2Model(config), 2)
    torch.save(training_state(model, args=None, cfg=cfg), root / "wav2vec2_dict.pt")


def save_hubert(root: Path) -> None:
    """hubert_base_ls960.pt's structure: cfg, and the targets' dictionaries in task_state."""
    (root / "dict.km.txt").write_text("".join(f"{i} 1\n" for i in range(6)), encoding="utf-8")
    for name, size, wrap in (("hubert_config", BASE, OmegaConf.create), ("hubert_dict", LARGE, dict)):
        config = HubertConfig(**SHAPE, **size, label_rate=50)
        task_config = HubertPretrainingConfig(data=str(root), labels=["km"], label_rate=50, normalize=size is LARGE)
        task = HubertPretrainingTask(task_config)
        model = randomise(HubertModel.build_model(config, task), 3)
        model_section = {**asdict(config), "_name": "hubert", "label_rate": "${task.label_rate}"}
        cfg = wrap({"model": model_section, "task": {**asdict(task_config), "_name": "hubert_pretraining"}})
        assert isinstance(task.state_dict()["dictionaries"][0], Dictionary)
        state = training_state(model, args=None, cfg=cfg, task_state=task.state_dict())
        torch.save(state, root / f"{name}.pt")


def finetuning(config: Any, path: Path, **settings: Any) -> Namespace:
    """Settings of fairseq's encoders for fine-tuning that start from a pretrained file."""
    normalize = path.stem.endswith("dict")
    own = {"w2v_path": str(path), "normalize": normalize, "data": str(path.parent), "ddp_backend": "legacy_ddp"}
    return Namespace(**{**asdict(config), "autoregressive": False, **own, "layerdrop": 0.1, **settings})


def fairseq_encoder(path: Path, with_head: bool = False, **settings: Any) -> Any:
    """Wav2VecEncoder or HubertEncoder of a pretrained file, read by fairseq's own code."""
    torch.manual_seed(4)
    if path.stem.startswith("wav2vec2"):
        return Wav2VecEncoder(finetuning(Wav2Vec2CtcConfig(), path, **settings), 12 if with_head else None)
    cfg = finetuning(HubertCtcConfig(), path, **settings)
    task = Namespace(target_dictionary=range(12) if with_head else None)
    return HubertEncoder(cfg, task)


def save_ctc(root: Path) -> dict[str, Any]:
    """Fine-tuned files with their encoder's settings nested in w2v_args; the encoders that they were saved from."""
    encoders = {}
    for name, source in zip(CTC_FILES, ("wav2vec2_args", "wav2vec2_dict", "hubert_config")):
        encoder = randomise(fairseq_encoder(root / f"{source}.pt", with_head=True, apply_mask=True), 5)
        encoders[name] = encoder.eval()
        stored = torch.load(root / f"{source}.pt", weights_only=True)
        w2v_args = stored.get("cfg") or stored["args"]
        if name.startswith("wav2vec_ctc"):
            cfg = finetuning(Wav2Vec2CtcConfig(), root / f"{source}.pt", apply_mask=True, w2v_args=w2v_args)
            model: nn.Module = Wav2VecCtc(cfg, encoder)
        else:
            cfg = finetuning(HubertCtcConfig(), root / f"{source}.pt", apply_mask=True, w2v_args=w2v_args)
            model = HubertCtc(cfg, encoder)
        if name.endswith("args"):
            settings = {"args": Namespace(**vars(cfg), arch="wav2vec_ctc", task="audio_pretraining")}
        else:
            section = {**vars(cfg), "_name": "_".join(name.split("_")[:2]), "normalize": "${task.normalize}"}
            task_section = {"_name": "audio_finetuning", "normalize": cfg.normalize}
            wrap = OmegaConf.create if name.endswith("config") else dict
            settings = {"args": None, "cfg": wrap({"model": section, "task": task_section})}
        torch.save(training_state(model, **settings), root / f"{name}.pt")
    return encoders


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny pretrained files, in the structures of the published ones."""
    root = tmp_path_factory.mktemp("published")
    save_wav2vec2(root)
    save_hubert(root)
    return root


@pytest.fixture(scope="module")
def finetuned(published: Path) -> dict[str, Any]:
    """The same folder gets fine-tuned files; fairseq's encoder of each."""
    return save_ctc(published)


def waveform(n_samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(n_samples)
    return 0.1 * torch.randn(n_samples, generator=generator) + 0.02


def in_batch(waveforms: list[Tensor]) -> tuple[Tensor, Tensor]:
    return nn.utils.rnn.pad_sequence(waveforms, batch_first=True), torch.tensor([len(w) for w in waveforms])


def fairseq_input(waveforms: list[Tensor], normalize: bool) -> dict[str, Tensor]:
    """As fairseq's FileAudioDataset feeds its models: each waveform normalised, then padded."""
    if normalize:
        waveforms = [nn.functional.layer_norm(w, w.shape) for w in waveforms]
    source, lengths = in_batch(waveforms)
    return {"source": source, "padding_mask": torch.arange(source.size(1)) >= lengths.unsqueeze(1)}


@torch.no_grad()
def by_fairseq(encoder: Any, waveforms: list[Tensor], normalize: bool) -> Tensor:
    """[B, N, D or V]"""
    return encoder.eval()(**fairseq_input(waveforms, normalize))["encoder_out"].transpose(0, 1)


def frontend_of(published: Path, name: str, options: FrontendOptions = AUTO) -> FairseqFrontend:
    return load_fairseq_frontend(published / f"{name}.pt", options).eval()


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_equals_fairseq(name: str, published: Path) -> None:
    encoder = fairseq_encoder(published / f"{name}.pt")
    frontend = frontend_of(published, name)
    assert frontend.kind == f"fairseq-{name.split('_')[0]}" and frontend.output_dim == 32
    assert frontend.normalise == name.endswith("dict")
    alone = [[waveform(n)] for n in (FIELD, FIELD + STEP, 5_000, 16_123)]
    for waveforms in [*alone, [waveform(8_000), 0.3 * waveform(8_000)]]:
        features, lengths = frontend(*in_batch(waveforms))
        expected = by_fairseq(encoder, waveforms, frontend.normalise)
        assert lengths.tolist() == [expected.size(1)] * len(waveforms)
        torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_padded_equals_fairseq_in_padded_batches(name: str, published: Path) -> None:
    encoder = fairseq_encoder(published / f"{name}.pt")
    frontend = frontend_of(published, name, FrontendOptions(batching="padded"))
    waveforms = [waveform(n) for n in (9_000, 16_123, 3_000, FIELD)]
    features, lengths = frontend(*in_batch(waveforms))
    expected = by_fairseq(encoder, waveforms, frontend.normalise)
    for row, other, length in zip(features, expected, lengths):
        torch.testing.assert_close(row[:length], other[:length], atol=1e-6, rtol=0)


@pytest.mark.parametrize("batching", ["auto", "equal"])
@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_a_row_alone_equals_the_row_in_a_batch(name: str, batching: str, published: Path) -> None:
    """Rows shorter than the receptive field too; fairseq's own pass differs for all but one of the files."""
    frontend = frontend_of(published, name, FrontendOptions(batching=batching))
    waveforms = [waveform(n) for n in (9_000, 16_123, 1, FIELD - 1, 3_000, FIELD, 9_000, FIELD + STEP - 1)]
    features, lengths = frontend(*in_batch(waveforms))
    as_fairseq, _ = frontend_of(published, name, FrontendOptions(batching="padded"))(*in_batch(waveforms))
    worst = 0.0
    for row, other, length, samples in zip(features, as_fairseq, lengths.tolist(), waveforms):
        expected, alone_length = frontend(samples.unsqueeze(0), torch.tensor([len(samples)]))
        assert alone_length.tolist() == [length] == [max(1, (len(samples) - FIELD) // STEP + 1)]
        torch.testing.assert_close(row[:length], expected[0], atol=1e-5, rtol=0)
        worst = max(worst, float((other[:length] - expected[0]).abs().max()))
    assert (worst < 1e-5) == (name == "wav2vec2_dict")


@pytest.mark.parametrize(
    "setting", [{"layer_type": "conformer"}, {"pos_conv_depth": 2}, {"crop_seq_to_multiple": 3}, {}], ids=str
)
@torch.no_grad()
def test_encoders_that_see_their_padding_are_encoded_by_length(setting: dict[str, Any], published: Path) -> None:
    settings = frontend_of(published, "wav2vec2_dict").settings()
    config = {**settings["config"], "depthwise_conv_kernel_size": 5, **setting}
    torch.manual_seed(6)
    frontend = FairseqFrontend.empty({**settings, "config": config}, AUTO).eval()
    assert frontend.by_length == bool(setting)
    randomise(frontend, 7)
    waveforms = [waveform(n) for n in (6_000, 300, 4_000)]
    features, lengths = frontend(*in_batch(waveforms))
    for row, length, samples in zip(features, lengths.tolist(), waveforms):
        model_input = nn.functional.layer_norm(samples, samples.shape)
        shortest = FIELD + (setting.get("crop_seq_to_multiple", 1) - 1) * STEP
        model_input = nn.functional.pad(model_input, (0, max(0, shortest - len(samples))))
        expected = frontend.model.extract_features(model_input.unsqueeze(0), None)["x"][0]
        assert length == len(expected) == frontend.output_lengths(torch.tensor([len(samples)])).item()
        torch.testing.assert_close(row[:length], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CTC_FILES)
@torch.no_grad()
def test_fine_tuned_with_ctc(name: str, published: Path, finetuned: dict[str, Any]) -> None:
    """The encoder's features without the head, and fairseq's own logits with it."""
    frontend = frontend_of(published, name, CTC)
    waveforms = [waveform(8_000), 0.3 * waveform(8_000)]
    features, _ = frontend(*in_batch(waveforms))
    logits = by_fairseq(finetuned[name], waveforms, name.endswith("dict"))
    torch.testing.assert_close(frontend.ctc_head(features), logits, atol=1e-5, rtol=0)
    labels = frontend.ctc_labels(features)
    assert torch.equal(labels, logits.argmax(dim=-1)) and labels.unique().numel() > 1 and frontend.blank == 0
    without = frontend_of(published, name)
    assert without.ctc_head is None and torch.equal(without(*in_batch(waveforms))[0], features)


@pytest.mark.parametrize("name", ["wav2vec2_args", "wav2vec2_dict", "hubert_dict"])
@torch.no_grad()
def test_inner_layers(name: str, published: Path) -> None:
    """Of fairseq's own models, which count from 0 (wav2vec 2.0) and from 1 (HuBERT)."""
    model = fairseq_encoder(published / f"{name}.pt").eval().w2v_model
    waveforms = [waveform(8_000)]
    for layer in (1, 2):
        frontend = frontend_of(published, name, FrontendOptions(layer=layer))
        assert len(frontend.layers()) == layer
        inputs = fairseq_input(waveforms, frontend.normalise)
        if name.startswith("wav2vec2"):
            expected = model.extract_features(**inputs, layer=layer - 1)["x"]
        else:
            expected = model.extract_features(**inputs, output_layer=layer)[0]
        torch.testing.assert_close(frontend(*in_batch(waveforms))[0], expected, atol=1e-6, rtol=0)
    topmost = frontend_of(published, name, FrontendOptions(layer=3))(*in_batch(waveforms))[0]
    assert torch.equal(topmost, frontend_of(published, name)(*in_batch(waveforms))[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [("wav2vec2_args", AUTO), ("hubert_dict", FrontendOptions(layer=2)), ("wav2vec_ctc_dict", CTC)],
    ids=lambda value: str(value)[:14],
)
@torch.no_grad()
def test_rebuilt_from_its_settings(
    name: str, options: FrontendOptions, published: Path, finetuned: dict[str, Any]
) -> None:
    """Through JSON and by build_frontend, as for a checkpoint whose .pt file is gone."""
    frontend = frontend_of(published, name, options)
    settings = json.loads(json.dumps(frontend.settings()))
    rebuilt = build_frontend(str(published / "gone.pt"), options, settings).eval()
    assert rebuilt.settings() == settings
    rebuilt.load_state_dict(frontend.state_dict())
    batch = in_batch([waveform(8_000), waveform(5_000)])
    assert torch.equal(rebuilt(*batch)[0], frontend(*batch)[0])


@pytest.mark.parametrize("name", ["wav2vec2_dict", "hubert_config"])
def test_in_training_it_drops_and_masks_as_torch_is_seeded(name: str, published: Path) -> None:
    frontend = frontend_of(published, name).train()
    for module in frontend.modules():  # LayerDrop and masking only
        if isinstance(module, nn.Dropout) or hasattr(module, "dropout_module"):
            module.eval()
    frontend.model.encoder.dropout = 0.0
    batch = in_batch([waveform(16_000), waveform(9_000), waveform(FIELD)])

    def features(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return frontend(*batch)[0]

    state = np.random.get_state()[1].copy()
    first, again, other = features(1), features(1), features(2)
    assert np.array_equal(np.random.get_state()[1], state)
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)
    first.sum().backward()
    assert frontend.model.mask_emb.grad.abs().sum() > 0
    frontend.model.encoder.layerdrop = 0.0
    with torch.no_grad():
        unmasked = features(1)
        in_eval = frontend.eval()(*batch)[0]
    assert torch.equal(unmasked, in_eval)


def test_layer_drop_follows_torch_too(published: Path) -> None:
    """fairseq draws it from numpy's global state, which nothing seeds."""
    frontend = frontend_of(published, "wav2vec2_dict").train()
    frontend.model.mask_prob, frontend.model.encoder.layerdrop = 0.0, 0.5
    ran: list[int] = []
    for i, layer in enumerate(frontend.layers()):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))

    def layers_run(seed: int) -> tuple[int, ...]:
        ran.clear()
        torch.manual_seed(seed)
        frontend(*in_batch([waveform(4_000)]))
        return tuple(ran)

    drawn = [layers_run(seed) for seed in range(8)]
    assert drawn == [layers_run(seed) for seed in range(8)] and len(set(drawn)) > 2


def test_masking_follows_the_fine_tuned_settings(published: Path, finetuned: dict[str, Any]) -> None:
    """apply_mask false: fine-tuning masked nothing, and neither does the frontend."""
    path = published / "wav2vec_ctc_dict.pt"
    assert frontend_of(published, path.stem).config["apply_mask"] is True
    state = torch.load(path, weights_only=True)
    state["cfg"]["model"]["apply_mask"] = False
    torch.save(state, published / "unmasked.pt")
    assert frontend_of(published, "unmasked").config["apply_mask"] is False


@pytest.mark.parametrize("before", [True, False])
def test_channel_masks(before: bool, published: Path) -> None:
    """Spans of channels become 0 in a whole row; mask_channel_before keeps them from the mask's embedding."""
    model = frontend_of(published, "wav2vec2_dict").model
    model.mask_channel_prob, model.mask_channel_length, model.mask_channel_before = 0.5, 4, before
    torch.manual_seed(8)
    ones = torch.ones(3, 50, 32)
    padding = torch.arange(50) >= torch.tensor([50, 30, 3]).unsqueeze(1)
    masked, _ = model.apply_mask(ones, padding)
    embedding = model.mask_emb
    replaced = ((masked == embedding) | (masked == 0)).all(dim=-1) & (masked == embedding).any(dim=-1)
    assert not replaced[padding].any() and replaced[0].sum() > 6 and replaced[1].sum() > 6
    channels = (masked == 0).any(dim=1)
    assert channels.any(dim=1).all() and not channels.all(dim=1).any()
    kept = masked[~replaced]
    assert torch.equal(kept.unique(), torch.tensor([0.0, 1.0]))
    assert bool((masked[replaced] != 0).all()) == before
    torch.testing.assert_close(ones, torch.ones_like(ones))


def with_model(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda state: change(state["model"])


def other_spelling(model: dict[str, Tensor]) -> None:
    for own, other in (("weight_g", "original0"), ("weight_v", "original1")):
        name = f"encoder.pos_conv.0.{own}"
        model[f"encoder.pos_conv.0.parametrizations.weight.{other}"] = model.pop(name)


def joint_projection(model: dict[str, Tensor]) -> None:
    """Attention of fairseq before 0.9: one matrix for queries, keys and values."""
    for kind in ("weight", "bias"):
        pieces = [model.pop(f"encoder.layers.0.self_attn.{name}_proj.{kind}") for name in "qkv"]
        model[f"encoder.layers.0.self_attn.in_proj_{kind}"] = torch.cat(pieces)


@pytest.mark.parametrize("change", [other_spelling, joint_projection])
@torch.no_grad()
def test_other_spellings_of_parameters(change: Callable[[Any], None], published: Path, tmp_path: Path) -> None:
    state = torch.load(published / "wav2vec2_dict.pt", weights_only=True)
    change(state["model"])
    torch.save(state, tmp_path / "other.pt")
    batch = in_batch([waveform(8_000)])
    assert torch.equal(frontend_of(tmp_path, "other")(*batch)[0], frontend_of(published, "wav2vec2_dict")(*batch)[0])


def test_numbers_pickled_before_numpy_2(published: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(published / "wav2vec2_args.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\n" in content
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            new.writestr(entry, content)
    assert frontend_of(tmp_path, "x").config["dropout"] == 0.1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (with_model(lambda m: m.pop("encoder.layers.1.fc1.weight")), ["missing: encoder.layers.1.fc1.weight)"]),
        (with_model(lambda m: m.pop("mask_emb")), ["missing: mask_emb)"]),
        (with_model(lambda m: m.update(extra=torch.zeros(1))), ["unexpected: extra)"]),
        (
            with_model(lambda m: m.update({"encoder.layers.0.fc1.bias": torch.zeros(5)})),
            ["of another shape: encoder.layers.0.fc1.bias)"],
        ),
        (
            lambda s: s["cfg"]["model"].update(_name="s2t_transformer"),
            ["'s2t_transformer'", "known: wav2vec2, hubert, wav2vec_ctc, hubert_ctc"],
        ),
        (lambda s: s["cfg"]["model"].update(_name="lst"), ["'lst'", "hubert_ctc"]),
        (lambda s: s["cfg"]["model"].update(_name="wav2vec_ctc"), ["lack w2v_args"]),
        (
            lambda s: s["cfg"]["model"].update(_name="wav2vec_ctc", w2v_args={"model": {"_name": "data2vec_audio"}}),
            ["'data2vec_audio'", "hubert_ctc"],
        ),
        (lambda s: s["cfg"]["model"].update(layer_type="trf_adp"), ["trf_adp"]),
        (lambda s: s["cfg"]["model"].update(encoder_layers="three"), ["its settings make no model"]),
        (lambda s: s["cfg"]["model"].update(conv_feature_layers="exit(3)"), ["conv_feature_layers 'exit(3)'"]),
        (lambda s: s.pop("cfg"), ["no fairseq checkpoint", "hubert_ctc"]),
        (lambda s: s.pop("model"), ["no fairseq checkpoint", "hubert_ctc"]),
    ],
)
def test_a_file_that_does_not_serve(
    change: Callable[[dict[str, Any]], Any], named: list[str], published: Path, tmp_path: Path
) -> None:
    state = torch.load(published / "wav2vec2_dict.pt", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "changed.pt")
    with pytest.raises(ValueError) as error:
        build_frontend(str(tmp_path / "changed.pt"))
    for text in (f"--speech-encoder {tmp_path / 'changed.pt'}: ", *named):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [(CTC, "no CTC head there"), (FrontendOptions(layer=4), "the speech encoder has layers 1 to 3")],
)
def test_options_that_do_not_fit(options: FrontendOptions, named: str, published: Path) -> None:
    with pytest.raises(ValueError, match=named) as error:
        load_fairseq_frontend(published / "wav2vec2_args.pt", options)
    assert str(published / "wav2vec2_args.pt") in str(error.value)


class Code:
    """A pickle that would leave a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused(zipped: bool, published: Path, tmp_path: Path) -> None:
    state = torch.load(published / "wav2vec2_dict.pt", weights_only=True)
    state["cfg"]["common"] = Code(tmp_path / "left behind")
    torch.save(state, tmp_path / "code.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"code\.pt: refused, .*\.mkdir\); use the file as its authors"):
        load_fairseq_frontend(tmp_path / "code.pt", AUTO)
    assert not (tmp_path / "left behind").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.999])
def test_a_truncated_file(part: float, zipped: bool, published: Path, tmp_path: Path) -> None:
    """Also in PyTorch's format before 1.6, in which the oldest public files are."""
    state = torch.load(published / "wav2vec2_args.pt", weights_only=True)
    torch.save(state, tmp_path / "short.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "short.pt").read_bytes()
    assert load_fairseq_frontend(tmp_path / "short.pt", AUTO).kind == "fairseq-wav2vec2"
    (tmp_path / "short.pt").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match=r"short\.pt: (refused|not a complete checkpoint)"):
        load_fairseq_frontend(tmp_path / "short.pt", AUTO)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"pointer\.pt: refused, since it is no checkpoint"):
        load_fairseq_frontend(tmp_path / "pointer.pt", AUTO)
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt: no fairseq checkpoint"):
        load_fairseq_frontend(tmp_path / "weights.pt", AUTO)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]", 7),
        ("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", 7),
        ("[(8, 3, 2), (8, 3, 2)]", 2),
    ],
)
def test_convolutions(text: str, layers: int) -> None:
    parsed = parse_convolutions(text)
    assert len(parsed) == layers and parsed == eval(text)


@pytest.mark.parametrize(
    "text", ["", "[]", "[(1, 2)]", "[(1, 2, 0)]", "[(8, 3, 2)] * 10**9", "[(8, 3, 2.5)]", "[a for a in b]", "[(", "f()"]
)
def test_other_texts_are_no_convolutions(text: str) -> None:
    with pytest.raises(ValueError, match="conv_feature_layers"):
        parse_convolutions(text)


@pytest.mark.parametrize("rate", [8000, 48_000])
def test_a_checkpoint_for_another_rate_is_refused(tmp_path, rate):
    save_wav2vec2(tmp_path)
    state = torch.load(tmp_path / "wav2vec2_dict.pt", weights_only=True)
    for stated, message in ((16_000, None), ("${x}", None), (rate, f"its task's sample_rate is {rate}")):
        state["cfg"]["task"]["sample_rate"] = stated
        torch.save(state, tmp_path / "other.pt")
        if message is None:
            build_frontend(str(tmp_path / "other.pt"))
            continue
        with pytest.raises(ValueError, match=rf"--speech-encoder .*other\.pt: {message}"):
            build_frontend(str(tmp_path / "other.pt"))
