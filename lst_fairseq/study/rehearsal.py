"""A study in little: every arm runs through all of its steps, with a few updates and short translations."""

from collections.abc import Mapping
from dataclasses import replace

from lst_fairseq.study.grid import Arm, Study

#: What every arm gets, whatever the study says. No cache of features: to fill one, all of the speech is encoded.
SHORT = {
    "STAGE1_UPDATES": "6",
    "STAGE2_UPDATES": "6",
    "ONE_STAGE_UPDATES": "6",
    "MAX_LEN_B": "12",
    "BEAM": "1",
    "CACHE_FEATURES": "",
}
#: Segments of dev on which the alignment is measured, at most.
SEGMENTS = 20


def rehearsal(study: Study) -> Study:
    """The study to run before the study: the same arms on the same data, with one seed, and no search.

    It shows what the arms' settings, checkpoints and memory have to say against them before the long runs find out; its
    scores mean nothing, so that there are no claims. A setting that a search chooses has its first candidate, unless it
    is one of SHORT. It keeps a name of its own, so that it shares no folder with the study.
    """

    def first(search: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {name: values[:1] for name, values in search.items() if name not in SHORT}

    def short(arm: Arm) -> Arm:
        options = arm.options
        stages = {
            stage: {name: value for name, value in settings.items() if name not in SHORT}
            for stage, settings in options.stages.items()
        }
        options = replace(options, settings={**options.settings, **SHORT}, stages=stages, search=first(options.search))
        return replace(arm, options=options)

    return replace(
        study,
        name=f"{study.name}-rehearsal",
        title=f"{study.title}: a rehearsal, whose scores mean nothing",
        seeds=study.seeds[:1],
        arms=tuple(map(short, study.arms)),
        search_seed=study.seeds[0],
        search=first(study.search),
        search_widen=0,
        claims=(),
        alignment=min(study.alignment, SEGMENTS),
    )
