"""How much memory there is to fill."""

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
