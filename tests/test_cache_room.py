"""A cache with room holds what one without would hold, and copies it no more than it must."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, LlamaConfig

from steerable_llm.runtime.cache_room import ROOM, growing_cache

CONFIG = LlamaConfig(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    vocab_size=8,
)


def states(tokens: int, seed: int, rows: int = 3) -> Tensor:
    return torch.randn(rows, 2, tokens, 4, generator=torch.Generator().manual_seed(seed))


def feed(cache: Cache, tokens: int, seed: int, rows: int = 3) -> list[Tensor]:
    """Give every layer new keys, and their doubles as values; returns all that each then holds."""
    held = []
    for layer in range(2):
        new = states(tokens, 10 * seed + layer, rows)
        held += cache.update(new, 2 * new, layer)
    return held


def same(one: Cache, other: Cache, tokens: int, seed: int, rows: int = 3) -> bool:
    pairs = zip(feed(one, tokens, seed, rows), feed(other, tokens, seed, rows), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def both() -> tuple[Cache, Cache]:
    """Two caches with a prompt of five tokens: with room, and the plain one of transformers."""
    made = growing_cache(CONFIG), DynamicCache(config=CONFIG)
    with torch.no_grad():
        assert same(*made, 5, seed=0)
    return made


@torch.no_grad()
def test_it_holds_what_a_plain_cache_holds(both: tuple[Cache, Cache]) -> None:
    for step in range(1, 2 * ROOM + 3):
        assert same(*both, 1 + step % 2, seed=step)
        assert both[0].get_seq_length() == both[1].get_seq_length()


@torch.no_grad()
def test_rows_that_are_picked_and_columns_that_are_cut_go_on_alike(
    both: tuple[Cache, Cache],
) -> None:
    assert same(*both, 1, seed=1)
    for cache in both:
        cache.reorder_cache(torch.tensor([2, 0, 0, 1]))
    assert same(*both, 1, seed=2, rows=4)
    for cache in both:
        cache.crop(-2)
    assert same(*both, 1, seed=3, rows=4)


@torch.no_grad()
def test_twins_go_on_from_one_prompt_without_a_word_of_each_other(
    both: tuple[Cache, Cache],
) -> None:
    room, plain = both
    assert same(room, plain, 1, seed=1)
    twins = copy.deepcopy(room), copy.deepcopy(plain)
    assert same(room, plain, 1, seed=2)
    assert same(*twins, 1, seed=3)
    assert same(room, plain, 1, seed=4)
    assert same(*twins, 1, seed=5)


@torch.no_grad()
def test_a_token_copies_nothing_of_those_before_it(both: tuple[Cache, Cache]) -> None:
    room = both[0]
    first = feed(room, 1, seed=1)
    for step in range(ROOM):
        held = feed(room, 1, seed=2 + step)
        assert [x.data_ptr() for x in held] == [x.data_ptr() for x in first]


@torch.no_grad()
def test_twins_share_the_prompt_until_they_write(both: tuple[Cache, Cache]) -> None:
    twin = copy.deepcopy(both[0])
    for mine, theirs in zip(both[0].layers, twin.layers, strict=True):
        assert mine.keys is theirs.keys


def test_what_gradients_need_is_not_written_over() -> None:
    cache = growing_cache(CONFIG)
    with torch.no_grad():
        feed(cache, 5, seed=0)
        feed(cache, 1, seed=1)
    weight = torch.ones((), requires_grad=True)
    keys, _ = cache.update(weight * states(1, 2), states(1, 3), 0)
    read = (keys * keys).sum()
    cache.update(weight * states(1, 4), states(1, 5), 0)
    read.backward()
    assert weight.grad == pytest.approx(2 * float((states(1, 2) ** 2).sum()))
