"""Tiny speech encoders of every kind with the real classes, saved by the real code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioForCTC,
    HubertConfig,
    HubertForCTC,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    SeamlessM4Tv2Config,
    SeamlessM4Tv2ForSpeechToText,
    SeamlessM4Tv2Model,
    UniSpeechConfig,
    UniSpeechForCTC,
    UniSpeechSatConfig,
    UniSpeechSatForCTC,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerForCTC,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

CONVOLUTIONS = {"conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (5, 8, 8)}
GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}

#: Models on raw waveforms: configuration, class, settings.
RAW: dict[str, tuple[type, type, dict[str, Any]]] = {
    "wav2vec2_base": (Wav2Vec2Config, Wav2Vec2ForCTC, GROUP),
    "wav2vec2_large": (Wav2Vec2Config, Wav2Vec2ForCTC, LAYER),
    "hubert_base": (HubertConfig, HubertForCTC, GROUP),
    "hubert_large": (HubertConfig, HubertForCTC, LAYER),
    "hubert_batch_norm": (HubertConfig, HubertForCTC, {**GROUP, "conv_pos_batch_norm": True}),
    "wavlm_base": (WavLMConfig, WavLMForCTC, GROUP),
    "wavlm_large": (WavLMConfig, WavLMForCTC, LAYER),
    "data2vec": (Data2VecAudioConfig, Data2VecAudioForCTC, {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
    "unispeech": (UniSpeechConfig, UniSpeechForCTC, {**LAYER, "num_ctc_classes": 12}),
    "unispeech_sat": (UniSpeechSatConfig, UniSpeechSatForCTC, {**GROUP, "num_ctc_classes": 12}),
    "wav2vec2_conformer": (Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC, {"conv_depthwise_kernel_size": 5}),
}
SIZES = {
    "vocab_size": 12,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def perturb(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Add noise to all weights and statistics: initial ones (biases of zero, norms of one) hide differences."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.2 * torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return model


def save_raw(path: Path, kind: str, **settings: Any) -> None:
    """A model of ``RAW`` with its CTC head; the base models' preprocessor asks for no mask, as published."""
    config_class, model_class, own = RAW[kind]
    torch.manual_seed(21)
    config = config_class(
        **{
            **SIZES,
            **CONVOLUTIONS,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 4,
            "layerdrop": 0.1,
            **own,
            **settings,
        }
    )
    perturb(model_class(config)).save_pretrained(path)
    masked = own.get("feat_extract_norm") != "group"
    Wav2Vec2FeatureExtractor(do_normalize=masked, return_attention_mask=masked).save_pretrained(path)


def save_bert(path: Path, **settings: Any) -> None:
    """w2v-BERT 2.0 with a CTC head."""
    torch.manual_seed(22)
    sizes = {**SIZES, "conv_depthwise_kernel_size": 5, "add_adapter": False, "output_hidden_size": 32}
    perturb(Wav2Vec2BertForCTC(Wav2Vec2BertConfig(**{**sizes, **settings}))).save_pretrained(path)
    SeamlessM4TFeatureExtractor().save_pretrained(path)


def save_seamless(path: Path, model_class: type = SeamlessM4Tv2Model, **settings: Any) -> None:
    """All of SeamlessM4T v2, or only speech to text, with text parts wider than the speech encoder."""
    torch.manual_seed(23)
    config = SeamlessM4Tv2Config(
        vocab_size=40,
        hidden_size=32,
        speech_encoder_layers=3,
        speech_encoder_attention_heads=2,
        speech_encoder_intermediate_size=48,
        conv_depthwise_kernel_size=5,
        num_adapter_layers=1,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        t2u_vocab_size=30,
        t2u_encoder_layers=1,
        t2u_decoder_layers=1,
        t2u_encoder_ffn_dim=48,
        t2u_decoder_ffn_dim=48,
        t2u_encoder_attention_heads=2,
        t2u_decoder_attention_heads=2,
        upsample_initial_channel=16,
        unit_hifi_gan_vocab_size=30,
        unit_embed_dim=8,
        lang_embed_dim=8,
        spkr_embed_dim=8,
        variance_predictor_hidden_dim=8,
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        upsample_rates=[2],
        upsample_kernel_sizes=[4],
        char_vocab_size=20,
        max_position_embeddings=64,
    )
    perturb(model_class(config)).save_pretrained(path, **settings)
    SeamlessM4TFeatureExtractor().save_pretrained(path)


def save_whisper_mels(path: Path, mels: int = 80, window_seconds: int = 2, **settings: Any) -> None:
    """Whisper with that many mels and a window shorter than 30 s."""
    torch.manual_seed(24)
    config = WhisperConfig(
        **{
            "vocab_size": 20,
            "num_mel_bins": mels,
            "d_model": 32,
            "encoder_layers": 3,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_source_positions": 50 * window_seconds,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            **settings,
        }
    )
    perturb(WhisperForConditionalGeneration(config)).save_pretrained(path)
    WhisperFeatureExtractor(feature_size=mels, chunk_length=window_seconds).save_pretrained(path)


SAVERS: dict[str, Callable[[Path], None]] = {
    **{kind: lambda path, kind=kind: save_raw(path, kind) for kind in RAW},
    "wav2vec2_bert": save_bert,
    "wav2vec2_bert_adapter": lambda path: save_bert(path, add_adapter=True, use_intermediate_ffn_before_adapter=True),
    "seamless": save_seamless,
    "seamless_speech_to_text": lambda path: save_seamless(path, SeamlessM4Tv2ForSpeechToText),
    "whisper": save_whisper_mels,
    "whisper_128": lambda path: save_whisper_mels(path, mels=128),
}


def save_speech_model(kind: str, path: Path) -> str:
    """Save one of ``SAVERS`` and return its directory."""
    SAVERS[kind](path)
    return str(path)
