"""A study: the grid of systems that a YAML file describes, and how each of them differs from the reference system.

factor    what is varied (frontend, adapter, LLM, strategy, amount of data), with named values; a value is a set of
          the recipe's settings (examples/mustc/settings.sh)
arm       one value of each factor
cell      an arm with one seed: one run of the recipe
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lst_fairseq.recipe.location import recipe_root, recipe_settings
from lst_fairseq.study.entries import (
    StudyError,
    axis_position,
    data_entries,
    entry_count,
    entry_list,
    entry_mapping,
    entry_name,
    entry_text,
    setting_text,
)
from lst_fairseq.utils.yaml_files import YamlError, read_yaml

#: Settings that several factors may each add to; of any other, two factors that set it differently are an error.
JOINED = ("EXTRA_TRAIN_ARGS", "EXTRA_GENERATE_ARGS", "PREP_ARGS")
#: Settings that a study decides itself.
RESERVED = ("WORK", "SEED", "SPLITS", "FORCE", "TRIPLES")
#: Steps of the recipe for which a value may set something that the others do not get.
STAGES = ("stage1", "stage2", "generate")
METRICS = ("bleu", "chrf")
#: Arms that a study may have.
MAX_ARMS = 1000

_KEYS = {"name", "title", "settings", "base", "seeds", "splits", "search", "factors", "reference", "grid"}
_KEYS |= {"exclude", "claims", "alignment"}
_DATA = {"fraction", "max_wer", "speech_encoder", "instructions"}


@dataclass(frozen=True)
class Options:
    """What a value of a factor sets, or several values together.

    Attributes:
        settings: of the recipe, for all of its steps.
        stages: settings for one step alone, by its name in STAGES.
        data: ``fraction`` of the training segments; ``max_wer``, the word error rate up to which training segments are
            kept, by the CTC head of ``speech_encoder`` (default: the cell's own); ``instructions`` by task, from which
            training draws.
        search: candidates of settings, instead of the study's.
        note: for the report's tables.
        at: what a curve over the factor has as its axis, and where the value stands on it.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    at: tuple[str, float] | None = None

    def of_stage(self, stage: str) -> dict[str, str]:
        """Settings that a step gets."""
        settings = dict(self.settings)
        for name, value in self.stages.get(stage, {}).items():
            settings[name] = f"{settings[name]} {value}" if name in JOINED and settings.get(name) else value
        return settings


@dataclass(frozen=True)
class Arm:
    """One value of each factor. ``label`` names those in which it differs from the reference arm."""

    values: Mapping[str, str]
    label: str
    options: Options

    @property
    def slug(self) -> str:
        """For names of folders."""
        return "_".join(self.values.values())


@dataclass(frozen=True)
class Claim:
    """That the arm ``better`` scores higher than the arm ``worse``, in words."""

    text: str
    better: Arm
    worse: Arm


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        name, title: for folders, and for the report.
        settings: file of the recipe's settings that all cells start from, or None.
        seeds: of training; each arm has a cell for each.
        splits: test splits, the first of which decides.
        dev: the split on which the search chooses.
        factors: their values, by names.
        notes, at: of values, by (factor, value); see Options.
        blocks: each a list of factors that are crossed while the others keep the reference's value.
        arms: all that the blocks ask for, the reference first, each once.
        search_seed, search_metric, search: how settings are chosen on dev, one after another.
        search_widen: values that may be tried beyond the candidates, while the best is at their edge.
        alignment: segments to measure the alignment on after stage 1; 0: not measured.
    """

    name: str
    title: str
    settings: Path | None
    seeds: tuple[int, ...]
    splits: tuple[str, ...]
    dev: str
    factors: Mapping[str, tuple[str, ...]]
    notes: Mapping[tuple[str, str], str]
    at: Mapping[tuple[str, str], tuple[str, float]]
    blocks: tuple[tuple[str, ...], ...]
    arms: tuple[Arm, ...]
    search_seed: int
    search_metric: str
    search_widen: int
    search: Mapping[str, tuple[str, ...]]
    claims: tuple[Claim, ...]
    alignment: int

    @property
    def reference(self) -> Arm:
        return self.arms[0]

    def arm(self, **values: str) -> Arm | None:
        """The arm that differs from the reference in these values; None where the grid has no such arm."""
        wanted = {**self.reference.values, **values}
        return next((arm for arm in self.arms if arm.values == wanted), None)

    @property
    def searched(self) -> tuple[str, ...]:
        """All settings that are searched in some arm."""
        return tuple(dict.fromkeys(name for arm in self.arms for name in self.candidates(arm)))

    def candidates(self, arm: Arm) -> dict[str, tuple[str, ...]]:
        """Settings to choose for an arm, in their order, with the values to try: the study's, then its own alone."""
        return {**self.search, **arm.options.search}

    def block_arms(self, block: Sequence[str]) -> list[Arm]:
        """Arms that differ from the reference in no other factor than those of the block."""
        others = [factor for factor in self.factors if factor not in block]
        reference = self.reference.values
        return [arm for arm in self.arms if all(arm.values[name] == reference[name] for name in others)]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_study(path: str | Path) -> Study:
    """The study that a YAML file describes; examples/study/README.md has the meaning of each entry.

    Raises:
        StudyError: the file is not there or not YAML, an entry is unknown or missing, or values contradict each other.
    """
    path = Path(path)
    try:
        content = read_yaml(path, "examples/study of the repository has studies to start from")
    except YamlError as error:
        raise StudyError(str(error)) from None
    try:
        return _study(entry_mapping(content, "the study", _KEYS), path.stem)
    except StudyError as error:
        raise StudyError(f"{path}: {' '.join(str(error).split())}") from None


def _study(content: Mapping[str, Any], stem: str) -> Study:
    known = recipe_settings()
    base = _options(content.get("base"), "base", known)
    factors = {
        entry_name(factor, "factors"): {
            entry_name(value, f"factors: {factor}"): _options(given, f"factors: {factor}: {value}", known)
            for value, given in entry_mapping(values, f"factors: {factor}").items()
        }
        for factor, values in entry_mapping(content.get("factors"), "factors").items()
    }
    if empty := [factor for factor, values in factors.items() if not values]:
        raise StudyError(f"factors: {empty[0]}: has no value; name at least one")
    for factor, values in factors.items():
        if len(axes := {options.at[0] for options in values.values() if options.at}) > 1:
            named = f"factors: {factor}: at: {', '.join(sorted(axes))}"
            raise StudyError(f"{named}: a factor has one such name, give all the same")
    names = {factor: tuple(values) for factor, values in factors.items()}
    reference = _assignment(content.get("reference"), "reference", names)
    reference = {factor: reference.get(factor, values[0]) for factor, values in names.items()}
    exclude = entry_list(content.get("exclude"), "exclude", "values of factors to leave out")
    excluded = [_assignment(entry, "exclude", names) for entry in exclude]
    listed = entry_list(content.get("grid"), "grid", "blocks, each a list of factors to cross") or [list(names)]
    blocks = tuple(tuple(_block(block, names)) for block in listed)
    if sum(math.prod(len(names[factor]) for factor in block) for block in blocks) > MAX_ARMS:
        raise StudyError(f"grid: more than {MAX_ARMS:,} arms; cross fewer factors")

    def arm(values: Mapping[str, str]) -> Arm:
        options = merged(base, ((name, factors[name][value]) for name, value in values.items()))
        different = [value for factor, value in values.items() if value != reference[factor]]
        return Arm(dict(values), ", ".join(different) or "reference", options)

    def is_excluded(values: Mapping[str, str]) -> bool:
        return any(entry.items() <= values.items() for entry in excluded)

    if is_excluded(reference):
        raise StudyError("exclude: leaves out the reference; choose another reference")
    grid = [reference]
    for block in blocks:
        for combination in itertools.product(*(names[factor] for factor in block)):
            values = {**reference, **dict(zip(block, combination, strict=True))}
            if values not in grid and not is_excluded(values):
                grid.append(values)
    arms = tuple(map(arm, grid))
    _check_labels(arms)
    search = entry_mapping(content.get("search"), "search")
    said = entry_list(content.get("claims"), "claims", "claims, each with claim, better and worse")
    claims = tuple(_claim(entry, names, reference, arms) for entry in said)
    seeds, splits = content.get("seeds", [1]), content.get("splits", ["tst-COMMON"])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and 0 < s < 2**32 for s in seeds):
        raise StudyError(f"seeds: {seeds!r:.200}: give a list of whole numbers above 0")
    if not isinstance(splits, list) or not splits or not all(isinstance(s, str) and s.strip() for s in splits):
        raise StudyError(f"splits: {splits!r:.200}: give a list of test splits, each a text")
    metric = search.get("by", "bleu")
    if metric not in METRICS:
        raise StudyError(f"search: by: {metric}: choose one of {', '.join(METRICS)}")
    if (dev := entry_text(search.get("split", "dev"), "search: split")) in splits:
        raise StudyError(f"search: split: {dev} is a test split; settings are chosen on another one, name that")
    candidates = {k: _candidates(v, k, known) for k, v in search.items() if k not in ("by", "seed", "split", "widen")}
    widen = entry_count(search.get("widen", 0), "search: widen", 0, "how many more values may be tried, as ")
    if widen:
        for setting, values in [*candidates.items(), *(pair for a in arms for pair in a.options.search.items())]:
            _check_numbers(setting, values)
    settings = content.get("settings")
    return Study(
        name=entry_name(content.get("name", stem), "name"),
        title=entry_text(content.get("title", content.get("name", stem)), "title"),
        settings=None if settings is None else Path(expanded(entry_text(settings, "settings"))),
        seeds=tuple(dict.fromkeys(seeds)),
        splits=tuple(splits),
        dev=dev,
        factors=names,
        notes={(f, v): options.note for f, values in factors.items() for v, options in values.items() if options.note},
        at={(f, v): options.at for f, values in factors.items() for v, options in values.items() if options.at},
        blocks=blocks,
        arms=arms,
        search_seed=entry_count(search.get("seed", seeds[0]), "search: seed", 1),
        search_metric=metric,
        search_widen=widen,
        search=candidates,
        claims=claims,
        alignment=entry_count(content.get("alignment") or 0, "alignment"),
    )


def merged(base: Options, given: Iterable[tuple[str, Options]]) -> Options:
    """A base with what values of factors set: they win over it, and must not contradict each other.

    Args:
        base: of all cells.
        given: factors with the options of the value chosen for each.

    Raises:
        StudyError: two factors set the same thing to different values.
    """
    settings, data, search = dict(base.settings), dict(base.data), dict(base.search)
    stages = {stage: dict(base.stages.get(stage, {})) for stage in STAGES}
    owners: dict[tuple[str, str], str] = {}

    def take(into: dict[str, Any], values: Mapping[str, Any], where: str, factor: str) -> None:
        for name, value in values.items():
            if name in JOINED:
                into[name] = f"{into[name]} {value}" if into.get(name) else value
                continue
            owner = owners.setdefault((where, name), factor)
            if owner != factor and into[name] != value:
                raise StudyError(
                    f"the factors {owner} and {factor} both set {name}, to {into[name]!r} and {value!r}: leave one out"
                )
            into[name] = value

    for factor, options in given:
        take(settings, options.settings, "settings", factor)
        take(data, options.data, "data", factor)
        take(search, options.search, "search", factor)
        for stage, values in options.stages.items():
            take(stages[stage], values, stage, factor)
    return Options(settings, {k: v for k, v in stages.items() if v}, data, search)


def expanded(value: Any) -> str:
    """A setting as text, with $LST_ROOT for where the recipe lies; an empty entry is the empty text."""
    return "" if value is None else str(value).replace("$LST_ROOT", str(recipe_root()))


def _options(given: Any, where: str, known: Sequence[str]) -> Options:
    given = entry_mapping(given, where)
    parts = ("data", "search", "note", "at", *STAGES)
    settings = {name: value for name, value in given.items() if name not in parts}
    data = data_entries(given.get("data"), f"{where}: data", _DATA)
    search = entry_mapping(given.get("search"), f"{where}: search")
    return Options(
        settings=_settings(settings, where, known),
        stages={
            stage: _settings(entry_mapping(given[stage], f"{where}: {stage}"), f"{where}: {stage}", known)
            for stage in STAGES
            if stage in given
        },
        data={name: expanded(value) if isinstance(value, str) else value for name, value in data.items()},
        search={name: _candidates(values, name, known) for name, values in search.items()},
        note=entry_text(given.get("note"), f"{where}: note"),
        at=axis_position(given["at"], where) if "at" in given else None,
    )


def _settings(given: Mapping[str, Any], where: str, known: Sequence[str]) -> dict[str, str]:
    for name in given:
        if name in RESERVED:
            raise StudyError(f"{where}: {name} is the study's own to set; leave it out")
        if name not in known:
            raise StudyError(f"{where}: {name}: no such setting; examples/mustc/settings.sh has: {', '.join(known)}")
    return {name: expanded(setting_text(value, f"{where}: {name}")) for name, value in given.items()}


def _candidates(values: Any, name: str, known: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise StudyError(f"search: {name}: {values!r:.200}: give a list of values to try")
    return tuple(_settings({name: value}, "search", known)[name] for value in values)


def _check_numbers(setting: str, values: Sequence[str]) -> None:
    """Only among numbers above 0 there is something beyond the best; a single value is not searched."""
    try:
        numbers = {float(value) for value in values}
    except ValueError:
        numbers = set()
    if len(values) > 1 and (len(numbers) < len(values) or min(numbers) <= 0):
        raise StudyError(f"search: {setting}: {', '.join(values)}: `widen` needs different numbers above 0")


def _block(block: Any, names: Mapping[str, tuple[str, ...]]) -> list[str]:
    factors = [block] if isinstance(block, str) else block
    if not isinstance(factors, list) or not factors:
        raise StudyError(f"grid: {block!r}: give a list of blocks, each a list of factors to cross")
    for factor in factors:
        if not isinstance(factor, str | int | float) or factor not in names:
            raise StudyError(f"grid: no factor is called {factor!r}; there are: {', '.join(names)}")
    return factors


def _assignment(given: Any, where: str, names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    values = {str(factor): str(value) for factor, value in entry_mapping(given, where).items()}
    for factor, value in values.items():
        if factor not in names:
            raise StudyError(f"{where}: no factor is called {factor!r}; there are: {', '.join(names)}")
        if value not in names[factor]:
            raise StudyError(f"{where}: {factor} has no value {value!r}; it has: {', '.join(names[factor])}")
    return values


def _claim(
    given: Any, names: Mapping[str, tuple[str, ...]], reference: Mapping[str, str], arms: Sequence[Arm]
) -> Claim:
    given = entry_mapping(given, "claims", {"claim", "better", "worse"})
    if missing := [key for key in ("claim", "better", "worse") if key not in given]:
        raise StudyError(f"claims: {given.get('claim', given)}: {missing[0]} is missing; give claim, better and worse")
    found = {}
    for side in ("better", "worse"):
        where = f"claims: {given['claim']}: {side}"
        wanted = {**reference, **_assignment(given[side], where, names)}
        found[side] = next((arm for arm in arms if arm.values == wanted), None)
        if found[side] is None:
            raise StudyError(f"{where}: the grid has no such arm; add a block to `grid`")
    return Claim(entry_text(given["claim"], "claims: claim"), found["better"], found["worse"])


def _check_labels(arms: Sequence[Arm]) -> None:
    seen: dict[str, Arm] = {}
    for arm in arms:
        if seen.setdefault(arm.label, arm) is not arm:
            raise StudyError(f"two arms are called {arm.label!r}; give values of different factors different names")
