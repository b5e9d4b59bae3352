"""What a conversation with other models leaves in a history, and what is not for this one."""

import warnings
from collections import Counter
from collections.abc import Sequence

CACHE_POINTS = frozenset({"cachePoint", "cache_point"})
"""Blocks without text of their own, which tell a remote model what to keep in its cache."""

CARRYING = frozenset(
    {"image", "image_url", "audio", "input_audio", "video", "file", "document", "media"}
)
"""Blocks with a content of their own, which a reader would miss if they were left out."""


def tell_left_out(kinds: Sequence[str]) -> None:
    """Warn once of the blocks of a conversation that were left out of its prompt.

    Args:
        kinds: Their types, one entry for each; nothing is said of none.
    """
    if kinds:
        counted = Counter(kinds)
        listed = ", ".join(f"{kind} ({counted[kind]})" for kind in sorted(counted))
        warnings.warn(
            f"left out of the prompt, since only other models read them: blocks of type {listed}",
            UserWarning,
            stacklevel=3,
        )
