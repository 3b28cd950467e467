"""Sizes and memory of a training run, from configurations alone: no weights, no GPU.

What a GPU needs, in bytes:
  weights      all parameters, in the precision's type. fully_sharded: trained parameters in fp32, divided by the GPUs
               (with --shard-frozen frozen ones too, in their type); whole copies in the precision's type of what is in
               no Transformer layer (embeddings, output layer, adapter) and of two layers, the one that computes and the
               next; parameters that are not divided
  gradients    of trained parameters, in their type; in bf16 and fp16 also those of the fp32 master weights, which
               fairseq keeps. legacy_ddp on several GPUs: a buffer of at most 2**28 elements besides. fully_sharded: in
               fp32, divided by the GPUs; those of the largest unit whole, with an fp32 copy that is sent; and, where at
               most 2**28 parameters are trained, the whole sums of --accumulate-gradients auto
  optimizer    Adam's two states in fp32 and, in bf16 and fp16, the fp32 master weights; fully_sharded divides the
               states, and its master weights are those under weights
  activations  the larger of what the frontend's largest module reads and writes, and of what autograd saves in
               frontend (if trained), adapter and LLM, plus the larger of the loss (three fp32 tensors of the target
               positions' logits) and one LLM layer computed again (with gradient checkpointing, where a layer saves its
               input only). What is saved is counted in a forward pass of the real model without content. Fused
               attention saves query, key, value, output, a log-sum a row, and the LLM's mask in its type; eager
               attention its weights too. Left out: a frontend's dropout and mask; ctc is counted uncompressed
Not counted: CUDA's own context, fragmentation, and temporary results of the backward pass and the optimizer. For these
a tenth of --gpu-memory is kept free when it is said what fits.
The cheapest setting that fits is looked for in bf16, in the order of what it costs in time: legacy_ddp; fully_sharded
with whole parameters until the backward pass, without, with frozen parameters divided; the same with gradient
checkpointing; smaller batches; states in the host's memory.
Checkpoints: fairseq stores fp32 (trained modules, each tied parameter once), Adam's states, and in bf16 and fp16 the
fp32 master weights too. A stage that starts from another's checkpoint also stores what that one trained.

examples:
  lst plan --arch lst_13b --train-modules adapter,llm --gpus 16
  lst plan --arch lst_7b --train-modules adapter,lora --llm-dtype bfloat16 --json
  lst plan --arch lst --llm DIR --speech-encoder DIR     # directories with a config.json

Settings of the model are those of fairseq-train --task lst_st, such as --train-modules and --adapter. fairseq knows
them and takes seconds to say so: lst plan --arch lst --help-model.
"""

import argparse
import json

from lst_fairseq import register
from lst_fairseq.planning.planned_run import PlannedRun
from lst_fairseq.utils.flags import add_settings, settings_of

#: What transformers raises on a configuration that it cannot read.
ERRORS = (ValueError,)
#: What follows the flags that are known here is read by ``run``.
READS_THE_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst plan`` but for those of the model."""
    add_settings(parser, PlannedRun)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object instead of tables; all sizes in bytes"
    )


def model_settings(flags: list[str]) -> argparse.Namespace:
    """The fields of LstModelConfig, as fairseq-train reads its flags."""
    from fairseq.dataclass.utils import gen_parser_from_dataclass

    from lst_fairseq.models.config import LstModelConfig

    parser = argparse.ArgumentParser(prog="lst plan", add_help=False)
    group = parser.add_argument_group("model, as for fairseq-train")
    group.add_argument("--help-model", action="help", help="show these flags and stop")
    gen_parser_from_dataclass(group, LstModelConfig())
    return parser.parse_args(flags)


def run(args: argparse.Namespace) -> None:
    """Print sizes and memory."""
    register()
    cfg = model_settings(args.rest)
    from lst_fairseq.planning.plan import plan, table

    result = plan(settings_of(args, PlannedRun), cfg)
    print(json.dumps(result, indent=1) if args.json else table(result))
