"""Speech side of the model: frontend, adapter and the two speech markers."""

from typing import Any

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn

from lst_fairseq.models.adapters import SpeechAdapter
from lst_fairseq.models.frontends import SpeechFrontend


class SpeechMarkers(nn.Module):
    """Learned start and end embeddings around the speech, initialised with the mean of the LLM's embedding table."""

    def __init__(self, embeddings: Tensor):
        super().__init__()
        mean = embeddings.detach().float().mean(dim=0).to(embeddings.dtype)
        self.start = nn.Parameter(mean.clone())
        self.end = nn.Parameter(mean.clone())

    def forward(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """speech [B, N, E], lengths [B] -> [B, N + 2, E] with the markers around each row's own frames, lengths + 2."""
        rows, _, width = speech.shape
        start = self.start.to(speech.dtype).expand(rows, 1, width)
        speech = torch.cat([start, speech, speech.new_zeros(rows, 1, width)], dim=1)
        position = torch.arange(speech.size(1), device=speech.device)
        at_end = position == (lengths + 1).unsqueeze(1)
        return torch.where(at_end.unsqueeze(2), self.end.to(speech.dtype), speech), lengths + 2


class SpeechEncoder(FairseqEncoder):
    """16 kHz waveforms to a sequence in the LLM's embedding space.

    Args:
        frontend: pretrained speech encoder; when frozen it runs in eval mode and without gradient.
        adapter: trained module between frontend and LLM.
        embeddings: the LLM's embedding table [V, E].
        freeze_frontend: whether the frontend keeps its weights.
    """

    def __init__(self, frontend: SpeechFrontend, adapter: SpeechAdapter, embeddings: Tensor, freeze_frontend: bool):
        super().__init__(None)
        self.frontend = frontend
        self.adapter = adapter
        self.markers = SpeechMarkers(embeddings)
        self.freeze_frontend = freeze_frontend

    def train(self, mode: bool = True) -> "SpeechEncoder":
        """A frozen frontend stays in eval mode: dropout in it would be noise on the adapter's input."""
        super().train(mode)
        if self.freeze_frontend:
            self.frontend.eval()
        return self

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        """LLM positions of speech with that many samples, markers included: LongTensor [B] -> LongTensor [B].

        The one place that knows: batching, the length limits and the decoder's maximum all ask here.
        """
        return self.adapter.output_lengths(self.frontend.output_lengths(n_samples)) + 2

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, **kwargs: Any) -> dict[str, Tensor]:
        """Encode a batch of waveforms.

        Args:
            src_tokens: waveforms [B, T] in [-1, 1]. float64 is accepted, and is what the plugin's collater sends:
                fairseq rounds float32 inputs to half precision before the frontend sees them. Or the frontend's own
                features [B, N, D], from a cache.
            src_lengths: LongTensor [B], samples of each row, or feature vectors.

        Returns:
            ``speech`` [B, N, E] with markers, ``speech_lengths`` [B], and ``row`` [B], which decoder row each stands
            for; fairseq's reordering (beams, finished sentences) moves ``row`` only.
        """
        features, lengths = src_tokens, src_lengths
        if src_tokens.dim() == 2:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_frontend):
                features, lengths = self.frontend(src_tokens, src_lengths)
        speech, lengths = self.adapter(features.to(self.markers.start.dtype), lengths)
        speech, lengths = self.markers(speech, lengths)
        rows = torch.arange(speech.size(0), device=speech.device)
        return {"speech": speech, "speech_lengths": lengths, "row": rows}

    def reorder_encoder_out(self, encoder_out: dict[str, Tensor], new_order: Tensor) -> dict[str, Tensor]:
        """Rows for fairseq's new order of hypotheses; the speech itself stays once a sentence."""
        return {**encoder_out, "row": encoder_out["row"].index_select(0, new_order)}

    def max_positions(self) -> int:
        """No limit of its own: length limits are the task's, in seconds, and never apply to test segments."""
        return int(1e9)
