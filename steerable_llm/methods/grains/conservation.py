"""Gradients that share out what they explain: layer-wise relevance propagation by autograd.

Inside `conservation`, gradient times input of a model's output adds up to that output, as far as
the model has no biases: nothing is lost or made on the way. What is not linear in its inputs is
taken as linear with a factor held fixed, and the gradient goes through what is left:

| step | held fixed | source |
|---|---|---|
| norm, any division | the denominator | Ali et al. 2022 |
| attention, any softmax | the weights | Ali et al. 2022 |
| activation f(x) | f(x) / x | AttnLRP, identity rule |
| product of two states | each by turns, and each gets half | AttnLRP, uniform rule |

The last one is what joins a gate and what it lets through.

Ali, Schnake, Eberle, Montavon, Müller and Wolf, *XAI for Transformers: Better Explanations through
Conservative Propagation* (arXiv:2202.07304). Achtibat, Hatefi, Dreyer, Jain, Wiegand, Lapuschkin
and Samek, *AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers*
(arXiv:2402.05602).

The rules act on torch's functions as they are called, so that no family of models needs a table;
only activations that are made of several functions are told from the module tree. Outputs stay
what they are, and so does the model for other threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.blocks import text_config
from steerable_llm.runtime.hooks import replaced_outputs

_ACTIVATION = re.compile(r"gelu|silu|swish|mish|relu|activation", re.IGNORECASE)
_OPEN_ATTENTION = ("eager", "sdpa")  # others compute their weights where no rule reaches them


@contextmanager
def conservation(model: nn.Module) -> Iterator[None]:
    """Make gradients of this thread's forward passes conservative, inside the `with` block.

    Raises:
        InvalidInputError: The model's attention cannot be held fixed.
    """
    attention = getattr(text_config(model), "_attn_implementation", None) or "eager"
    if attention not in _OPEN_ATTENTION:
        raise InvalidInputError(
            f"attribution 'conservative' cannot hold the weights of {attention!r} attention fixed: "
            "load the model with attn_implementation='sdpa', or choose another attribution"
        )
    activations = [
        module
        for module in model.modules()
        if _ACTIVATION.search(type(module).__name__) and not any(True for _ in module.children())
    ]
    with replaced_outputs(activations, proportional), _Rules():
        yield


def proportional(x: Tensor, y: Tensor) -> Tensor:
    """Return y, whose gradient with respect to x is that of x times the fixed y / x."""
    if not x.requires_grad or x.shape != y.shape:
        return y
    ratio = torch.where(x == 0, 0.0, y / x).detach()
    return y.detach() + ratio * (x - x.detach())


def _fixed(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return function(*args, **options).detach()


def _activation(function: Callable[..., Any], x: Tensor, *args: Any, **options: Any) -> Any:
    return proportional(x, function(x, *args, **options))


def _attention(
    function: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
) -> Any:
    return function(query.detach(), key.detach(), value, *rest, **more)


def _product(function: Callable[..., Any], a: Any, b: Any, **options: Any) -> Any:
    y = function(a, b, **options)
    return (0.5 * y).detach() + 0.5 * y if _state(a) and _state(b) else y


def _quotient(function: Callable[..., Any], a: Any, b: Any, **options: Any) -> Any:
    return function(a, b.detach() if isinstance(b, Tensor) else b, **options)


def _power(function: Callable[..., Any], x: Any, exponent: Any, **options: Any) -> Any:
    y = function(x, exponent, **options)
    return y.detach() if isinstance(exponent, int | float) and exponent < 0 else y


def _normalize(
    _: object, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, **__: object
) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, p, dim, keepdim=True)
    return x / length.clamp_min(eps).detach()


def _layer_norm(
    _: object,
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps).detach()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rms_norm(
    _: object,
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps).detach()
    return y if weight is None else y * weight


def _state(x: object) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


RULES: Mapping[str, Callable[..., Any]] = {
    "softmax": _fixed,
    "sigmoid": _fixed,
    "rsqrt": _fixed,
    "pow": _power,
    "div": _quotient,
    "true_divide": _quotient,
    "mul": _product,
    "multiply": _product,
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "normalize": _normalize,
    **dict.fromkeys(("gelu", "silu", "mish", "relu", "tanh", "softplus"), _activation),
}
"""Name of a torch function to its rule: the function, and what it was called with."""


class _Rules(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        rule = RULES.get(getattr(func, "__name__", ""))
        if rule is None or not any(map(_state, (*args, *options.values()))):
            return func(*args, **options)
        return rule(func, *args, **options)
