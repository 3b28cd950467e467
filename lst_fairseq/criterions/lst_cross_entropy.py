"""Cross-entropy over the target tokens, with label smoothing, token accuracy and perplexity."""

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor

from lst_fairseq.criterions import adapter_collapse
from lst_fairseq.criterions.token_loss import token_loss

logger = logging.getLogger(__name__)
#: Of the adapter, that are looked at before it is said to have collapsed.
_ENOUGH_VECTORS = 200


@dataclass
class _Watch:
    """The adapter's outputs in a validation: sums of ``squares``, how many, whether they were judged."""

    squares: Tensor
    vectors: int = 0
    judged: bool = False


@dataclass
class LstCrossEntropyConfig(FairseqDataclass):
    """Settings of ``lst_cross_entropy``."""

    label_smoothing: float = field(
        default=0.0, metadata={"help": "share of the probability spread evenly over the vocabulary, in [0, 1)"}
    )
    sentence_avg: bool = II("optimization.sentence_avg")


@register_criterion("lst_cross_entropy", dataclass=LstCrossEntropyConfig)
class LstCrossEntropy(FairseqCriterion):
    """Sum over target tokens of the cross-entropy in fp32; prompt, speech and padding have no loss.

    Smoothing is PyTorch's (Szegedy et al., 2016: the even share includes the right token). fairseq's own
    ``label_smoothed_cross_entropy`` also works with the model.
    """

    def __init__(self, task: Any, sentence_avg: bool, label_smoothing: float):
        super().__init__(task)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"--label-smoothing {label_smoothing}: give a number from 0 to below 1")
        self.sentence_avg = sentence_avg
        self.label_smoothing = label_smoothing
        self._watch: _Watch | None = None

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss of a batch.

        Returns:
            the summed loss, the number it is to be divided by (target tokens, or sentences with --sentence-avg), and
            what to log. ``reduce=False`` gives the loss of each target token [N].
        """
        kept = sample["target"].ne(self.padding_idx)
        target = sample["target"][kept]
        logits, extra = model(**sample["net_input"], kept=kept)
        each, nll, best = token_loss(logits, target, self.label_smoothing)  # [N]
        loss = each.sum() if reduce else each
        n_tokens = target.numel()
        sample_size = sample["nsentences"] if self.sentence_avg else n_tokens
        logging_output = {
            "loss": loss.detach().sum(),
            "nll_loss": nll.sum(),
            # Left on the device: a copy would wait there for the forward pass, before the backward pass can be queued.
            "n_correct": best.eq(target).sum(),
            "ntokens": n_tokens,
            "nsentences": sample["nsentences"],
            "sample_size": sample_size,
            "n_skipped": sample.get("n_skipped", 0),
        }
        if model.training:
            self._watch = None
        else:
            logging_output |= self._watched(extra["speech"], extra["speech_lengths"])
        return loss, sample_size, logging_output

    def _watched(self, speech: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """What to log of the adapter's outputs while validating; says once each time if they hardly vary."""
        outputs = adapter_collapse.adapter_outputs(speech, lengths)
        found = adapter_collapse.squares(outputs)
        self._watch = self._watch or _Watch(torch.zeros_like(found))
        self._watch.squares += found
        self._watch.vectors += len(outputs)
        if self._watch.vectors >= _ENOUGH_VECTORS and not self._watch.judged:
            if warning := adapter_collapse.warning(adapter_collapse.share(*self._watch.squares.tolist())):
                logger.warning(warning)
            self._watch.judged = True
        return {"speech_squares": found[0], "speech_mean_squares": found[1]}

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Loss and perplexity in base 2, as all of fairseq's; accuracy in per cent of target tokens.

        In validation also how many per cent of the adapter's outputs vary, by ``adapter_collapse.py``.
        """

        def total(name: str) -> Any:
            return sum(output.get(name, 0) for output in logging_outputs)

        n_tokens, sample_size = total("ntokens"), total("sample_size")
        if n_skipped := total("n_skipped"):
            metrics.log_scalar_sum("skipped_audio", n_skipped)
        if not n_tokens:  # every utterance of the batch had broken audio
            metrics.log_scalar("loss", 0.0, weight=0)  # else the trainer logs -1
            return
        metrics.log_scalar("loss", total("loss") / sample_size / math.log(2), sample_size, round=3)
        metrics.log_scalar("nll_loss", total("nll_loss") / n_tokens / math.log(2), n_tokens, round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))
        metrics.log_scalar("accuracy", 100.0 * utils.item(total("n_correct")) / n_tokens, n_tokens, round=2)
        if squares := utils.item(total("speech_squares")):
            varies = adapter_collapse.share(squares, utils.item(total("speech_mean_squares")))
            metrics.log_scalar("adapter_variation", 100 * varies, squares, round=1)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Summed over processes before :meth:`reduce_metrics`, in one small exchange."""
        return True
