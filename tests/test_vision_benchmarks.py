"""Benchmarks with images: their rows, their scores by the published rules, their reports."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from adapter_models import random_vector
from vision_models import vision_llm
from web_server import web_site

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.images import image_of
from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_llm.evaluation.benchmarks.benchmark import find_benchmark
from steerable_llm.evaluation.benchmarks.chair import chair, objects_in
from steerable_llm.evaluation.benchmarks.data import load_data
from steerable_llm.evaluation.benchmarks.folders import mmhal_rows
from steerable_llm.evaluation.benchmarks.metrics import LogProb
from steerable_llm.evaluation.benchmarks.rating import Server, judge_of, rating_in
from steerable_llm.evaluation.benchmarks.rows import MMHAL_TYPES
from steerable_llm.evaluation.benchmarks.run import run_benchmark
from steerable_llm.evaluation.benchmarks.vision_metrics import mmmu, mmmu_text, pope, spa_vl
from steerable_llm.metrics import difference, estimate, ratio

NAMES = ["pope", "mmhal", "mmmu", "spa_vl", "chair"]
SAMPLES = Path(__file__).resolve().parent.parent / "steerable_llm/evaluation/benchmarks/samples"


@pytest.fixture(scope="module")
def llm() -> SteerableHFLLM:
    return vision_llm("llava")


def steered(llm: SteerableHFLLM, name: str, **more: Any) -> Any:
    vector = random_vector(llm, "a", 0)
    return run_benchmark(
        llm, name, [vector], strengths=[0.5], data="sample", progress=False,
        against=["sign_flipped"], **more,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_runs_on_its_sample_with_and_without_steering(
    llm: SteerableHFLLM, name: str, tmp_path: Path
) -> None:
    judge = {"judge": lambda _: "Fine. Rating: 4"} if name == "mmhal" else {}
    report = steered(llm, name, limit=2, **judge)
    assert report.arms == ("none", "steered", "sign_flipped")
    assert report.rows[0].n == 2
    named = dict.fromkeys(row.name for row in report.figures)
    assert tuple(named) == tuple(find_benchmark(name).figures)
    assert "Figures" in report.save(tmp_path / "report.md").read_text()
    again = type(report).model_validate_json(report.to_json())
    assert again == report
    if name != "spa_vl":
        assert any(item.kl_per_token > 0 for item in report.items)


def test_the_same_words_of_two_images_are_two_questions(
    llm: SteerableHFLLM, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (SAMPLES / "spa_vl.jsonl").read_text().splitlines()]
    same = [{**rows[0], "image": row["image"]} for row in rows]
    data = tmp_path / "same.jsonl"
    data.write_text("\n".join(map(json.dumps, same)))
    report = run_benchmark(
        llm, "spa_vl", [random_vector(llm, "a", 0)], strengths=[0.5], data=str(data),
        progress=False, against=[],
    )  # fmt: skip
    scores = {item.log_probs for item in report.items if item.arm == "none"}
    assert len(scores) == len(same)
    # As the model itself scores the answers, the end of turn left out.
    for row, item in zip(same, report.items[: len(same)], strict=True):
        asked = [{"role": "user", "content": [image_of(row["image"]), row["question"]]}]
        for choice, told in zip((row["chosen"], row["rejected"]), item.log_probs, strict=True):
            logits = llm.answer_logits(asked, choice)
            tokens = llm.encode_answer(choice)[:-1]
            picked = logits.log_softmax(-1)[range(len(tokens)), tokens]
            assert told == pytest.approx(float(picked.sum()), abs=1e-3)


def test_a_model_that_reads_text_alone_is_refused(tiny_llm: SteerableHFLLM) -> None:
    with pytest.raises(
        InvalidInputError, match="pope asks about images, and this model reads text"
    ):
        run_benchmark(
            tiny_llm, "pope", [random_vector(tiny_llm, "a", 0)], strengths=[0.1], data="sample",
            progress=False,
        )  # fmt: skip


# POPE, by the authors' script (AoiDragon/POPE, evaluate.py).


@pytest.mark.parametrize(
    ("answer", "says_yes"),
    [
        ("Yes", True),
        ("yes, there is a dog.", True),
        ("No", False),
        ("No, there is no dog.", False),
        ("no", False),
        ("There is not a dog in it.", False),
        ("It is a cat. There is no dog.", True),  # only the first sentence counts
        ("NO", True),  # nor does the script know it in capitals
        ("Nothing like it", True),
        ("There isn't", True),
        ("", True),
    ],
)
def test_yes_and_no_are_read_as_popes_authors_do(answer: str, says_yes: bool) -> None:
    for label in ("yes", "no"):
        told = pope({"label": label}, [answer])
        assert told["yes"] == says_yes
        assert told["acc"] == (says_yes == (label == "yes"))


def test_popes_figures_are_those_of_the_four_counts() -> None:
    answers = ["yes"] * 5 + ["no"] * 5
    labels = ["yes", "yes", "yes", "no", "no", "no", "no", "no", "yes", "no"]
    facts = [pope({"label": label}, [said]) for said, label in zip(answers, labels, strict=True)]
    tp, fp, tn, fn = 3, 2, 4, 1
    figures = find_benchmark("pope").figures

    def value(name: str) -> float:
        top, *bottom = ([fact[key] for fact in facts] for key in figures[name])
        found = ratio(top, bottom[0] if bottom else [1.0] * len(facts))
        assert found is not None
        return found.value

    precision, recall = tp / (tp + fp), tp / (tp + fn)
    assert value("precision") == pytest.approx(precision)
    assert value("recall") == pytest.approx(recall)
    assert value("F1") == pytest.approx(2 * precision * recall / (precision + recall))
    assert value("share of yes") == pytest.approx(0.5)
    assert sum(fact["acc"] for fact in facts) == tp + tn


def test_popes_own_files_and_the_hubs_are_read_alike(tmp_path: Path) -> None:
    row = json.loads((SAMPLES / "pope.jsonl").read_text().splitlines()[0])
    hub = {"question": row["text"], "answer": row["label"], "image": row["image"]}
    own = {"question_id": 1, "text": row["text"], "label": row["label"], "image": "a.png"}
    (tmp_path / "coco").mkdir()
    shutil.copy(_picture(tmp_path), tmp_path / "coco" / "a.png")
    for each in (hub, own):
        (tmp_path / "pope.jsonl").write_text(json.dumps(each))
        data = load_data(
            find_benchmark("pope"), str(tmp_path / "pope.jsonl"), images=str(tmp_path / "coco")
        )
        assert (data.rows[0]["text"], data.rows[0]["label"]) == (row["text"], row["label"])
    assert data.rows[0]["image"].where == tmp_path / "coco" / "a.png"


def _picture(folder: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    return folder / "red.png"


# MMMU, by the official rules.

OPTIONS = ["a ball", "a blue box", "a tent", "a cup"]


@pytest.mark.parametrize(
    ("answer", "right", "failed"),
    [
        ("B", True, False),
        ("(B)", True, False),
        ("The answer is B.", True, False),
        ("A", False, False),
        ("(A) or rather (B)", True, False),  # the last one counts
        ("As far as I can see it is a blue box", True, False),  # told by its words
        ("blue", False, True),
        ("I cannot tell", False, True),
        ("", False, True),
    ],
)
def test_choices_are_read_by_the_official_rules_and_never_guessed(
    answer: str, right: bool, failed: bool
) -> None:
    row = {"question_type": "multiple-choice", "options": OPTIONS, "answer": "B"}
    for seed in range(5):
        random.seed(seed)
        assert mmmu(row, [answer]) == {"acc": float(right), "failed": float(failed)}


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("3", "3", True),
        ("There are 3 tents.", ["3", "three"], True),
        ("It is three", ["3", "three"], True),
        ("The result is 1,200.50", "1200.5", True),
        ("4", "3", False),
        ("So it is 31", "3", False),
    ],
)
def test_open_answers_are_judged_by_the_official_rules(
    answer: str, gold: str | list[str], right: bool
) -> None:
    told = mmmu({"question_type": "open", "options": [], "answer": gold}, [answer])
    assert told == {"acc": float(right), "failed": 0.0}


# Of the outputs of Qwen-VL and BLIP-2 that MMMU's repository holds: options, answer, response, and
# what the script beside them says; None for a response that it guesses for.
PUBLISHED: list[tuple[list[str], str, str, bool | None]] = [
    (["Theme", "Setting", "Style", "Tone"], "D", "(C) Style.", False),
    (["Hates", "Motif", "Drifts", "Covers"], "D", "(D) Covers.", True),
    (["Resolution", "Exposition", "Conflict", "Rising Action"], "A",
     "The term that refers to the end of the story, or the very last event that takes place, is "
     "(A) Resolution.", True),
    (["falling action", "climax", "exposition", "rising action"], "D",
     "The answer is (D) rising action. \n\nIn a story, the rising action refers to the part of the "
     "exposition where the conflict is introduced", True),
    (["2 e^{-2t} u(t)", "3 e^{-2t} u(t)", "2.2 e^{-2t} u(t)", "3 e^{-3t} u(t)"], "B",
     "[(1 -", None),
]  # fmt: skip


def test_published_outputs_are_judged_as_their_repository_judges_them() -> None:
    for options, answer, response, is_right in PUBLISHED:
        row = {"question_type": "multiple-choice", "options": options, "answer": answer}
        told = mmmu(row, [response])
        assert told == {"acc": float(is_right or False), "failed": float(is_right is None)}


def test_a_whole_published_subject_has_the_score_of_its_answers() -> None:
    # LLaVA-1.5-13B on Literature, validation: each of its 30 responses is a letter.
    answers, responses = "CDCDBBABADBADABABCBCBADABACCDD", "CDCBABABACBADBAABCBCCADABDADDB"
    row = {"question_type": "multiple-choice", "options": ["first", "second", "third", "fourth"]}
    told = [mmmu({**row, "answer": a}, [said]) for a, said in zip(answers, responses, strict=True)]
    assert sum(each["acc"] for each in told) == 20
    assert not any(each["failed"] for each in told)


def test_images_of_mmmu_stand_where_the_question_says(llm: SteerableHFLLM) -> None:
    from steerable_llm.evaluation.benchmarks.harness import _with_images

    data = load_data(find_benchmark("mmmu"), "sample")
    by_id = {row["id"]: row for row in data.rows.values()}
    two = by_id["validation_Shapes_2"]
    text = mmmu_text(two)
    assert "(A) <image 1>" in text
    parts = _with_images(text, [two[f"image_{i}"] for i in range(1, 8)])
    assert [part for part in parts if not isinstance(part, str)] == [two["image_1"], two["image_2"]]
    assert [row["subject"] for row in data.rows.values()] == ["Shapes"] * 2 + ["Counting"] * 2
    assert by_id["validation_Counting_1"]["answer"] == ["3", "three"]
    with pytest.raises(InvalidInputError, match="says <image 3> and has no such image"):
        _with_images("<image 3>", [two["image_1"]])


# SPA-VL.


def test_a_preference_is_told_by_the_sum_and_by_the_mean() -> None:
    short, long = LogProb(-6.0, -6.0, 2), LogProb(-8.0, -8.0, 8)
    assert spa_vl({}, [(short, False), (long, False)]) == {"acc": 1.0, "by_mean": 0.0}
    assert spa_vl({}, [(long, False), (short, False)]) == {"acc": 0.0, "by_mean": 1.0}
    assert spa_vl({}, [(short, False), (short, False)]) == {"acc": 0.0, "by_mean": 0.0}


# MMHal-Bench.


@pytest.mark.parametrize(
    ("judgement", "rating"),
    [
        ("Rating: 5, very informative", 5),
        ("Explanation.\nrating: 0", 0),
        ("Rating: 3. I repeat: Rating: 3", 3),
        ("Rating: 2 or Rating: 3", None),
        ("Rating 4", None),
        ("**Rating:** 4", None),
        ("Rating: 7", None),
        ("", None),
    ],
)
def test_exactly_one_rating_counts(judgement: str, rating: int | None) -> None:
    assert rating_in(judgement) == rating


def test_ratings_make_the_figures_of_mmhal(llm: SteerableHFLLM) -> None:
    asked: list[str] = []

    def judge(prompt: str) -> str:
        asked.append(prompt)
        if "How many tents" in prompt:
            return "Rating: 2 and Rating: 6"
        return "Rating: 3" if "What colour" in prompt else "Rating: 2"

    report = steered(llm, "mmhal", judge=judge)
    assert "A person's answer: The ball is red." in "".join(asked)
    assert len(asked) == len(set(asked))
    assert report.row("none").score.value == pytest.approx(1 / 8)
    assert report.figure("hallucination rate", "none").value.value == pytest.approx(7 / 8)
    mean = report.figure("mean rating, 0 to 6", "none").value
    assert mean.value == pytest.approx((3 + 6 * 2 + 0) / 8)
    assert mean.low <= mean.value <= mean.high
    assert report.figure("mean rating, 0 to 6", "none", "attribute").value.value == 3
    assert report.figure("judgements without one rating", "none").value.value == pytest.approx(
        0.125
    )
    assert report.figure("mean rating, 0 to 6", "steered").change.value == 0
    assert [row.group for row in report.group_rows if row.arm == "none"] == list(MMHAL_TYPES)
    assert report.settings["judge"] == "judge"


@pytest.mark.parametrize("judge", [None, "gpt-4o", 3])
def test_without_a_judge_nothing_is_asked(llm: SteerableHFLLM, judge: Any) -> None:
    with pytest.raises(InvalidInputError, match="mmhal needs a judge"):
        steered(llm, "mmhal", judge=judge)
    with pytest.raises(InvalidInputError, match="pope has no judge"):
        steered(llm, "pope", judge=lambda _: "Rating: 6")


def test_a_judges_own_template_is_filled_in(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Contents {} asked {} known {} said {}")
    judge = judge_of(find_benchmark("mmhal"), str, template=tmp_path / "own.txt")
    row = {"image_content": ["Ball", "Box"], "question": "What {}?", "gt_answer": "A ball."}
    assert judge is not None
    said = judge.prompt(row, "A {cup}.")
    assert said == "Contents Ball, Box asked What {}? known A ball. said A {cup}."
    (tmp_path / "own.txt").write_text("{} {}")
    with pytest.raises(InvalidInputError, match="has 2 places"):
        judge_of(find_benchmark("mmhal"), str, template=tmp_path / "own.txt").prompt(row, "")  # type: ignore[union-attr]


@pytest.mark.enable_socket
def test_a_server_judges_at_temperature_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with web_site() as site:
        heard: dict[str, Any] = {}

        def answer(handler: Any) -> None:
            heard.update(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
            heard["key"] = handler.headers["Authorization"]
            body = json.dumps({"choices": [{"message": {"content": "Rating: 4"}}]}).encode()
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(body)

        site.pages["/v1/chat/completions"] = answer
        judge = judge_of(find_benchmark("mmhal"), f"{site.url}/v1/", model="judging")
        assert judge is not None
        assert judge.ask("Well?") == "Rating: 4"
        assert (heard["temperature"], heard["model"], heard["key"]) == (
            0,
            "judging",
            "Bearer sesame",
        )
        site.at("/v2/chat/completions", b"no JSON")
        with pytest.raises(SteerableError, match=r"the judge at .* gives no answer"):
            Server(f"{site.url}/v2", "judging")("Well?")


def test_mmhals_own_files_are_read_with_images_from_their_archive(tmp_path: Path) -> None:
    row = {
        "question_type": "attribute", "image_content": ["Ball"], "question": "What?",
        "gt_answer": "A ball.", "image_src": "https://images.example/a/red.png",
    }  # fmt: skip
    rows = [row, {**row, "image_src": "https://images.example/elsewhere.png"}]
    (tmp_path / "response_template.json").write_text(json.dumps(rows))
    with ZipFile(tmp_path / "test_data.zip", "w") as archive:
        archive.write(_picture(tmp_path.parent), "test_data/images/red.png")
    data = load_data(find_benchmark("mmhal"), str(tmp_path))
    assert [data.rows[i]["type"] for i in range(2)] == ["attribute", "adversarial"]
    assert data.rows[0]["image"].data == (tmp_path.parent / "red.png").read_bytes()
    assert data.rows[1]["image"].name == "https://images.example/elsewhere.png"
    (tmp_path / "response_template.json").unlink()
    with pytest.raises(InvalidInputError, match=r"cannot read .*response_template\.json"):
        load_data(find_benchmark("mmhal"), str(tmp_path))


# CHAIR.

WORDS = "dog, puppy\nhot dog\ncat\ndining table, table\nperson, man, woman"


def test_objects_are_told_by_their_longest_words() -> None:
    said = "Two puppies, a hot dog and men at the dining tables. A category of its own."
    assert objects_in(said, WORDS) == ["dog", "hot dog", "person", "dining table"]
    assert objects_in("A man and a woman with a cat", WORDS) == ["person", "person", "cat"]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("Two buses and three knives", ["bus", "knife"]),
        ("Sandwiches, mice and a policeman among policemen", ["sandwich", "mouse", "man", "man"]),
        ("Children training and booking a bowling alley", ["child"]),
        ("A baby elephant by a baby", ["elephant", "child"]),
        ("The passenger train leaves the train tracks", ["train"]),
        ("The seat of the toilet, a toilet seat", ["toilet", "toilet"]),
        ("A man sits on a seat", ["man", "chair"]),
    ],
)
def test_objects_are_nouns_in_one_or_several(said: str, named: list[str]) -> None:
    words = (
        "bus\nknife\nsandwich\nmouse\nman, policeman\nchild, baby\ntrain\nbook\nbowl\n"
        "elephant\ntoilet\nchair, seat\npassenger"
    )
    assert objects_in(said, words) == named


def test_a_caption_is_judged_by_what_is_on_the_image() -> None:
    row = {"objects": ["cat", "person"], "synonyms": WORDS}
    told = chair(row, ["A man, a cat and a dog."])
    assert (told["acc"], told["named"], told["made_up"], told["any_made_up"]) == (0, 3, 1, 1)
    assert (told["found"], told["there"]) == (2, 2)
    assert chair(row, ["A cat."])["acc"] == 1


def test_cocos_files_say_what_is_on_an_image(tmp_path: Path) -> None:
    instances = {
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 7, "category_id": 1}],
    }
    captions = {"annotations": [{"image_id": 7, "caption": "A puppy looks at two cats."}]}
    (tmp_path / "instances_val2014.json").write_text(json.dumps(instances))
    (tmp_path / "captions_val2014.json").write_text(json.dumps(captions))
    data = load_data(find_benchmark("chair"), str(tmp_path))
    assert data.rows[0]["objects"] == ["cat", "dog"]
    assert data.rows[0]["image"].name == "a.jpg"
    (tmp_path / "synonyms.txt").write_text("dog, puppy")
    with pytest.raises(InvalidInputError, match="has no line for 'cat'"):
        load_data(find_benchmark("chair"), str(tmp_path))
    (tmp_path / "captions_val2014.json").unlink()
    with pytest.raises(InvalidInputError, match=r"has 0 files captions_\*\.json"):
        load_data(find_benchmark("chair"), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("pope", {"label": "maybe"}, "label"),
        ("pope", {"image": None}, "image"),
        ("mmmu", {"question_type": "essay"}, "question_type"),
        ("mmmu", {"options": {"A": "a list"}}, "options"),
        ("mmmu", {"options": f"[{'-' * 99_999}1]", "question": None}, "question"),
        ("spa_vl", {"chosen": ""}, "chosen"),
    ],
)
def test_a_wrong_row_is_told_in_one_line(
    tmp_path: Path, name: str, change: dict[str, Any], said: str
) -> None:
    row = json.loads((SAMPLES / f"{name}.jsonl").read_text().splitlines()[0])
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**row, **change}))
    with pytest.raises(InvalidInputError, match=said) as told:
        load_data(find_benchmark(name), str(file))
    assert "\n" not in str(told.value)


# Figures.


def test_a_ratio_has_an_interval_and_a_paired_change() -> None:
    top, bottom = [1.0, 0.0, 1.0, 1.0] * 20, [1.0, 1.0, 1.0, 0.0] * 20
    found = ratio(top, bottom)
    assert found is not None
    assert found.value == pytest.approx(1.0)
    assert found.low < found.value < found.high
    same = ratio(top, bottom, before=(top, bottom))
    assert same is not None
    assert same.low < same.value == 0 < same.high
    assert ratio([0.0, 0.0], [0.0, 0.0]) is None
    never = ratio([0.0] * 10, [1.0] * 10)
    assert never is not None
    assert never.low == never.value == 0 < never.high


def test_the_digest_of_data_is_of_its_pictures_and_not_of_where_they_lie(tmp_path: Path) -> None:
    def digest(folder: str, *files: bytes) -> str:
        rows = []
        (tmp_path / folder).mkdir()
        for number, data in enumerate(files):
            (tmp_path / folder / f"{number}.bin").write_bytes(data)
            rows.append({"image": f"{number}.bin", "text": "Is there a cat?", "label": "yes"})
        file = tmp_path / folder / "pope.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_data(find_benchmark("pope"), str(file)).digest

    here = digest("here", b"\x89PNG 1", b"\x89PNG 2")
    assert digest("there", b"\x89PNG 1", b"\x89PNG 2") == here
    assert digest("else", b"\x89PNG 1", b"\x89PNG 3") != here


@pytest.mark.parametrize("same", [0.0, 1.0])
def test_a_share_on_which_all_agree_has_the_interval_of_the_score(same: float) -> None:
    values, ones = [same] * 5, [1.0] * 5
    assert ratio(values, ones) == estimate(values)
    assert ratio(values, ones, before=(values, ones)) == difference(values, values)
    rating = ratio(values, ones, is_share=False)
    assert rating is not None
    assert (rating.low, rating.high) == (same, same)


@pytest.mark.parametrize(
    ("file", "data", "said"),
    [
        ("response_template.json", b'{"rows": []}', "holds no list of questions"),
        ("response_template.json", b"[1, 2]", "holds no list of questions"),
        ("test_data.zip", None, r"cannot read images/a\.png in .*test_data\.zip .*fetch it again"),
    ],
)
def test_a_damaged_folder_of_mmhal_is_one_clear_line(
    tmp_path: Path, file: str, data: bytes | None, said: str
) -> None:
    row = {"question": "What?", "gt_answer": "A cat.", "image_src": "https://x.example/a.png"}
    (tmp_path / "response_template.json").write_text(json.dumps([row]))
    with ZipFile(tmp_path / "test_data.zip", "w") as archive:
        archive.writestr("images/a.png", b"a picture of a cat")
    if data is None:
        data = (tmp_path / file).read_bytes().replace(b"a picture", b"no picture"[:9])
    (tmp_path / file).write_bytes(data)
    with pytest.raises(InvalidInputError, match=said):
        mmhal_rows(tmp_path)


def test_a_judges_template_that_is_no_text_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"caf\xe9 {}{}{}{}")
    with pytest.raises(InvalidInputError, match="is not UTF-8 text"):
        judge_of(find_benchmark("mmhal"), str, template=tmp_path / "words.txt")


@pytest.mark.enable_socket
@pytest.mark.parametrize(("status", "asked"), [(429, 5), (503, 5), (401, 1)])
def test_a_busy_judge_is_asked_again_and_one_that_refuses_is_not(status: int, asked: int) -> None:
    with web_site() as site:
        site.at("/v1/chat/completions", b"", status=status)
        answer, heard = site.pages["/v1/chat/completions"], []

        def counted(handler: Any) -> None:
            heard.append(handler.rfile.read(int(handler.headers["Content-Length"])))
            answer(handler)

        site.pages["/v1/chat/completions"] = counted
        with pytest.raises(SteerableError, match=f"gives no answer .*{status}"):
            Server(f"{site.url}/v1", "judging", patience=0)("Well?")
    assert len(heard) == asked


@pytest.mark.enable_socket
def test_a_judge_that_refuses_costs_no_answers(
    llm: SteerableHFLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Any] = []
    monkeypatch.setattr(llm.model, "forward", lambda *args, **_: passes.append(args))
    with web_site() as site:
        site.at("/v1/chat/completions", b"", status=401)
        with pytest.raises(SteerableError, match=r"gives no answer .*401"):
            steered(llm, "mmhal", judge=f"{site.url}/v1")
    assert passes == []
