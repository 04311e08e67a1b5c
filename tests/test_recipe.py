"""The recipe: flags, TOML, and every setting reachable by both."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from specs_data.errors import UserError
from specs_data.flags import with_flags
from specs_data.format import load_format
from specs_data.judges.model import open_judge
from specs_data.plugins import find_corruptions
from specs_data.presets import load_preset
from specs_data.recipe import (
    DEFAULT_RECIPE,
    Recipe,
    deciding,
    default_recipe,
    dump_recipe,
    make_recipe,
    read_settings,
    says,
    setting,
)
from specs_data.rollouts.plan import Parts, make_plan
from specs_data.rollouts.tables import digest
from specs_data.services.opening import open_budget
from specs_data.texts import system_prompt
from specs_data.train.settings import GrpoSettings
from specs_data.verifiers import open_verifier

# A value for every field that is not its default: as a flag, and as the recipe has it.
FLAGS: dict[str, tuple[list[str], Any]] = {
    "policy": (["ckpt/zero"], "ckpt/zero"),
    "responses": (["r.jsonl"], Path("r.jsonl")),
    "problems": (["p.jsonl"], "p.jsonl"),
    "preset": (["mmk12"], "mmk12"),
    "columns": (["question=Q, answer=A"], {"question": "Q", "answer": "A"}),
    "exclude": (["a.jsonl", "b.jsonl"], ("a.jsonl", "b.jsonl")),
    "limit": (["7"], 7),
    "shuffle": ([], True),
    "balance": (["source"], "source"),
    "pass_rate": (["0.1..0.9"], (0.1, 0.9)),
    "blind_check": (["drop"], "drop"),
    "shard": (["2/8"], "2/8"),
    "engine": (["vllm"], "vllm"),
    "base_url": (["http://a", "http://b"], ("http://a", "http://b")),
    "model": (["m"], "m"),
    "format": (["f.toml"], "f.toml"),
    "system_prompt": (["none"], "none"),
    "samples": (["3"], 3),
    "samples_upfront": (["2"], 2),
    "temperature": (["0.5"], 0.5),
    "top_p": (["0.9"], 0.9),
    "max_tokens": (["99"], 99),
    "prefill": (["<think> Let"], "<think> Let"),
    "seed": (["5"], 5),
    "batch_size": (["4"], 4),
    "concurrency": (["4"], 4),
    "tensor_parallel_size": (["2"], 2),
    "max_model_len": (["4096"], 4096),
    "gpu_memory_utilization": (["0.8"], 0.8),
    "dtype": (["float32"], "float32"),
    "limit_images": (["2"], 2),
    "min_pixels": (["16"], 16),
    "max_pixels": (["64"], 64),
    "engine_arg": (["quantization=fp8", "max-num-seqs=4"], {"quantization": "fp8", "max_num_seqs": 4}),
    "ray": (["local"], "local"),
    "replicas": (["2"], 2),
    "verifier": (["rules"], "rules"),
    "answer_tokens": (["512"], 512),
    "undecided": (["keep"], "keep"),
    "verifier_model": (["v"], "v"),
    "verifier_base_url": (["http://v"], "http://v"),
    "judge_model": (["openai:j"], "openai:j"),
    "judge_base_url": (["http://j"], "http://j"),
    "allow_model_mismatch": ([], True),
    "gemini_batch": ([], True),
    "rpm": (["60"], 60),
    "max_cost": (["1.5"], 1.5),
    "prices": (["prices.toml"], Path("prices.toml")),
    "cache": (["cache"], Path("cache")),
    "pairs_per_problem": (["2"], 2),
    "target": (["100"], 100),
    "enough": (["0.1"], 0.1),
    "rejected_from": (["ckpt/base"], "ckpt/base"),
    "rejected_responses": (["r.jsonl"], Path("r.jsonl")),
    "natural_rejected": ([], True),
    "pairing": (["coupled"], "coupled"),
    "corruption": (
        ["shift_tags=2.5", "./mine.py", "./a=b.py=3"], {"shift_tags": 2.5, "./mine.py": 1.0, "./a=b.py": 3.0}
    ),
    "card": (["mine.md.jinja"], "mine.md.jinja"),
    "license": (["cc-by-4.0"], "cc-by-4.0"),
    "report_to": (["wandb", "tensorboard"], ("wandb", "tensorboard")),
    "holdout": (["0.1"], 0.1),
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No recipe lies in the working directory."""
    monkeypatch.chdir(tmp_path)


def from_flags(*arguments: str) -> Recipe:
    made: list[Recipe] = []
    app = typer.Typer()

    @app.command()
    @with_flags(Recipe)
    def build(**given: Any) -> None:
        made.append(make_recipe(given))

    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return made[0]


def flag(name: str, values: list[str]) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    return [part for value in values for part in (option, value)] if values else [option]


def test_every_setting_is_a_flag() -> None:
    assert set(FLAGS) == set(Recipe.model_fields)
    for name, (_, wanted) in FLAGS.items():
        assert Recipe.model_fields[name].default != wanted, f"{name} is not changed by its flag"
    made = from_flags(*(part for name, (values, _) in FLAGS.items() for part in flag(name, values)))
    assert {name: getattr(made, name) for name in FLAGS} == {name: wanted for name, (_, wanted) in FLAGS.items()}


@pytest.mark.parametrize("name", [name for name, (values, _) in FLAGS.items() if len(values) == 1])
def test_every_setting_with_one_value_is_a_toml_key(tmp_path: Path, name: str) -> None:
    (text,), wanted = FLAGS[name]
    value = text if not isinstance(wanted, int | float) else wanted
    settings = {"samples": 4} if name == "samples_upfront" else {}
    for key in (name, name.replace("_", "-")):
        file = tmp_path / "r.toml"
        file.write_text(f"{key} = {value!r}\n")
        assert getattr(make_recipe(settings, file), name) == wanted


def test_no_flags_are_the_defaults() -> None:
    assert from_flags() == Recipe()


@pytest.mark.parametrize("value", ["0.9..0.1", "0.1", "-1..1", [0.5, 2], ["0.1..0.9", "0..1"], "a..b"])
def test_a_window_has_two_bounds(value: object) -> None:
    with pytest.raises(UserError, match=r"pass-rate: .* should look like 0.1..0.9"):
        make_recipe({"pass_rate": value})


def test_a_flag_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('policy = "a"\nsamples = 4\ngemini-batch = true\ncorruption = ["shift_tags"]\nseed = 3\n')
    made = make_recipe({"policy": "b", "gemini_batch": False, "corruption": ["remove_all_tags=2"], "seed": 0}, file)
    assert (made.policy, made.samples, made.gemini_batch, made.seed) == ("b", 4, False, 0)
    assert made.corruption == {"remove_all_tags": 2.0}
    kept = make_recipe({"policy": None, "corruption": [], "exclude": (), "columns": {}}, file)
    assert (kept.policy, kept.corruption) == ("a", {"shift_tags": 1.0})


def test_a_switch_can_be_switched_off_by_a_flag() -> None:
    assert from_flags("--no-gemini-batch").gemini_batch is False
    DEFAULT_RECIPE.write_text("gemini-batch = true\n")
    assert from_flags().gemini_batch is True
    assert from_flags("--no-gemini-batch").gemini_batch is False


def test_the_help_has_panels_and_no_switch_to_what_is_off_anyway() -> None:
    app = typer.Typer()
    app.command()(with_flags(Recipe)(lambda **given: None))
    told = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["--help"]).output
    panels = ["What to sample", "Which problems", "How to sample", "Judging", "Verifying", "Pairing", "Output"]
    places = [told.index(f"─ {panel} ─") for panel in panels]
    assert places == sorted(places)
    assert "--gemini-batch" in told and told.count("--no-") == told.count("--no-shuffle") == 1
    assert "name[:config][@revision][#split]" in told  # brackets are no markup


def test_a_setting_that_does_not_say_what_it_decides_does_not_import() -> None:
    with pytest.raises(TypeError, match=r"^the setting 'forgotten' of More does not say which stage it decides: "):

        class More(Recipe):
            forgotten: int = 3

    with pytest.raises(TypeError, match="'misspelt'"):

        class Other(Recipe):
            misspelt: int = setting(3, "x", decides="sample", panel="Output")  # type: ignore[arg-type]

    class Good(Recipe):
        said: int = setting(3, "x", decides="samples", panel="Output")

    assert Good().said == 3


def test_every_setting_stands_in_a_panel_with_a_description() -> None:
    for name, field in Recipe.model_fields.items():
        assert field.description and says(field, "panel"), name
    assert "# ---- Pairing ----" in default_recipe()


def test_ways_to_call_are_no_settings(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text("dry_run = true\npilot = 8\nsamples = 3\n")
    assert make_recipe({}, tmp_path / "old.toml") == Recipe(samples=3)
    with pytest.raises(ValidationError):
        Recipe(dry_run=True)  # type: ignore[call-arg]


STAGES = ("samples", "judgements", "verdicts", "pairs")


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe], dict[str, bytes]]:
    """The keys of a recipe's results, by stage."""
    monkeypatch.setenv("GEMINI_API_KEY", "key-for-no-one")
    monkeypatch.setenv("OPENAI_API_KEY", "key-for-no-one")
    (tmp_path / "mine.py").write_text("def mine(text, fmt, rng): return None\n")
    (tmp_path / "r.jsonl").touch()
    (tmp_path / "f.toml").write_text('name = "f"\ninstruction = "Do."\n[answer]\nopen = "<a>"\nclose = "</a>"\n')
    (tmp_path / "prices.toml").touch()
    (tmp_path / "a=b.py").write_text("def mine(text, fmt, rng): return None\n")

    def made(recipe: Recipe) -> dict[str, bytes]:
        found: dict[str, bytes] = {}

        class Keys:
            def settings(self, stage: str, settings: Any) -> int:
                found.setdefault(stage, digest(settings))  # the policy's, not the rival's
                return 0

            def settings_of(self, stage: str) -> list[tuple[int, Any]]:
                return []

            def limit(self, *_: object) -> None:
                """Nothing is on record."""

        budget = open_budget(recipe)
        fmt = load_format(recipe.format)
        operators = find_corruptions(recipe.corruption)
        make_plan(
            Keys(),  # type: ignore[arg-type]
            Parts(
                recipe=recipe,
                fmt=fmt,
                system=system_prompt(recipe.system_prompt, fmt.instruction),
                corruptions=operators,
                weights=dict(zip(operators, recipe.corruption.values() or repeat(1.0), strict=False)),
                verifier=open_verifier(recipe, budget),
                judge=open_judge(recipe, budget),
                engine=None,
                rival=None,
            ),
        )
        return found

    return made


@pytest.mark.parametrize("name", FLAGS)
def test_a_setting_changes_the_keys_of_what_it_decides(name: str, keys: Callable[[Recipe], dict[str, bytes]]) -> None:
    """Of its own stage and, as these rest on it, of later ones; never of an earlier one."""
    base = {"policy": "p", "verifier": "gemini", "samples": 2}
    wanted = FLAGS[name][1]
    if name == "corruption":
        wanted = {"./mine.py": 1.0}
    with_judge = {"judge_model": "openai:other"} if name.startswith(("judge_", "answer_tokens")) else {}
    if name == "natural_rejected":  # of another policy's responses
        base["rejected_from"] = "other"
    before = keys(Recipe(**{**base, **with_judge}))
    after = keys(Recipe(**{**base, **with_judge, name: wanted}))
    changed = {stage for stage in STAGES if before[stage] != after[stage]}
    stage = says(Recipe.model_fields[name], "decides")
    if stage in ("dataset", "nothing"):
        assert not changed
    else:
        assert not changed & {*STAGES[: STAGES.index(stage)]}
        # A model that is not the one asked for is told by what answered, not by a key.
        assert stage in changed or name == "allow_model_mismatch"


def test_what_a_run_is_carried_out_with_is_no_part_of_a_dataset() -> None:
    assert {"gemini_batch", "base_url", "batch_size", "max_cost"} <= {*deciding("nothing")}
    assert not {"samples", "license", "seed"} & {*deciding("nothing")}


def test_the_recipe_of_the_working_directory_is_the_default(tmp_path: Path) -> None:
    DEFAULT_RECIPE.write_text("samples = 5\n")
    (tmp_path / "other.toml").write_text("seed = 1\n")
    assert from_flags().samples == 5
    assert make_recipe({}, tmp_path / "other.toml").samples == Recipe().samples


CORRUPTIONS = [
    'corruption = "shift_tags"',
    'corruption = ["shift_tags"]',
    'corruption = ["shift_tags=1"]',
    "corruption = {shift_tags = 1}",
    "[corruption]\nshift_tags = 1.0",
]


def test_corruptions_are_listed_like_other_lists() -> None:
    mix = {"shift_tags": 2.0, "./mine.py": 1.0}
    assert from_flags("--corruption", "shift_tags=2, ./mine.py").corruption == mix
    assert from_flags("--corruption", "shift_tags=2", "--corruption", "./mine.py").corruption == mix


@pytest.mark.parametrize("text", CORRUPTIONS)
def test_a_corruption_mix_in_toml(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    assert make_recipe({}, tmp_path / "r.toml").corruption == {"shift_tags": 1.0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("polcy = 'a'", r"^unknown setting 'polcy', did you mean 'policy'\? \(recipe r\.toml or a flag\)"),
        ("max-tokns = 1", "^unknown setting 'max_tokns'"),
        ("[table]\na = 1", "^unknown setting 'table'"),
        ("samples = 0", "^samples: .*greater than 0"),
        ("samples = 'many'", "^samples: .*a whole number"),
        ("max_tokens = 1.5", "^max-tokens: "),
        ("holdout = 1", "^holdout: .*less than 1"),
        ("temperature = nan", "^temperature: "),
        ("corruption = ['a=b']", "^corruption: 'a=b' should be NAME or NAME=WEIGHT"),
        ("corruption = {a = 0}", "^corruption.a: .*greater than 0"),
        ("corruption = 'shift_tags=0'", "^corruption.shift_tags: .*greater than 0"),
        ("columns = 'question'", "^columns: should look like question=COLUMN,answer=COLUMN"),
        ("temperature = 0", "^temperature 0 gives the same response every time"),
        ("samples = 2\nsamples_upfront = 3", "^samples_upfront 3 is more than samples 2"),
        ("samples = ", "^the recipe r.toml is not valid TOML"),
        ("a = 1\na = 1", "^the recipe r.toml is not valid TOML"),
        ("max-tokens = 1\nmax_tokens = 2", "^the recipe r.toml has 'max-tokens' twice, with - and with _: keep one$"),
        ("problems = ''", r"^problems is empty: give a value, or leave it out \(recipe r\.toml\)$"),
        ("problems = ['p.jsonl', '']", "^problems is empty"),
        ("rejected-from = ''", "^rejected_from is empty"),
        ("temperature = inf", "^temperature: should be a finite number"),
        ("corruption = ['shift_tags=inf', 'remove_all_tags']", "^corruption.shift_tags: should be a finite number"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    Path("r.toml").write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        make_recipe({}, Path("r.toml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hf_token", "hf-token", "api_key"])
def test_a_secret_among_the_arguments_of_an_engine_is_refused(name: str) -> None:
    for arguments in ([f"{name}=s3cret"], {name: "s3cret"}):
        with pytest.raises(UserError, match="^engine-arg: .* is a secret, .* set it in the environment") as caught:
            make_recipe({"engine_arg": arguments})
        assert "s3cret" not in str(caught.value)
    kept = {"max_num_batched_tokens": 4096, "tokenizer": "t", "key_words": 1}
    assert make_recipe({"engine_arg": kept}).engine_arg == kept


@pytest.mark.parametrize("name", ["base_url", "verifier_base_url", "judge_base_url"])
@pytest.mark.parametrize("url", ["http://me:s3cret@host:8000/v1", "https://s3cret@host", "me:s3cret@host:8000"])
def test_a_url_with_a_password_is_refused(name: str, url: str) -> None:
    flag = name.replace("_", "-")
    with pytest.raises(UserError, match=f"^{flag}.*has a user name or password in it") as caught:
        make_recipe({name: [url] if name == "base_url" else url})
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)
    if name == "judge_base_url":
        with pytest.raises(UserError, match="has a user name or password in it"):
            read_settings(GrpoSettings, {"model": "m", "problems": "p.jsonl", "out": "o", name: url})
    kept = "http://host:8000/v1/@me"
    assert kept in getattr(make_recipe({name: [kept] if name == "base_url" else kept}), name)


@pytest.mark.parametrize("name", ["base_url", "verifier_base_url", "judge_base_url"])
@pytest.mark.parametrize("url", ["http://host/v1?api-key=s3cret", "http://host/v1#s3cret"])
def test_a_url_with_a_query_or_a_fragment_is_refused(name: str, url: str) -> None:
    flag = name.replace("_", "-")
    with pytest.raises(UserError, match=f"^{flag}.*a key belongs into OPENAI_API_KEY") as caught:
        make_recipe({name: [url] if name == "base_url" else url})
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the recipe nowhere\.toml: No such file"):
        make_recipe({}, Path("nowhere.toml"))
    Path("r.toml").write_bytes(b"policy = '\xff'")
    with pytest.raises(UserError, match=r"the recipe r\.toml is not valid TOML"):
        make_recipe({}, Path("r.toml"))


names = st.text(st.characters(codec="utf-8", exclude_characters="=,"), min_size=1).map(str.strip).filter(bool)
numbers = st.integers(1, 2**53)
FIELDS = {
    "policy": names, "problems": names, "responses": names.map(Path), "exclude": st.lists(names).map(tuple),
    "columns": st.dictionaries(names, names, max_size=3), "samples": numbers, "seed": st.integers(0, 2**62),
    "top_p": st.floats(0, 1, exclude_min=True), "max_cost": st.floats(1e-6, 1e9), "gemini_batch": st.booleans(),
    "holdout": st.floats(0, 1, exclude_max=True), "verifier": st.sampled_from(["rules", "none", "gemini", "openai"]),
    "corruption": st.dictionaries(names, st.floats(1e-9, 1e9), max_size=4),
    "base_url": st.lists(names.filter(lambda name: not {*"@?#"} & {*name})).map(tuple),
    "target": numbers, "cache": names.map(Path), "system_prompt": names,
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(given=st.fixed_dictionaries({}, optional=FIELDS))
def test_a_recipe_survives_toml(tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]) -> None:
    recipe = Recipe(**given)
    file = tmp_path_factory.getbasetemp() / "survives.toml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert make_recipe({}, file) == recipe


def test_a_recipe_may_begin_with_an_editor_s_mark(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_bytes(b"\xef\xbb\xbfsamples = 4\r\nproblems = 'p.jsonl'\r\n")
    assert make_recipe({}, file).samples == 4


def test_other_files_of_a_user_may_begin_with_that_mark_too(tmp_path: Path) -> None:
    (tmp_path / "preset.toml").write_text('\ufeff[columns]\nquestion = "q"\n')
    assert load_preset(str(tmp_path / "preset.toml")).columns == {"question": "q"}
    (tmp_path / "prompt.md").write_text("\ufeffThink.")
    read = system_prompt(str(tmp_path / "prompt.md"), "")
    assert read is not None and read.body == "Think."


def test_a_folder_does_not_hide_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twins").mkdir()
    assert make_recipe({}, Path("twins")).target == 9000
