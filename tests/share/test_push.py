"""Publishing against a Hub on the loopback, with the real huggingface_hub and datasets.

huggingface_hub reads its settings at import, so each client is a process of its own.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.hub_server import ACCOUNT, File, Hub, Repo
from PIL import Image as Pillow

from specs_data.errors import UserError
from specs_data.pairs.manifest import fingerprint
from specs_data.pairs.parquet import describe, write_shards
from specs_data.pairs.rows import open_dataset
from specs_data.problems import read_problems
from specs_data.share.private import find_secret, refuse_private, without_local_paths
from specs_data.share.push import plan_push

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
{test}---
# Pairs
"""
TEST = "  - split: test\n    path: data/test-*\n"
CLIENT = """
import json, os, sys
from specs_data.errors import SpecsDataError
from specs_data.share.push import describe_versions, push, versions

def load(repo_id, tag):
    from datasets import load_dataset
    pairs = load_dataset(repo_id, revision=tag, split="train")
    return f"{len(pairs)} {pairs[0]['images'][0].size} {pairs[0]['chosen'][0]['content']}"

actions = {
    "push": lambda **asked: push(**asked, say=said.append),
    "versions": lambda **asked: said.append(describe_versions(versions(**asked))),
    "load": lambda **asked: said.append(load(**asked)),
}
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    action, asked = json.loads(line)
    said, status = [], 0
    try:
        actions[action](**asked)
    except SpecsDataError as error:
        said.append(f"{type(error).__name__}: {error}")
        status = 2
    print(json.dumps([status, "\\n".join(said)]), file=answers, flush=True)
"""


class Machine:
    """A user's machine: a process with a home of its own, a token, and the way to the Hub."""

    def __init__(self, url: str, home: Path, **settings: str) -> None:
        home.mkdir(parents=True)
        self._errors = (home / "errors.txt").open("w+")
        env = os.environ | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_" + "a" * 34,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_OFFLINE": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env=env | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._watchdog = threading.Timer(300, self._process.kill)
        self._watchdog.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.seek(0)
        assert "hf_aaaa" not in self._errors.read(), "a token was printed"
        self._errors.close()

    def ask(self, action: str, **asked: Any) -> tuple[int, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([action, asked]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        self._errors.flush()
        assert answer, Path(self._errors.name).read_text()
        assert "hf_aaaa" not in answer
        status, said = json.loads(answer)
        return status, said


class Desk:
    """One user's dataset repository on the Hub, and the machine it is pushed from."""

    def __init__(self, hub: Hub, machine: Machine, name: str) -> None:
        self.hub, self.machine, self.name = hub, machine, f"{ACCOUNT}/{name}"

    @property
    def repo(self) -> Repo:
        return self.hub.repos[self.name]

    def push(self, dataset: Path, **options: Any) -> tuple[int, str]:
        asked = {"dataset": str(dataset), "repo_id": self.name, "tag": "v1.0.0", **options}
        return self.machine.ask("push", **asked)

    def versions(self) -> str:
        return self.machine.ask("versions", repo_id=self.name)[1]

    def load(self, tag: str) -> str:
        return self.machine.ask("load", repo_id=self.name, tag=tag)[1]


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Pillow.effect_noise((64, 48), shade).save(file, "PNG")
    return file.getvalue()


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"row-{number}",
        "images": [{"bytes": picture(number + 1), "path": f"{number}.png"}],
        "prompt": [{"role": "user", "content": f"What is {number}?"}],
        "chosen": [{"role": "assistant", "content": f"<think>so</think><answer>{number}</answer>"}],
        "rejected": [{"role": "assistant", "content": f"so {number}"}],
        "problem_id": f"problem-{number}",
        "answer": str(number),
        "answer_type": "numeric",
        "corruption": "remove_all_tags",
        "rejected_from": "chosen",
        "policy": "tiny",
        "verifier": "rules",
        **changes,
    }


def make_run(folder: Path, rows: list[dict[str, Any]], test: list[dict[str, Any]] | None = None, **recipe: Any) -> Path:
    """A run's folder, as a build leaves it."""
    splits = {"train": write_shards(rows, folder / "dataset", "train")}
    if test:
        splits["test"] = write_shards(test, folder / "dataset", "test")
    (folder / "dataset/README.md").write_text(CARD.format(test=TEST if test else ""))
    described = {name: {"rows": sum(shard.rows for shard in shards)} for name, shards in splits.items()}
    manifest = {
        "name": "tiny",
        "recipe": {"policy": "/home/me/ckpt/tiny", **recipe},
        "recipe_fingerprint": "r" * 64,
        "response_format": {"name": "tex", "answer": {"open": "\\answer{"}, "instruction": "/home/me/tex.md"},
        "dataset": {"fingerprint": fingerprint(splits), "splits": described},
        "models": {
            "policy": {"name": "tiny", "fingerprint": "0"},
            "verifier": {"requested": "gemini-2.5-flash", "served": {"gemini-2.5-flash-001": 12}},
            "judge": None,
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def shared_hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def machine(shared_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(shared_hub.url, tmp_path_factory.mktemp("machine") / "home") as machine:
        yield machine


@pytest.fixture
def hub(shared_hub: Hub) -> Hub:
    shared_hub.asked.clear()
    return shared_hub


@pytest.fixture
def desk(hub: Hub, machine: Machine, request: pytest.FixtureRequest) -> Desk:
    return Desk(hub, machine, request.node.name.replace("_", "-")[:60])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", [row(n) for n in range(4)], [row(9)], samples=8)


def test_a_version_is_one_commit_and_a_tag_on_it(hub: Hub, desk: Desk, run: Path) -> None:
    status, said = desk.push(run, license="apache-2.0")
    repo = desk.repo
    assert status == 0, said
    assert repo.private
    assert repo.messages == ["initial commit", "v1.0.0: 5 pairs"]
    assert repo.tags == {"v1.0.0": repo.branches["main"]}
    assert sorted(repo.files()) == [
        ".gitattributes",
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
        "manifest.json",
    ]
    assert repo.files()["README.md"].content.startswith(b"---\nlicense: apache-2.0\nconfigs:")
    assert json.loads(repo.files()["manifest.json"].content)["recipe"] == {"policy": "tiny", "samples": 8}
    kept = json.loads(repo.files()["manifest.json"].content)["response_format"]
    assert kept == {"name": "tex", "answer": {"open": "\\answer{"}, "instruction": "tex.md"}
    assert f'load_dataset("{desk.name}", revision="v1.0.0")' in said
    assert "read back    5 rows in 4 files: counts and hashes as built" in said
    assert desk.load("v1.0.0").strip() == "4 (64, 48) <think>so</think><answer>0</answer>"


def test_what_the_card_shows_and_names_goes_along(hub: Hub, desk: Desk, run: Path) -> None:
    (run / "dataset/recipe.toml").write_text('policy = "tiny"\n')
    shown = picture(3)
    (run / "dataset/pair.png").write_bytes(shown)
    (run / "dataset/notes.txt").write_text("mine")
    status, said = desk.push(run)
    assert status == 0, said
    files = desk.repo.files()
    assert files["pair.png"].content == shown and files["recipe.toml"].content == b'policy = "tiny"\n'
    assert "notes.txt" not in files
    (run / "dataset/pair.png").unlink()  # another example, of another kind
    assert desk.push(run, tag="v1.0.1")[0] == 0
    assert "pair.png" not in desk.repo.files()
    (run / "dataset/pair.png").write_bytes(b"no picture")
    status, said = desk.push(run, tag="v1.0.2")
    assert status == 2 and "pair.png is no picture that can be used" in said


def test_a_dry_run_shows_the_same_plan_and_changes_nothing(hub: Hub, desk: Desk, run: Path) -> None:
    status, planned = desk.push(run, dry_run=True)
    assert status == 0
    assert desk.name not in hub.repos
    assert not {"create", "commit", "tag", "preupload", "lfs-put", "settings"} & set(hub.asked)
    _, said = desk.push(run)
    assert said.startswith(planned)
    for part in (
        f"endpoint     {hub.url}",
        "account      me",
        f"repository   {desk.name} (new)",
        "visibility   private",
        "base commit  none yet",
        "split train  4 rows, ",
        "split test   1 row, ",
        "upload       4 files, ",
        "license      none stated; give one with --license",
        "model        verifier: gemini-2.5-flash, served by gemini-2.5-flash-001 (12)",
        "tag          v1.0.0 (free)",
    ):
        assert part in planned


def test_a_second_version_says_what_changed(hub: Hub, desk: Desk, run: Path, tmp_path: Path) -> None:
    desk.push(run, license="mit")
    second = make_run(tmp_path / "second", [row(n) for n in range(6)], samples=4, verifier="rules")
    status, said = desk.push(second, tag="v1.1.0")
    assert status == 0, said
    repo = desk.repo
    assert len(repo.messages) == 3
    assert "data/test-00000-of-00001.parquet" not in repo.files("v1.1.0")
    assert "data/test-00000-of-00001.parquet" in repo.files("v1.0.0")
    assert "split train  6 rows (+2), " in said
    assert "delete       data/test-00000-of-00001.parquet" in said
    assert "license      mit" in said
    assert desk.load("v1.0.0").startswith("4 ")
    assert desk.load("v1.1.0").startswith("6 ")
    blocks = desk.versions().splitlines()
    assert [line.split("  ")[:2] for line in blocks if line.startswith("v")] == [
        ["v1.0.0", "train 4, test 1"],
        ["v1.1.0", "train 6"],
    ]
    assert "  samples: 8 -> 4" in blocks
    assert '  verifier: unset -> "rules"' in blocks
    assert f"data {open_dataset(second).manifest.dataset.fingerprint[:16]}" in blocks[3]  # type: ignore[union-attr]


def test_an_unchanged_push_is_no_operation(hub: Hub, desk: Desk, run: Path) -> None:
    desk.push(run)
    before = dict(desk.repo.commits)
    hub.asked.clear()
    status, said = desk.push(run)
    assert status == 0
    assert desk.repo.commits == before
    assert not {"commit", "tag", "create"} & set(hub.asked)
    assert "upload       nothing: all is there" in said
    assert "tag          v1.0.0 (already on this commit)" in said
    status, _ = desk.push(run, tag="v2.0.0")
    repo = desk.repo
    assert repo.commits == before
    assert repo.tags["v2.0.0"] == repo.tags["v1.0.0"]


def test_a_taken_tag_is_refused(hub: Hub, desk: Desk, run: Path, tmp_path: Path) -> None:
    desk.push(run)
    other = make_run(tmp_path / "other", [row(7)])
    before = dict(desk.repo.commits)
    status, said = desk.push(other)
    assert status == 2
    assert f"the tag v1.0.0 of {desk.name} is taken by commit" in said
    assert "the next free one is v1.0.1" in said
    assert desk.repo.commits == before


def test_a_push_by_somebody_else_meanwhile_is_not_overwritten(hub: Hub, desk: Desk, run: Path) -> None:
    def meanwhile() -> None:
        repo = desk.repo
        repo.commit({**repo.files(), "theirs.txt": File(b"theirs", lfs=False)}, "theirs")

    hub.before["commit"] = meanwhile
    status, said = desk.push(run)
    assert status == 2
    assert f"somebody else pushed to {desk.name} meanwhile" in said
    repo = desk.repo
    assert repo.messages[-1] == "theirs"
    assert repo.tags == {}
    status, said = desk.push(run)
    assert status == 0, said
    assert "theirs.txt" in repo.files("v1.0.0")


def test_a_hub_out_of_order_is_asked_again(hub: Hub, desk: Desk, run: Path) -> None:
    hub.faults["commit"] = [503, 500]
    status, said = desk.push(run)
    assert status == 0, said
    assert desk.repo.messages == ["initial commit", "v1.0.0: 5 pairs"]
    assert hub.asked.count("commit") == 3


def test_a_lost_answer_makes_no_second_commit(hub: Hub, desk: Desk, run: Path) -> None:
    hub.lost_answers["commit"] = 1
    status, said = desk.push(run)
    assert status == 0, said
    repo = desk.repo
    assert repo.messages == ["initial commit", "v1.0.0: 5 pairs"]
    assert repo.tags == {"v1.0.0": repo.branches["main"]}


def test_a_push_that_broke_off_goes_on(hub: Hub, desk: Desk, run: Path) -> None:
    hub.faults["tag"] = [500]
    status, said = desk.push(run)
    assert status == 2
    assert "run the same command again to go on" in said
    status, said = desk.push(run)
    assert status == 0, said
    repo = desk.repo
    assert repo.messages == ["initial commit", "v1.0.0: 5 pairs"]
    assert repo.tags == {"v1.0.0": repo.branches["main"]}
    assert hub.asked.count("lfs-put") == 2


def test_what_the_hub_holds_is_looked_at_again(hub: Hub, desk: Desk, run: Path) -> None:
    def spoil() -> None:
        repo = desk.repo
        files = repo.commits[repo.branches["main"]]
        files["data/test-00000-of-00001.parquet"] = File(b"PAR1", lfs=True)

    hub.before["tag"] = spoil
    status, said = desk.push(run)
    assert status == 2
    assert f"CheckFailed: {desk.name} at v1.0.0 does not hold the files that were pushed" in said


def test_visibility_and_gate(hub: Hub, desk: Desk, run: Path) -> None:
    status, said = desk.push(run, private=False, gated="manual")
    assert status == 0, said
    assert "visibility   public, gated (manual)" in said
    repo = desk.repo
    assert (repo.private, repo.gated) == (False, "manual")
    status, said = desk.push(run, tag="v2.0.0")
    assert status == 2
    assert f"{desk.name} is public; push with --public" in said
    repo.private = True
    status, said = desk.push(run, tag="v2.0.0", private=False)
    assert "visibility   private -> public, gated (manual)" in said
    assert not repo.private


def test_xet_carries_it_too(hub: Hub, run: Path, tmp_path: Path) -> None:
    with Machine(hub.url, tmp_path / "home", HF_HUB_DISABLE_XET="0") as machine:
        desk = Desk(hub, machine, "by-xet")
        status, said = desk.push(run)
        assert status == 0, said
        assert "lfs-put" not in hub.asked
        assert len(hub.xet.files) == 2
        assert desk.load("v1.0.0").startswith("4 (64, 48)")


def test_a_token_that_may_not_write(hub: Hub, desk: Desk, run: Path) -> None:
    hub.faults["whoami"] = [403]
    assert f"this account may not write to {desk.name}" in desk.push(run)[1]
    hub.faults["whoami"] = [401]
    assert "the Hub does not accept this machine's token; run: hf auth login" in desk.push(run)[1]
    assert "is not a Hub dataset id" in desk.push(run, repo_id="a/b/c")[1]


def test_without_a_token_and_without_the_hub(hub: Hub, run: Path, tmp_path: Path) -> None:
    with Machine(hub.url, tmp_path / "anonymous", HF_TOKEN="") as machine:
        said = (2, "UserError: there is no Hub token on this machine; run: hf auth login")
        assert Desk(hub, machine, "x").push(run) == said
    with Machine("http://127.0.0.1:9", tmp_path / "cut-off") as machine:
        assert "the connection to the Hub broke off" in Desk(hub, machine, "x").push(run)[1]


def test_unfit_datasets_never_reach_the_hub(hub: Hub, desk: Desk, run: Path, tmp_path: Path) -> None:
    assert "not of the form v1.2.3" in desk.push(run, tag="latest")[1]
    leaky = make_run(tmp_path / "leaky", [row(0, answer="hf_" + "Z" * 34)])
    assert "looks like a Hugging Face token" in desk.push(leaky)[1]
    (run / "dataset/data/train-00000-of-00001.parquet").unlink()
    write_shards([row(1)], run / "dataset", "train")
    assert "are not those its manifest.json describes" in desk.push(run)[1]
    pq.write_table(pa.table({"chosen": pa.array([], pa.string())}), run / "dataset/data/test-00000-of-00001.parquet")
    assert "the split 'test'" in desk.push(run)[1]
    assert desk.name not in hub.repos


@pytest.mark.parametrize(
    ("kind", "token"),
    [
        ("Hugging Face token", "hf_" + "aB3" * 12),
        ("Google API key", "AIza" + "aB3-_" * 7),
        ("OpenAI or Anthropic API key", "sk-proj-" + "aB3_" * 10),
        ("OpenAI or Anthropic API key", "sk-" + "aB3x" * 12),
        ("OpenAI or Anthropic API key", "sk-ant-" + "aB3_" * 10),
        ("AWS access key", "AKIA" + "ABCDEFGH01234567"),
        ("GitHub token", "ghp_" + "aB3" * 12),
        ("private key", "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_secrets_are_found_in_every_text(tmp_path: Path, kind: str, token: str) -> None:
    assert find_secret(f"key={token}\n".encode()) == kind
    for column in ("prompt", "chosen", "rejected"):
        spoiled = row(1, **{column: [{"role": "user", "content": f"see {token}."}]})
        write_shards([row(0), spoiled], tmp_path, "train")
        with pytest.raises(UserError, match=f"looks like a {kind}") as caught:
            refuse_private(open_dataset(tmp_path), {})
        assert token not in str(caught.value)
    write_shards([row(0)], tmp_path, "train")
    with pytest.raises(UserError, match=r"README\.md holds what looks like"):
        refuse_private(open_dataset(tmp_path), {"README.md": token.encode()})


@pytest.mark.parametrize(
    "text", ["task-" + "a" * 50, "sk-learn is a library", "hf_hub_download", "AKIAS", "shf_" + "a" * 40]
)
def test_ordinary_words_are_no_secrets(text: str) -> None:
    assert find_secret(text.encode()) is None


@pytest.mark.parametrize("path", ["/home/me/a.png", "pics/a.png", "..\\a.png", "C:a.png"])
def test_local_paths_in_pictures_are_refused(tmp_path: Path, path: str) -> None:
    write_shards([row(0), row(1, images=[{"bytes": b"x", "path": path}])], tmp_path, "train")
    with pytest.raises(UserError, match=r"row 2 of .* names a local path in the column 'images'"):
        refuse_private(open_dataset(tmp_path), {})


def test_pictures_that_are_only_paths_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = [[{"bytes": b"x", "path": "a.png"}], [], [{"bytes": None, "path": "a.png"}]]
    pq.write_table(pa.table({"images": pa.array(pictures, pa.list_(image))}), file)
    with pytest.raises(UserError, match=r"row 3 of .* holds a path instead of a picture"):
        refuse_private(open_dataset(file), {})
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}], image)}), file)
    with pytest.raises(UserError, match=r"row 1 of .* holds a path instead of a picture"):
        refuse_private(open_dataset(file), {})
    pq.write_table(pa.table({"images": pa.array([["a.png"]])}), file)
    with pytest.raises(UserError, match="holds a path instead of a picture"):
        refuse_private(open_dataset(file), {})
    (tmp_path / "p.jsonl").write_text('{"images": []}\n{"images": ["a.png"]}\n')
    with pytest.raises(UserError, match=r"row 2 of .*p.jsonl holds a path"):
        refuse_private(open_dataset(tmp_path / "p.jsonl"), {})


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", "not an image"),
        (b"\x89PNG\r\n\x1a\n torn", "broken"),
        (bytes(100), "not an image"),
    ],
)
def test_what_is_no_picture_is_not_published(tmp_path: Path, content: bytes, fault: str) -> None:
    write_shards([row(0), row(1, images=[{"bytes": content, "path": "a.png"}])], tmp_path, "train")
    with pytest.raises(UserError, match=rf"a picture in rows 1 to 16 of .*'images', cannot be used \({fault}"):
        refuse_private(open_dataset(tmp_path), {})
    pq.write_table(pa.table({"image": pa.array([content])}), tmp_path / "bytes.parquet")
    with pytest.raises(UserError, match=rf"cannot be used \({fault}|looks like a private key"):
        refuse_private(open_dataset(tmp_path / "bytes.parquet"), {})


def test_keys_of_the_environment_and_hidden_ones_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    write_shards([row(0, chosen=[{"role": "assistant", "content": "a correct-horse-battery"}])], tmp_path, "train")
    with pytest.raises(UserError, match="holds what looks like a value of SOME_API_KEY") as caught:
        refuse_private(open_dataset(tmp_path), {})
    assert "horse" not in str(caught.value)
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"chosen": "hf_" + "aB3" * 12}).replace("hf_", "\\u0068f_"))
    with pytest.raises(UserError, match=r"line 1 of .* looks like a Hugging Face token"):
        refuse_private(open_dataset(file), {})
    behind = picture(1) + b"hf_" + b"aB3" * 12
    write_shards([row(0, images=[{"bytes": behind, "path": "a.png"}])], tmp_path / "other", "train")
    with pytest.raises(UserError, match="a picture in row 1 of .* looks like a Hugging Face token"):
        refuse_private(open_dataset(tmp_path / "other"), {})
    maps = pa.array([[("k", "hf_" + "aB3" * 12)]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"notes": maps}), tmp_path / "map.parquet")
    with pytest.raises(UserError, match="the column .notes"):
        refuse_private(open_dataset(tmp_path / "map.parquet"), {})


def test_a_card_that_leads_elsewhere_is_not_published(desk: Desk, run: Path) -> None:
    (run / "id_rsa").write_text("mine")
    (run / "dataset" / "README.md").unlink()
    (run / "dataset" / "README.md").symlink_to("../id_rsa")
    status, said = desk.push(run)
    assert status == 2
    assert "README.md which lies outside of" in said
    assert desk.name not in desk.hub.repos


def test_clean_rows_pass(tmp_path: Path) -> None:
    write_shards([row(0), row(1, images=[])], tmp_path, "train")
    refuse_private(open_dataset(tmp_path), {"README.md": CARD.encode()})


@pytest.mark.parametrize("pictures", [[[], []], [None, None]])
def test_rows_without_any_picture_pass(tmp_path: Path, pictures: list[Any]) -> None:
    """What is written of them may have a column of no type."""
    pq.write_table(pa.table({"images": pictures, "chosen": ["a", "b"]}), tmp_path / "train.parquet")
    refuse_private(open_dataset(tmp_path), {})


def test_absolute_paths_are_cut_in_what_is_published() -> None:
    recipe = {
        "policy": "/home/me/ckpt/zero",
        "problems": "org/data",
        "columns": {"a": "C:\\x\\y"},
        "cache": "~/c",
        "n": 3,
    }
    cut = {"policy": "zero", "problems": "org/data", "columns": {"a": "y"}, "cache": "c", "n": 3}
    assert without_local_paths([recipe, None]) == [cut, None]


def test_shards_are_described_as_written(tmp_path: Path) -> None:
    [shard] = write_shards([row(0), row(1)], tmp_path, "train")
    assert describe(tmp_path / shard.path, tmp_path) == shard


def test_what_is_no_dataset_of_pairs_in_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text('{"prompt": "What?", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(UserError, match="lines.jsonl is no Parquet file"):
        plan_push(open_dataset(tmp_path / "lines.jsonl"), "me/pairs", tag="v1.0.0")
    pq.write_table(pa.table({"question": ["What?"]}), tmp_path / "problems.parquet")
    with pytest.raises(UserError, match="has no column 'chosen'"):
        plan_push(open_dataset(tmp_path / "problems.parquet"), "me/pairs", tag="v1.0.0")


def test_a_folder_of_runs_is_no_dataset(run: Path) -> None:
    (run / "dropped.jsonl").touch()
    with pytest.raises(UserError, match=rf"holds runs: name one of them, such as {re.escape(str(run))}$"):
        open_dataset(run.parent)


def test_nor_is_one_of_a_demo(tmp_path: Path) -> None:
    (tmp_path / "demo" / "run").mkdir(parents=True)
    for name in ("dropped.jsonl", "fates.parquet"):
        (tmp_path / "demo" / "run" / name).touch()
    with pytest.raises(UserError, match="holds runs: name one of them, such as .*demo.run$"):
        open_dataset(tmp_path)


def test_a_run_that_is_not_finished_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").touch()
    (tmp_path / "sources.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="this run is not finished; the command that began it goes on with it$"):
        open_dataset(tmp_path)


def test_a_pipe_is_no_dataset_and_is_not_asked_for_at_the_hub(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match="rows.jsonl is no regular file$"):
        open_dataset(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("of", [lambda run: run, lambda run: run.parent], ids=["run", "folder of runs"])
def test_a_run_is_no_source_of_problems(run: Path, of: Any) -> None:
    (run / "dropped.jsonl").touch()
    with pytest.raises(UserError, match=rf"{re.escape(str(run))} is a run, and holds no problems"):
        next(read_problems(str(of(run))))
