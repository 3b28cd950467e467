"""Train a mini Whisper encoder with CTC over characters, saved as `save_pretrained` does.

    python examples/mini/train_whisper.py --corpus data/mini/en-de --out data/study-backbones/whisper --updates 1500

Whisper's encoder reads log-mels that are scaled but not normalised, has sinusoidal positions and no convolution in its
layers; it is trained here with CTC, which needs no decoder, on the true length of each utterance. OUT holds a Whisper
model without decoder layers (fp16), its feature extractor and results.json with the error rates of its CTC head, which
is not kept. Give `--frontend-window trim` to fairseq-train with it. Otherwise as train_frontend.py.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from train_frontend import VOCABULARY, run, training_arguments
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a checkout that is not installed
from lst_fairseq.models.frontends.base import FrontendOptions
from lst_fairseq.models.frontends.whisper import WhisperFrontend

#: Longer speech goes through consecutive windows of that many seconds.
WINDOW_SECONDS = 10


class WhisperCtc(nn.Module):
    """Whisper's encoder as LST uses it, and a CTC head over characters."""

    def __init__(self, config: WhisperConfig, preprocessor: dict):
        super().__init__()
        settings = {"config": json.loads(config.to_json_string(use_diff=False)), "preprocessor": preprocessor}
        self.frontend = WhisperFrontend.empty(settings, FrontendOptions(window="trim"))
        self.head = nn.Linear(config.d_model, len(VOCABULARY))


def new_model(args: argparse.Namespace) -> WhisperCtc:
    config = WhisperConfig(
        vocab_size=4,
        num_mel_bins=80,
        d_model=args.hidden,
        encoder_layers=args.layers,
        encoder_attention_heads=args.heads,
        encoder_ffn_dim=args.ffn,
        decoder_layers=0,
        decoder_attention_heads=args.heads,
        decoder_ffn_dim=args.ffn,
        max_source_positions=50 * WINDOW_SECONDS,
        max_target_positions=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = WhisperCtc(config, WhisperFeatureExtractor(chunk_length=WINDOW_SECONDS).to_dict())
    if args.init:
        trained = WhisperModel.from_pretrained(args.init, trust_remote_code=False)
        model.frontend.model.load_state_dict(trained.encoder.float().state_dict())
    return model


def recognise(
    model: WhisperCtc, waveforms: Tensor, lengths: Tensor, rng: random.Random | None, bf16: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, frames, characters] float32 and frames [B]; there is no mask to draw."""
    with torch.autocast(waveforms.device.type, dtype=torch.bfloat16, enabled=bf16):
        features, frames = model.frontend(waveforms, lengths.to(waveforms.device))
        logits = model.head(features)
    return logits.float().log_softmax(-1), frames


def save(model: WhisperCtc, out: Path, results: dict) -> None:
    """Weights in fp16 (half the size), to be computed with in fp32; results.json last, it says done."""
    whole = WhisperModel(model.frontend.config)
    whole.encoder.load_state_dict(model.frontend.model.state_dict())
    whole.half().save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    # from_pretrained computes in the type named here.
    (out / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
    WhisperFeatureExtractor(chunk_length=WINDOW_SECONDS).save_pretrained(out)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = training_arguments(__doc__)
    size = parser.add_argument_group("size of a new encoder")
    size.add_argument("--hidden", type=int, default=160)
    size.add_argument("--layers", type=int, default=4)
    size.add_argument("--heads", type=int, default=4)
    size.add_argument("--ffn", type=int, default=640)
    run(parser.parse_args(), new_model, recognise, save)


if __name__ == "__main__":
    main()
