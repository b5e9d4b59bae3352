"""Steering vectors in the file formats of other tools: what is in the files, and nothing of models.

One module per container, all formats in `FORMATS`; a package that is installed beside this one can
add a `Format` as an entry point of the group `steerable_llm.formats`. `runtime.interchange` turns
them into steering vectors and back.
"""

from steerable_llm.plugins import Plugged
from steerable_llm.vector.interchange.format import Format
from steerable_llm.vector.interchange.gguf import EASYSTEER, LLAMA_CPP, REPENG
from steerable_llm.vector.interchange.lm_eval import LM_EVAL
from steerable_llm.vector.interchange.svec import SVEC

# A file is of the first format that recognises it.
FORMATS = Plugged(
    "steerable_llm.formats",
    Format,
    {
        "easysteer": EASYSTEER,
        "repeng": REPENG,
        "llama.cpp": LLAMA_CPP,
        "lm-eval": LM_EVAL,
        "svec": SVEC,
    },
)
