"""The steps of a study's cells: which of the recipe's scripts run where, with which settings, after which others.

    data       manifests of the corpus, perhaps cleaned or cut            shared by all cells with the same data
    stage1     the adapter, from frontend and LLM as they come            shared by all cells that differ later
    alignment  how near its outputs are to the transcripts' embeddings
    stage2     what follows, or the one stage there is
    dev        translations of dev, for the search
    test       translations of the test splits

A step's folder is named by a hash of all that decides what it gives, so that a changed study never meets what another
one left, and cells that agree in a step share it.
"""

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lst_fairseq.corpora.preparation import config_text
from lst_fairseq.recipe.folder import StepFolder
from lst_fairseq.recipe.location import lst_command, recipe, recipe_root
from lst_fairseq.study.entries import StudyError
from lst_fairseq.study.grid import Arm, Study
from lst_fairseq.utils.text_files import Unreadable, read_data

#: What does not change what training gives.
_HOST = {"NUM_WORKERS", "LOG_INTERVAL", "SAVE_INTERVAL", "CACHE_FEATURES"}
_DECODING = {"CHECKPOINT", "BEAM", "LENPEN", "MAX_LEN_B", "GEN_BATCH_TOKENS", "EXTRA_GENERATE_ARGS"}
_DECODING |= {"TOKENIZE"}
_PREPARATION = {"MUSTC_ROOT", "TGT_LANG", "PREP_ARGS"}
_ELSEWHERE = ("BASELINE", "SYSTEMS", "LORA_LR", "TEXT_")
_STUDY_CONFIG = "config_study.yaml"
_SOURCES = re.compile(r"^\s*(source|\.)\s", re.MULTILINE)
#: Changes with what lst align measures.
_ALIGNMENT = 2


@dataclass(frozen=True)
class Step:
    """One run of one of the recipe's scripts, by the step engine; the same as another of its kind, work and key.

    Attributes:
        kind: ``data``, ``stage1``, ``alignment``, ``stage2``, ``dev`` or ``test``.
        name: for people.
        work: the recipe's WORK; the step's own records are in work/study.
        key: hash of all that decides what the step gives.
        commands: shell commands, one after another.
        environment: settings of the recipe.
        links: names in ``work`` and the folders of other steps that they lead to.
        files: texts to write into ``work`` after the first command.
        needs: steps that have to be finished before.
    """

    kind: str
    name: str = field(compare=False)
    work: Path
    key: str
    commands: tuple[str, ...] = field(compare=False)
    environment: Mapping[str, str] = field(compare=False)
    links: Mapping[str, Path] = field(default_factory=dict, compare=False)
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    needs: tuple["Step", ...] = field(default=(), compare=False)

    @property
    def place(self) -> StepFolder:
        """Where the step engine keeps what the step cost, and whether it has finished."""
        return StepFolder(self.work / "study" / self.kind, f"--key {self.key}")

    @property
    def record(self) -> Path:
        """What versions before the step engine wrote about the step."""
        return self.work / "study" / f"{self.kind}.json"

    @property
    def log(self) -> Path:
        return self.work / "study" / f"{self.kind}.log"

    def with_needs(self) -> list["Step"]:
        """The step after all that it needs, each once."""
        steps: list[Step] = []
        for step in [s for need in self.needs for s in need.with_needs()] + [self]:
            if step not in steps:
                steps.append(step)
        return steps


@dataclass(frozen=True)
class Cell:
    """An arm with a seed, and with values for the settings that are searched.

    Attributes:
        steps: by kind; ``dev`` is the search's, ``test`` the report's, and there is no stage 1 without need.
    """

    arm: Arm
    seed: int
    chosen: Mapping[str, str]
    settings: Mapping[str, Any]
    steps: Mapping[str, Step]

    @property
    def name(self) -> str:
        return f"{self.arm.label}, seed {self.seed}"

    @property
    def work(self) -> Path:
        return self.steps["stage2"].work


class Plan:
    """Makes the cells of a study in a folder.

    Args:
        study: what to run.
        out: folder of all that it makes.
        python: interpreter whose ``lst`` runs what the recipe does not.
    """

    def __init__(self, study: Study, out: Path, python: str = sys.executable):
        self.study, self.out, self.python = study, out.absolute(), python
        self._cells: dict[str, Cell] = {}

    @cached_property
    def _file(self) -> str:
        """Content of the settings file."""
        if self.study.settings is None:
            return ""
        try:
            data = read_data(self.study.settings, "give a file of the recipe's settings")
            return data.decode("utf-8")
        except Unreadable as error:
            name = " ".join(str(self.study.settings).split())
            raise StudyError(f"settings: {name} cannot be read ({error.reason})") from None
        except UnicodeDecodeError as error:
            raise StudyError(
                f"settings: {self.study.settings}: not UTF-8 text ({error.reason}); save it as UTF-8"
            ) from None

    def cell(self, arm: Arm, seed: int, chosen: Mapping[str, str]) -> Cell:
        """The cell of an arm with a seed, where settings that are searched have the given values."""
        known = json.dumps([arm.label, seed, chosen])
        if known not in self._cells:
            self._cells[known] = self._cell(arm, seed, dict(chosen))
        return self._cells[known]

    def cells(self) -> list[Cell]:
        """All cells that were asked for so far."""
        return list(self._cells.values())

    def _cell(self, arm: Arm, seed: int, chosen: dict[str, str]) -> Cell:
        settings = {stage: self._settings(arm, stage, seed, chosen) for stage in ("stage1", "stage2", "generate")}
        data = self._data_step(arm, settings["stage1"])
        steps = {"data": data}
        two_stages = settings["stage2"].get("ONE_STAGE", "0") != "1"
        if two_stages:
            steps["stage1"] = self._stage1_step(arm, seed, settings["stage1"], data)
            if self.study.alignment:
                steps["alignment"] = self._alignment_step(steps["stage1"])
        own = self._deciding(settings["stage2"], two_stages=two_stages)
        key = _hash([own, self._file, steps.get("stage1", data).key])
        work = self.out / "cells" / f"{arm.slug[:60]}_seed{seed}_{key[:10]}"
        links = {"data": data.work / "data"}
        if two_stages:
            links["stage1"] = steps["stage1"].work / "stage1"
        name = f"{arm.label}, seed {seed}"
        if chosen:
            name += f" ({', '.join(f'{k}={v}' for k, v in chosen.items())})"
        steps["stage2"] = Step(
            *("stage2", name, work, key, (_script("stage2"),), settings["stage2"] | {"WORK": str(work)}, links),
            needs=(steps["stage1"] if two_stages else data,),
        )
        for kind, splits in (("dev", (self.study.dev,)), ("test", self.study.splits)):
            decoding = {k: v for k, v in settings["generate"].items() if k in _DECODING}
            environment = settings["generate"] | {"WORK": str(work), "SPLITS": " ".join(splits), "TRIPLES": "0"}
            steps[kind] = Step(
                *(kind, name, work, _hash([key, splits, decoding]), (_script("generate"),), environment, links),
                needs=(steps["stage2"],),
            )
        return Cell(arm, seed, chosen, {**settings, "data": dict(arm.options.data)}, steps)

    def _settings(self, arm: Arm, stage: str, seed: int, chosen: Mapping[str, str]) -> dict[str, str]:
        """The recipe's settings for a step of a cell."""
        settings = arm.options.of_stage(stage) | chosen | {"SEED": str(seed)}
        if self.study.settings is not None:
            settings["SETTINGS"] = str(self.study.settings.absolute())
        if arm.options.data.get("instructions") and stage != "generate":
            more = f"--config-yaml {_STUDY_CONFIG}"
            settings["EXTRA_TRAIN_ARGS"] = f"{settings.get('EXTRA_TRAIN_ARGS', '')} {more}".strip()
        return settings

    def _deciding(self, settings: Mapping[str, str], two_stages: bool | None) -> dict[str, str]:
        """The settings that decide what training gives: in stage 1 (None), or in what follows."""
        skipped = _HOST | _DECODING | _PREPARATION | {"SETTINGS"}
        if two_stages is None:
            without = ("STAGE2_", "ONE_STAGE")
        else:  # one stage gets the updates of both
            without = ("STAGE1_", "ONE_STAGE") if two_stages else ("STAGE1_LR", "STAGE1_MODULES", "STAGE1_TASK")
        left_out = (*_ELSEWHERE, *without)
        deciding = {k: v for k, v in settings.items() if k not in skipped and not k.startswith(left_out)}
        return self._beyond_file(deciding)

    def _data_step(self, arm: Arm, settings: Mapping[str, str]) -> Step:
        data = dict(arm.options.data)
        deciding = self._beyond_file({k: v for k, v in settings.items() if k in _PREPARATION})
        if "max_wer" in data:
            data.setdefault("speech_encoder", settings.get("SPEECH_ENCODER"))
            if not data["speech_encoder"]:
                data["speech_encoder"] = self._of_file("SPEECH_ENCODER")
        splits = [*self.study.splits, *({self.study.dev} - {"dev"})]  # prep.sh adds train and dev
        key = _hash([deciding, self._file, data, splits])
        work = self.out / "data" / key[:10]
        prep = settings | {"WORK": str(work), "SPLITS": " ".join(splits)}
        commands, files = [_script("prep")], {}
        manifests = work / "data"
        source, target = manifests / "train.tsv", manifests / "train_prepared.tsv"
        if {"fraction", "max_wer"} & data.keys():
            # What prep.sh wrote is kept under another name; train.tsv is what it counts epochs by.
            copy = _q(target.with_suffix(".partial"))
            commands.append(f"[[ -e {_q(target)} ]] || {{ cp {_q(source)} {copy} && mv {copy} {_q(target)}; }}")
            words = ["--manifest", str(target), "--out", str(source)]
            if "max_wer" in data:
                words += ["--speech-encoder", data["speech_encoder"]]
                words += ["--max-wer", str(data["max_wer"])]
            if "fraction" in data:
                words += ["--fraction", str(data["fraction"])]
            commands.append(self._lst("filter", *words))
        if data.get("instructions"):
            language = settings.get("TGT_LANG") or self._of_file("TGT_LANG") or "de"
            text = config_text(language) + yaml.safe_dump({"instructions": data["instructions"]})
            files[f"data/{_STUDY_CONFIG}"] = text
        return Step("data", f"data {work.name}", work, key, tuple(commands), prep, files=files)

    def _of_file(self, name: str) -> str:
        """A setting of the settings file, as it stands there but for $LST_ROOT.

        Read and not run: to list a study runs nothing of it.
        """
        for line in self._file.splitlines():
            if line.startswith(f"{name}="):
                return line.split("=", 1)[1].strip("'\"").replace("$LST_ROOT", str(recipe_root()))
        return ""

    def _beyond_file(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Without what the settings file says anyway, so that a search may name the file's own value among others."""

        def is_said(name: str, value: str) -> bool:
            # Set twice, by a condition or in another file, the file's value is not what stands in one line.
            once = len(re.findall(rf"\b{name}=", self._file)) == 1 and not _SOURCES.search(self._file)
            # The shell expands what stands in the file, and not what a study sets.
            return once and value != "" and "$" not in value and self._of_file(name) == value

        return {name: value for name, value in settings.items() if not is_said(name, value)}

    def _stage1_step(self, arm: Arm, seed: int, settings: Mapping[str, str], data: Step) -> Step:
        key = _hash([self._deciding(settings, None), self._file, data.key])
        work = self.out / "stage1" / f"seed{seed}_{key[:10]}"
        name = f"stage 1 of {arm.label}, seed {seed}"
        environment = settings | {"WORK": str(work)}
        links = {"data": data.work / "data"}
        return Step("stage1", name, work, key, (_script("stage1"),), environment, links, needs=(data,))

    def _alignment_step(self, stage1: Step) -> Step:
        words = [str(stage1.work / "stage1/checkpoint_last.pt")]
        words += ["--data", str(stage1.work / "data"), "--split", self.study.dev, "--pictures", "1"]
        words += ["--segments", str(self.study.alignment), "--out", str(stage1.work / "alignment")]
        command = self._lst("align", *words)
        key = _hash([stage1.key, self.study.alignment, self.study.dev, _ALIGNMENT])
        name, work = stage1.name.replace("stage 1", "alignment"), stage1.work
        return Step("alignment", name, work, key, (command,), {}, needs=(stage1,))

    def _lst(self, *words: str) -> str:
        return shlex.join([*lst_command(self.python), *words])


def _script(name: str) -> str:
    return f"bash {_q(recipe() / f'{name}.sh')}"


def _q(path: Path) -> str:
    return shlex.quote(str(path))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
