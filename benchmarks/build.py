"""How long a vector takes to build, beside plain loops and captum, in one interleaved run.

    python benchmarks/build.py --model exhibit --pairs 50
    python benchmarks/build.py --model smollm2 --pairs 50

Every contestant gives token scores and directions for the same pairs:

- paper: `build_vector(preset="paper")`, the completeness check included;
- default: `build_vector()`;
- conservative: `build_vector(attribution="conservative")`, whose scores are not the paper's;
- loop: the paper's settings, one path step and one answer at a time, logits at every position;
- loop+weights: the same loop with `backward()`, which also computes the weights' gradients;
- captum: `IntegratedGradients(n_steps=5, method="riemann_right")`, logits at every position.

Times are processor time of this process, which a busy machine changes less than the clock; on a GPU
they are the clock's. The pairs of SmolLM2 are its own logged answers and their smallest edits.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients
from rich.console import Console
from sklearn.decomposition import PCA
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.logs.answers import read_answers
from steerable_llm.methods.build import build
from steerable_llm.methods.decision import stem_length
from steerable_llm.methods.grains.attribution import select_tokens
from steerable_llm.methods.grains.grains import GrainsConfig
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.pairs.pairing import pair_answers
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Table, Text, numeric
from steerable_llm.runtime.hooks import capture_block_outputs

ROOT = Path(__file__).resolve().parent.parent
STEPS, K = 5, 3
SHAPES: dict[str, Any] = {
    "tiny": lambda: LlamaConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        vocab_size=2048,
    ),
    "qwen2.5-0.5b-shape": lambda: Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=True,
        rope_theta=1e6,
    ),
    "llama-3.1-8b-shape": lambda: LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
        rope_theta=5e5,
    ),
}


@dataclass(frozen=True)
class Outcome:
    scores: list[Tensor]
    directions: Tensor  # [L, d]


def word_tokenizer(words: int = 1500) -> PreTrainedTokenizerFast:
    """One token per word, so that a random model needs no trained tokenizer."""
    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|unk|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *(f"w{i}" for i in range(words))])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    tokenizer.chat_template = (
        "<|bos|>{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return tokenizer


def random_pairs(n: int, prompt: int, answer: int) -> Pairs:
    source = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{source.randrange(1500)}" for _ in range(count))

    def around(count: int) -> int:
        return source.randint(int(0.8 * count), int(1.2 * count))

    return Pairs(
        PreferencePair(words(around(prompt)), words(around(answer)), words(around(answer)))
        for _ in range(n)
    )


def prepare(args: argparse.Namespace) -> tuple[SteerableHFLLM, Pairs]:
    dtype = getattr(torch, args.dtype)
    if args.model in ("exhibit", "smollm2"):
        if args.model == "exhibit":
            llm, pairs = SteerableHFLLM.demo(), demo.pairs("faithfulness")
        else:
            llm = SteerableHFLLM.smollm2()
            log = read_answers(ROOT / "experiments/data/answers.jsonl")
            pairs = pair_answers(log, reasons=demo.REASONS["faithfulness"]).pairs
        llm.model.to(args.device, dtype)
        return llm, pairs.sample(min(args.pairs, len(pairs)))
    torch.manual_seed(0)
    config = SHAPES[args.model]()
    with torch.device(args.device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    llm = SteerableHFLLM(model, word_tokenizer(), model_id=args.model)
    return llm, random_pairs(args.pairs, args.prompt_tokens, args.answer_tokens)


def log_prob(model: Any, points: Tensor, answer: list[int]) -> Tensor:
    """Plain form: logits at every position, then those of the answer. [N, T, d] to [N]."""
    ids = torch.tensor(answer, device=points.device)
    tail = model.get_input_embeddings()(ids).detach().expand(len(points), -1, -1)
    logits = model(inputs_embeds=torch.cat([points, tail], dim=1)).logits.float()
    log_probs = logits[:, points.shape[1] - 1 : -1].log_softmax(-1)
    return log_probs.gather(-1, ids.expand(len(points), -1)[..., None])[..., 0].sum(-1)


def scores_by_loop(model: Any, x: Tensor, good: list[int], bad: list[int]) -> Tensor:
    total = torch.zeros_like(x, dtype=torch.float32)
    for step in range(1, STEPS + 1):
        point = (x * (step / STEPS))[None].requires_grad_(True)
        value = log_prob(model, point, good) - log_prob(model, point, bad)
        total += torch.autograd.grad(value.sum(), point)[0][0].float()
    return (x.float() * total / STEPS).sum(-1)


def scores_by_loop_with_weights(model: Any, x: Tensor, good: list[int], bad: list[int]) -> Tensor:
    total = torch.zeros_like(x, dtype=torch.float32)
    for step in range(1, STEPS + 1):
        point = (x * (step / STEPS))[None].requires_grad_(True)
        (log_prob(model, point, good) - log_prob(model, point, bad)).sum().backward()
        total += point.grad[0].float()
        model.zero_grad()
    return (x.float() * total / STEPS).sum(-1)


def scores_by_captum(model: Any, x: Tensor, good: list[int], bad: list[int]) -> Tensor:
    method = IntegratedGradients(
        lambda points: log_prob(model, points, good) - log_prob(model, points, bad)
    )
    found = method.attribute(x[None], baselines=0.0, n_steps=STEPS, method="riemann_right")
    return found[0].float().sum(-1)


def build_plainly(
    llm: SteerableHFLLM, pairs: Pairs, score: Callable[..., Tensor], weights: bool = False
) -> Outcome:
    model = llm.model
    for parameter in model.parameters():
        parameter.requires_grad_(weights)
    scores, plus, minus = [], [], []
    for pair in pairs:
        ids = torch.tensor(llm.encode(pair.prompt), device=llm.device)
        x = model.get_input_embeddings()(ids).detach()
        good, bad = llm.encode_answer(pair.good), llm.encode_answer(pair.bad)
        a = score(model, x, good, bad)
        # The state that decides is behind what both answers open with.
        stem = torch.tensor(good[: stem_length(good, bad)], dtype=torch.long, device=llm.device)
        opening = model.get_input_embeddings()(stem).detach()
        scores.append(a.cpu())
        selectable = [not special for special in llm.chat_format.special_token_mask(pair.prompt)]
        states = []
        for removed in ((), *select_tokens(a, selectable, K)):
            masked = x.clone()
            masked[list(removed)] = 0
            with torch.no_grad(), capture_block_outputs(llm.blocks) as captured:
                model(inputs_embeds=torch.cat([masked, opening])[None])
            last = [captured[layer][0, -1] for layer in range(len(llm.blocks))]
            states.append(torch.stack(last).float().cpu())
        plus.append(states[0] - states[1])
        minus.append(states[0] - states[2])
    directions = []
    for layer in range(len(llm.blocks)):
        components = []
        for deltas in (plus, minus):
            rows = np.stack([delta[layer].numpy() for delta in deltas])
            component = PCA(1).fit(rows).components_[0]
            components.append(component * np.sign(rows.mean(0) @ component))
        directions.append(torch.from_numpy(components[0] - components[1]))
    return Outcome(scores, torch.stack(directions))


def build_ours(llm: SteerableHFLLM, pairs: Pairs, **settings: Any) -> Outcome:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the paper's five steps miss much; known and reported
        made = build(llm, pairs, progress=False, **settings)
    scores = [attribution.scores for attribution in made.attributions]
    directions = made.vector.directions
    return Outcome(scores, torch.stack([directions[i] for i in made.vector.layers]))


def clock(device: str) -> float:
    """Seconds: of the processor, or of the clock where a GPU works."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product: best of ten."""
    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = clock(device)
        torch.mm(left, right)
        best = min(best, clock(device) - start)
    return 2 * size**3 / best


def floor_flops(llm: SteerableHFLLM, pairs: Pairs, steps: int) -> tuple[float, float]:
    """Operations of forward and input gradient for all path steps: unpacked, and packed."""
    config = llm.model.config
    weights = sum(p.numel() for block in llm.blocks for p in block.parameters())
    width, depth = config.hidden_size, len(llm.blocks)
    unpacked = packed = 0.0
    for pair in pairs:
        prompt = len(llm.encode(pair.prompt))
        good, bad = len(llm.encode_answer(pair.good)), len(llm.encode_answer(pair.bad))
        head = 4 * width * config.vocab_size * (good + bad)
        long, short = prompt + good, prompt + bad
        row = prompt + good + bad - 2
        unpacked += steps * (4 * weights * (long + short) + head)
        unpacked += steps * 6 * depth * width * (long**2 + short**2)
        packed += steps * (4 * weights * row + head + 6 * depth * width * row**2)
    return unpacked, packed


def cosine(left: Tensor, right: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(left.double(), right.double(), dim=-1).min())


def default_steps() -> int:
    """Backward passes of the default attribution over each prompt."""
    config = GrainsConfig()
    return config.steps if config.attribution in ("integrated_gradients", "smoothgrad") else 1


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.threads:
        torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    llm, pairs = prepare(args)
    contestants: dict[str, Callable[[], Outcome]] = {
        "paper": lambda: build_ours(llm, pairs, preset="paper"),
        "default": lambda: build_ours(llm, pairs),
        "conservative": lambda: build_ours(llm, pairs, attribution="conservative"),
        "loop": lambda: build_plainly(llm, pairs, scores_by_loop),
        "loop+weights": lambda: build_plainly(llm, pairs, scores_by_loop_with_weights, True),
        "captum": lambda: build_plainly(llm, pairs, scores_by_captum),
    }
    if args.only:
        contestants = {name: contestants[name] for name in args.only}
    dtype = getattr(torch, args.dtype)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    peaks: list[float] = []
    outcomes: dict[str, Outcome] = {}
    _ = llm.fingerprint  # hashing the weights is not part of building
    for name, contestant in contestants.items() if args.warm_up else ():
        outcomes[name] = contestant()
    for _ in range(args.repeats):
        for name, contestant in contestants.items():
            start = clock(args.device)
            outcomes[name] = contestant()
            times[name].append(clock(args.device) - start)
        peaks.append(peak_flops(args.device, dtype))
    peak = statistics.median(peaks)
    floors = {name: floor_flops(llm, pairs, STEPS) for name in contestants}
    one = {"default": default_steps(), "conservative": 1}
    floors |= {name: floor_flops(llm, pairs, one[name]) for name in one if name in floors}
    slowest = statistics.median(times["loop"]) if "loop" in times else float("nan")
    reference = outcomes["paper"]
    rows = {
        name: {
            "seconds": statistics.median(times[name]),
            "all_seconds": times[name],
            "loop_times": slowest / statistics.median(times[name]),
            "floor_gflop": floors[name][0] / 1e9,
            "packed_floor_gflop": floors[name][1] / 1e9,
            "floor_share": floors[name][0] / peak / statistics.median(times[name]),
            "packed_floor_share": floors[name][1] / peak / statistics.median(times[name]),
            "score_cosine": cosine(torch.cat(outcome.scores), torch.cat(reference.scores)),
            "direction_cosine": cosine(outcome.directions, reference.directions),
        }
        for name, outcome in outcomes.items()
    }
    lengths = [len(llm.encode(pair.prompt)) for pair in pairs]
    return {
        "model": args.model,
        "pairs": len(pairs),
        "mean_prompt_tokens": statistics.fmean(lengths),
        "mean_answer_tokens": statistics.fmean(len(llm.encode_answer(p.good)) for p in pairs),
        "dtype": args.dtype,
        "device": torch.cuda.get_device_name()
        if args.device == "cuda"
        else (platform.processor() or platform.machine()),
        "threads": torch.get_num_threads(),
        "peak_gflops": peak / 1e9,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "time": "clock" if args.device == "cuda" else "processor",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "captum")},
        },
        "repeats": args.repeats,
        "rows": rows,
    }


def show(result: dict[str, Any]) -> None:
    title = (
        f"{result['model']}, {result['pairs']} pairs of {result['mean_prompt_tokens']:.0f} prompt "
        f"and {result['mean_answer_tokens']:.0f} answer tokens, {result['dtype']}"
    )
    said = (
        f"{result['device']}, {result['threads']} thread(s), {result['time']} time, matrix product "
        f"{result['peak_gflops']:.0f} GFLOP/s; the paper's floor "
        f"{result['rows']['paper']['floor_gflop']:.0f} GFLOP "
        f"({result['rows']['paper']['packed_floor_gflop']:.0f} packed); median of "
        f"{result['repeats']}; load {result['load_before']:.1f} before and "
        f"{result['load_after']:.1f} after; "
        + ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    )
    head = numeric(
        "seconds", "loop / it", "floor share", "packed floor share", "scores cos", "vectors cos"
    )
    cells = [
        [
            name,
            f"{row['seconds']:.2f}",
            f"{row['loop_times']:.2f}",
            f"{row['floor_share']:.2f}",
            f"{row['packed_floor_share']:.2f}",
            f"{row['score_cosine']:.6f}",
            f"{row['direction_cosine']:.6f}",
        ]
        for name, row in result["rows"].items()
    ]
    Console().print(Page(title, [Table(["", *head], cells), Text(said)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["exhibit", "smollm2", *SHAPES], default="exhibit")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--prompt-tokens", type=int, default=80, help="of random models")
    parser.add_argument("--answer-tokens", type=int, default=12, help="of random models")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default is what torch chooses")
    parser.add_argument("--warm-up", action="store_true", help="one untimed round first")
    parser.add_argument("--only", nargs="+", help="contestants to run; 'paper' must be one of them")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.only and "paper" not in args.only:
        parser.error("--only must name 'paper', which the others are compared with")
    result = run(args)
    if args.json:
        json.dump(result, sys.stdout, indent=2)
    else:
        show(result)


if __name__ == "__main__":
    main()
