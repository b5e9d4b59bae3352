"""Which row of a batch is steered where, and a count of where it really was."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steerable_llm.errors import ModelMismatchError, SteeringNotAppliedError
from steerable_llm.vector.steering import SCOPES, Scope, Site, Steering, SteeringTerm, steer_hidden


class SteeringPlan:
    """What each row of one batch is steered with, over the passes of one call.

    The first pass sees the columns of ``mask``; later passes (cached decoding) see the columns
    after it, which every unfinished row uses. Positions that are padding, or that belong to a
    finished row, are neither changed nor counted.
    """

    def __init__(
        self,
        steerings: Sequence[Steering],
        mask: Tensor,
        last_prompt: int | Sequence[int],
    ) -> None:
        """Lay out one batch.

        Args:
            steerings: One per row.
            mask: ``[B, T]``, true where a column of the first pass holds a real token.
            last_prompt: Column of each row's last prompt token: one number for left-padded
                prompts (``T - 1``), one per row for right-padded prompts with their answers.
        """
        self.steerings = tuple(steerings)
        self.mask = mask.bool()
        rows = len(self.steerings)
        columns = [last_prompt] * rows if isinstance(last_prompt, int) else list(last_prompt)
        self.last_prompt = torch.tensor(columns, device=self.mask.device)[:, None]
        self._prompt_end = max(columns, default=0)
        self.places = sorted({place for steering in self.steerings for place in steering.places})
        self._unfinished = torch.ones(rows, dtype=torch.bool, device=self.mask.device)
        self._seen = dict.fromkeys(self.places, 0)
        self._deltas: dict[tuple[Site, int], dict[Scope, tuple[Tensor, Tensor, Tensor]]] = {}
        self._looking: dict[tuple[Site, int], list[tuple[SteeringTerm, list[int]]]] = {}
        self._counts = {
            place: {
                # Kept on the device: reading them back each pass would stall an accelerator.
                scope: torch.zeros(rows, dtype=torch.long, device=self.mask.device)
                for scope in SCOPES
            }
            for place in self.places
        }

    def finish(self, row: int) -> None:
        """Stop steering and counting one row: its answer is complete."""
        self._unfinished[row] = False

    def steered_tokens(self, row: int, term: SteeringTerm) -> int:
        """How many positions of a row one term has really changed, counted in the hooks.

        Raises:
            SteeringNotAppliedError: The term is active, and one of its layers was never reached.
        """
        counts = {x: int(self._counts[term.site, x][term.scope][row]) for x in term.steered_layers}
        missed = [layer for layer, count in counts.items() if count == 0]
        if missed:
            raise SteeringNotAppliedError(
                f"vector {term.vector.name!r} was to steer layers {missed} and reached none of "
                "their outputs: the model ran past its blocks; check that the model's blocks are "
                "the modules that its forward pass calls"
            )
        return min(counts.values())

    def apply(self, layer: int, h: Tensor, site: Site = "block") -> Tensor:
        """Steer what one site gives, ``[B, T, d]``, and move on by ``T`` columns."""
        place = (site, layer)
        start = self._seen[place]
        width = h.shape[1]
        self._seen[place] = start + width
        row_deltas = self._row_deltas(layer, h, site)
        looking = self._looking_terms(layer, site)
        scopes = {*row_deltas, *(term.scope for term, _ in looking)}
        if start > self._prompt_end and scopes <= {"prompt", "last_prompt"}:
            return h
        used = self._used_columns(start, width)
        column = torch.arange(start, start + width, device=self.mask.device)[None, :]
        in_scope: dict[Scope, Tensor] = {
            "all": used,
            "prompt": used & (column <= self.last_prompt),
            "generated": used & (column >= self.last_prompt),
            "last_prompt": used & (column == self.last_prompt),
        }
        for scope in scopes:
            self._counts[place][scope] += in_scope[scope].sum(dim=1)
        total = torch.zeros((), device=h.device)
        touched = renormalise = torch.zeros((), dtype=torch.bool, device=h.device)
        for scope, (delta, has_term, wants_norm) in row_deltas.items():
            where = in_scope[scope].to(h.device)
            total = total + delta[:, None, :] * where[..., None]
            touched = touched | (where & has_term[:, None])
            renormalise = renormalise | (where & wants_norm[:, None])
        for term, rows in looking:
            where = torch.zeros_like(used, device=h.device)
            where[rows] = in_scope[term.scope][rows].to(h.device)
            added = torch.zeros(h.shape, device=h.device)
            added[rows] = term.delta_at(layer, h[rows]) * where[rows][..., None]
            total = total + added
            touched = touched | where
            renormalise = renormalise | (where & term.renormalise)
        return steer_hidden(h, total, renormalise, touched)

    def _looking_terms(self, layer: int, site: Site) -> list[tuple[SteeringTerm, list[int]]]:
        """Terms whose rule looks at the state, each with the rows it acts on."""
        if (site, layer) not in self._looking:
            # Rows of one term run together; a row may hold the same term more than once.
            found: dict[tuple[int, int], tuple[SteeringTerm, list[int]]] = {}
            for row, steering in enumerate(self.steerings):
                terms = [t for t in steering.terms_at(layer, site) if t.rule != "add"]
                for number, term in enumerate(terms):
                    found.setdefault((id(term), number), (term, []))[1].append(row)
            self._looking[site, layer] = list(found.values())
        return self._looking[site, layer]

    def _used_columns(self, start: int, width: int) -> Tensor:
        """``[B, width]``: which of the columns hold a real token of an unfinished row."""
        used = self.mask[:, start : start + width]
        beyond = width - used.shape[1]
        if beyond:
            later = used.new_ones((used.shape[0], beyond))
            used = torch.cat([used, later], dim=1)
        return used & self._unfinished[:, None]

    def _row_deltas(
        self, layer: int, h: Tensor, site: Site
    ) -> dict[Scope, tuple[Tensor, Tensor, Tensor]]:
        """Per scope: the summed deltas ``[B, d]``, which rows have a term, which renormalise."""
        if (site, layer) not in self._deltas:
            rows, width = len(self.steerings), h.shape[-1]
            found: dict[Scope, tuple[Tensor, Tensor, Tensor]] = {}
            for row, steering in enumerate(self.steerings):
                for term in steering.terms_at(layer, site):
                    shape = term.vector.directions[layer].shape
                    if shape != (width,):
                        raise ModelMismatchError(
                            f"vector {term.vector.name!r} has width {tuple(shape)} in layer "
                            f"{layer}, but the model has width {width} at site {site!r}: build "
                            "the vector for this model"
                        )
                for term, delta in steering.deltas(layer, site):
                    total, has_term, wants_norm = found.setdefault(
                        term.scope,
                        (
                            torch.zeros(rows, width, device=h.device),
                            torch.zeros(rows, dtype=torch.bool, device=h.device),
                            torch.zeros(rows, dtype=torch.bool, device=h.device),
                        ),
                    )
                    total[row] += delta.to(h.device)
                    has_term[row] = True
                    wants_norm[row] |= term.renormalise
            self._deltas[site, layer] = found
        return self._deltas[site, layer]
