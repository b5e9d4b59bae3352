"""How much memory there is to fill, and whether it was too little."""

import os

import torch


def memory_of(device: torch.device) -> int:
    """Return the bytes that are free on an accelerator, or that the machine has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 8 * 2**30


def is_short_of_memory(error: BaseException) -> bool:
    """Tell whether there was no memory left; torch has an error of its own on accelerators only."""
    told = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("allocate memory" in told or "not enough memory" in told)
    )
