"""fairseq's S2T data configuration (YAML), as raw-waveform input needs it."""

from copy import copy
from pathlib import Path
from typing import Any

from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.dataset_transforms import AUDIO_DATASET_TRANSFORM_REGISTRY
from fairseq.data.audio.feature_transforms import AUDIO_FEATURE_TRANSFORM_REGISTRY
from fairseq.data.audio.waveform_transforms import AUDIO_WAVEFORM_TRANSFORM_REGISTRY

from lst_fairseq.data.prompt import COT_SEPARATOR, LST_TEMPLATE, PromptSettings
from lst_fairseq.utils.yaml_files import not_a_text, read_yaml

#: Settings that are texts: an unquoted ``no`` is none.
_TEXTS = ("target_lang", "source_lang", "prompt", "cot_separator", "audio_root")
#: Settings that list transforms for each subset, with those that there are.
_TRANSFORMS = {
    "transforms": AUDIO_FEATURE_TRANSFORM_REGISTRY,
    "feature_transforms": AUDIO_FEATURE_TRANSFORM_REGISTRY,
    "waveform_transforms": AUDIO_WAVEFORM_TRANSFORM_REGISTRY,
    "dataset_transforms": AUDIO_DATASET_TRANSFORM_REGISTRY,
}
_MAPPINGS = ("instructions", *_TRANSFORMS)


class LstDataConfig(S2TDataConfig):
    """Data configuration of ``lst_st``; the file may be missing, since every setting has a default.

    Besides fairseq's keys:
        ``target_lang``, ``source_lang``: language codes for prompts, where the manifest has none (source: en).
        ``prompt``: template of the prompt, or ``chat``; ``--prompt`` goes before.
        ``instructions``: for each task one text, or a list to draw from in training. See ``data/prompt.py``.
        ``cot_separator``: between transcript and translation, in targets of the task ``cot``.
        ``sampling_alpha``: of several training manifests, each is sampled in proportion to its number of segments to
        this power: 1 (the default) takes every segment once an epoch, 0 as many from each manifest. See
        ``LstTask.load_dataset``.
    """

    def __init__(self, yaml_path: Path):
        self.inputs_are_waveforms = True
        self.path = yaml_path
        self.root = yaml_path.parent
        self.config: dict[str, Any] = (read_yaml(yaml_path) or {}) if yaml_path.exists() else {}
        self._check()

    def _check(self) -> None:
        """ValueError where a setting is not of its type; null is as good as no setting."""
        if not isinstance(self.config, dict):
            raise ValueError(f"{self.path}: not settings, one `name: value` a line; it holds {self.config!r:.100}")
        self.config = {name: value for name, value in self.config.items() if value is not None}
        for name in _TEXTS:
            if not isinstance(value := self.config.get(name, ""), str):
                raise ValueError(f"{self.path}: `{name}` {not_a_text(value)}")
        for name in _MAPPINGS:
            if not isinstance(value := self.config.get(name, {}), dict):
                what = "tasks to texts" if name == "instructions" else "subsets to transforms"
                raise ValueError(f"{self.path}: `{name}` is a mapping from {what}, not {value!r:.100}")
        for task, texts in self.config.get("instructions", {}).items():
            for text in (task, *(texts if isinstance(texts, list) and texts else [texts])):
                if not isinstance(text, str):
                    raise ValueError(f"{self.path}: `instructions` of task {task!r}: a text {not_a_text(text)}")
        self._check_transforms()
        try:
            PromptSettings(
                template=self.prompt or LST_TEMPLATE,
                instructions=self.instructions,
                cot_separator=self.cot_separator or COT_SEPARATOR,
            )
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _check_transforms(self) -> None:
        """ValueError where a subset's transforms are no list of fairseq's names, or a transform's own settings none."""
        for setting, registry in _TRANSFORMS.items():
            for subset, names in self.config.get(setting, {}).items():
                if names is not None and not isinstance(names, list):
                    raise ValueError(f"{self.path}: `{setting}` of {subset!r}: give a list of names, not {names!r:.90}")
                for name in names or ():
                    if not isinstance(name, str) or name not in registry:
                        raise ValueError(
                            f"{self.path}: `{setting}` of {subset!r}: no transform is called {name!r:.100}; there are: "
                            f"{', '.join(sorted(registry))}"
                        )
                    if not isinstance(values := self.config.get(name, {}), dict):
                        raise ValueError(f"{self.path}: `{name}`: give its settings, name: value, not {values!r:.100}")

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
        return self.config.get("instructions")
