"""The comparison of attributions, beside masking by hand."""

import sys

import pytest
import torch

from experiments import attributions
from experiments.attributions import REFERENCE, WAYS, Bench, Seen, measure, rows_of
from experiments.contradictions import RELATIONS, contradicted
from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.pairs.pair import Pairs, PreferencePair

PAIRS = Pairs(
    PreferencePair(f"The shop in {city} opens at nine. When?", "At nine.", "At two.", id=city)
    for city in ("Rome", "Paris")
)
FEW = ("conservative", "conservative, 10 verified", "random")


def test_the_reference_takes_each_token_away_alone(tiny_llm):
    bench = Bench(tiny_llm, PAIRS)
    seen = bench.see(REFERENCE, 0)
    content = [
        i
        for i, special in enumerate(tiny_llm.chat_format.special_token_mask(PAIRS[0].prompt))
        if not special
    ]
    embed = tiny_llm.model.get_input_embeddings()

    def preference(masked):
        x = embed(torch.tensor(tiny_llm.encode(PAIRS[0].messages))).detach()
        x[list(masked)] = embed.weight.detach().mean(0)
        total = 0.0
        for sign, answer in ((1, "At nine."), (-1, "At two.")):
            ids = torch.tensor(tiny_llm.encode_answer(answer))
            with torch.no_grad():
                logits = tiny_llm.model(inputs_embeds=torch.cat([x, embed(ids)])[None]).logits[0]
            chosen = logits[len(x) - 1 : -1].log_softmax(-1)[range(len(ids)), ids]
            total += sign * float(chosen.sum())
        return total

    whole = preference(())
    slow = [whole - preference((place,)) for place in content]
    assert seen.scores == pytest.approx(slow, rel=1e-3, abs=1e-4)
    best = sorted(range(len(slow)), key=lambda i: -slow[i])[:3]
    best = [content[i] for i in best if slow[i] > 0]
    assert seen.lost == pytest.approx(whole - preference(best), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_scores_the_content_tokens(tiny_llm, way):
    bench = Bench(tiny_llm, PAIRS)
    seen = bench.see(way, 1)
    assert len(seen.scores) == len(bench.see(REFERENCE, 1).scores)
    adds_up = "integrated" in way or "conservative" in way
    assert (seen.completeness is not None) == adds_up


def test_verified_scores_rank_more_like_the_reference(tiny_llm, tmp_path):
    keep = tmp_path / "seen.jsonl"
    seen = measure(tiny_llm, PAIRS, FEW, keep, progress=False)
    rows = {row.way: row for row in rows_of(seen)}
    assert list(rows) == [REFERENCE, *FEW]
    assert rows[REFERENCE].correlation.value == pytest.approx(1)
    assert rows[FEW[1]].correlation.value > rows[FEW[0]].correlation.value
    assert rows[FEW[0]].completeness == rows[FEW[1]].completeness


def test_what_was_seen_before_is_not_measured_again(tiny_llm, tmp_path, monkeypatch):
    keep = tmp_path / "seen.jsonl"
    first = measure(tiny_llm, PAIRS[:1], FEW, keep, progress=False)
    both = measure(tiny_llm, PAIRS, FEW, keep, progress=False)
    assert both[: len(first)] == first
    assert len(both) == 2 * len(first)
    monkeypatch.setattr(Bench, "see", None)  # nothing is left to see
    assert measure(tiny_llm, PAIRS, FEW, keep, progress=False) == both
    other = [each.model_copy(update={"model": "another@0"}) for each in both]
    keep.write_text("".join(each.model_dump_json() + "\n" for each in other), encoding="utf-8")
    with pytest.raises(InvalidInputError, match="seen with another@0, and the model is"):
        measure(tiny_llm, PAIRS, FEW, keep, progress=False)


def test_figures_are_means_over_pairs_that_have_such_tokens():
    def seen(pair, way, scores, lost, gained):
        return Seen(
            model="tiny", pair=pair, way=way, scores=scores, lost=lost, gained=gained,
            completeness=None, seconds=2.0,
        )  # fmt: skip

    rows = rows_of(
        [
            seen("a", REFERENCE, (1, 2, 3), 4.0, 2.0),
            seen("b", REFERENCE, (1, 2, 3), 2.0, None),
            seen("a", "random", (1, 2, 3), 3.0, -1.0),
            seen("b", "random", (3, 2, 1), -5.0, None),
            seen("c", "random", (3, 2, 1), 99.0, None),  # the reference has not seen it
        ]
    )
    reference, random = rows
    assert reference.change.value == pytest.approx(2.5)
    assert (random.lost, random.gained, random.moved) == (-1.0, -1.0, 3.0)
    assert random.change.value == pytest.approx(-2.0)
    assert random.correlation.value == pytest.approx(0)


def test_what_cannot_be_measured_is_refused(tiny_llm, tmp_path, monkeypatch, capsys):
    with pytest.raises(PairError, match="no pairs"):
        Bench(tiny_llm, Pairs())
    with pytest.raises(PairError, match="lonely has no bad answer"):
        Bench(tiny_llm, Pairs([PreferencePair("q", "a", id="lonely")]))
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "?"}\n', encoding="utf-8")
    with pytest.raises(InvalidInputError, match="another file"):
        measure(tiny_llm, PAIRS, FEW, other, progress=False)
    monkeypatch.setattr(sys, "argv", ["attributions", "--report", str(tmp_path / "a.pdf")])
    with pytest.raises(SystemExit):
        attributions.main()
    assert "use one of .md, .html, .json" in capsys.readouterr().err


def test_the_pairs_contradict_memory_in_one_sentence():
    pairs = contradicted()
    assert len(pairs) == len({pair.id for pair in pairs}) == 70
    for pair in pairs:
        relation = RELATIONS[pair.id.partition(":")[0]]
        wrong = next(value for value in relation.wrong if value in pair.good)
        assert wrong in pair.prompt[0]["content"]
        assert pair.bad is not None
        assert wrong not in pair.bad
