"""Adapters: from the frontend's features to the LLM's embedding space. One file and one decorator each."""

from lst_fairseq.models.adapters.base import ADAPTERS, SpeechAdapter, build_adapter, register_adapter
from lst_fairseq.models.adapters.conv import ConvAdapter

__all__ = ["ADAPTERS", "ConvAdapter", "SpeechAdapter", "build_adapter", "register_adapter"]
