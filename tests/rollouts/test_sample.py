"""What is asked of a policy, and what identifies it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs_data.errors import UserError
from specs_data.format import THINK_ANSWER, Part, ResponseFormat
from specs_data.recipe import Recipe
from specs_data.records import Message, Problem, Sampling
from specs_data.rollouts.sample import (
    check_policy,
    edges_fingerprint,
    make_request,
    policy_fingerprint,
    policy_name,
    sample_seed,
    sampling,
)
from specs_data.texts import system_prompt

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
EDGE = 1 << 20


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**63), name=ids, index=st.integers(0, 10**6), question=ids, answer=ids, source=ids,
    images=st.lists(st.binary(max_size=4), max_size=2).map(tuple),
)  # fmt: skip
def test_a_seed_depends_on_seed_id_and_index_alone(
    seed: int, name: str, index: int, question: str, answer: str, source: str, images: tuple[bytes, ...]
) -> None:
    problem = Problem(name, question, answer, "text", source=source)
    request = make_request(problem, index, images, system_prompt(None, "Be brief."), seed)
    assert request.seed == make_request(Problem(name, "q", "a", "math"), index, (), None, seed).seed
    assert request.images == images and request.messages == (Message("system", "Be brief."), Message("user", question))
    assert 0 <= request.seed < 2**31


def test_seeds_differ() -> None:
    seeds = [
        sample_seed(seed, name, index)
        for seed in (0, 1, 11)
        for name in ("1", "1/1", "11", "a", "b")
        for index in range(40)
    ]
    assert len(set(seeds)) == len(seeds)
    assert sample_seed(0, "a", 0) == 1709443646  # on every machine and in every release


def test_sampling_stops_after_the_answer() -> None:
    recipe = Recipe(temperature=0.7, top_p=0.9, max_tokens=77)
    assert sampling(recipe, THINK_ANSWER) == Sampling(0.7, 0.9, 77, ("</answer>",))
    label = ResponseFormat(name="label", answer=Part(open="Answer:"), instruction="-")
    keys = ResponseFormat(name="json", layout="json", answer=Part(open="answer", close="x"), instruction="-")
    assert sampling(recipe, label).stop == sampling(recipe, keys).stop == ()


def test_system_prompts(tmp_path: Path) -> None:
    assert system_prompt("none", "think-answer") is None
    shipped = system_prompt(None, THINK_ANSWER.instruction)
    assert shipped is not None and shipped.name == "think-answer" and "<think>" in shipped.body
    own = system_prompt(None, "Answer in one word.")
    assert own is not None and own.body == "Answer in one word."
    (tmp_path / "mine.md").write_text("\nMine.\n")
    mine = system_prompt(str(tmp_path / "mine.md"), "think-answer")
    assert mine is not None and (mine.name, mine.body) == ("mine.md", "Mine.")
    assert len({text.sha256 for text in (shipped, own, mine)}) == 3
    for long in ("x" * 10_000, "a\x00b", "many\nlines/of text"):
        text = system_prompt(None, long)
        assert text is not None and text.body == long


def checkpoint(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "small.bin").write_bytes(b"abc")
    (folder / "weights.safetensors").write_bytes(b"a" * (3 * EDGE + 7))
    return folder


def test_a_fingerprint_does_not_depend_on_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = checkpoint(tmp_path / "a")
    second = shutil.copytree(first, tmp_path / "far" / "away" / "b")
    linked = tmp_path / "linked"
    linked.symlink_to(first)
    found = policy_fingerprint(str(first))
    assert len(found) == 64 and found == policy_fingerprint(str(second)) == policy_fingerprint(str(linked))
    monkeypatch.chdir(first)
    assert policy_fingerprint(".") == found == policy_fingerprint("../a")


def test_how_a_checkpoint_was_downloaded_does_not_matter(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    found = policy_fingerprint(str(folder))
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "weights.metadata").write_text("1764000000.0")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert policy_fingerprint(str(folder)) == found


@pytest.mark.parametrize("name", ["config.json", "sub/small.bin", "weights.safetensors"])
def test_a_fingerprint_changes_with_the_content(tmp_path: Path, name: str) -> None:
    found = [policy_fingerprint(str(checkpoint(tmp_path / "a")))]
    file = tmp_path / "a" / name
    content = file.read_bytes()
    for changed in (b"Z" + content[1:], content[:-1] + b"Z", content + b"a", content[:-1]):
        file.write_bytes(changed)
        found.append(policy_fingerprint(str(tmp_path / "a")))
    file.write_bytes(content)
    file.rename(file.with_name("renamed"))
    found.append(policy_fingerprint(str(tmp_path / "a")))
    file.with_name("renamed").unlink()
    found.append(policy_fingerprint(str(tmp_path / "a")))
    assert len(set(found)) == len(found)


def test_weights_that_differ_between_the_edges_of_their_file_are_others(tmp_path: Path) -> None:
    # An adapter that is merged changes layers: the file begins with the embeddings and ends with the vision tower.
    first = checkpoint(tmp_path / "a")
    layers = b"l" * (2 * EDGE)
    (first / "weights.safetensors").write_bytes(b"e" * 2 * EDGE + layers + b"v" * 2 * EDGE)
    second = shutil.copytree(first, tmp_path / "b")
    (second / "weights.safetensors").write_bytes(b"e" * 2 * EDGE + bytes(reversed(range(256))) * 8192 + b"v" * 2 * EDGE)
    assert policy_fingerprint(str(first)) != policy_fingerprint(str(second))
    assert edges_fingerprint(str(first)) == edges_fingerprint(str(second))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_change_of_a_small_file_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "small"
    folder.mkdir(exist_ok=True)
    content, other = (data.draw(st.binary(max_size=30)) for _ in range(2))
    prints = []
    for each in (content, other):
        (folder / "w").write_bytes(each)
        prints.append(policy_fingerprint(str(folder)))
    assert (prints[0] == prints[1]) is (content == other)


def in_cache(cache: Path, policy: str, commit: str) -> None:
    """Lay the Hub's cache out as if `commit` of a policy had been downloaded."""
    folder = cache / f"models--{policy.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")


def test_a_hub_id_stands_for_the_commit_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = [policy_fingerprint("org/policy")]
    for commit in ("a" * 40, "b" * 40):
        in_cache(tmp_path, "org/policy", commit)
        found.append(policy_fingerprint("org/policy"))
    assert found == ["org/policy", f"org/policy@{'a' * 40}", f"org/policy@{'b' * 40}"]


def test_a_path_without_folder_is_no_matter_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "ckpt" / "zero")
    check_policy("ckpt/zero")
    check_policy(str(tmp_path / "ckpt/zero"))
    for wrong in (
        "nosuch",
        "./nosuch",
        "../ckpt",
        "~/zero",
        "/nosuch",
        "ckpt/zero/sub/nosuch",
        "ckpt/zero/config.json",
    ):
        with pytest.raises(UserError, match=rf"^no policy at {re.escape(wrong)}: there is no such folder here; "):
            check_policy(wrong)


def test_what_may_be_a_hub_id_is_looked_for_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"^no policy at ckpt/nosuch: there is no such folder here, and the Hub says: ."
    ):
        check_policy("ckpt/nosuch")
    in_cache(tmp_path, "org/policy", "a" * 40)
    check_policy("org/policy")


def test_what_is_no_folder_stands_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("Qwen/Qwen2.5-VL-7B-Instruct", "", "nowhere/at/all"):
        assert policy_fingerprint(name) == name


def test_the_name_of_a_policy_has_no_place_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ckpt" / "grpo-zero"
    folder.mkdir(parents=True)
    assert policy_name(str(folder)) == policy_name(f"{folder}/") == "grpo-zero"
    monkeypatch.chdir(folder)
    assert policy_name(".") == "grpo-zero"
    assert policy_name("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
