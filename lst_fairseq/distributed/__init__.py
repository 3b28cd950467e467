"""``--ddp-backend fully_sharded`` for the task lst_st: full fine-tuning of an LLM that outgrows one GPU.

fairseq's own backend of that name stands on fairscale, which is no longer kept up, does not run on CPUs and forbids
``--bf16``; PyTorch's FSDP2 takes its place behind the same flags.

    launch.py          fairseq-train as one process of torchrun's or Slurm's
    startup_check.py   whether the processes agree, before they join
    install.py         puts the trainer behind fairseq's flag
    trainer.py         fairseq's trainer over a sharded model
    fsdp.py            what is sharded, and how it computes
    checkpoint.py      sharded models to whole and to sharded checkpoints, and back
    collectives.py     what all processes exchange and must agree on
    heartbeat.py       which of them is gone
    shutdown.py        the end of a run
"""
