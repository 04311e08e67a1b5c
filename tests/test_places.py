"""Where pictures stand: one place in every engine, in the dataset, in exports, and for every trainer."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from fakes.gemini_server import Service
from fakes.openai_server import OpenAIServer
from fakes.sums import picture
from hypothesis import given
from hypothesis import strategies as st

from specs_data import Built, Recipe, build, load_run
from specs_data.engines import ModelOptions
from specs_data.engines.checkpoint import load_processor
from specs_data.engines.openai import OpenAIEngine
from specs_data.engines.scripted import ScriptedEngine
from specs_data.engines.transformers import TransformersEngine
from specs_data.format import THINK_ANSWER
from specs_data.judges.model import ModelJudge
from specs_data.look.check import check
from specs_data.mini import checkpoint
from specs_data.pairs.parquet import SCHEMA
from specs_data.pairs.rows import open_dataset, rows, to_row
from specs_data.problems import Incoming, Source, read_problems
from specs_data.records import Judged, Judgement, Message, Problem, Request, Response, Sample, Sampling
from specs_data.services.gemini import GeminiClient
from specs_data.services.limits import Budget
from specs_data.services.openai import OpenAIClient
from specs_data.services.prices import load_prices
from specs_data.services.service import Service as Asker
from specs_data.share.export import export, export_problems
from specs_data.share.merge import merge
from specs_data.texts import Text, count_places, in_blocks, leading, misplaced, placed
from specs_data.train.rows import preference_rows, problem_rows
from specs_data.verifiers import Checker
from specs_data.verifiers.model import ModelVerifier
from specs_data.verifiers.policy import PolicyVerifier

# google-genai's own session, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

RED, BLUE = picture(1), picture(2)
ASKED = "Picture A: <image>\nPicture B: <image>\nIn which is it?"
PIECES: list[str | int] = ["Picture A: ", 0, "\nPicture B: ", 1, "\nIn which is it?"]
SYSTEM = Text("s", "Think.", "0" * 64)


def user(text: str) -> tuple[Message, ...]:
    return (Message("system", "Be <image> good."), Message("user", text))


def blocks(pieces: list[str | int]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": piece} if isinstance(piece, str) else {"type": "image"} for piece in pieces]


def without_nulls(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks as they were written: a Parquet column gives an image block an empty text."""
    return [{key: value for key, value in block.items() if value is not None} for block in content]


# The rule


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("<image>", 1), ("a <image> b <image>", 2), ("<image><image>", 2), ("<images> <image 1> <Image>", 0),
        ("`<image>`", 0), ('"<image>"', 0), ("'<image>'", 0), ("“<image>” and <image>", 1), ("`a <image> b`", 0),
        ("```\n<image>\n```\n<image>", 1), ("`<image>` or <image>", 1), ("5\" <image> 6\"", 1), ("it's <image>'s", 1),
        ("`A' is <image> and `B' is <image>", 2), ('`<image>', 1),
    ],
)  # fmt: skip
def test_what_is_a_place(text: str, count: int) -> None:
    assert count_places(text) == count


@pytest.mark.parametrize(
    "text", ["`" * 99_999, "`a" * 50_000, "<image>" * 14_000, '"<image>' * 12_000, "```" + "a" * 99_000]
)
def test_long_texts_take_no_time(text: str) -> None:
    started = time.perf_counter()
    count_places(text), misplaced(user(text), 1), placed(user(text), 1), leading(user(text), 14_000)
    assert time.perf_counter() - started < 2


def test_places_are_in_what_the_user_says() -> None:
    assert placed(user(ASKED), 2) == [("Be <image> good.",), tuple(PIECES)]
    turns = (*user("First <image>."), Message("assistant", "An <image>?"), Message("user", "Then <image>."))
    assert placed(turns, 2)[1:] == [("First ", 0, "."), ("An <image>?",), ("Then ", 1, ".")]
    assert leading(turns, 2) is None


@pytest.mark.parametrize("text", ["What?", "<image><image>What?", " <image>\n<image>What?"])
def test_pictures_that_come_first_need_no_place(text: str) -> None:
    assert leading(user(text), 2) == user("What?")
    assert in_blocks(user("What?"), 2)[1]["content"] == blocks([0, 1, "What?"])


def test_what_disagrees_is_told_with_both_numbers() -> None:
    assert misplaced(user("<image> or <image>?"), 1) == "2 placeholders, 1 picture"
    assert misplaced(user("<image>?"), 0) == "1 placeholder, 0 pictures"
    assert misplaced(user("What does <image> mean?"), 0) is None
    assert misplaced(user(ASKED), 2) is None and misplaced(user("What?"), 2) is None
    assert placed(user("<image> or <image>?"), 1)[1] == (0, "<image> or <image>?")


@given(st.lists(st.sampled_from(["<image>", "`", '"', "a ", "\n", "'"]), max_size=12), st.integers(0, 4))
def test_nothing_is_lost_and_every_picture_has_one_place(parts: list[str], pictures: int) -> None:
    messages = user("".join(parts))
    pieces = [piece for message in placed(messages, pictures) for piece in message]
    assert [piece for piece in pieces if isinstance(piece, int)] == [*range(pictures)]
    said = "".join("<image>" if isinstance(piece, int) else piece for piece in pieces[1:])
    wanted = messages[1].content
    assert said in (wanted, "<image>" * pictures + wanted)
    plain = leading(messages, pictures)
    if plain is not None:  # what has no places left is read the same again
        assert leading(plain, pictures) == plain or misplaced(messages, pictures)


# The engines


async def test_openai_sends_the_parts_in_their_order() -> None:
    async with OpenAIServer(lambda body: "a") as server:
        engine = OpenAIEngine("tiny", Sampling(), ModelOptions(base_url=(server.url,)))
        for text in (ASKED, "What?"):
            await engine.generate(Request(user(text), (RED, BLUE), 1))
        await engine.close()
    urls = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in (RED, BLUE)]
    told = [
        [part["text"] if part["type"] == "text" else urls.index(part["image_url"]["url"]) for part in content]
        for body in server.bodies
        for content in [body["messages"][1]["content"]]
    ]
    assert told == [PIECES, [0, 1, "What?"]]
    assert all(body["messages"][0]["content"] == "Be <image> good." for body in server.bodies)


@pytest.mark.parametrize(("text", "pieces"), [(ASKED, PIECES), ("What?", [0, 1, "What?"])])
async def test_transformers_puts_them_where_the_template_would(text: str, pieces: list[str | int]) -> None:
    engine = TransformersEngine(str(checkpoint("base")), Sampling(temperature=0.0, max_tokens=1))
    images = (RED, BLUE)
    response = await engine.generate(Request((Message("user", text),), images, 1))
    await engine.close()
    processor: Any = load_processor(checkpoint("base"))
    from specs_data.engines.images import open_image

    written = processor.apply_chat_template(
        [{"role": "user", "content": blocks(pieces)}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=[written], images=[open_image(image) for image in images], return_tensors="pt")
    assert response.prompt_tokens == inputs["input_ids"].shape[1]
    assert "<image>" not in written


# Who checks a response


def told(content: list[dict[str, Any]]) -> list[str | int]:
    """What a service is sent, in its order: what follows the head of an item, and the numbers of the pictures."""
    found: list[str | int] = []
    for part in content:
        data = part.get("inlineData", {}).get("data") or part.get("image_url", {}).get("url", "").partition(",")[2]
        found.append([RED, BLUE].index(base64.b64decode(data)) if data else part["text"])
    return [re.sub(r"(?s)^Item \w+|\n*(?:BEGIN|END) QUESTION \w+\n*|\n*BEGIN RE.*", "", each)
            if isinstance(each, str) else each for each in found]  # fmt: skip


CHECKED = [
    (ASKED, PIECES), ("<image>A or <image>B?", [0, "A or ", 1, "B?"]), ("What?", [0, 1, "What?"]),
    ("What is an `<image>`?", [0, 1, "What is an `<image>`?"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "pieces"), CHECKED)
async def test_services_get_them_where_the_question_says(
    text: str, pieces: list[str | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live, and again after trouble, by both verifiers and a judge; in a job they are the same requests."""
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    with Service() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        for client in (GeminiClient(), OpenAIClient("tiny", server.url)):
            asker = Asker(client, Budget(load_prices()), pause=0.0)
            problem = Problem("p", text, "a cat", "open", (), ("x", "y"))
            response = Response("<think>An <image>.</think><answer>a cat</answer>")
            judged = Judged(Sample(problem, 0, response), Judgement(True, "model", "a cat"))
            server.faults.append("no parts")
            await ModelVerifier(asker).verify(judged, (RED, BLUE))
            await ModelJudge(asker).judge(problem, "a cat", (RED, BLUE))
            await asker.close()
        sent = [body["contents"][0]["parts"] if "contents" in body else body["messages"][1]["content"]
                for _, _, body in server.calls]  # fmt: skip
    heads = [[piece for piece in told(parts) if piece != ""] for parts in sent]
    assert heads == [pieces] * 6
    assert all("An <image>." in parts[-1]["text"] for parts in (sent[0], sent[1], sent[3], sent[4]))
    assert "Your last reply" in sent[1][-1]["text"] and "Your last reply" in sent[4][-1]["text"]


async def test_the_policy_that_checks_itself_is_asked_as_it_was_before() -> None:
    seen: list[Request] = []

    def answer(request: Request) -> str:
        seen.append(request)
        return "1</answer>"

    verifier = PolicyVerifier(Checker(ScriptedEngine(answer), "tiny", "digest", SYSTEM), THINK_ANSWER)
    response = Response("<think>So 1.</think>\n<answer>1</answer>")
    sample = Sample(Problem("p", ASKED, "1", "numeric", (), ("x", "y")), 0, response)
    await verifier.verify(Judged(sample, Judgement(True, "number", "1")), (RED, BLUE))
    assert placed(seen[0].messages, len(seen[0].images))[-1] == tuple(PIECES)


# From problems to a trainer


def problems(folder: Path, *questions: str) -> tuple[Path, Path]:
    """A question each, about as many pictures as it has places (two without any), and responses to them."""
    for name, data in (("a.png", RED), ("b.png", BLUE)):
        (folder / name).write_bytes(data)
    asked, answered = [], []
    for number, question in enumerate(questions):
        count = question.count("<image>") or 2
        images = ["a.png", "b.png"][:count]
        asked.append({"id": f"p{number}", "question": question, "images": images, "answer": str(number)})
        response = f"<think>It is {number}.</think>\n<answer>{number}</answer>"
        answered.append({"problem_id": f"p{number}", "response": response})
    files = folder / "problems.jsonl", folder / "responses.jsonl"
    for file, lines in zip(files, (asked, answered), strict=True):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return files


def built(folder: Path, *questions: str) -> Built:
    folder.mkdir(exist_ok=True)
    source, responses = problems(folder, *questions)
    return build(Recipe(problems=str(source), responses=responses, verifier="none"), folder / "run", quiet=True)


def test_an_interleaved_question_reaches_the_trainer_in_blocks(tmp_path: Path) -> None:
    from model import new_processor
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    run = built(tmp_path, ASKED, "<image><image>\nWhich is it?")
    assert run.count == 2
    data = load_dataset(str(run.out / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    asked = [without_nulls(row["prompt"][-1]["content"]) for row in data]
    assert asked == [blocks(PIECES), blocks([0, 1, "Which is it?"])]
    assert all(isinstance(row[side][0]["content"], str) for row in data for side in ("chosen", "rejected"))
    texts = [row["prompt"][0]["content"][0]["text"] for row in data]
    processor = new_processor([*texts, ASKED, "Which is it?"], vocabulary=300)
    kept = data.select_columns(["images", "prompt", "chosen", "rejected"])
    batch = DataCollatorForVisionPreference(processor, max_length=None)([kept[0], kept[1]])
    pad = processor.image_token
    seen = [processor.tokenizer.decode(ids[mask.bool()]) for ids, mask in
            zip(batch["input_ids"], batch["attention_mask"], strict=True)]  # fmt: skip
    first = seen[0].partition("<|im_start|>user")[2]
    assert first.index("Picture A: ") < first.index(pad) < first.index("Picture B: ") < first.rindex(pad)
    assert seen[1].index(pad) < seen[1].rindex(pad) < seen[1].index("Which is it?")


def test_it_is_read_back_as_it_was(tmp_path: Path) -> None:
    run = built(tmp_path, ASKED, "<image><image>\nWhich is it?")
    assert [pair.question for pair in load_run(run.out).pairs()] == [ASKED, "Which is it?"]
    assert check(run.out).failed == 0
    assert [type(to_row(pair)["prompt"][-1]["content"]) for pair in load_run(run.out).pairs()] == [list, str]


def test_a_dataset_without_such_questions_stays_as_it_was(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = built(tmp_path, "<image><image>\nWhich is it?", "Which?")
    (file,) = (run.out / "dataset").rglob("*.parquet")
    assert pq.read_schema(file).metadata == SCHEMA.metadata
    assert [row["prompt"][-1]["content"] for row in pq.read_table(file).to_pylist()] == ["Which is it?", "Which?"]


@pytest.mark.parametrize("to", ["llamafactory", "ms-swift"])
def test_exports_have_the_marks_in_their_places(tmp_path: Path, to: str) -> None:
    run = built(tmp_path, ASKED, "<image><image>\nWhich is it?", "<image><image>What is an `<image>`?")
    done = export(run.out, to, tmp_path / "out")
    lines = [json.loads(line) for line in done.files[-1].read_text().splitlines()]
    turns = [line.get("conversations") or line["messages"][:-1] for line in lines]
    assert [turn[-1].get("value") or turn[-1]["content"] for turn in turns] == [ASKED, "<image><image>Which is it?"]
    assert [len(line["images"]) for line in lines] == [2, 2]
    assert sum(done.left_out.values()) == 1  # the loader would count the quoted one


def test_a_merge_takes_both_layouts(tmp_path: Path) -> None:
    plain, mixed = built(tmp_path / "a", "Which?"), built(tmp_path / "b", ASKED)
    merge([plain.out, mixed.out], tmp_path / "both")
    merged = open_dataset(tmp_path / "both")
    assert [pair.question for pair in rows(merged)] == ["Which?", ASKED]
    data = load_dataset(str(tmp_path / "both" / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [without_nulls(row["prompt"][-1]["content"]) for row in data] == [blocks([0, 1, "Which?"]), blocks(PIECES)]


def test_trainers_rows(tmp_path: Path) -> None:
    from datasets import Dataset

    run = built(tmp_path, "Which?", ASKED)
    made = preference_rows(str(run.out), "train", lambda row: None, None, tmp_path / "rows.arrow")
    asked = [without_nulls(row["prompt"][-1]["content"]) for row in Dataset.from_file(made.file)]
    assert asked == [blocks([0, 1, "Which?"]), blocks(PIECES)]
    sources = [Source(str(tmp_path / "problems.jsonl"))]
    made = problem_rows(sources, {}, SYSTEM, lambda row: None, None, tmp_path / "p.arrow", False)
    asked = [without_nulls(row["prompt"][-1]["content"]) for row in Dataset.from_file(made.file)]
    assert made.count == 2 and asked == [blocks([0, 1, "Which?"]), blocks(PIECES)]
    plain = problem_rows(sources, {}, SYSTEM, lambda row: None, 1, tmp_path / "q.arrow", False)
    assert [row["prompt"][-1]["content"] for row in Dataset.from_file(plain.file)] == ["Which?"]


def test_somebody_else_s_rows(tmp_path: Path) -> None:
    """LLaMA-Factory's marks and TRL's blocks are the same places; what disagrees is left out with both numbers."""
    from datasets import Dataset

    (tmp_path / "a.png").write_bytes(RED)
    sides = {"chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}

    def row(content: Any) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": content}], **sides, "images": ["a.png"]}

    contents = ["<image>Q", "See <image>.", blocks(["See ", 0, "."]), blocks([0, "Q"]), "<image> or <image>?"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row(content)) + "\n" for content in contents))
    found = list(rows(open_dataset(tmp_path / "p.jsonl")))
    assert [pair.question for pair in found] == ["Q", "See <image>.", "See <image>.", "Q", "<image> or <image>?"]
    made = preference_rows(str(tmp_path / "p.jsonl"), "train", lambda row: None, None, tmp_path / "rows.arrow")
    asked = [without_nulls(row["prompt"][-1]["content"]) for row in Dataset.from_file(made.file)]
    assert asked == [blocks(pieces) for pieces in ([0, "Q"], ["See ", 0, "."], ["See ", 0, "."], [0, "Q"])]
    assert made.dropped == {"placeholders and pictures differ in number: 2 placeholders, 1 picture": 1}


@pytest.mark.parametrize("to", ["trl", "easyr1", "verl"])
def test_grpo_prompts(tmp_path: Path, to: str) -> None:
    asked = [
        (Problem("p0", "Which?", "1", "numeric", (), ("x", "y")), (RED, BLUE)),
        (Problem("p1", ASKED, "1", "numeric", (), ("x", "y")), (RED, BLUE)),
    ]
    export_problems(asked, SYSTEM, to, tmp_path / "out")
    data = load_dataset(str(tmp_path / "out" / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    found = [row["problem"] if to == "easyr1" else row["prompt"][-1]["content"] for row in data]
    if to == "trl":
        assert list(map(without_nulls, found)) == [blocks([0, 1, "Which?"]), blocks(PIECES)]
        back = read_problems(str(tmp_path / "out"), columns={"question": "prompt"})
        assert [item.problem.question for item in back if isinstance(item, Incoming)] == ["Which?", ASKED]
    else:
        assert found == ["<image><image>Which?", ASKED]
