"""A transport in memory, for tests of what stands on the seam."""

from collections import deque

from latency_probes.transport import Delivery, TransportError


class FakeTransport:
    """Both ends of a device's streams: `send` and `take_away` are the server's, the rest the
    agent's."""

    def __init__(self) -> None:
        self.away = False
        self.published: list[str] = []
        self._new: deque[Delivery] = deque()
        self._pending: dict[str, Delivery] = {}
        self._count = 0

    def send(self, text: str) -> str:
        self._count += 1
        self._new.append(Delivery(f"{self._count}-0", text))
        return f"{self._count}-0"

    def take_away(self, entry_id: str) -> None:
        self._pending.pop(entry_id, None)

    def reports(self) -> list[str]:
        return list(self.published)

    def reclaim(self) -> list[Delivery]:
        self._check()
        return list(self._pending.values())

    def receive(self, wait_s: float) -> Delivery | None:
        self._check()
        if not self._new:
            return None
        delivery = self._new.popleft()
        self._pending[delivery.entry_id] = delivery
        return delivery

    def renew(self, entry_id: str) -> bool:
        self._check()
        return entry_id in self._pending

    def acknowledge(self, entry_id: str) -> None:
        self._check()
        self._pending.pop(entry_id, None)

    def publish(self, text: str) -> None:
        self._check()
        self.published.append(text)

    def _check(self) -> None:
        if self.away:
            raise TransportError("the server is away")
