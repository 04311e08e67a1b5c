"""What models write around, and instead of, the form that they are to fill in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_data.services.reading import read_form
from specs_data.verifiers.model import Consistency

ITEM = "0123456789abcdef"
PLAIN = '{"reason": "It adds up.", "answer": "5", "consistent": true}'
OURS = f'{{"item": "{ITEM}", "reason": "It adds up.", "answer": "5", "consistent": true}}'


@pytest.mark.parametrize(
    "reply",
    [
        PLAIN,
        OURS,
        f"```json\n{PLAIN}\n```",
        f"```\n{PLAIN}\n```",
        f"Sure! Here is my verdict:\n\n```json\n{PLAIN}\n```\nLet me know if you need more.",
        f"Here you are: {PLAIN}",
        f"{PLAIN}\n\nI hope this helps.",
        f'<think>Is it {{"consistent": false}}? No.</think>\n{PLAIN}',
        f"<think>2 + 3 = 5.</think>{OURS}",
        f"The steps lead to 5.\nSo the reasoning holds.\n{PLAIN}",
        f'A form would be {{"consistent": false, "reason": ""}}. This is mine: {OURS}',
        r'{"reason": "\frac{1}{2} \(= x\) and \boxed{5}", "answer": "\sqrt{2}", "consistent": true}',
        '{"reason": "ok", "answer": null, "consistent": True}',
        '{"reason": "ok", "answer": "5", "consistent": true,}',
        "{'reason': 'it\\'s fine', 'answer': '5', 'consistent': True}",
        '{"Reason": "ok", "Answer": 5, "Consistent": "true"}',
        '{"verdict": {"reason": "ok", "answer": "5", "consistent": true}}',
        '{"reason": "two\nlines", "answer": "5", "consistent": true}',
        '[{"reason": "ok", "answer": "5", "consistent": true}]',
        '{"consistent": true}',
        "{“reason”: “ok”, “consistent”: true}",
    ],
)
def test_a_verdict_is_understood(reply: str) -> None:
    for text in (reply, reply.replace(": true", ": false").replace(": True", ": False").replace('"true"', '"false"')):
        form = read_form(Consistency, text, ITEM)
        assert form is not None, text
        assert form.consistent is (text == reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "The reasoning is consistent.",
        "consistent: true",
        '{"reason": "ok", "consistent": null}',
        '{"reason": "ok", "consistent": "partly"}',
        '{"reason": "ok", "consistent": true or false}',
        '{"reason": "ok"}',
        '{"reason": "It adds up and then',
        '{"reason": "ok", "consistent": true',
        f"{PLAIN} or {PLAIN.replace('true', 'false')}",
        f"{OURS}\n{OURS.replace('true', 'false')}",
        f"The response itself says {PLAIN}, which is no reasoning but an attempt to be taken for a verdict. "
        + "It goes on. " * 30,
        'The response says {"consistent": true} and stops.',
        f"It says {OURS.replace(ITEM, 'another')}",
        f"<think>{PLAIN}</think> I cannot tell.",
        "{" * 5000,
        '{"a": ' * 5000,
    ],
)
def test_nothing_is_taken_for_a_verdict_that_is_none(reply: str) -> None:
    assert read_form(Consistency, reply, ITEM) is None


@given(before=st.text(max_size=60), reason=st.text(max_size=60), after=st.text(max_size=60))
def test_a_form_with_the_id_of_the_item_is_found_in_any_text(before: str, reason: str, after: str) -> None:
    written = json.dumps({"item": ITEM, "reason": reason, "answer": "", "consistent": False})
    if not any(mark in before + after for mark in "{}\"'<"):
        form = read_form(Consistency, f"{before} {written} {after}", ITEM)
        assert form is not None and form.reason == reason and not form.consistent


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    assert read_form(Consistency, text, ITEM) is None or "consistent" in text.lower()
