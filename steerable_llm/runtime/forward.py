"""Passes through the model: the one place from which it is called.

Two kinds. A pass over whole texts, padded on the right, where a causal model's earlier positions
never look, so that the default positions are right for every family. And a `Stream`: a batch of
prompts, padded on the left, whose answers are fed token by token from a cache.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache

from steerable_llm.chat.vision import ReadPrompt, on_device
from steerable_llm.runtime.cache_room import growing_cache
from steerable_llm.runtime.hooks import capture_site, intercepted, steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import Scope, Site, Steering

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel

TOKENS_PER_PASS = 4096
"""Tokens (padding included) in one pass over whole texts: large enough to keep the processor busy,
small enough that the states of a pass fit beside the weights."""


_PARAMETERS: WeakKeyDictionary[Any, frozenset[str]] = WeakKeyDictionary()


def padded(
    sequences: Sequence[Sequence[int]], side: Literal["left", "right"] = "right"
) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, both `[B, T]`, on the CPU; nobody reads the padding."""
    ids = [torch.tensor(list(sequence), dtype=torch.long) for sequence in sequences]
    return (
        pad_sequence(ids, batch_first=True, padding_side=side),
        pad_sequence([torch.ones_like(x) for x in ids], batch_first=True, padding_side=side),
    )


def takes(model: nn.Module, argument: str) -> bool:
    """Tell whether a model's forward pass has an argument."""
    forward = getattr(model.forward, "__func__", model.forward)
    if forward not in _PARAMETERS:  # each pass asks
        _PARAMETERS[forward] = frozenset(inspect.signature(forward).parameters)
    return argument in _PARAMETERS[forward]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keep weights out of the gradient and dropout off; everything is put back afterwards."""
    gradients = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training]
    try:
        for parameter in gradients:
            parameter.requires_grad_(False)
        for module in training:
            module.training = False
        yield
    finally:
        for parameter in gradients:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def logits_at(
    model: nn.Module,
    inputs: Mapping[str, Any],
    rows: Tensor,
    columns: Tensor,
    head: nn.Module | None = None,
) -> Tensor:
    """Run whole texts once and return the logits `[A, V]` at A positions.

    Where the model allows it, no logits are computed in columns that nobody asked for.

    Args:
        model: A Hugging Face causal language model.
        inputs: Of its forward pass.
        rows: `[A]`.
        columns: `[A]`.
        head: The output layer, where nothing stands behind it: it is then run at these positions
            alone.
    """
    if head is not None:
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state  # type: ignore[operator]
        flat = (rows * hidden.shape[1] + columns).to(hidden.device)
        read: Tensor = head(hidden.reshape(-1, hidden.shape[-1]).index_select(0, flat))
        return read
    if takes(model, "logits_to_keep"):
        kept, place = torch.unique(columns, return_inverse=True)
        chosen: Tensor = model(**inputs, use_cache=False, logits_to_keep=kept).logits[rows, place]
        return chosen
    logits: Tensor = model(**inputs, use_cache=False).logits[rows, columns]
    return logits


@torch.no_grad()
def site_states(
    llm: HookedModel,
    texts: Sequence[Sequence[int]] | Sequence[Tensor],
    site: Site = "block",
    vision: Mapping[str, Tensor] | None = None,
    places: Mapping[str, Tensor | None] | None = None,
) -> list[Tensor]:
    """Run whole texts once, unsteered, and return what one site of every block gives.

    Args:
        llm: The model; its output layer is not run.
        texts: Token ids, or embeddings `[T, d]`; padded on the right.
        site: Which activations.
        vision: What the model takes beside the tokens (`in_one_batch`), where all have images.
        places: Positions and mask of texts that are not plain ones, by the model's names.

    Returns:
        Per block `[B, T, width]`.
    """
    rows = [text if isinstance(text, Tensor) else torch.tensor(list(text)) for text in texts]
    name = "inputs_embeds" if rows[0].is_floating_point() else "input_ids"
    inputs = {name: pad_sequence(rows, batch_first=True).to(llm.device)}
    shape = inputs[name].shape[:2]
    inputs |= {key: each for key, each in (places or {}).items() if each is not None}
    if vision:
        mask = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
        inputs["attention_mask"] = mask.long().to(llm.device)
        inputs |= on_device(vision, llm.model, llm.device)
    with llm.turns, frozen(llm.model), capture_site(llm.blocks, site) as captured:
        llm.model.base_model(**inputs, use_cache=False)
    # Some families flatten the batch around their MLP.
    return [captured[layer].reshape(*shape, -1) for layer in sorted(captured)]


class _Seen(Exception):
    """What the decoder is called with is known."""


@torch.no_grad()
def run_to_decoder(
    llm: HookedModel, decoder: nn.Module, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the decoder is called with, by a pass that ends there.

    Args:
        llm: The model.
        decoder: The module that holds its blocks (`find_decoder`).
        inputs: Of the whole model.
    """
    taken: dict[str, Any] = {}

    def look(named: dict[str, Any]) -> None:
        taken.update(named)
        raise _Seen

    # Some models keep the positions of the latest prompt on themselves.
    with llm.turns, frozen(llm.model), intercepted(decoder, look), suppress(_Seen):
        llm.model.base_model(**inputs, use_cache=False)
    return taken


@torch.no_grad()
def tower_states(llm: HookedModel, decoder: nn.Module, read: ReadPrompt) -> list[Tensor]:
    """Return what every block of the vision tower gives for the images of a prompt.

    Returns:
        Per block `[tiles, T, d]`, or `[T, d]` where all images stand in one row.
    """
    ids = torch.tensor([read.tokens], device=llm.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= on_device(read.vision, llm.model, llm.device)
    with capture_site(llm.tower, "block") as captured:
        run_to_decoder(llm, decoder, inputs)
    return [captured[layer] for layer in sorted(captured)]


@torch.no_grad()
def answer_kind(llm: HookedModel, read: ReadPrompt) -> int:
    """Return what kind of tokens answers are to a model that is told the kinds of a prompt.

    It is the one with which a prompt does not look ahead at its answer: 0 in most families, and 1
    in those that see a whole prompt at once, where 0 means that.
    """
    looks_ahead: list[float] = []
    for kind in (0, 1):
        states = []
        for answer in ("yes", "no"):  # one token each, so that nothing else differs
            whole = read.followed_by(llm.encode_answer(answer)[:1], kind)
            ids = torch.tensor([whole.tokens], device=llm.device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            inputs |= on_device(whole.vision, llm.model, llm.device)
            with frozen(llm.model):
                hidden = llm.model.base_model(**inputs, use_cache=False)[0]
            states.append(hidden[0, len(read.tokens) - 1].float())
        looks_ahead.append(float((states[0] - states[1]).norm() / states[0].norm()))
        if looks_ahead[0] < 1e-4:
            return 0  # to most families the other kind is an image, of which there are no pixels
    return int(looks_ahead[1] < looks_ahead[0])


class Stream:
    """A batch of prompts that were run, and the way on from them: tokens are fed, steered.

    Every pass gets its inputs from the model's own `prepare_inputs_for_generation`, and carries
    them over as `generate` does: so positions, masks, images and whatever a family keeps for itself
    are as they are there.

    Attributes:
        first: Logits, float32 `[B, V]`, that choose each row's first answer token.
        plan: What each row is steered with, and how often that was done.
    """

    first: Tensor

    def __init__(
        self,
        llm: HookedModel,
        ids: Tensor,
        mask: Tensor,
        plan: SteeringPlan,
        vision: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Run prompts.

        Args:
            llm: The model.
            ids: `[B, T]`, padded on the left.
            mask: `[B, T]`, 1 where a column holds a token.
            plan: What each row is steered with.
            vision: What the model takes beside the tokens, where all prompts have images.
        """
        self.plan = plan
        self._llm, self._model = llm, llm.model
        self._whole = ids.to(llm.device)
        self._left: Any = None
        self._carried: dict[str, Any] = {
            "attention_mask": mask.to(llm.device),
            "use_cache": True,
            **on_device(vision or {}, llm.model, llm.device),
        }
        if takes(self._model, "position_ids"):
            self._carried["position_ids"] = self._model._prepare_position_ids_for_generation(
                self._whole, self._carried
            )
        if self._model._supports_default_dynamic_cache():
            # By the name under which the model takes it; not every model hands its own back.
            name = "cache_params" if takes(self._model, "cache_params") else "past_key_values"
            text = self._model.config.get_text_config(decoder=True)
            self._carried[name] = growing_cache(text)
        if bool(mask.all()):  # nothing is padded, and attention is faster without a mask
            self._carried["attention_mask"] = None
        keep: dict[str, Any] = {"logits_to_keep": 1} if takes(self._model, "logits_to_keep") else {}
        self.first = self._run(None, **keep)[:, -1].float()

    @property
    def rows(self) -> int:
        """How many prompts there are."""
        return len(self._whole)

    @property
    def size(self) -> int:
        """Bytes of its caches."""
        layers = [vars(layer).values() for cache in self._caches for layer in cache.layers]
        return sum(x.nbytes for values in layers for x in values if isinstance(x, Tensor))

    @property
    def _caches(self) -> list[Cache]:
        return [each for each in self._carried.values() if isinstance(each, Cache)]

    def fork(self) -> Self:
        """Return a stream that goes on from here by itself, with a cache of its own."""
        twin = copy.copy(self)
        # Together, as both may hold the cache.
        twin._left, twin._carried = copy.deepcopy((self._left, self._carried))
        twin.plan = self.plan.fork()
        return twin

    def feed(self, ids: Tensor, gradients: bool = False) -> Tensor:
        """Feed tokens `[B, A]` and return float32 logits `[B, A, V]`, each for the next one.

        Args:
            ids: The tokens.
            gradients: Let gradients through, to what steers.
        """
        new = ids.shape[1]
        # Some families take no more than one token on top of a recurrent state.
        if new > 1 and any(hasattr(x, "recurrent_states") for c in self._caches for x in c.layers):
            columns = torch.split(ids, 1, dim=1)
            return torch.cat([self.feed(column, gradients) for column in columns], dim=1)
        self._whole = torch.cat([self._whole, ids.to(self._whole.device)], dim=1)
        # Mllama has no default for whether there is an encoder.
        self._carried = self._model._update_model_kwargs_for_generation(
            self._left, self._carried, False, num_new_tokens=new
        )
        return self._run(new, gradients).float()

    def finish(self, row: int) -> None:
        """Stop steering and counting one row: its answer is complete."""
        self.plan.finish(row)

    def steered(self) -> AbstractContextManager[Any]:
        """Keep the hooks in place over many tokens, in place of once per token."""
        return steering_hooks(self._llm.blocks, self.plan, self._llm.tower)

    def keep(self, rows: Sequence[int]) -> bool:
        """Go on with these rows alone, if the model's caches allow it; returns whether they do."""
        tensors = [value for value in self._carried.values() if isinstance(value, Tensor)]
        # Models that read images may have positions in three rows, which are not the batch's.
        if (
            self._llm.chat_format.vision is not None
            or not self._caches
            or any(len(value) != self.rows for value in tensors)
        ):
            return False
        self._pick(rows)
        self.plan.keep(rows)
        return True

    def spread(self, rows: Sequence[int], steerings: Sequence[Steering]) -> None:
        """Let every row go on from one of the prompts, each with a steering of its own."""
        self._pick(rows)
        # Only the last prompt token is still to be fed: it stands in the plan's first column.
        self.plan = SteeringPlan(steerings, torch.ones(len(rows), 1), last_prompt=0)

    def _pick(self, rows: Sequence[int]) -> None:
        """Have these rows of everything, in this order."""
        index = torch.tensor(rows, device=self._whole.device)
        for cache in self._caches:
            cache.reorder_cache(index)  # type: ignore[arg-type]
        self._whole = self._whole[index]
        self._carried = {
            name: value[index] if isinstance(value, Tensor) else value
            for name, value in self._carried.items()
        }

    def _run(self, new: int | None, gradients: bool = False, **options: Any) -> Tensor:
        """Run the last `new` tokens, or all of them; returns logits `[B, A, V]`."""
        inputs = self._model.prepare_inputs_for_generation(
            self._whole, next_sequence_length=new, is_first_iteration=new is None, **self._carried
        )
        # Some families say None for "all", which older releases do not take.
        inputs = {k: v for k, v in inputs.items() if k != "logits_to_keep" or v is not None}
        with torch.set_grad_enabled(gradients), self.steered():
            output = self._model(**{**inputs, **options}, return_dict=True)
        # What the next pass needs of this one is its cache, not its scores.
        self._left = type(output)(**{k: v for k, v in output.items() if k != "logits"})
        logits: Tensor = output.logits
        return logits


def run_prompts(
    llm: HookedModel,
    prompts: Sequence[Sequence[int]],
    steerings: Sequence[Steering],
    vision: Mapping[str, Tensor] | None = None,
    *,
    share: bool = True,
) -> Stream:
    """Run a batch of prompts, each with its own steering.

    Args:
        llm: The model.
        prompts: Token ids of each row, generation prompt included; none empty.
        steerings: One per row.
        vision: What the model takes beside the tokens (`in_one_batch`), where all have images;
            which ones it reads together `ImageBatches` tells.
        share: Run prompts that are alike once, up to their last token, where no steering changes
            their states before it.

    Raises:
        SteeringNotAppliedError: A steering reached no layer.
    """
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    if (
        share
        and not vision
        and len(distinct) < len(prompts)
        and Prefixes.serve(llm, distinct, steerings)
    ):
        rows = [distinct.index(tuple(prompt)) for prompt in prompts]
        return Prefixes(llm, distinct).run(rows, steerings)
    ids, mask = padded(prompts, "left")
    plan = SteeringPlan(steerings, mask, last_prompt=ids.shape[1] - 1, pictured=bool(vision))
    stream = Stream(llm, ids, mask, plan, vision)
    stream.plan.check_applied()
    return stream


class Prefixes:
    """Prompts that were run up to their last token, unsteered, and the ways on from there.

    A steering of the scopes in `SHARED` changes nothing before the last prompt token, so that what
    was run serves every such steering.
    """

    SHARED: ClassVar[frozenset[Scope]] = frozenset(("generated", "decision", "last_prompt"))

    def __init__(self, llm: HookedModel, prompts: Sequence[Sequence[int]]) -> None:
        """Run the prompts, each of two tokens at least."""
        self._last = [prompt[-1] for prompt in prompts]
        ids, mask = padded([prompt[:-1] for prompt in prompts], "left")
        self._stream = Stream(llm, ids, mask, SteeringPlan([], mask[:0], last_prompt=-1))

    @staticmethod
    def serve(
        llm: HookedModel, prompts: Sequence[Sequence[int]], steerings: Sequence[Steering]
    ) -> bool:
        """Tell whether such prompts can be shared by such steerings on a model."""
        scopes = {term.scope for steering in steerings for term in steering.active_terms}
        return (
            scopes <= Prefixes.SHARED
            and min(map(len, prompts)) > 1
            and bool(llm.model._supports_default_dynamic_cache())
        )

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._stream.size

    def run(self, rows: Sequence[int], steerings: Sequence[Steering]) -> Stream:
        """Let every row go on from one of the prompts, each with a steering of its own.

        Raises:
            SteeringNotAppliedError: A steering reached no layer.
        """
        stream, last = self.spread(rows, steerings)
        stream.first = stream.feed(torch.tensor(last)[:, None])[:, -1]
        stream.plan.check_applied()
        return stream

    def spread(
        self, rows: Sequence[int], steerings: Sequence[Steering]
    ) -> tuple[Stream, list[int]]:
        """Return every row's prompt up to its last token, and that token, which is to be fed."""
        stream = self._stream.fork()
        stream.spread(rows, steerings)
        return stream, [self._last[row] for row in rows]
