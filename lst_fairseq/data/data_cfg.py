"""fairseq's S2T data configuration (YAML), as raw-waveform input needs it."""

from copy import copy
from pathlib import Path
from typing import Any

from fairseq.data.audio.data_cfg import S2TDataConfig


class LstDataConfig(S2TDataConfig):
    """Data configuration of ``lst_st``; the file may be missing, since every setting has a default.

    Besides fairseq's keys:
        ``target_lang``, ``source_lang``: language codes for prompts, where the manifest has none (source: en).
        ``prompt``: template of the prompt, or ``chat``; ``--prompt`` goes before.
        ``instructions``: for each task one text, or a list to draw from in training. See ``data/prompt.py``.
        ``cot_separator``: between transcript and translation, in targets of the task ``cot``.
        ``sampling_alpha``: of several training manifests, each is sampled in proportion to its number of segments to
        this power: 1 (the default) takes every segment once an epoch, 0 as many from each manifest. See ``task.py``.
    """

    def __init__(self, yaml_path: Path):
        self.inputs_are_waveforms = True
        self.path = yaml_path
        if yaml_path.is_file():
            super().__init__(yaml_path)
            self.config = self.config or {}
        else:
            self.config, self.root = {}, yaml_path.parent

    @property
    def use_audio_input(self) -> bool:
        """Waveforms, from which the frontend makes its own features, unless these come from a cache."""
        return self.inputs_are_waveforms

    def for_features(self) -> "LstDataConfig":
        """The same configuration for inputs that are features already."""
        other = copy(self)
        other.inputs_are_waveforms = False
        return other

    @property
    def standardize_audio(self) -> bool:
        """Never here: the frontend scales waveforms as it was trained to.

        fairseq's version (data_cfg.py:121) lacks ``@property`` and is therefore always true.
        """
        return False

    @property
    def target_lang(self) -> str | None:
        """Language code of the translations, for prompts that name it."""
        return self.config.get("target_lang")

    @property
    def source_lang(self) -> str | None:
        """Language code of the speech, for prompts that name it."""
        return self.config.get("source_lang")

    @property
    def prompt(self) -> str | None:
        """Template of the prompt."""
        return self.config.get("prompt")

    @property
    def cot_separator(self) -> str | None:
        """What stands between transcript and translation in targets of the task ``cot``."""
        return self.config.get("cot_separator")

    @property
    def sampling_alpha(self) -> float:
        """Exponent of the manifests' sizes in sampling, 1/T for temperature T; 1 samples nothing."""
        alpha = self.config.get("sampling_alpha", 1.0)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise ValueError(f"{self.path}: `sampling_alpha` is a number from 0 to 1, not {alpha!r}")
        return alpha

    @property
    def instructions(self) -> dict[str, Any] | None:
        """Instructions for each task."""
        given = self.config.get("instructions")
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"{self.path}: `instructions` is a mapping from tasks to texts, not {given!r}")
        return given
