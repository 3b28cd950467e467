"""What a checkpoint says about itself, looked at before anything is built from it.

fairseq builds whatever task, model and criterion a file names, and some of its models evaluate a setting as Python.
From a file this plugin builds its own task and model, with settings of the right types, and fairseq's S2T models, of
which the recipe's baselines are; nothing else, whatever the file says.
"""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerModel
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

from lst_fairseq.checkpoints.plain import MOST_CHARACTERS, plain, refused_setting
from lst_fairseq.checkpoints.purpose import S2T_TASK, TASK, current
from lst_fairseq.checkpoints.values import check_section, check_value
from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.config import LstModelConfig
from lst_fairseq.models.foreign_code import OWN_ATTENTION, foreign_attention
from lst_fairseq.models.frontends import FRONTENDS
from lst_fairseq.models.frontends.base import beyond_reason
from lst_fairseq.models.frontends.fairseq_settings import parse_convolutions
from lst_fairseq.models.frontends.pretrained_frontend import PretrainedFrontend
from lst_fairseq.models.trained_parts import RECORD_KEY, CheckpointRecord
from lst_fairseq.utils.checkpoint_files import incomplete
from lst_fairseq.utils.messages import shown

S2T_MODELS = (S2TTransformerModel, S2TConformerModel)
#: What fairseq-validate builds with a model, all of which work with both kinds.
CRITERIONS = ("lst_cross_entropy", "label_smoothed_cross_entropy", "cross_entropy")
#: Settings of fairseq's Transformers that it evaluates (transformer_decoder.py:147, multihead_attention.py:96).
EVALUATED = ("adaptive_softmax_cutoff", "adaptive_input_cutoff", "xformers_att_config")


def inspected(path: str, state: dict[str, Any]) -> dict[str, Any]:
    """What a file holds with its settings as data, if they serve the purpose for which it is read.

    Raises:
        CheckpointError: they do not; names the file.
    """
    wanted = current.get()
    state = as_data(path, state, references=wanted is None)
    if wanted is not None:
        check(path, state, wanted.task, wanted.criterion)
    return state


def as_data(path: str, state: dict[str, Any], references: bool = False) -> dict[str, Any]:
    """The content of a file with its settings as plain values, those of the older form (``args``) included.

    Args:
        path: the file, for messages.
        state: its content.
        references: whether settings may stand for each other; see :func:`plain`.

    Raises:
        CheckpointError: a setting is no plain value, or stands for something else; names both.
    """
    for name, kind in (("cfg", dict), ("args", Namespace)):
        if state.get(name) is not None:
            state[name] = plain(path, state[name], name, references)
            if not isinstance(state[name], kind):
                raise refused_setting(path, name, "is no group of settings")
    return state


def check(
    path: str, state: Mapping[str, Any], task: str | None = None, criterion: bool = False
) -> None:
    """Refuse a file from which nothing should be built.

    Args:
        path: the file, for messages.
        state: its content.
        task: the task that uses the model; None for the file's own.
        criterion: whether its criterion may be built, too.

    Raises:
        CheckpointError: it is of other models, or a setting is not what it should be; names the file.
    """
    if state.get("args") is None and state.get("cfg") is None:
        raise incomplete(path, "it has no settings")
    if state.get("args") is not None or _name(state, "task") != TASK:
        if task == TASK:
            raise CheckpointError(
                f"{path}: not a checkpoint of the task {TASK} (but of {_name(state, 'task')!r} with the model "
                f"{_name(state, 'model')!r}); train one with --task {TASK}"
            )
        _check_s2t(path, state)
    elif task not in (None, TASK):
        raise CheckpointError(
            f"{path}: a checkpoint of the task {TASK}, and this command has another; give --task {TASK}"
        )
    else:
        _check_own(path, state)
    if criterion:
        _check_criterion(path, state)


def _section(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A group of settings as a dictionary; of the older form all of them."""
    if state.get("args") is not None:
        return vars(state["args"])
    section = (state.get("cfg") or {}).get(name)
    return (
        vars(section)
        if isinstance(section, Namespace)
        else section
        if isinstance(section, dict)
        else {}
    )


def _name(state: Mapping[str, Any], name: str) -> Any:
    """What the file names as its task, model or criterion."""
    section = _section(state, name)
    if state.get("args") is not None:
        return section.get({"model": "arch"}.get(name, name))
    return section.get("_name")


def _check_own(path: str, state: Mapping[str, Any]) -> None:
    from lst_fairseq.models.lst import LstModel

    model = _section(state, "model")
    known = [name for name, cls in ARCH_MODEL_REGISTRY.items() if cls is LstModel]
    if model.get("_name") not in known:
        raise refused_setting(
            path,
            "model._name",
            f"is {shown(model.get('_name'))}, and should be one of {', '.join(known)}",
        )
    check_section(path, "model", {**model, "_name": ""}, LstModelConfig)
    check_section(path, "task", _section(state, "task"), TASK_DATACLASS_REGISTRY[TASK])
    _check_sizes(path, model, state.get("model") or {})
    if RECORD_KEY in (state.get("model") or {}):
        _check_stored_record(path, state["model"][RECORD_KEY])
    if state.get("task_state") is not None:
        check_task_state(path, state["task_state"])


def _check_stored_record(path: str, tensor: Any) -> None:
    """As :func:`check_record`, of what ``CheckpointRecord.to_tensor`` returned."""
    try:
        record = CheckpointRecord.from_tensor(tensor)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    check_record(path, record)


def _check_s2t(path: str, state: Mapping[str, Any]) -> None:
    """fairseq's own speech translation models of fbanks, which evaluate nothing that is refused here."""
    model, task = _section(state, "model"), _section(state, "task")
    old = state.get("args") is not None
    models = {model.get("arch"), *([] if old else [model.get("_name")])} - {None}
    tasks = {task.get("task"), *([] if old else [task.get("_name")])} - {None}
    served = models and all(
        isinstance(m, str) and ARCH_MODEL_REGISTRY.get(m) in S2T_MODELS for m in models
    )
    if not served or tasks != {S2T_TASK}:
        raise CheckpointError(
            f"{path}: refused, since it is of the task {_listed(tasks)} with the model {_listed(models)}, and building "
            f"what a file names could run code: from files come only models of {TASK}, and s2t_transformer and "
            f"s2t_conformer of {S2T_TASK}; use a checkpoint that fairseq-train wrote with --task {TASK}"
        )
    for section in (model, task):
        _refuse_evaluated(path, section)
        sizes = {n: v for n, v in section.items() if n.startswith(("encoder_", "decoder_", "conv_"))}
        if name := beyond_reason(sizes):
            raise refused_setting(path, name, f"is {shown(sizes[name])}, beyond reason")


def _refuse_evaluated(path: str, settings: Any) -> None:
    """At any depth: fairseq takes its Transformers' settings flat or in groups (transformer_config.py:280)."""
    if isinstance(settings, Namespace):
        settings = vars(settings)
    if isinstance(settings, list):
        settings = dict(enumerate(settings))
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if str(name).endswith(EVALUATED) and value is not None:
            raise refused_setting(path, name, f"is {shown(value)}, which fairseq would evaluate, and should be empty")
        _refuse_evaluated(path, value)


def _listed(names: Iterable[Any]) -> str:
    return " and ".join(sorted(shown(name) for name in names)) or "none"


def _check_criterion(path: str, state: Mapping[str, Any]) -> None:
    name = _name(state, "criterion")
    if name is None:
        return
    if name not in CRITERIONS:
        raise refused_setting(
            path, "criterion", f"is {shown(name)}, and should be one of {', '.join(CRITERIONS)}"
        )
    if state.get("args") is None:
        dataclass = REGISTRIES["criterion"]["dataclass_registry"][name]
        check_section(path, "criterion", {**_section(state, "criterion"), "_name": ""}, dataclass)


def _shapes(parameters: Mapping[str, Any], part: str) -> list[list[int]]:
    """Shapes of a checkpoint's parameters with ``part`` in their name; placeholders of divided ones have theirs."""
    found = [value for name, value in parameters.items() if part in name]
    shapes = [
        next(iter(value.values()), []) if isinstance(value, dict) else list(value.shape)
        for value in found
    ]
    return [shape for shape in shapes if isinstance(shape, list)]


def _check_sizes(path: str, model: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Refuse sizes of trained parts far beyond those of the parameters that the file holds for them."""
    for part, names in {
        "encoder.adapter.": ADAPTER_SIZES.get(model.get("adapter"), ()),
        ".lora_": ("lora_r",),
    }.items():
        if part == ".lora_" and "lora" not in (model.get("train_modules") or ""):
            continue
        shapes = _shapes(parameters, part)
        for name in names:
            most = (
                max(len(shapes), 8)
                if name == "adapter_layers"
                else max([1024, *(2 * n for s in shapes for n in s)])
            )
            sizes = str(model.get(name) or 0).split(",")
            if any(int(size) > most for size in sizes):
                raise refused_setting(
                    path,
                    f"model.{name}",
                    f"is {model[name]}, and the parameters in the file are smaller",
                )


#: Settings of each adapter that its parameters' sizes go by.
ADAPTER_SIZES = {
    "conv": ("adapter_channels", "adapter_kernel_sizes"),
    "stack": ("adapter_channels", "adapter_stack"),
    "qformer": ("adapter_channels", "adapter_queries", "adapter_layers"),
}


def check_task_state(path: str, state: Any) -> None:
    """Refuse settings beside a checkpoint's configuration (``LstTask.state_dict``) that are not what they should be."""
    own = state.get("lst", {}) if isinstance(state, dict) else None
    if not isinstance(own, dict):
        raise refused_setting(path, "task_state", "is no group of settings")
    plain(
        path,
        {name: own.get(name) for name in ("speech_encoder", "llm", "max_source_seconds")},
        "task_state.lst",
    )
    for name in ("speech_encoder", "llm"):
        check_value(path, f"task_state.lst.{name}", own.get(name), str | None)
    check_value(
        path, "task_state.lst.max_source_seconds", own.get("max_source_seconds"), float | None
    )
    check_prompt(path, "task_state.lst.prompt", own.get("prompt") or {})
    if own.get("frontend") is not None:
        check_frontend(path, "task_state.lst.frontend", own["frontend"])


def check_prompt(path: str, setting: str, prompt: Any) -> None:
    """Refuse a prompt that is not what ``PromptSettings.as_dict`` returns."""
    if not isinstance(prompt, dict):
        raise refused_setting(path, setting, f"is {shown(prompt)}, and should be a group of settings")
    instructions = prompt.get("instructions") or {}
    if not isinstance(instructions, dict):
        raise refused_setting(path, f"{setting}.instructions", "should be texts by task")
    texts = {
        name: prompt.get(name) for name in ("template", "src_lang", "tgt_lang", "cot_separator")
    }
    for task, given in instructions.items():
        texts[f"instructions.{task}"] = given
    for name, given in texts.items():
        several = isinstance(given, list) and name.startswith("instructions.")
        for text in given if several else [given]:
            if text is not None and not (isinstance(text, str) and len(text) <= MOST_CHARACTERS):
                raise refused_setting(path, f"{setting}.{name}", f"is {shown(text)}, and should be a text")


def check_frontend(path: str, setting: str, frontend: Any) -> None:
    """Refuse a speech encoder that is not what ``SpeechFrontend.settings`` returns, or of absurd size."""
    if not isinstance(frontend, dict) or not all(
        isinstance(frontend.get(g), dict) for g in ("config", "preprocessor")
    ):
        raise refused_setting(path, setting, "should have the groups config and preprocessor")
    kind = frontend.get("kind")
    if not isinstance(kind, str) or kind not in FRONTENDS:
        raise refused_setting(
            path,
            f"{setting}.kind",
            f"is {shown(kind)}, and should be one of {', '.join(sorted(FRONTENDS))}",
        )
    if (
        issubclass(FRONTENDS[kind], PretrainedFrontend)
        and frontend["config"].get("model_type") != kind
    ):
        raise refused_setting(path, f"{setting}.config.model_type", f"should be {kind}")
    if attention := foreign_attention(frontend["config"]):
        known = ", ".join(sorted(OWN_ATTENTION))
        raise refused_setting(
            path,
            f"{setting}.config.attn_implementation",
            f"is {shown(attention)}, and should be one of {known}",
        )
    if "conv_feature_layers" in frontend["config"]:
        try:
            parse_convolutions(frontend["config"]["conv_feature_layers"])
        except ValueError as error:
            raise refused_setting(path, f"{setting}.config", f"does not serve: {error}") from None
    for group in ("config", "preprocessor"):
        if name := beyond_reason(frontend[group]):
            raise refused_setting(
                path,
                f"{setting}.{group}.{name}",
                f"is {shown(frontend[group][name])}, beyond reason",
            )


def check_record(path: str, record: CheckpointRecord) -> CheckpointRecord:
    """The record in a checkpoint or an export, if its texts and its prompt are within reason."""
    for name, source in record.sources.items():
        for entry, text in source.items():
            check_value(path, f"record.sources.{name}.{entry}", text, str)
    check_value(path, "record.tokenizer", record.tokenizer, str)
    check_prompt(path, "record.prompt", record.prompt)
    return record
