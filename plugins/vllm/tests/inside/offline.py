"""Answer prompts with vLLM in one process; run by vLLM's own Python, told and answering in JSON.

Told one list of jobs, each with a checkpoint, its vectors, and prompts (tokens) with their extra
argument; says each answer's tokens.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def answers(job: dict[str, Any]) -> list[list[int]]:
    """Load one model and answer its prompts, twice: the second time out of the prefix cache."""
    llm = LLM(
        job["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_batched_tokens=32,
        max_num_seqs=8,
        skip_tokenizer_init=True,
        distributed_executor_backend="uni",
        additional_config={"steering": {"vectors": job["vectors"]}},
    )
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=job["length"],
            detokenize=False,
            ignore_eos=True,
            extra_args={"steering": steering} if steering else None,
        )
        for _, steering in job["prompts"]
    ]
    prompts = [{"prompt_token_ids": tokens} for tokens, _ in job["prompts"]]
    found = []
    for _ in range(2):
        found.append([list(o.outputs[0].token_ids) for o in llm.generate(prompts, params)])
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    if found[0] != found[1]:
        raise AssertionError("answers out of the prefix cache differ")
    return found[0]


if __name__ == "__main__":
    told, answer = map(Path, sys.argv[1:])
    answer.write_text(json.dumps([answers(job) for job in json.loads(told.read_text())]))
