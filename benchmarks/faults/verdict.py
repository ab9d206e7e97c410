"""What a fault run must end with: exactly one counted answer to every request, and the right
one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from benchmarks.faults.questions import Answer
from jobs.states import RequestState
from jobs.tables import Measurement, Request
from workers.context import Context


@dataclass(frozen=True)
class Verdict:
    """How a run ended.

    Attributes:
        results: requests with a counted ratio.
        errors: kinds of counted errors.
        lost: requests without a counted answer.
        twice: requests with more than one.
        wrong: requests whose answer is another request's, or contradicts their state.
        late: answers that were stored and do not count.
        attempts: how many requests needed how many attempts.
    """

    requests: int
    results: int
    errors: Mapping[str, int]
    lost: int
    twice: int
    wrong: int
    late: int
    attempts: Mapping[int, int]

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost, counted twice or confused."""
        return self.lost == self.twice == self.wrong == 0


def judge(context: Context, answers: Mapping[str, Answer]) -> Verdict:
    """Compare the database with the right answers."""
    with context.read() as session:
        requests = {row.id: row for row in session.scalars(select(Request))}
        measurements = session.scalars(select(Measurement)).all()
    counted: dict[str, list[Measurement]] = {request_id: [] for request_id in answers}
    for row in measurements:
        if row.counted:
            counted[row.request_id].append(row)
    ones = {request_id: rows[0] for request_id, rows in counted.items() if len(rows) == 1}
    return Verdict(
        requests=len(answers),
        results=sum(row.error_kind is None for row in ones.values()),
        errors=dict(Counter(row.error_kind for row in ones.values() if row.error_kind)),
        lost=sum(not rows for rows in counted.values()),
        twice=sum(len(rows) > 1 for rows in counted.values()),
        wrong=sum(
            not _is_right(requests[request_id], row, answers[request_id])
            for request_id, row in ones.items()
        ),
        late=sum(not row.counted for row in measurements),
        attempts=dict(Counter(row.attempt for row in requests.values())),
    )


def _is_right(request: Request, row: Measurement, answer: Answer) -> bool:
    state = RequestState.FAILED if row.error_kind else RequestState.DONE
    if request.state != state or request.measurement_id != row.id:
        return False
    if isinstance(answer, str) or row.ratio is None:
        return row.error_kind == answer
    return math.isclose(row.ratio, answer, rel_tol=1e-9)
