"""What a vector knows of its build and of its calibration, as typed records and in files."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from vision_models import vision_llm

from steerable_llm import SteeringVector
from steerable_llm.vector.calibration import Calibration, Choice, DataUsed
from steerable_llm.vector.provenance import Completeness, Deltas, Provenance
from steerable_llm.vector.seen import hashes_of, prompt_hash
from steerable_llm.vector.steering import Application, Unit

#: A file that 0.1 wrote, with its facts in prose.
ROOT = Path(__file__).parent.parent
OLD = ROOT / "tests" / "files_of_0_1" / "vector.safetensors"
#: What 0.1 made for the bundled model, and where each of them was calibrated to.
SHIPPED = {"demo-faithfulness": 0.08, "demo-toxicity": 0.08, "demo-truthfulness": 0.1}
CHOICE = Choice(
    dev=DataUsed("dev", "ab" * 32, 40, part_of="cd" * 32, seen=("0" * 16, "1" * 16)),
    before=0.4,
    after=0.9,
    settings=24,
    capability=DataUsed("kept, and more", "ef" * 32, 12, seen=("2" * 16,)),
    lost={"reading": 0.01, "closed_book": -0.025},
    budget=0.01,
)


def metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, Any] = dict(file.metadata())
    return found


def test_the_facts_in_the_sentence_of_an_old_file_are_told_apart() -> None:
    stored = json.loads(metadata(OLD)["calibration"])
    calibration = SteeringVector.load(OLD).calibration
    assert calibration is not None
    assert calibration.choice is not None
    assert calibration.note == stored["note"]
    choice = calibration.choice
    assert choice.dev.digest in stored["note"]
    assert choice.dev.seen is None
    assert (choice.settings, choice.budget) == (144, 0.01)
    assert choice.capability is not None
    assert choice.capability.digest in stored["note"]
    assert choice.lost["paraphrase"] < 0


@pytest.mark.parametrize(("name", "strength"), SHIPPED.items())
@pytest.mark.parametrize(("asked", "layers"), [(None, None), (0.04, None), (-0.2, (1, 4))])
def test_an_old_vector_adds_what_it_always_did(
    name: str, strength: float, asked: float | None, layers: tuple[int, ...] | None
) -> None:
    """Every block adds the strength's share of its own norm, be it calibrated or of a policy."""
    path = ROOT / "vectors" / f"{name}.safetensors"
    scales = json.loads(metadata(path)["scales"])
    (term,) = SteeringVector.load(path).steer(asked, layers=layers).terms
    with safe_open(path, framework="pt") as file:
        stored = {layer: file.get_tensor(f"layer.{layer}") for layer in range(6)}
    assert term.steered_layers == (layers or tuple(stored))
    for layer in term.steered_layers:
        unit = stored[layer] / stored[layer].norm()
        added = (asked or strength) * scales[str(layer)] * unit
        torch.testing.assert_close(term.delta(layer), added)


def test_the_provenance_of_an_old_file_is_told_apart() -> None:
    provenance = SteeringVector.load(OLD).provenance
    assert (provenance.method, provenance.pairs, provenance.seen) == ("grains", 50, None)
    assert provenance.deltas == Deltas(50, 50)
    assert provenance.config["k"] == 3
    assert provenance.agreement is not None
    assert provenance.agreement.pairs == 50
    assert provenance.facts == {}


def test_what_no_field_has_a_place_for_is_kept_among_the_facts() -> None:
    found = Provenance.from_record({"method": "mine", "deltas": 6, "without_context": 1})
    assert found == Provenance(method="mine", deltas=Deltas(6), facts={"without_context": 1})


def test_records_survive_the_file(tmp_path: Path, tiny_vector: SteeringVector) -> None:
    provenance = Provenance(
        method="grains",
        pairs=3,
        completeness_error=Completeness(0.5, None),
        seen=("3" * 16,),
        facts={"who": "we"},
    )
    for calibration in (
        Calibration(-0.08, layers=(1,), choice=CHOICE),
        Calibration(0.08, choice=CHOICE, remark="by hand"),
        Calibration(0.08, remark="by hand"),
        Calibration(0.08),
    ):
        made = replace(tiny_vector, provenance=provenance).with_calibration(calibration)
        loaded = SteeringVector.load(made.save(tmp_path / "v.safetensors"))
        assert (loaded.provenance, loaded.calibration) == (made.provenance, made.calibration)


def test_a_release_before_these_records_finds_what_it_looks_for(
    tmp_path: Path, tiny_vector: SteeringVector
) -> None:
    made = tiny_vector.with_calibration(Calibration(0.08, choice=CHOICE))
    stored = metadata(made.save(tmp_path / "v.safetensors"))
    assert stored["format_version"] == "1"
    calibration = json.loads(stored["calibration"])
    assert set(calibration) == {"strength", "layers", "scope", "unit", "renormalise", "note"}
    for digest in ("ab" * 6, "cd" * 6, "ef" * 6):
        assert digest in calibration["note"]


@pytest.mark.parametrize("unit", ["total", "relative"])
def test_what_a_strength_by_hand_counts_outlives_the_file(
    unit: Unit, tmp_path: Path, tiny_vector: SteeringVector
) -> None:
    made = replace(tiny_vector, application=Application(unit=unit))
    path = made.save(tmp_path / "v.safetensors")
    assert metadata(path)["format_version"] == "1"
    assert ("unit" in metadata(path)) == (unit == "total")
    back = SteeringVector.load(path)
    assert back.application.unit == back.steer(0.3).terms[0].unit == unit
    assert back.fingerprint_id == made.fingerprint_id == tiny_vector.fingerprint_id


def test_the_sentence_says_every_fact_and_gives_them_back() -> None:
    calibration = Calibration(-0.08, choice=CHOICE)
    assert calibration.note == (
        "steers - (against the vector as built); best of 24 settings on dev (sha256 abababababab, "
        "40 prompts of those of sha256 cdcdcdcdcdcd): success 40.0 % to 90.0 %; points lost: "
        "reading +1.0, closed_book -2.5 (budget 1, kept, and more sha256 efefefefefef)"
    )
    old = calibration.record()
    del old["choice"]
    assert Calibration.from_record(old).note == calibration.note
    unmeasured = replace(calibration, choice=replace(CHOICE, capability=None))
    assert unmeasured.note.endswith("; capability was not measured")
    found = Choice.from_sentence(unmeasured.note)
    assert found is not None
    assert found.capability is None


def test_a_strength_that_is_then_set_by_hand_keeps_what_was_looked_at() -> None:
    by_hand = replace(Calibration(0.08, choice=CHOICE), strength=0.2, remark="set by hand")
    assert by_hand.note.startswith("set by hand; before that best of 24 settings on dev")
    assert by_hand.choice is not None
    assert by_hand.choice.dev.seen


def test_what_a_later_release_says_of_a_calibration_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        Calibration.from_record({"strength": 0.1, "temperature": 2})
    with pytest.raises(ValueError, match="scope"):
        Calibration.from_record({"strength": 0.1, "scope": "some"})


def test_people_are_shown_no_hashes() -> None:
    provenance = Provenance(seen=("0" * 16, "1" * 16))
    assert provenance.shown() == {"seen": "2 prompts"}
    assert "1" * 16 not in json.dumps(Calibration(0.1, choice=CHOICE).shown())


def test_a_prompt_is_the_same_whatever_its_white_space() -> None:
    assert prompt_hash("a  b\n c ") == prompt_hash("a b c")
    assert prompt_hash("a b c") != prompt_hash("a b d")
    assert prompt_hash("a", ["cat.png"]) != prompt_hash("a", ["dog.png"])
    assert len(prompt_hash("a")) == 16


def test_a_build_writes_down_which_prompts_it_saw(tiny_llm: Any) -> None:
    from steerable_llm import Pairs, PreferencePair, build_vector

    pairs = Pairs(
        PreferencePair(f"Is number {n} big?", good="yes", bad="no it is not") for n in range(3)
    )
    seen = build_vector(tiny_llm, pairs, method="caa", progress=False).provenance.seen
    assert seen == tuple(sorted(hashes_of(tiny_llm, pairs)))


def test_a_template_that_tells_the_day_gives_the_same_hash_tomorrow(
    tiny_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerable_llm import PreferencePair

    pairs = [PreferencePair("Is it the 3rd today?", good="yes", bad="no it is not")]
    found = []
    for day in ("", "Today is {{ strftime_now('%A %d %b %Y') }}. "):
        template = f"{day}{{{{ messages[0]['content'] }}}}"
        monkeypatch.setattr(tiny_llm.tokenizer, "chat_template", template)
        found.append((tiny_llm.render("a"), hashes_of(tiny_llm, pairs)))
    (plain, _), (dated, hashes) = found
    assert dated != plain
    told = f"Today is {datetime.now().strftime('%A %d %b %Y')}"
    assert dated.startswith(told)
    assert hashes == (prompt_hash("Today is . Is it the 3rd today?"),)


def test_an_image_is_known_by_its_pixels_wherever_and_however_they_lie(tmp_path: Path) -> None:
    from steerable_llm import PreferencePair

    llm = vision_llm("qwen2_vl")
    cat, dog = (tmp_path / name for name in ("cat.png", "dog.png"))
    for path, colour in ((cat, "red"), (dog, "blue")):
        Image.new("RGB", (8, 8), colour).save(path)

    def hashed(image: Any) -> str:
        pair = PreferencePair("What is it?", good="a cat", bad="a dog", images=[image])
        return hashes_of(llm, [pair])[0]

    copy = tmp_path / "copy.png"
    copy.write_bytes(cat.read_bytes())
    assert hashed(cat) == hashed(copy) == hashed(cat.read_bytes())
    Image.open(cat).save(other := tmp_path / "cat.bmp")
    assert hashed(cat) == hashed(other) == hashed(Image.open(cat))
    assert hashed(cat) != hashed(dog)
