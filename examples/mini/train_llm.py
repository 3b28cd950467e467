"""Train the mini LLM: a small Llama that translates English, with its tokenizer, saved as `save_pretrained` does.

    python examples/mini/train_llm.py --out backbones/llm                       # text from the grammar; de, fr, es
    python examples/mini/train_llm.py --out backbones/gpt2 --family gpt2 --hidden 160        # another family and size
    python examples/mini/train_llm.py --out backbones/digits-llm --updates 400 \\
        --text data/digits/en-de/data/train/txt data/digits/en-fr/data/train/txt

It reads `<s> English <de> German </s>` in every language, and a share of `<s> <de> German </s>`. OUT holds
model.safetensors (fp16), config.json, the tokenizer and results.json with the BLEU of greedy translations of unseen
sentences. A sentence in ten, those that grammar.is_heldout names, is never trained on: among the grammar's these
include the dev and test sentences of the mini corpus. A finished OUT is left alone.
"""

import argparse
import io
import json
import random
import resource
from itertools import islice
from pathlib import Path

import sacrebleu
import sentencepiece
import torch
import torch.nn.functional as F
from grammar import is_heldout, sample
from torch import Tensor, nn
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    LlamaTokenizer,
    PreTrainedModel,
)

from lst_fairseq.data.lengths import padded_batches

LANGUAGES = ("de", "fr", "es")
FAMILIES = ("llama", "gpt2")
LANGUAGE_TOKENS = [f"<{language}>" for language in ("en", *LANGUAGES)]
SPECIAL_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

Pairs = dict[str, list[tuple[str, str]]]  # by language: (English, translation)


def grammar_pairs(count: int, seed: int, part: str) -> Pairs:
    sentences = sample(count, seed, part)
    return {language: [(s.en, getattr(s, language)) for s in sentences] for language in LANGUAGES}


def text_pairs(folders: list[Path]) -> Pairs:
    """Pairs of the txt folders of MuST-C splits: SPLIT.en beside one SPLIT.LANG or several."""
    pairs: Pairs = {}
    for folder in folders:
        (english_path,) = folder.glob("*.en")
        english = english_path.read_text(encoding="utf-8").splitlines()
        for language in LANGUAGES:
            path = english_path.with_suffix(f".{language}")
            if path.exists():
                translations = path.read_text(encoding="utf-8").splitlines()
                pairs.setdefault(language, []).extend(zip(english, translations, strict=True))
    if not pairs:
        raise SystemExit(f"no .{', .'.join(LANGUAGES)} beside the .en in {', '.join(map(str, folders))}")
    return pairs


# --------------------------------------------------------------------------------------------------------- tokenizer
def train_tokenizer(lines: list[str], vocab_size: int) -> LlamaTokenizer:
    """A sentencepiece BPE model of these lines, as a LlamaTokenizer; text comes back exactly as it was."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        user_defined_symbols=LANGUAGE_TOKENS,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges = _merges(pieces, vocabulary)
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, **SPECIAL_TOKENS)
    tokenizer.update_post_processor()
    # lstrip: in "Hello. <de>" the space belongs to the token, not to a piece of its own.
    tokenizer.add_tokens([AddedToken(token, lstrip=True, normalized=False) for token in LANGUAGE_TOKENS])
    return tokenizer


def _merges(pieces: sentencepiece.SentencePieceProcessor, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The merges behind a sentencepiece BPE vocabulary, in the order in which they apply.

    sentencepiece keeps no list of merges: it joins the neighbours whose union is the piece of the best score, whichever
    they are. So each way to put a piece together from two others is a merge of that piece's rank.
    """
    merges = []
    for piece, identity in vocabulary.items():
        if pieces.is_control(identity) or pieces.is_unknown(identity) or piece in LANGUAGE_TOKENS:
            continue
        halves = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        merges += [(-pieces.get_score(identity), left, right) for left, right in halves
                   if left in vocabulary and right in vocabulary]  # fmt: skip
    return [(left, right) for _, left, right in sorted(merges)]


# ---------------------------------------------------------------------------------------------------------- training
def encode_examples(pairs: Pairs, tokenizer: LlamaTokenizer, alone_share: float, seed: int) -> list[tuple[list, int]]:
    """(ids, number of leading ids that are not predicted) of every example."""
    rng = random.Random(f"{seed}/alone")
    examples = []
    for language, sentences in pairs.items():
        token = tokenizer.convert_tokens_to_ids(f"<{language}>")
        english, translations = (
            tokenizer([pair[side] for pair in sentences], add_special_tokens=False)["input_ids"] for side in (0, 1)
        )
        for source, target in zip(english, translations, strict=True):
            source = [] if rng.random() < alone_share else source
            prefix = [tokenizer.bos_token_id, *source, token]
            examples.append((prefix + target + [tokenizer.eos_token_id], len(prefix)))
    return examples


def batches(examples: list[tuple[list, int]], batch_tokens: int, pad: int, seed: int):
    """Endless (ids [B, T], labels [B, T]) of similar lengths, epoch after epoch."""
    rng = random.Random(f"{seed}/batches")
    while True:
        order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]) + rng.random() * 2)
        groups = padded_batches(order, [len(example) for example, _ in examples], batch_tokens)
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(examples[i][0]) for i in group)
            ids, labels = torch.full((len(group), longest), pad), torch.full((len(group), longest), -100)
            for row, i in enumerate(group):
                example, unpredicted = examples[i]
                ids[row, : len(example)] = torch.tensor(example)
                labels[row, unpredicted : len(example)] = torch.tensor(example[unpredicted:])
            yield ids, labels


def new_model(tokenizer: LlamaTokenizer, args: argparse.Namespace) -> PreTrainedModel:
    if args.init:
        return AutoModelForCausalLM.from_pretrained(args.init, dtype=torch.float32, trust_remote_code=False)
    sizes = {
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "max_position_embeddings": 1024,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if args.family == "gpt2":  # its inner width is four times the hidden size, by itself
        config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    else:
        gated = {"intermediate_size": args.hidden * 8 // 3, "num_key_value_heads": args.heads}
        config = LlamaConfig(**sizes, **gated)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def learning_rate(update: int, args: argparse.Namespace) -> float:
    """Linear warm-up, then linear decay to a hundredth."""
    warm = args.warmup * args.updates
    if update < warm:
        return args.lr * (update + 1) / warm
    return args.lr * max(0.01, (args.updates - update) / (args.updates - warm))


def train(model: PreTrainedModel, examples: list[tuple[list, int]], pad: int, args: argparse.Namespace) -> None:
    device = model.device
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    total, count = 0.0, 0
    endless = batches(examples, args.batch_tokens, pad, args.seed)
    for update, (ids, labels) in enumerate(islice(endless, args.updates)):
        # Padding stands on the right, where causal attention keeps it from every true position: no mask is needed.
        logits = model(input_ids=ids.to(device)).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten().to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(update, args)
        optimizer.step()
        total, count = total + loss.item(), count + 1
        if (update + 1) % args.log_every == 0 or update + 1 == args.updates:
            print(f"update {update + 1}/{args.updates} loss {total / count:.4f} cpu {cpu_seconds():.0f} s", flush=True)
            total, count = 0.0, 0


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# -------------------------------------------------------------------------------------------------------- evaluation
@torch.inference_mode()
def translate(model: PreTrainedModel, tokenizer: LlamaTokenizer, english: list[str], language: str) -> list[str]:
    """Greedy translations."""
    token = tokenizer.convert_tokens_to_ids(f"<{language}>")
    hypotheses = []
    for start in range(0, len(english), 50):
        sources = tokenizer(english[start : start + 50], add_special_tokens=False)["input_ids"]
        prompts = [[tokenizer.bos_token_id, *source, token] for source in sources]
        longest = max(map(len, prompts))
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(p)) + p for p in prompts], device=model.device)
        mask: Tensor = (ids != tokenizer.pad_token_id).long()
        output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=longest + 40, do_sample=False)
        hypotheses += tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return hypotheses


def evaluate(model: PreTrainedModel, tokenizer: LlamaTokenizer, unseen: Pairs) -> dict[str, float]:
    """BLEU by language."""
    model.eval()
    scores = {}
    for language, pairs in unseen.items():
        hypotheses = translate(model, tokenizer, [english for english, _ in pairs], language)
        bleu = sacrebleu.corpus_bleu(hypotheses, [[translation for _, translation in pairs]])
        scores[f"en-{language}"] = round(bleu.score, 2)
    return scores


def save(model: PreTrainedModel, tokenizer: LlamaTokenizer, out: Path, results: dict) -> None:
    """Weights in fp16 (half the size), to be computed with in fp32; results.json last, it says done."""
    model.half().save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    # from_pretrained computes in the type named here.
    (out / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(out)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the model goes")
    parser.add_argument("--text", type=Path, nargs="+", metavar="TXT", help="txt folders, instead of the grammar")
    parser.add_argument("--init", type=Path, metavar="DIR", help="start from this trained LLM and its tokenizer")
    parser.add_argument("--sentences", type=int, default=60_000, help="of the grammar (default 60000)")
    parser.add_argument("--alone", type=float, default=0.15, help="share of examples without English (default 0.15)")
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--batch-tokens", type=int, default=2000, help="with padding (default 2000)")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="highest learning rate (default 1.5e-3)")
    parser.add_argument("--warmup", type=float, default=0.06, help="share of the updates (default 0.06)")
    parser.add_argument("--vocab", type=int, default=1800, help="pieces at most (default 1800)")
    parser.add_argument("--family", default="llama", choices=FAMILIES, help="architecture (default llama)")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=50, metavar="UPDATES")
    args = parser.parse_args()

    if (args.out / "results.json").exists():
        print(f"{args.out} is finished: {(args.out / 'results.json').read_text(encoding='utf-8')}")
        return
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.text:
        text = text_pairs(args.text)
        pairs = {language: [p for p in text[language] if not is_heldout(p[0])] for language in text}
        unseen = {language: [p for p in text[language] if is_heldout(p[0])][:300] for language in text}
    else:
        pairs, unseen = grammar_pairs(args.sentences, args.seed, "train"), grammar_pairs(300, args.seed, "heldout")

    lines = [english for english, _ in next(iter(pairs.values()))]
    lines += [translation for sentences in pairs.values() for _, translation in sentences]
    if args.init:
        tokenizer = AutoTokenizer.from_pretrained(args.init, trust_remote_code=False)
    else:
        tokenizer = train_tokenizer(random.Random(args.seed).sample(lines, min(len(lines), 40_000)), args.vocab)
    examples = encode_examples(pairs, tokenizer, args.alone, args.seed)
    model = new_model(tokenizer, args).to("cuda" if torch.cuda.is_available() else "cpu")
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(examples)} examples, {len(tokenizer)} pieces, {parameters / 1e6:.2f} M parameters", flush=True)
    train(model, examples, tokenizer.pad_token_id, args)
    results = {
        "parameters": parameters,
        "pieces": len(tokenizer),
        "updates": args.updates,
        "examples": len(examples),
        "seed": args.seed,
        "cpu_seconds": round(cpu_seconds()),
        "threads": torch.get_num_threads(),
        "unseen_sentences": {language: len(unseen[language]) for language in unseen},
    }
    results["bleu"] = evaluate(model, tokenizer, unseen)
    save(model, tokenizer, args.out, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
