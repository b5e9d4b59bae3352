"""Texts with images as the decoder reads them, and what the model says where they are altered.

A vision-language model puts the features of its images among the embeddings of the words and hands
the merged sequence to its decoder. One real pass shows that sequence and everything else that the
decoder takes: masks, positions, features that enter again in later blocks. The decoder is then
called by itself, as often as is wanted, with other embeddings and all the rest as it was. There is
no table of models: which argument stands once per row of a batch is told by showing the model one
copy and two, and a model whose decoder does not give again what the whole model gave is run whole
each time, with the embeddings exchanged on their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from steerable_llm.chat.vision import ReadPrompt, on_device
from steerable_llm.errors import UnknownArchitectureError
from steerable_llm.runtime.blocks import find_decoder
from steerable_llm.runtime.forward import frozen, logits_at, run_to_decoder
from steerable_llm.runtime.hooks import capture_site, intercepted
from steerable_llm.runtime.packed import agree

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel

Path: TypeAlias = tuple[str | int, ...]
"""Where a tensor is among the decoder's arguments."""

_TRIED = 16
"""Columns at the end of a text that tell whether a decoder gives again what the model gave."""
# The decoder keeps nothing, and its first argument is what is altered.
_LEFT_OUT = ("inputs_embeds", "past_key_values", "use_cache", "labels", "output_hidden_states")


@dataclass(frozen=True, eq=False)
class Merged:
    """A text with images as the decoder reads it.

    Attributes:
        read: The text.
        rows: `[T, w]`, the embedding of every position, `[d]`; in models whose image features enter
            again in D later blocks these stand beside it, w = (1 + D) d, with zeros for words.
        image: `[T]`, which positions hold a piece of an image.
        arguments: What the decoder took beside the embeddings.
        features: Where among these the features of later blocks are, `[I, d]` for I positions.
        axes: Along which axis each argument stands once per row of a batch, where that is known.
    """

    read: ReadPrompt
    rows: Tensor
    image: Tensor
    arguments: Mapping[str, Any]
    features: tuple[Path, ...] = ()
    axes: Mapping[Path, int | None] | None = None

    @property
    def width(self) -> int:
        """Numbers of an embedding, d."""
        return self.rows.shape[-1] // (1 + len(self.features))

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self.rows.nbytes + sum(x.nbytes for _, x in _leaves(self.arguments))


class MergedDecoder:
    """The decoder of one model, by itself.

    Attributes:
        replays: Whether it gives by itself what it gives inside of the model; None before `learn`.
        head: The output layer, where nothing stands behind it.
    """

    replays: bool | None = None
    head: nn.Module | None = None

    def __init__(self, llm: HookedModel) -> None:
        """Find the decoder; nothing is run before `learn`.

        Raises:
            UnknownArchitectureError: No module holds the blocks.
        """
        self._llm = llm
        self._decoder = find_decoder(llm.model, llm.blocks)
        self._axes: dict[tuple[tuple[Path, int], ...], dict[Path, int | None] | None] = {}

    def capture(self, read: ReadPrompt) -> Merged:
        """Run a text up to the decoder and keep what that is called with.

        Raises:
            UnknownArchitectureError: The model's decoder reads no merged sequence.
        """
        arguments = self._arguments(read, 1)
        embeddings = arguments.pop("inputs_embeds", None)
        if embeddings is None:
            raise self._unmerged("its decoder takes no embeddings")
        table = self._llm.model.get_input_embeddings()
        ids = torch.tensor(read.tokens, device=table.weight.device)
        known = ids < table.weight.shape[0]
        with torch.no_grad():
            own = table(torch.where(known, ids, 0)).to(embeddings.device)
        image = ((embeddings[0] != own).any(-1) | ~known.to(embeddings.device)).detach()
        if read.vision and not bool(image.any()):
            raise self._unmerged("its images do not stand among the words")
        if bool(image.all() if read.vision else image.any()):
            raise self._unmerged("it alters the embeddings of words before its decoder")
        shape = (int(image.sum()), embeddings.shape[-1])
        features = tuple(
            path
            for path, x in _leaves(arguments)
            if read.vision and x.is_floating_point() and x.shape == shape
        )
        rows = embeddings.new_zeros(len(ids), shape[1] * (1 + len(features)))
        rows[:, : shape[1]] = embeddings[0]
        leaves = dict(_leaves(arguments))
        for number, path in enumerate(features, start=1):
            rows[image, shape[1] * number : shape[1] * (number + 1)] = leaves[path].to(rows.device)
        return Merged(read, rows, image, arguments, features)

    @torch.no_grad()
    def learn(self, text: Merged) -> None:
        """Find out what the model allows, by comparing with its plain forward pass on a text."""
        columns = range(max(0, len(text.rows) - _TRIED), len(text.rows))
        points = text.rows[None]
        with frozen(self._llm.model):
            inputs = self._inputs(text.read, 1)
            at = torch.tensor(columns, device=self._llm.device)
            with self._llm.turns:
                expected = logits_at(self._llm.model, inputs, torch.zeros_like(at), at)
            self.head = self._llm.model.get_output_embeddings()
            for self.replays in (True, False):
                if self._agrees(text, points, columns, expected):
                    return
            self.head = None

    def _agrees(
        self, text: Merged, points: Tensor, columns: Sequence[int], expected: Tensor
    ) -> bool:
        try:
            logits = self.logits(text, points, columns)[0]
        except torch.OutOfMemoryError:
            raise
        except Exception:  # decoders refuse in many ways; then the whole model is run
            return False
        return agree(logits, expected)

    def logits(self, text: Merged, points: Tensor, columns: Sequence[int]) -> Tensor:
        """Return logits `[N, A, V]` at A columns where the decoder reads `points` `[N, T, w]`.

        Gradients reach the points.
        """
        found = []
        at = torch.tensor(columns, device=self._llm.device)
        for chunk in self._passes(text, points):
            if self.head is not None:
                hidden = self._run(text, chunk)
                found.append(self.head(hidden.index_select(1, at.to(hidden.device))))
                continue
            with self._exchanged(text, chunk):
                inputs = self._inputs(text.read, 1)
                found.append(logits_at(self._llm.model, inputs, torch.zeros_like(at), at)[None])
        return torch.cat(found)

    def pack(self, good: Merged, bad: Merged, prompt: int, length: int) -> Merged:
        """Return a text with two answers behind one prompt, of which neither sees the other.

        Whether the model reads it as it reads them apart is for the caller to try.

        Args:
            good: The prompt with one answer.
            bad: The prompt with the other, of another length: so what stands once per token shows.
            prompt: Tokens of the prompt.
            length: How many tokens of the other answer are taken.

        Raises:
            UnknownArchitectureError: It is not known how the arguments go together.
        """
        axes = self._repeats(good)
        first, total = len(good.rows), len(good.rows) + length
        if axes is None or not self.replays or first == len(bad.rows):
            raise UnknownArchitectureError("two answers of such a text cannot be read together")
        taken = slice(prompt, prompt + length)
        others = dict(_leaves(bad.arguments))

        def joined(path: Path, x: Tensor) -> Tensor:
            y = others[path]
            tokens = [i for i, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)) if m != n]
            if len(tokens) < 2:
                return torch.cat([x, y.narrow(tokens[0], prompt, length)], *tokens) if tokens else x
            mask = x.new_full(
                (*x.shape[:-2], total, total),
                False if x.dtype == torch.bool else torch.finfo(x.dtype).min,
            )
            mask[..., :first, :first] = x
            mask[..., first:, :prompt] = y[..., taken, :prompt]
            mask[..., first:, first:] = y[..., taken, taken]
            return mask

        seen = torch.ones(total, total, dtype=torch.bool, device=good.rows.device).tril()
        seen[first:, prompt:first] = False
        causal = good.rows.new_zeros(total, total)
        causal = causal.masked_fill(~seen, torch.finfo(causal.dtype).min)[None, None]
        arguments = _mapped(good.arguments, joined)
        mask = arguments.get("attention_mask")
        if isinstance(mask, Mapping):
            arguments["attention_mask"] = {k: causal if v is None else v for k, v in mask.items()}
        elif mask is None or mask.dim() == 2:
            arguments["attention_mask"] = causal
            axes = {path: axis for path, axis in axes.items() if path != ("attention_mask",)}
        if arguments.get("position_ids") is None:
            own = [torch.arange(first), torch.arange(prompt, prompt + length)]
            arguments["position_ids"] = torch.cat(own)[None].to(good.rows.device)
        return Merged(
            good.read,
            torch.cat([good.rows, bad.rows[taken]]),
            torch.cat([good.image, bad.image[taken]]),
            arguments,
            good.features,
            axes,
        )

    @torch.no_grad()
    def states(self, text: Merged, points: Tensor, column: int) -> Tensor:
        """Return every block's output at a column, float32 `[N, L, d]` on the CPU."""
        found = []
        for chunk in self._passes(text, points):
            with frozen(self._llm.model), capture_site(self._llm.blocks, "block") as captured:
                self._run(text, chunk)
            states = [captured[layer][:, column].float().cpu() for layer in sorted(captured)]
            found.append(torch.stack(states, dim=1))
        return torch.cat(found)

    def _passes(self, text: Merged, points: Tensor) -> Iterator[Tensor]:
        """Points that are run together: all of them where the arguments can be repeated."""
        together = len(points) > 1 and self.replays and self.head and self._repeats(text)
        yield from [points] if together else torch.split(points, 1)

    def _run(self, text: Merged, points: Tensor) -> Tensor:
        """Return the decoder's output `[N, T, d]`; one point, unless the arguments are repeated."""
        if not self.replays:
            with self._exchanged(text, points):
                inputs = self._inputs(text.read, 1)
                hidden: Tensor = self._llm.model.base_model(**inputs, use_cache=False)[0]
            return hidden
        arguments = self._altered(text, points)
        found: Tensor = self._decoder(**arguments, use_cache=False)[0]
        return found

    def _altered(self, text: Merged, points: Tensor) -> dict[str, Any]:
        """Return the decoder's arguments where it reads other rows."""
        d, n = text.width, len(points)
        given: dict[Path, Tensor] = {
            path: points[:, text.image, d * number : d * (number + 1)].flatten(0, 1)
            for number, path in enumerate(text.features, start=1)
        }
        axes = (self._repeats(text) or {}) if n > 1 else {}

        def made(path: Path, x: Tensor) -> Tensor:
            if path in given:
                return given[path]
            axis = axes.get(path)
            if axis is not None and x.shape[axis] == 1:
                return x.expand([n if i == axis else -1 for i in range(x.dim())])
            return x if axis is None else torch.cat([x] * n, axis)

        arguments: dict[str, Any] = _mapped(text.arguments, made)
        return {**arguments, "inputs_embeds": points[..., :d]}

    @contextmanager
    def _exchanged(self, text: Merged, point: Tensor) -> Iterator[None]:
        """Let the whole model's decoder read one point in place of what its images give."""
        altered = self._altered(text, point)
        names = {"inputs_embeds", *(str(path[0]) for path in text.features)}

        def change(named: dict[str, Any]) -> dict[str, Any]:
            return {**named, **{name: altered[name] for name in names}}

        with self._llm.turns, intercepted(self._decoder, change):
            yield

    def _repeats(self, text: Merged) -> Mapping[Path, int | None] | None:
        """Return along which axis every argument stands once per row of a batch; None: unknown."""
        if text.axes is not None:
            return text.axes
        key = tuple((path, x.dim()) for path, x in _leaves(text.arguments))
        if key not in self._axes:
            self._axes[key] = self._learnt_axes(text)
        return self._axes[key]

    def _learnt_axes(self, text: Merged) -> dict[Path, int | None] | None:
        try:
            two = dict(_leaves(self._arguments(text.read, 2)))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # two copies are more than some models take; then one at a time
            return None
        axes: dict[Path, int | None] = {}
        for path, x in _leaves(text.arguments):
            if path not in two or (axis := _axis(x, two[path])) == -1:
                return None
            axes[path] = axis
        return axes

    def _arguments(self, read: ReadPrompt, copies: int) -> dict[str, Any]:
        """Return what the decoder is called with, by a pass that ends there."""
        taken = run_to_decoder(self._llm, self._decoder, self._inputs(read, copies))
        embeddings = taken.get("inputs_embeds")
        kept = {name: value for name, value in taken.items() if name not in _LEFT_OUT}
        kept.pop("input_ids", None)
        return kept if embeddings is None else {**kept, "inputs_embeds": embeddings.detach()}

    def _inputs(self, read: ReadPrompt, copies: int) -> dict[str, Tensor]:
        ids = torch.tensor([read.tokens], device=self._llm.device)
        one = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **on_device(read.vision, self._llm.model, self._llm.device),
        }
        return {name: torch.cat([value] * copies) for name, value in one.items()}

    def _unmerged(self, why: str) -> UnknownArchitectureError:
        return UnknownArchitectureError(
            f"{type(self._llm.model).__name__} does not read words and images as one sequence "
            f"({why}), so pieces of images cannot be scored: take a model that does, such as "
            "Qwen2.5-VL or LLaVA"
        )


def _axis(one: Tensor, two: Tensor) -> int | None:
    """Return the axis along which one stands twice in two; None where they are alike; else -1."""
    axes: tuple[int | None, ...] = (None, *range(one.dim()))
    for axis in axes:
        tried = one if axis is None else torch.cat([one, one], axis)
        if tried.shape == two.shape and torch.allclose(
            tried.float(), two.float(), rtol=1e-2, atol=1e-3
        ):
            return axis
    return -1


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in nested arguments, with where it is."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, (*path, name))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _leaves(each, (*path, number))


def _mapped(value: Any, made: Any, path: Path = ()) -> Any:
    """Return nested arguments with every tensor replaced by `made(path, tensor)`."""
    if isinstance(value, Tensor):
        return made(path, value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, made, (*path, name)) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(each, made, (*path, i)) for i, each in enumerate(value))
    return value
