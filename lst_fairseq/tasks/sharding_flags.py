"""Flags of ``--ddp-backend fully_sharded`` beside fairseq's own."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

ACCUMULATIONS = ("auto", "whole", "sharded")


@dataclass
class ShardingConfig(FairseqDataclass):
    """Part of the task's settings.

    fairseq's own that apply: ``--cpu-offload``, ``--no-reshard-after-forward``, ``--use-sharded-state``.
    """

    shard_frozen: bool = field(
        default=False, metadata={"help": "fully_sharded: divide frozen parameters among the processes too"}
    )
    shard_group: int = field(
        default=0,
        metadata={
            "help": "fully_sharded: processes among which a copy of the model is divided, such as the GPUs of a node; "
            "groups hold the same (default: 0, all processes)"
        },
    )
    accumulate_gradients: ChoiceEnum(ACCUMULATIONS) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "fully_sharded with --update-freq: whole = each process adds up all gradients and sends them once "
            "an update; sharded = they are divided after each batch, which needs less memory; auto = whole if few "
            "parameters are trained"
        },
    )
    startup_timeout: float = field(
        default=60.0, metadata={"help": "fully_sharded: seconds that processes wait for each other at the start"}
    )
    lost_process_timeout: float = field(
        default=60.0,
        metadata={"help": "fully_sharded: seconds after which a silent process is taken for lost; 0: never"},
    )
