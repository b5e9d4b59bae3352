"""The methods that turn pairs into directions, by name.

A package that is installed beside this one can add a `Method` as an entry point of the group
`steerable_llm.methods`.
"""

from steerable_llm.methods.bipo import BIPO
from steerable_llm.methods.caa import CAA
from steerable_llm.methods.contextfocus import CONTEXTFOCUS
from steerable_llm.methods.grains.grains import GRAINS
from steerable_llm.methods.ict import ICT
from steerable_llm.methods.icv import ICV
from steerable_llm.methods.iti import ITI
from steerable_llm.methods.mat_steer import MAT_STEER
from steerable_llm.methods.method import Method
from steerable_llm.methods.nl_iti import NL_ITI
from steerable_llm.methods.repe import REPE
from steerable_llm.methods.vti import VTI
from steerable_llm.plugins import Plugged

METHODS = Plugged(
    "steerable_llm.methods",
    Method,
    {
        "grains": GRAINS,
        "bipo": BIPO,
        "caa": CAA,
        "contextfocus": CONTEXTFOCUS,
        "ict": ICT,
        "icv": ICV,
        "iti": ITI,
        "nl_iti": NL_ITI,
        "mat_steer": MAT_STEER,
        "repe": REPE,
        "vti": VTI,
    },
)
