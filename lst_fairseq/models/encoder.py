"""Speech side of the model: frontend, adapter and the two speech markers."""

from typing import Any

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn

from lst_fairseq.data.prompt import Prompts, collate_prompts
from lst_fairseq.models.adapters import SpeechAdapter
from lst_fairseq.models.frontends import SpeechFrontend

#: A second of silence.
STAND_IN_SAMPLES = 16_000


class SpeechMarkers(nn.Module):
    """Learned start and end embeddings around the speech, initialised with the mean of the LLM's embedding table."""

    def __init__(self, embeddings: Tensor):
        super().__init__()
        mean = embeddings.detach().float().mean(dim=0)  # trained, so in fp32 whatever the LLM is in
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
        embeddings: outputs of the LLM's embedding layer for every id [V, E].
        freeze_frontend: whether the frontend keeps all of its weights.
        prompts: where a batch brings none (fairseq-interactive's), its rows get decoding's default.
    """

    def __init__(
        self,
        frontend: SpeechFrontend,
        adapter: SpeechAdapter,
        embeddings: Tensor,
        freeze_frontend: bool,
        prompts: Prompts | None = None,
    ):
        super().__init__(None)
        self.prompts = prompts
        self.frontend = frontend
        self.adapter = adapter
        self.markers = SpeechMarkers(embeddings)
        self.freeze_frontend = freeze_frontend
        #: Whether processes run the frontend together, so that one whose batch is text only has to run it too.
        self.joint_frontend = False

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

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prompt_before: Tensor | None = None,
        prompt_after: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Encode a batch of waveforms.

        Args:
            src_tokens: waveforms [B, T] in [-1, 1]. float64 is accepted, and is what the plugin's collater sends:
                fairseq rounds float32 inputs to half precision before the frontend sees them. Or the frontend's own
                features [B, N, D], from a cache.
            src_lengths: LongTensor [B], samples of each row, or feature vectors; 0 where a row is text only. Such rows
                pass neither the frontend nor the adapter, and have no markers.
            prompt_before, prompt_after: LongTensors [B, P] of token ids for the decoder, as ``collate_prompts`` makes.

        Returns:
            ``speech`` [B, N, E] with markers, ``speech_lengths`` [B], the prompts, and ``row`` [B], which sentence each
            decoder row stands for; fairseq's reordering (beams, finished sentences) moves ``row`` only.
        """
        speech, lengths = self._speech(src_tokens, src_lengths)
        rows = torch.arange(speech.size(0), device=speech.device)
        prompts = {"prompt_before": prompt_before, "prompt_after": prompt_after}
        if prompt_before is None or prompt_after is None:
            if self.prompts is None:
                raise ValueError("the batch has no prompts and the encoder no default")
            default = collate_prompts([self.prompts.choices()[0]] * len(rows))
            prompts = {side: ids.to(speech.device) for side, ids in default.items()}
        return {"speech": speech, "speech_lengths": lengths, "row": rows, **prompts}

    def _speech(self, src_tokens: Tensor, src_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Speech with its markers [B, N, E] and its lengths [B]; of rows that are text only, length 0."""
        spoken = src_lengths.nonzero().squeeze(1)
        n_rows = src_lengths.size(0)
        if len(spoken) == n_rows:
            return self._encode(src_tokens, src_lengths)
        if not len(spoken) and self.joint_frontend and src_tokens.dim() == 2:
            stand_in = src_tokens.new_zeros(1, STAND_IN_SAMPLES)
            speech, _ = self._encode(stand_in, src_lengths.new_full((1,), STAND_IN_SAMPLES))
            return speech[:, :0].expand(n_rows, 0, speech.size(2)), src_lengths
        if not len(spoken):
            # Made of a trained parameter, so that the loss has a gradient (of zero) where only the adapter is trained.
            start = self.markers.start
            return start.expand(n_rows, 0, start.size(0)), src_lengths
        part, part_lengths = self._encode(src_tokens[spoken], src_lengths[spoken])
        speech = part.new_zeros(n_rows, *part.shape[1:]).index_copy(0, spoken, part)
        return speech, part_lengths.new_zeros(n_rows).index_copy(0, spoken, part_lengths)

    def _encode(self, src_tokens: Tensor, src_lengths: Tensor) -> tuple[Tensor, Tensor]:
        features, lengths = src_tokens, src_lengths
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_frontend):
            if src_tokens.dim() == 2:
                features, lengths = self.frontend(src_tokens, src_lengths)
        labels = (self.frontend.ctc_labels(features.to(self.frontend.dtype)),) if self.adapter.needs_ctc else ()
        speech, lengths = self.adapter(features.to(self.markers.start.dtype), lengths, *labels)
        return self.markers(speech, lengths)

    def reorder_encoder_out(self, encoder_out: dict[str, Tensor], new_order: Tensor) -> dict[str, Tensor]:
        """Rows for fairseq's new order of hypotheses; the speech itself stays once a sentence."""
        return {**encoder_out, "row": encoder_out["row"].index_select(0, new_order)}
