"""Steps of a beam search on a GPU, recorded once and replayed for each token (CUDA graphs).

A step of an LLM of 7 billion parameters is some 1,700 kernels, and most of them take Python longer to launch than the
GPU to run. Recorded, they are one launch. What is recorded reads and writes the same memory each time: the tokens,
their positions, the places of their keys and who sees which key are copied there before
(``SharedPrefixCache.make_static``).

Whether a model can be recorded is found out and not assumed. Its first step is watched for waits for the device, which
cannot be recorded; then two steps run both ways and have to agree. If anything of this fails, a line says so, and the
steps run one by one as ever.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lst_fairseq.models.llm.prefix_cache import SharedPrefixCache

logger = logging.getLogger(__name__)

#: Steps that run both ways before replays are trusted, and how far their logits may be apart, relative to the largest.
CHECKS = 2
TOLERANCE = 1e-2
#: PyTorch cannot give back what it holds in reserve while it records: so much memory must be free before.
FREE_BYTES = 1 << 30


class Graph(Protocol):
    """Recorded work of a device.

    Args:
        run: what to record. It is called once and need not compute anything by that.
        device: where its work is done.

    Attributes:
        output: what ``run`` returned; each replay writes it anew.

    Raises:
        RuntimeError: the work cannot be recorded.
    """

    output: Tensor

    def __init__(self, run: Callable[[], Tensor], device: torch.device): ...

    def replay(self) -> None:
        """Do the work, on the same memory."""

    @staticmethod
    def waits() -> AbstractContextManager[list[str]]:
        """While it lasts, a line is added to the list each time that the host waits for the device."""


class CudaGraph:
    """A :class:`Graph` of a CUDA device, by ``torch.cuda.CUDAGraph``."""

    # The last graph of each device, whose memory serves the next one, too, and the stream it was recorded on.
    _last: ClassVar[dict[int, tuple[torch.cuda.CUDAGraph, torch.cuda.Stream]]] = {}

    def __init__(self, run: Callable[[], Tensor], device: torch.device):
        with torch.cuda.device(device):
            if torch.cuda.mem_get_info()[0] < FREE_BYTES:
                torch.cuda.empty_cache()
            last, stream = self._last.get(torch.cuda.current_device(), (None, None))
            stream = stream or torch.cuda.Stream()
            graph = self._graph = torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # Other threads, which load data, go on meanwhile.
                graph.capture_begin(pool=last and last.pool(), capture_error_mode="thread_local")
                try:
                    self.output = run()
                finally:
                    graph.capture_end()
            torch.cuda.current_stream().wait_stream(stream)
            self._last[torch.cuda.current_device()] = (graph, stream)

    def replay(self) -> None:
        self._graph.replay()

    @staticmethod
    @contextmanager
    def waits() -> Iterator[list[str]]:
        found: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode(before)
        for warning in caught:
            if "called a synchronizing" in str(warning.message):
                found.append(f"{warning.filename}:{warning.lineno}")
            elif "Synchronization debug mode" not in str(warning.message):  # of which it warns itself
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


#: What records, for each type of device that can.
GRAPHS: dict[str, type[Graph]] = {"cuda": CudaGraph}


def graph_type(llm: PreTrainedModel, device: torch.device) -> type[Graph] | None:
    """What records an LLM's steps; None on a device that has no graphs, and for a sharded LLM, which other devices send
    its parameters at each step."""
    graph = GRAPHS.get(device.type)
    if graph is not None and any(isinstance(parameter, DTensor) for parameter in llm.parameters()):
        return None
    return graph


@dataclass
class Recording:
    """Whether a decoder's steps are recorded.

    Attributes:
        wanted: until it turns out that they cannot be.
        checks: steps that are to run both ways yet.
    """

    wanted: bool = True
    checks: int = CHECKS

    def give_up(self, reason: str) -> None:
        """No more of it, with a line that says why."""
        self.wanted = False
        logger.warning(f"steps of beam search are not recorded as a CUDA graph, which is slower: {reason}")


class RecordedSteps:
    """One search's steps, recorded where they are of a token each.

    Args:
        run: logits [R, 1, V] from tokens [R, T] and what :meth:`SharedPrefixCache.arguments` returned.
        cache: the search's keys and values.
        recording: the decoder's.
        graph: what records.
    """

    def __init__(
        self,
        run: Callable[[Tensor, dict[str, Any]], Tensor],
        cache: SharedPrefixCache,
        recording: Recording,
        graph: type[Graph],
    ):
        self.run = run
        self.cache = cache
        self.recording = recording
        self.graph_type = graph
        self.tokens: Tensor | None = None
        self.graph: Graph | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits [R, 1, V] after the tokens [R, T] that come next."""
        if self.recording.wanted and tokens.size(1) == 1 and not self.cache.is_static:
            self.cache.make_static()
            self.tokens = self.graph = None
        arguments = self.cache.arguments(tokens.size(1))
        if not self.cache.is_static:  # so many tokens, or too little room for one, after which all has moved
            return self.run(tokens, arguments)
        if self.tokens is None:
            self.tokens = tokens.clone()
            return self._first(arguments)
        rows = self.cache.static_rows
        self.tokens.index_copy_(0, rows, tokens)
        logits = self._replayed(arguments)
        return logits if len(rows) == len(logits) else logits.index_select(0, rows)

    def _first(self, arguments: dict[str, Any]) -> Tensor:
        """The first step on static memory runs as it is: what its kernels set up for the first time is not recorded."""
        if self.recording.checks < CHECKS:
            return self.run(self.tokens, arguments)
        with self.graph_type.waits() as waits:
            logits = self.run(self.tokens, arguments)
        if waits:
            self.recording.give_up(f"the LLM waits for the device in {waits[0]}")
        return logits

    def _replayed(self, arguments: dict[str, Any]) -> Tensor:
        """Logits of all rows that the static memory has, those of sentences that have left among them."""
        recording = self.recording
        if recording.wanted and self.graph is None:
            try:
                self.graph = self.graph_type(lambda: self.run(self.tokens, arguments), self.tokens.device)
            except RuntimeError as error:
                recording.give_up(str(error).partition("\n")[0])
        if not recording.wanted:
            return self.run(self.tokens, arguments)
        self.graph.replay()
        if not recording.checks:
            return self.graph.output
        logits = self.run(self.tokens, arguments)
        recording.checks -= 1
        if not torch.allclose(self.graph.output, logits, rtol=0, atol=TOLERANCE * float(logits.abs().max())):
            recording.give_up("a replayed step's logits are not those of the step itself")
        return logits
