"""What keeps the use of a service within bounds: its own limits, money, and its health."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from specs_data.errors import ItemRefused, Undecided, UserError
from specs_data.records import Payment
from specs_data.services import OF_THE_ITEM, Client, Failed, Question, Reason, Refusals, Reply
from specs_data.services.prices import Prices


class Pace:
    """How many calls may start per minute, one after another."""

    def __init__(self, per_minute: int | None = None) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next_start = 0.0

    async def wait(self) -> None:
        """Wait until the next call may start."""
        if not self._gap:
            return
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_start)
        self._next_start = start + self._gap
        await asyncio.sleep(start - now)


class Budget:
    """What judging services may cost together, in US dollars, and how many calls may start per minute at each
    of them. `spent` starts with what earlier runs cost; `pay` puts each payment on record.

    Each call reserves the most it can cost and then settles what it did cost, so that the limit is not
    passed; a call that does not fit waits for those in flight to settle. An attempt that ends without
    an answer (a hang, a broken connection) counts as free, because nobody knows."""

    def __init__(
        self,
        prices: Prices,
        limit: float | None = None,
        spent: float = 0.0,
        pay: Callable[[Payment], None] | None = None,
        per_minute: int | None = None,
    ) -> None:
        self.prices = prices
        self.limit = limit
        self.spent = spent
        self._pay = pay
        self._per_minute = per_minute
        self._paces: dict[Hashable, Pace] = {}
        self._held = 0.0
        self._calls = 0
        self._settled = asyncio.Event()

    def pace(self, account: Hashable) -> Pace:
        """The pace that all clients of one account share."""
        return self._paces.setdefault(account, Pace(self._per_minute))

    async def reserve(self, dollars: float) -> None:
        """Wait until `dollars` fit. Raises UserError if they cannot."""
        while self.limit is not None and self.spent + self._held + dollars > self.limit:
            if not self._calls:
                raise UserError(
                    f"the judging services have cost ${self.spent:.4f}, and one more call could pass --max-cost "
                    f"${self.limit:g}; raise it, and the same command goes on from here"
                )
            self._settled.clear()
            await self._settled.wait()
        self._held += dollars
        self._calls += 1

    def settle(self, reserved: float, payments: Sequence[Payment]) -> None:
        """Replace what was reserved by what was paid."""
        self._held -= reserved
        self._calls -= 1
        for payment in payments:
            self.spent += payment.dollars or 0.0
            if self._pay:
                self._pay(payment)
        self._settled.set()


class Spending:
    """What one client's calls for a stage take from a budget. Raises UserError if there is a limit that cannot be
    kept, because the price of the client's model is not known."""

    def __init__(self, client: Client, budget: Budget, stage: str, batch: bool = False) -> None:
        self._client = client
        self._budget = budget
        self._stage = stage
        self._batch = batch
        if budget.limit is not None and budget.prices.price(client.model) is None:
            raise UserError(
                f"--max-cost cannot be kept, because no price of {client.model} is known; "
                "give it in a file with --prices"
            )

    @asynccontextmanager
    async def call(self, question: Question[Any]) -> AsyncIterator[list[Reply]]:
        """Reserve the most that one call can cost. The replies put into the list are what it did cost."""
        most = self._cost(Reply("", "", _most_prompt_tokens(question), self._client.max_tokens)) or 0.0
        await self._budget.reserve(most)
        replies: list[Reply] = []
        try:
            yield replies
        finally:
            paid = [reply for reply in replies if reply.prompt_tokens or reply.completion_tokens]
            self._budget.settle(most, list(map(self._payment, paid)))

    def _payment(self, reply: Reply) -> Payment:
        tokens = reply.prompt_tokens, reply.completion_tokens
        return Payment(self._stage, self._client.model, reply.served, *tokens, self._batch, self._cost(reply))

    def _cost(self, reply: Reply) -> float | None:
        tokens = reply.prompt_tokens, reply.completion_tokens
        return self._budget.prices.paid(self._client.model, reply.served, *tokens, self._batch)


class Gate:
    """How many calls of a client may be in flight; they start at the `pace` that it may share with others.

    All at first. While the service turns away more than TOLERATED of them, the number is halved and
    everything waits as long as the service says; each round of accepted calls adds one. A few calls
    that are turned away at random cost less than holding back the others would."""

    TOLERATED = 0.4
    MEMORY = 64

    def __init__(self, most: int, pace: Pace | None = None) -> None:
        self.most = most
        self.limit = float(most)
        self._pace = pace or Pace()
        self._flying = 0
        self._freed = asyncio.Condition()
        self._next_start = 0.0
        self._turned_away = 0.0
        self._halvings = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait for a slot and hold it. The value tells `accepted` and `turned_away` when it was taken."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._flying < int(self.limit))
            self._flying += 1
        try:
            await self._wait_for_start()
            yield self._halvings
        finally:
            self._flying -= 1
            async with self._freed:
                self._freed.notify(2)  # The limit may have grown by one.

    def accepted(self, taken: int) -> None:
        """A call was served."""
        self._turned_away -= self._turned_away / self.MEMORY
        if taken == self._halvings:
            self.limit = min(self.most, self.limit + 1 / self.limit)

    def turned_away(self, taken: int, wait: float) -> None:
        """A call came too soon; the service asked for `wait` seconds."""
        if taken != self._halvings:
            return  # It started before the number was halved, and says nothing about the new one.
        self._turned_away += (1 - self._turned_away) / self.MEMORY
        if self._turned_away > self.TOLERATED:
            self.limit = max(1.0, self.limit / 2)
            self._turned_away = 0.0
            self._halvings += 1
            self._next_start = max(self._next_start, asyncio.get_running_loop().time() + wait)

    async def _wait_for_start(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._next_start > now:
            await asyncio.sleep(self._next_start - now)
        await self._pace.wait()


class Health:
    """The last outcomes of a service. Too many failures among them stop the run.

    What belongs to an item counts only while the service has answered nothing, or nothing more: then it is as likely
    that its settings are wrong, or the account. Of an item that is on record as `refused` it is no news."""

    LAST = 40
    ENOUGH = 20

    def __init__(self, name: str, refused: Refusals | None = None) -> None:
        self._name = name
        self._refused = refused
        self._outcomes: deque[Reason | None] = deque(maxlen=self.LAST)
        self._stopped: UserError | None = None
        self._proved = False
        self._refusals = 0  # in a row, each called the item's own fault
        self._turned_away = 0  # calls in a row
        self._since = 0.0  # the first of them

    def check(self) -> None:
        """Raise the error that stopped the run, if one did."""
        if self._stopped:
            raise self._stopped

    def stop(self, error: UserError) -> NoReturn:
        """Raise `error`, now and for every further question."""
        self._stopped = error
        raise error

    def decided(self) -> None:
        """A question was answered."""
        self._turned_away = self._refusals = 0
        if not self._proved:
            self._proved = True
            self._outcomes = deque((each for each in self._outcomes if each not in OF_THE_ITEM), maxlen=self.LAST)
        self._outcomes.append(None)

    def turned_away(self, failure: Failed, patience: float) -> None:
        """A call came too soon. Raises UserError if none did anything else for `patience` seconds: whoever waits for a
        service that serves nobody may wait for hours."""
        now = time.monotonic()
        self._since = self._since if self._turned_away else now
        self._turned_away += 1
        if self._turned_away >= self.ENOUGH and now - self._since > patience:
            self.stop(
                UserError(
                    f"{self._name} has turned away every call for {now - self._since:.0f} s "
                    f"({failure.detail or failure.reason}); see to its limits, and the same command goes on from here"
                )
            )

    def undecided(self, failure: Failed, item: str) -> NoReturn:
        """The question about `item` was given up. Raises Undecided (ItemRefused where it is the item's own fault), or
        UserError if half of the last ones were."""
        self.check()
        given_up = (ItemRefused if failure.of_the_item else Undecided)(failure.reason, failure.detail)
        if failure.of_the_item and (self._proved or self._is_known(item)):
            self._count_refusal(failure)
            raise given_up
        self._outcomes.append(failure.reason)
        reasons = Counter(outcome for outcome in self._outcomes if outcome)
        if len(self._outcomes) >= self.ENOUGH and reasons.total() * 2 >= len(self._outcomes):
            counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
            last = f"; the last: {failure.detail}" if failure.detail else ""
            self.stop(
                UserError(
                    f"{self._name} left {reasons.total()} of the last {len(self._outcomes)} questions undecided "
                    f"({counts}{last}); see to that, and the same command goes on from here"
                )
            )
        raise given_up

    def _count_refusal(self, failure: Failed) -> None:
        self._refusals += self._proved
        if self._refusals > self.LAST:
            told = f"{failure.reason}: {failure.detail}" if failure.detail else failure.reason
            self.stop(
                UserError(
                    f"{self._name} has refused {self._refusals} questions in a row ({told}), which is hardly their "
                    "fault; see to that, and the same command goes on from here"
                )
            )

    def _is_known(self, item: str) -> bool:
        """Was this item refused in an earlier run? From now on it was."""
        if self._refused is None:
            return False
        name = f"{self._name}: {item}"
        known = self._refused.was_refused(name)
        if not known:
            self._refused.put_refused(name)
        return known


def _most_prompt_tokens(question: Question[Any]) -> int:
    # Text has about four bytes per token and rarely less than two; an image has some hundred tokens,
    # a very large one a few thousand.
    return 200 + len((question.rubric + question.text).encode()) // 2 + 3000 * len(question.images)
