"""fairseq's trainer over divided models; ``Trainer(...)`` becomes one where the backend is fully_sharded.

Line numbers are those of fairseq-fixed 0.12.3.1.
"""

import copy
import hashlib
import logging
import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from fairseq import optim, utils
from fairseq.distributed import DistributedTimeoutWrapper, ModuleProxyWrapper
from fairseq.logging import meters, metrics
from fairseq.optim import lr_scheduler
from fairseq.optim.fp16_optimizer import FP16Optimizer
from fairseq.trainer import Trainer
from omegaconf import open_dict
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lst_fairseq.checkpoints.failures import explained_failure, refuse_directory
from lst_fairseq.distributed import checkpoint
from lst_fairseq.distributed.collectives import check_same
from lst_fairseq.distributed.fsdp import ShardedModel, ShardingSettings, build_mesh, like, shard
from lst_fairseq.distributed.heartbeat import Watch, host_of
from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.lst import LstModel

logger = logging.getLogger(__name__)

_watch: Watch | None = None


class ShardedTrainer(Trainer):
    """fairseq's training loop with parameters, gradients and optimiser states divided among processes.

    fairseq's own code for this backend asks for fairscale at many places; here ``is_fsdp`` is false, and what has to
    differ is overridden.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None):
        check_settings(cfg, criterion, quantizer)
        _ensure_process_group(cfg)
        plain = copy.deepcopy(cfg)
        with open_dict(plain):  # precision and offloading are the engine's affair (trainer.py:96, :90)
            plain.common.fp16 = plain.common.bf16 = False
            plain.distributed_training.cpu_offload = False
        super().__init__(plain, task, model, criterion, quantizer)
        self.cfg = cfg
        self._sharded: ShardedModel | None = None
        self._in_step = False
        self._compared: set[str] = set()
        self._watch = start_watch(cfg, task.cfg.lost_process_timeout)
        self._gathered: dict[str, Any] | None = None
        self._gathered_optim_state: dict[str, Any] | None = None

    @property
    def is_fsdp(self) -> bool:
        """Whether fairscale is to be used."""
        return False

    @property
    def use_distributed_wrapper(self) -> bool:
        return True

    @property
    def sharded(self) -> ShardedModel:
        """The divided model, without fairseq's proxy around it."""
        if self._sharded is None:
            settings = sharding_settings(self.cfg, self.task.cfg)
            mesh = build_mesh(settings, self.data_parallel_world_size, self.device)
            check_same(
                start_of(self._model),
                "the model to start from",
                "every node needs the same --llm, --speech-encoder and versions of the libraries",
            )
            self._sharded = shard(self._model, settings, mesh, self.device)
        return self._sharded

    @property
    def model(self) -> Any:
        if self._wrapped_model is None:
            self._wrapped_model = ModuleProxyWrapper(self.sharded)
            timeout = self.cfg.distributed_training.heartbeat_timeout
            if timeout > 0:
                self._wrapped_model = DistributedTimeoutWrapper(self._wrapped_model, timeout=timeout)
        return self._wrapped_model

    @property
    def criterion(self) -> Any:
        return self._criterion

    def _build_optimizer(self) -> None:
        """As trainer.py:319, over this process's parts, which are fp32: they are their own master weights."""
        optimizer = optim.build_optimizer(self.cfg.optimizer, self.sharded.parts)
        if not optimizer.supports_flat_params:
            raise ValueError(
                f"--optimizer {self.cfg.optimizer._name}: it looks at whole matrices, and with --ddp-backend "
                "fully_sharded a process has parts of them; take adam, adadelta, adamax, nag or sgd"
            )
        if self.cfg.common.fp16 or self.cfg.common.bf16:
            optimizer = FP16Optimizer(self.cfg, self.sharded.parts, optimizer, self.sharded.parts)
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, optimizer)
        self._lr_scheduler.step_update(0)

    def zero_grad(self) -> None:
        super().zero_grad()
        self.sharded.zero_grads()

    def clip_grad_norm(self, clip_norm: float) -> Tensor:
        return self.optimizer.clip_grad_norm(clip_norm, aggregate_norm_fn=self.sharded.whole_norm)

    def get_train_iterator(self, *args: Any, **kwargs: Any) -> Any:
        iterator = super().get_train_iterator(*args, **kwargs)
        check_data(iterator.dataset, self.cfg.dataset.train_subset)
        return iterator

    def get_valid_iterator(self, subset: str, *args: Any, **kwargs: Any) -> Any:
        iterator = super().get_valid_iterator(subset, *args, **kwargs)
        if subset not in self._compared:
            check_data(iterator.dataset, subset)
            self._compared.add(subset)
        return iterator

    # --- checkpoints

    @property
    def always_call_state_dict_during_save_checkpoint(self) -> bool:
        """Never: :meth:`consolidate_optimizer`, which fairseq calls in all processes before, has gathered all."""
        return False

    def consolidate_optimizer(self) -> None:
        """Gather model and optimiser in the first process, or write all processes' parts (--use-sharded-state)."""
        if self._in_step:  # a process that failed alone: the others would wait for it, and it for them
            return
        self.sharded.reshard()
        state: dict[str, Any] = {"model": self._stored_model()}
        if not self.cfg.checkpoint.no_save_optimizer_state:
            state["last_optimizer_state"] = checkpoint.changed_parts(self.optimizer.state_dict(), self._divided)
        if self.cfg.distributed_training.use_sharded_state:
            self._gathered = checkpoint.save_shards(state, self.cfg.checkpoint.save_dir, self.get_num_updates())
        else:
            self._gathered = checkpoint.gather(state, self.device)

    def _stored_model(self) -> dict[str, Any]:
        """As one process stores it: in half precision the weights that it computes with, beside the master weights."""
        dtype = self.sharded.settings.dtype
        state = self._model.state_dict()
        return {k: v.to(dtype) if dtype and isinstance(v, DTensor) else v for k, v in state.items()}

    def _divided(self, i: int, part: Tensor) -> Tensor:
        """An optimiser's tensor as the part of one that is divided as its parameter is."""
        return like(part, self.sharded.trained[i])

    def state_dict(self) -> dict[str, Any]:
        """fairseq's, of what :meth:`consolidate_optimizer` gathered."""
        if self._gathered is None:
            raise RuntimeError("consolidate_optimizer gathers the state first, in all processes")
        gathered, self._gathered = self._gathered, None
        self._gathered_optim_state = gathered.get("last_optimizer_state")
        return {**super().state_dict(), **gathered}

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        if self._in_step:
            logger.warning(
                f"{filename} is not written: a process that stops in mid-step cannot gather the others' parts"
            )
            return None
        return super().save_checkpoint(filename, extra_state)

    def load_checkpoint(
        self,
        filename: str,
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        optimizer_overrides: dict[str, Any] | None = None,
        reset_meters: bool = False,
    ) -> dict[str, Any] | None:
        """As trainer.py:465, of whole and sharded checkpoints of any number of processes.

        Raises:
            CheckpointError: it cannot be read or does not fit, or processes were told different things.
        """
        refuse_directory(filename)
        logger.info(f"Preparing to load checkpoint {filename}")
        check_same(
            f"{os.path.basename(filename)}{', fresh optimiser' * reset_optimizer}",
            "the checkpoint to start from",
            "every node has to see the same --save-dir and --finetune-from-model",
        )
        opened = checkpoint.open_checkpoint(filename, self.device)
        self._optim_history = []
        if opened is None:
            logger.info(f"No existing checkpoint found {filename}")
            return None
        (skeleton, source), history = opened, opened[0]["optimizer_history"]
        state, names = checkpoint.with_meta(skeleton)
        self._optim_history = history
        self.model.set_num_updates(history[-1]["num_updates"])
        try:
            self._load_model(state["model"], names, source)
            if "last_optimizer_state" in state and not reset_optimizer:
                self._load_optimizer(state["last_optimizer_state"], names, source, optimizer_overrides)
                if not reset_lr_scheduler:
                    self.lr_scheduler.load_state_dict(history[-1]["lr_scheduler_state"])
                self.set_num_updates(history[-1]["num_updates"])
            return self._load_progress(state["extra_state"], filename, reset_meters)
        except Exception as error:
            if (failure := explained_failure(error, [filename])) is error:
                raise
            raise failure from None if isinstance(error, CheckpointError) else error

    def _load_model(self, stored: dict[str, Any], names: dict[int, str], source: checkpoint.Source) -> None:
        wanted = self._model.matched_state(stored)
        own = torch.nn.Module.state_dict(self._model)
        source.read({names[id(value)]: own[key] for key, value in wanted.items() if id(value) in names})
        small = {id(value) for value in stored.values()} - names.keys()
        for key, value in wanted.items():
            if id(value) in small:
                own[key].copy_(value)

    def _load_optimizer(
        self, stored: dict[str, Any], names: dict[int, str], source: checkpoint.Source, overrides: dict[str, Any] | None
    ) -> None:
        self._build_optimizer()
        last, own = self._optim_history[-1], type(self.optimizer).__name__
        if last["optimizer_name"] != own or last["criterion_name"] != type(self.criterion).__name__:
            raise CheckpointError(
                f"written with {last['optimizer_name']} and {last['criterion_name']}, and this run has {own} and "
                f"{type(self.criterion).__name__}: give the same --optimizer, --criterion and precision, or "
                "--reset-optimizer"
            )
        targets: dict[str, DTensor] = {}

        def part(i: int, value: Tensor) -> Tensor:
            parameter = self.sharded.trained[i] if i < len(self.sharded.trained) else None
            if parameter is None or parameter.shape != value.shape:
                raise CheckpointError(
                    "its optimiser states have other shapes than this run's: a different --train-modules, or fp16 "
                    "without --fp16-no-flatten-grads; give --reset-optimizer, or start with --finetune-from-model"
                )
            targets[names[id(value)]] = like(torch.zeros_like(self.sharded.parts[i]), parameter)
            return targets[names[id(value)]].to_local()

        state = checkpoint.changed_parts(stored, part)
        source.read(targets)
        self.optimizer.load_state_dict(state, overrides)

    def _load_progress(self, extra_state: dict[str, Any], filename: str, reset_meters: bool) -> dict[str, Any]:
        epoch = extra_state["train_iterator"]["epoch"]
        if "previous_training_time" in extra_state:
            self._previous_training_time = extra_state["previous_training_time"]
            self._start_time = time.monotonic()  # the clock that patches/clock.py gives the trainer
        self.lr_step(epoch)
        at_start = extra_state["train_iterator"].get("iterations_in_epoch", 0) == 0
        if "metrics" in extra_state and not (reset_meters or at_start):
            metrics.load_state_dict(extra_state["metrics"])
            for meter in metrics.get_meters("default"):
                if isinstance(meter, meters.TimeMeter):
                    meter.reset()
        logger.info(f"Loaded checkpoint {filename} (epoch {epoch} @ {self.get_num_updates()} updates)")
        return extra_state

    def train_step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        """One update. A process that runs out of memory stops the run: the others wait for its part of each unit."""
        self._in_step = True
        with self._explained():
            result = super().train_step(samples, raise_oom=True)
        self._in_step = False
        return result

    def valid_step(self, sample: Any, raise_oom: bool = False) -> Any:
        with self._explained():
            return super().valid_step(sample, raise_oom=True)

    def _explained(self) -> AbstractContextManager[None]:
        return self._watch.explained() if self._watch is not None else nullcontext()


def check_settings(cfg: Any, criterion: Any, quantizer: Any) -> None:
    """Refuse what cannot be combined with dividing a model.

    Raises:
        ValueError: names the flag.
    """
    combined = {
        "--amp": cfg.common.amp,
        "--store-ema": cfg.ema.store_ema,
        "--use-bmuf": cfg.optimization.use_bmuf,
        "--zero-sharding": cfg.distributed_training.zero_sharding != "none",
        "--pipeline-model-parallel": cfg.distributed_training.pipeline_model_parallel,
        "--quantization-config-path": quantizer is not None,
        "--tpu": cfg.common.tpu,
        "a criterion with parameters": utils.has_parameters(criterion),
    }
    for flag, given in combined.items():
        if given:
            raise ValueError(f"{flag} cannot be combined with --ddp-backend fully_sharded; leave one of them out")
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ValueError(f"--ddp-backend fully_sharded needs PyTorch 2.13 or later, and this is {torch.__version__}")


def sharding_settings(cfg: Any, task_cfg: Any) -> ShardingSettings:
    """The engine's settings from fairseq's flags and the task's."""
    half = {torch.float16: cfg.common.fp16, torch.bfloat16: cfg.common.bf16}
    return ShardingSettings(
        dtype=next((dtype for dtype, wanted in half.items() if wanted), None),
        shard_frozen=task_cfg.shard_frozen,
        group=task_cfg.shard_group,
        reshard=not cfg.distributed_training.no_reshard_after_forward,
        offload=cfg.distributed_training.cpu_offload,
        accumulation=str(task_cfg.accumulate_gradients),
        keep_frontend=bool(task_cfg.cache_features),
    )


def start_of(model: LstModel) -> str:
    """A hash of what a model is before it is divided: the files of its parts, and trained parameters in memory."""
    digest = hashlib.sha256(str(sorted((k, v["fingerprint"]) for k, v in model.record.sources.items())).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if parameter.requires_grad and not parameter.is_meta:
            digest.update(f"{parameter.detach().double().sum().item():.12g}".encode())
    return digest.hexdigest()[:12]


def check_data(dataset: Any, subset: str) -> None:
    """Raise a RuntimeError unless all processes have read the same segments."""
    sizes = np.asarray(dataset.sizes)
    check_same(
        f"{len(sizes):,} segments ({hashlib.sha256(sizes.tobytes()).hexdigest()[:12]})",
        f"the data of {subset}",
        "every node needs the same manifests and audio",
    )


def start_watch(cfg: Any, timeout: float) -> Watch | None:
    """The watch over the other processes, of which a process has one."""
    global _watch
    if _watch is not None:
        _watch.stop()
    several = torch.distributed.get_world_size() > 1 and timeout > 0
    _watch = Watch(timeout, host_of(cfg.distributed_training)) if several else None
    return _watch


def _ensure_process_group(cfg: Any) -> None:
    """A process alone is a group of one; fairseq starts groups for several only (distributed/utils.py:54)."""
    if not torch.distributed.is_initialized():
        cuda = torch.cuda.is_available() and not cfg.common.cpu
        torch.distributed.init_process_group(
            "nccl" if cuda else "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
