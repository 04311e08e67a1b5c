"""Evaluating a scripted policy: the figures are those of an independent count, and nothing is sampled twice."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import re
import signal
import time
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from fakes.sums import policy, recipe, respond, write_sums
from typer.testing import CliRunner

from specs_data import build
from specs_data.cli import app
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import EngineFailed, PromptRefused, Undecided, UserError
from specs_data.measure.errors import natural_errors
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import Evaluation, encode, read_evaluation, write_evaluation
from specs_data.measure.table import table
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.recipe import make_recipe
from specs_data.records import Judged, Nuclei, Request, Response, Verdict
from specs_data.rollouts import progress
from specs_data.rollouts.sample import sample_seed

SAMPLES = 4
PROBLEMS = 30


def kind_of(number: int, index: int) -> int:
    """What the scripted policy does: 0 and 1 right and well-formed, 2 wrong, 3 right and malformed."""
    from hashlib import sha256

    return sha256(str(sample_seed(0, f"sum-{number}", index)).encode()).digest()[0] % 4


def settings(problems: Path, **more: Any) -> Any:
    return recipe(problems, **{"samples": SAMPLES, "verifier": None, **more})


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return write_sums(tmp_path, PROBLEMS)


def test_the_figures_are_those_of_a_count_by_hand(tmp_path: Path, problems: Path) -> None:
    found = evaluate(settings(problems), out=tmp_path / "eval.json", engine=policy(), quiet=True)
    kinds = [[kind_of(number, index) for index in range(SAMPLES)] for number in range(PROBLEMS)]
    every = [kind for row in kinds for kind in row]
    assert (found.n, found.samples) == (PROBLEMS, SAMPLES)
    assert found.format is not None and found.accuracy is not None
    assert found.format.value == pytest.approx(sum(kind != 3 for kind in every) / len(every))
    assert found.accuracy.value == pytest.approx(sum(kind != 2 for kind in every) / len(every))
    for k in (1, 2, 4):
        draws = [any(kind != 2 for kind in drawn) for row in kinds for drawn in combinations(row, k)]
        assert found.pass_at[str(k)] == pytest.approx(sum(draws) / len(draws))
    assert found.format_errors == {"remove_all_tags": every.count(3)}
    assert found.by_type["numeric"].n == PROBLEMS
    assert found.rbf is not None and found.rbf.value is None and found.rbf.reason
    assert found.consistency is None and found.verifier is None


def test_the_verifier_sees_what_is_right_and_well_formed(tmp_path: Path, problems: Path) -> None:
    found = evaluate(settings(problems, verifier="rules"), out=tmp_path / "e", engine=policy(), quiet=True)
    assert found.consistency is not None and found.consistency.value == 1.0
    assert found.verifier == "rules"


def test_the_policy_that_is_evaluated_checks_itself(tmp_path: Path, problems: Path) -> None:
    asked = []

    def script(request: Request) -> str | Response:
        if not request.prefill:
            return respond(request)
        asked.append(request.prefill)
        return request.prefill.rpartition("= ")[2].partition(".")[0] + "</answer>"

    found = evaluate(
        settings(problems, verifier="policy"), out=tmp_path / "e", engine=ScriptedEngine(script), quiet=True
    )
    assert found.consistency is not None and found.consistency.value == 1.0
    right = [number for number in range(PROBLEMS) if any(kind_of(number, index) < 2 for index in range(SAMPLES))]
    assert len(asked) == len(right)  # the same response is asked about once


class Slow:
    """A verifier that answers nothing before the policy has been asked for `until` responses."""

    concurrency = 4
    settings = {"verifier": "slow", "model": "slow-1"}
    paid = True

    def __init__(self, engine: ScriptedEngine, until: int) -> None:
        self.engine, self.until, self.busy, self.most = engine, until, 0, 0

    async def verify(self, judged: Judged, images: object) -> Verdict:
        self.busy += 1
        self.most = max(self.most, self.busy)
        while self.engine.calls < self.until:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        self.busy -= 1
        return Verdict(len(judged.sample.problem.id) % 2 == 0, "seen", model="slow-1")

    async def close(self) -> None:
        pass


def test_the_policy_does_not_wait_for_a_verifier(tmp_path: Path) -> None:
    problems, engine = write_sums(tmp_path, 400), policy(concurrency=8)
    slow = Slow(engine, 2 * 400)
    wanted = settings(problems, samples=2)
    found = evaluate(wanted, out=tmp_path / "slow" / "e", engine=engine, verifier=slow, quiet=True)
    assert engine.calls == 2 * 400 and slow.most == Slow.concurrency
    fast = Slow(engine, 0)
    assert found == evaluate(wanted, out=tmp_path / "fast" / "e", engine=policy(), verifier=fast, quiet=True)
    assert found.consistency is not None and 0 < found.consistency.value < 1


def test_an_engine_of_the_users_may_mean_what_it_likes_by_a_policy(tmp_path: Path, problems: Path) -> None:
    plug_in = tmp_path / "mine.py"
    plug_in.write_text(
        "from fakes.sums import policy\n\ndef engine(policy_name, sampling, options):\n    return policy()\n"
    )
    made = settings(problems, samples=1, policy="no-folder", engine=str(plug_in))
    assert evaluate(made, out=tmp_path / "e", quiet=True).n == PROBLEMS


def test_what_was_sampled_is_not_sampled_again(tmp_path: Path, problems: Path) -> None:
    first = policy()
    one = evaluate(settings(problems, samples=2), out=tmp_path / "a.json", engine=first, quiet=True)
    assert first.calls == 2 * PROBLEMS
    more = policy()
    two = evaluate(settings(problems), out=tmp_path / "b.json", engine=more, quiet=True)
    assert more.calls == (SAMPLES - 2) * PROBLEMS
    none = policy()
    assert evaluate(settings(problems, samples=2), out=tmp_path / "a.json", engine=none, quiet=True) == one
    errors = natural_errors(settings(problems), "think-answer", out=tmp_path / "c", engine=none, quiet=True)
    assert errors.malformed == two.format_errors["remove_all_tags"]
    assert none.calls == 0


def test_a_build_and_an_evaluation_share_their_responses(tmp_path: Path, problems: Path) -> None:
    made = recipe(problems, samples=SAMPLES, samples_upfront=SAMPLES)
    run = build(made, tmp_path / "run", engine=policy(), quiet=True)
    dropped = (tmp_path / "run" / "dropped.jsonl").read_bytes()
    again = policy()
    found = evaluate(settings(problems), out=tmp_path / "run" / "eval.json", engine=again, quiet=True)
    assert again.calls == 0 and found.n == PROBLEMS
    rebuilt = policy()
    same = build(made, tmp_path / "run", engine=rebuilt, quiet=True)
    assert rebuilt.calls == 0 and same.manifest["dataset"] == run.manifest["dataset"]
    assert (tmp_path / "run" / "dropped.jsonl").read_bytes() == dropped


def test_changed_formats_are_asked_for_and_judged_as_such(tmp_path: Path, problems: Path) -> None:
    def script(request: Request) -> str:
        if "JSON" in request.messages[0].content:
            number = int(request.messages[-1].content.split()[2])
            return json.dumps({"reasoning": f"{number} + 1 = {number + 1}.", "answer": str(number + 1)})
        return respond(request)

    names = ["think-answer", "json", "plain"]
    found = evaluate(settings(problems), names, out=tmp_path / "e", engine=ScriptedEngine(script), quiet=True)
    assert list(found.by_format) == names
    assert found.format == found.by_format["think-answer"].format
    in_json = found.by_format["json"]
    assert in_json.format is not None and in_json.accuracy is not None
    assert in_json.format.value == in_json.accuracy.value == 1.0
    plain = found.by_format["plain"].format
    assert plain is not None and plain.value == 0.0


def test_a_folder_is_refused_before_a_token_is_spent(tmp_path: Path, problems: Path) -> None:
    engine = policy()
    for measure in (evaluate, partial(natural_errors, response_format="think-answer")):
        with pytest.raises(UserError, match=r"is a folder: give a file, such as .*evaluation\.json"):
            measure(settings(problems), out=tmp_path, engine=engine, quiet=True)
    assert not engine.calls


def test_a_format_is_given_once(tmp_path: Path, problems: Path) -> None:
    with pytest.raises(UserError, match="the same name"):
        evaluate(settings(problems), ["json", "json"], out=tmp_path / "e", engine=policy(), quiet=True)


def test_refused_prompts_and_unusable_problems_are_counted(tmp_path: Path) -> None:
    rows = [{"id": f"sum-{n}", "question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(8)]
    rows += [{"id": "sum-0", "question": "again", "answer": "1"}, {"id": "x", "question": "?"}]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))

    def script(request: Request) -> str:
        if "3 + 1" in request.messages[-1].content:
            raise PromptRefused("too long", "by far")
        if "4 + 1" in request.messages[-1].content:
            raise Undecided("given up", "at last")
        return respond(request)

    found = evaluate(settings(file), out=tmp_path / "e", engine=ScriptedEngine(script), quiet=True)
    assert found.n == 6
    assert found.left_out["responses refused or given up"] == 2 * SAMPLES
    assert found.left_out["duplicate"] == 1 and sum(found.left_out.values()) == 2 * SAMPLES + 2
    again = ScriptedEngine(respond)
    healed = evaluate(settings(file), out=tmp_path / "e", engine=again, quiet=True)
    assert again.calls == SAMPLES and healed.n == 7  # what was given up is asked again, what was refused is not


def test_a_policy_that_refuses_everything_stops_it(tmp_path: Path, problems: Path) -> None:
    def script(request: Request) -> str:
        raise PromptRefused("too long", "by far")

    with pytest.raises(UserError, match="refuses every prompt"):
        evaluate(settings(problems), out=tmp_path / "e", engine=ScriptedEngine(script), quiet=True)


def test_an_engine_that_breaks_down_is_told_and_costs_nothing(tmp_path: Path, problems: Path) -> None:
    left = iter(range(40))

    def script(request: Request) -> str:
        if next(left, None) is None:
            raise EngineFailed("out of memory")
        return respond(request)

    with pytest.raises(EngineFailed, match="out of memory"):
        evaluate(settings(problems), out=tmp_path / "e", engine=ScriptedEngine(script, concurrency=4), quiet=True)
    rest = policy()
    evaluate(settings(problems), out=tmp_path / "e", engine=rest, quiet=True)
    assert rest.calls == SAMPLES * PROBLEMS - 40


def test_nuclei_are_wanted_of_the_first_responses_only(tmp_path: Path) -> None:
    asked: list[bool] = []

    def script(request: Request) -> Response:
        asked.append(request.nuclei)
        return Response(respond(request), "stop", 5, 10, Nuclei(0.95, 10, 25, 1) if request.nuclei else None)

    problems = write_sums(tmp_path, 200)
    found = evaluate(settings(problems), out=tmp_path / "e", engine=ScriptedEngine(script), quiet=True)
    assert sum(asked) == 480 and len(asked) == 200 * SAMPLES
    assert found.rbf is not None
    assert (found.rbf.value, found.rbf.tokens, found.rbf.beyond) == (2.5, 4800, 0.1)
    assert found.rbf.by_size == {"120": 2.5, "240": 2.5, "480": 2.5}
    assert "≥ 2.500" in table(found)
    assert found.lengths is not None and found.lengths.mean == 10


def test_branching_does_not_depend_on_what_was_evaluated_before(tmp_path: Path) -> None:
    def script(request: Request) -> Response:
        number = int(request.messages[-1].content.split()[2])
        return Response(respond(request), "stop", 5, 10, Nuclei(0.95, 10, 10 + number, 0) if request.nuclei else None)

    def factor(problems: Path, out: Path, **more: Any) -> Any:
        return evaluate(settings(problems, **more), out=out, engine=ScriptedEngine(script), quiet=True).rbf

    problems = write_sums(tmp_path, 130)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(problems.read_text().splitlines(keepends=True))))
    factor(problems, tmp_path / "used" / "e", limit=30, samples=8)
    assert factor(turned, tmp_path / "used" / "e") == factor(turned, tmp_path / "fresh" / "e")


def test_a_policy_that_never_branches_has_a_factor_of_one_exactly(tmp_path: Path, problems: Path) -> None:
    engine = ScriptedEngine(lambda request: Response(respond(request), "stop", 5, 10, Nuclei(0.95, 10, 10, 0)))
    rbf = evaluate(settings(problems), out=tmp_path / "e", engine=engine, quiet=True).rbf
    assert rbf is not None and (rbf.low, rbf.value, rbf.high) == (1.0, 1.0, 1.0)


def test_off_a_terminal_it_says_how_far_it_is(
    tmp_path: Path, problems: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)
    slow = policy(delay=0.01, concurrency=4)
    evaluate(settings(problems, samples=1), out=tmp_path / "e", engine=slow)
    lines = re.findall(rf"think-answer: (\d+) of {PROBLEMS} responses done; .* responses/s", capfd.readouterr().err)
    assert int(lines[0]) < PROBLEMS == int(lines[-1])


def test_without_problems_it_says_why(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"question": "What?", "answer": ""}\n')
    with pytest.raises(UserError, match="no problem to measure by"):
        evaluate(settings(tmp_path / "p.jsonl"), out=tmp_path / "e", engine=policy(), quiet=True)


def evaluate_slowly(problems: Path, out: Path, log: Path) -> None:
    """Evaluate with a slow policy that notes each response it gives away."""
    with log.open("a", buffering=1) as notes:

        def script(request: Request) -> str:
            notes.write("x\n")
            return respond(request)

        engine = ScriptedEngine(script, concurrency=4, delay=0.01)
        write_evaluation(evaluate(settings(problems, verifier="rules"), out=out, engine=engine, quiet=True), out)


# Other tests of this process kill what its tracker of resources watches over.
@pytest.mark.filterwarnings("ignore:resource_tracker")
def test_killed_ten_times_it_ends_with_the_same_figures(tmp_path: Path, problems: Path) -> None:
    whole = evaluate(settings(problems, verifier="rules"), out=tmp_path / "w" / "e", engine=policy(), quiet=True)
    out, log, moments = tmp_path / "k" / "eval.json", tmp_path / "log", random.Random(0)
    log.touch()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["specs_data.measure.evaluate", "fakes.sums"])
    for _ in range(10):
        child = context.Process(target=evaluate_slowly, args=(problems, out, log))
        asked = log.stat().st_size
        child.start()
        while child.is_alive() and log.stat().st_size == asked:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL  # it was not done yet
    evaluate_slowly(problems, out, log)
    assert read_evaluation(out) == whole
    repeated = len(log.read_text().splitlines()) - SAMPLES * PROBLEMS
    assert repeated <= 10 * 4


def test_the_terminal_and_the_file_say_the_same(tmp_path: Path, problems: Path) -> None:
    found = evaluate(settings(problems), ["think-answer", "json"], out=tmp_path / "e", engine=policy(), quiet=True)
    shown = table(found)
    assert found.accuracy is not None and f"{found.accuracy.value:.1%}" in shown
    assert "think-answer" in shown and "json" in shown and "remove_all_tags" in shown
    assert "no branching factor" in shown


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_measures_the_shipped_checkpoint(tmp_path: Path, as_json: bool) -> None:
    problems = write_problems(tmp_path / "p", 12, seed=23)
    arguments = ["evaluate", "--policy", str(checkpoint("grpo-zero")), "--problems", str(problems)]
    arguments += ["--engine", "transformers", "--samples", "1", "--max-tokens", "64", "--out", str(tmp_path / "e.json")]
    arguments += ["--format", "think-answer", "--format", "plain"]
    done = CliRunner().invoke(app, [*arguments, *(["--json"] if as_json else [])])
    assert done.exit_code == 0, done.output
    found = read_evaluation(tmp_path / "e.json")
    assert list(found.by_format) == ["think-answer", "plain"] and found.format == found.by_format["think-answer"].format
    assert found.n == 12 and found.format is not None and found.format.value > 0.7
    assert found.rbf is not None and found.rbf.value is not None and 1 <= found.rbf.value < 2
    if as_json:
        assert isinstance(json.loads(done.stdout), dict)
    else:
        assert "think-answer" in done.stdout and "wrote" in done.stdout


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "--problems", str(tmp_path), "--out", str(tmp_path / "e")])
    assert isinstance(done.exception, UserError) and "no policy" in str(done.exception)
    done = CliRunner().invoke(app, ["errors", "--policy", str(checkpoint("base"))])
    assert isinstance(done.exception, UserError) and "no problems" in str(done.exception)


def test_the_evaluation_of_an_empty_mapping_is_written(tmp_path: Path) -> None:
    assert json.loads(encode(Evaluation(policy="p")))["accuracy"] is None


def test_problems_of_one_id_in_several_sources_are_several(tmp_path: Path) -> None:
    rows = [{"id": "1", "question": f"What is {n} + 1?", "answer": str(n + 1)} for n in (1, 1, 2)]
    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for file, row in zip(files, rows, strict=True):
        file.write_text(json.dumps(row) + "\n")
    found = evaluate(
        make_recipe({"problems": list(map(str, files)), "samples": SAMPLES}),
        out=tmp_path / "e",
        engine=policy(),
        quiet=True,
    )
    assert (found.n, found.left_out.get("duplicate")) == (2, 1)
