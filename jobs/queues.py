"""The workers' queues: their names, which step goes where, and what lies in them.

A step of one id is sent once until it begins. Who sends notes it in a sorted set beside the
queues; who begins takes it out before it reads anything, so that what comes later leads to another
run. This file must not know celery, nor what a step does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

QUEUE = "secateur"
ADVANCE_QUEUE = "secateur-advance"
# In the order in which a worker looks into them.
QUEUES = (ADVANCE_QUEUE, QUEUE)

PREFIX = "secateur."
ADVANCE = f"{PREFIX}advance"
CHECK_DATASET = f"{PREFIX}check_dataset"
CHECK_MODEL = f"{PREFIX}check_model"
# What is not named here goes to `QUEUE`.
ROUTES: Mapping[str, Mapping[str, str]] = {ADVANCE: {"queue": ADVANCE_QUEUE}}

SENT = "secateur:sent"
# From the note to the message, and from the queue to the step's begin, it takes far less.
GRACE_S = 15.0
TIMEOUT_S = 5.0

Message = tuple[str, str]


class Sent:
    """What has been sent and has not begun, by step name and id; it lies in the broker, and is
    lost with its queues. Every method raises RedisError when the broker is away."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    @classmethod
    def at(cls, url: str, *, timeout_s: float = TIMEOUT_S) -> Sent:
        """On the broker at this address, which is asked once."""
        return cls(
            Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        )

    def send(self, name: str, identifier: str, publish: Callable[[], object]) -> None:
        """Calls `publish`, which sends the step's message, unless one waits already."""
        seconds, _ = self._redis.time()
        if not self._redis.zadd(SENT, {_member(name, identifier): seconds}, nx=True):
            return
        try:
            publish()
        except Exception:
            with suppress(RedisError):
                self.begun(name, identifier)
            raise

    def begun(self, name: str, identifier: str) -> None:
        """Notes that the step begins: from now on it may be sent again."""
        self._redis.zrem(SENT, _member(name, identifier))

    def waiting(self) -> set[Message]:
        """What waits in the queues, or was sent just now.

        Notes are mended on the way: those of lost messages go, those of messages that nobody
        noted are made.
        """
        count, noted, seconds = self._counted()
        if count == len(noted):  # each has its message: thousands of them need not be read
            return set(noted)
        queued, noted, seconds = self._read()
        lost = {each for each, at in noted.items() if at <= seconds - GRACE_S} - queued
        self._mend(lost, queued - noted.keys(), seconds)
        return queued | (noted.keys() - lost)

    def _counted(self) -> tuple[int, dict[Message, float], int]:
        """How many messages lie in the queues, what is noted, and the broker's time."""
        pipe = self._redis.pipeline(transaction=True)
        for queue in QUEUES:
            pipe.llen(queue)
        *lengths, notes, (seconds, _) = pipe.zrange(SENT, 0, -1, withscores=True).time().execute()
        return sum(lengths), _noted(notes), seconds

    def _read(self) -> tuple[set[Message], dict[Message, float], int]:
        """The same with the messages themselves."""
        pipe = self._redis.pipeline(transaction=True)
        for queue in QUEUES:
            pipe.lrange(queue, 0, -1)
        *queues, notes, (seconds, _) = pipe.zrange(SENT, 0, -1, withscores=True).time().execute()
        found = {_message(raw) for raws in queues for raw in raws}
        return {each for each in found if each is not None}, _noted(notes), seconds

    def _mend(self, lost: set[Message], unknown: set[Message], seconds: int) -> None:
        if lost:
            self._redis.zrem(SENT, *(_member(*each) for each in lost))
        if unknown:
            self._redis.zadd(SENT, {_member(*each): seconds for each in unknown}, nx=True)

    def close(self) -> None:
        """Gives the connections back."""
        self._redis.close()


def _member(name: str, identifier: str) -> str:
    return f"{name}:{identifier}"


def _noted(notes: Sequence[tuple[bytes, float]]) -> dict[Message, float]:
    pairs = ((member.decode().partition(":"), at) for member, at in notes)
    return {(name, identifier): at for (name, _, identifier), at in pairs}


def _message(raw: bytes) -> Message | None:
    """The step and the id of a message as celery writes it; None: it is none of ours."""
    try:
        envelope = json.loads(raw)
        (identifier,) = json.loads(base64.b64decode(envelope["body"]))[0]
        return str(envelope["headers"]["task"]), str(identifier)
    except (ValueError, KeyError, TypeError, IndexError):
        return None
