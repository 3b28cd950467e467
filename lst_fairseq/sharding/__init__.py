"""``--ddp-backend fully_sharded`` for the task lst_st: full fine-tuning of an LLM that outgrows one GPU.

fairseq's own backend of that name stands on fairscale, which is no longer kept up, does not run on CPUs and forbids
``--bf16``; PyTorch's FSDP2 takes its place behind the same flags.

    config.py      flags
    engine.py      what is divided, and how it computes
    trainer.py     fairseq's trainer over it
    states.py      whole and sharded checkpoints
    convert.py     one into the other, for scripts/convert_checkpoint.py
    reader.py      sharded ones read without running code
    agreement.py   what processes must agree on
    startup.py     whether they do, before they join
    leaving.py     the end of a run
    watch.py       which of them is gone
    install.py     puts all of it behind fairseq's flag
"""
