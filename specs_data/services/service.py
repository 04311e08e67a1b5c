"""Asking a service until the form is filled, or giving up with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from specs_data.errors import UserError
from specs_data.services import TWICE, Answer, Client, F, Failed, Question, Refusals, Reply, asked_again, fill
from specs_data.services.limits import Budget, Gate, Health, Spending
from specs_data.services.prices import same_model

# Attempts that the model did answer: the same again would end the same.
ANSWERED = frozenset({"broken answer", "empty answer", "cut off"})


class Service:
    """Gets questions answered by a client, one call each, up to `in_flight` at once.

    A failed attempt is repeated up to `attempts` times (TWICE, where it is the item's fault), `pause` seconds
    later and then twice as long each time. A call that came too soon is repeated when the service says. What the
    service says to wait is waited for up to `patience` seconds in all. `timeout` is for one attempt; a
    model that thinks may need a minute. `stage` is what the questions are for; it goes on record with the costs.
    `refused` has the items that it would not answer about in earlier runs."""

    def __init__(
        self,
        client: Client,
        budget: Budget,
        *,
        stage: str = "verification",
        in_flight: int = 64,
        allow_mismatch: bool = False,
        attempts: int = 4,
        timeout: float = 180.0,
        pause: float = 1.0,
        patience: float = 600.0,
        refused: Refusals | None = None,
    ) -> None:
        self._client = client
        self._spending = Spending(client, budget, stage)
        self._gate = Gate(in_flight, budget.pace(client.account))
        self._health = Health(f"{client.service} ({client.model})", refused)
        self._allow_mismatch = allow_mismatch
        self._attempts = attempts
        self._timeout = timeout
        self._pause = pause
        self._patience = patience

    @property
    def settings(self) -> Mapping[str, str]:
        """The service, the model and the client's options."""
        return client_settings(self._client)

    @property
    def concurrency(self) -> int:
        """More than are in flight, so that others take the place of those that wait to be repeated."""
        return 4 * self._gate.most

    async def ask(self, question: Question[F]) -> Answer[F]:
        """The answer. Raises Undecided with a Reason, and UserError where the run must stop."""
        paid: list[Reply] = []
        failures = of_the_item = 0
        waited = 0.0
        while True:
            self._health.check()
            try:
                filled = await self._attempt(question, paid)
            except UserError as error:
                self._health.stop(error)
            except Failed as failure:
                too_soon = failure.reason == "rate limit"
                failures += not too_soon
                of_the_item += failure.of_the_item
                wait = _pause(failures, failure.wait, self._pause)
                waited += max(wait, self._pause) if too_soon or failure.wait is not None else 0.0
                spent = failures >= self._attempts or of_the_item >= TWICE or waited > self._patience
                if failure.final or spent:
                    self._health.undecided(failure, question.item)
                if too_soon:
                    self._health.turned_away(failure, self._patience)
                question = asked_again(question, failure.reason) if failure.reason in ANSWERED else question
                await asyncio.sleep(wait)
            else:
                self._health.decided()
                return answer(filled, paid)

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    async def _attempt(self, question: Question[F], paid: list[Reply]) -> F:
        async with self._gate.slot() as taken, self._spending.call(question) as replies:
            try:
                async with asyncio.timeout(self._timeout):
                    reply = await self._client.ask(question)
            except TimeoutError:
                raise Failed("timeout") from None
            except Failed as failure:
                replies.append(failure.paid)
                if failure.reason == "rate limit":
                    self._gate.turned_away(taken, min(self._patience, _pause(1, failure.wait, self._pause)))
                raise
            else:
                replies.append(reply)
                self._gate.accepted(taken)
            finally:
                paid.extend(replies)
        if not self._allow_mismatch:
            check_served(self._client, reply.served)
        return fill(question.form, reply.text, question.item)


def client_settings(client: Client) -> Mapping[str, str]:
    """What determines a client's answers besides the question."""
    return {"service": client.service, "model": client.model, **client.options}


def _pause(attempt: int, asked: float | None, first: float) -> float:
    from specs_data import wire  # which brings aiohttp: whoever asks nothing need not wait for it

    return wire.pause(attempt, asked, first)


def answer(filled: F, paid: list[Reply]) -> Answer[F]:
    """The answer that the last of these replies gave, with the tokens of all."""
    prompt_tokens = sum(reply.prompt_tokens for reply in paid)
    completion_tokens = sum(reply.completion_tokens for reply in paid)
    return Answer(filled, paid[-1].served, prompt_tokens, completion_tokens)


def check_served(client: Client, served: str) -> None:
    """Raise UserError if another model answered than was asked for. A service that does not say passes."""
    if served and not same_model(client.model, served):
        raise UserError(
            f"{client.service} was asked for {client.model}, but {served} answered; ask for that model, "
            "or take what comes with --allow-model-mismatch"
        )
