"""`secateur devices check`: how it is followed, and what it found as a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from api.cli.output import DASH, complain, milliseconds, percent, say, show_fields, show_table

if TYPE_CHECKING:
    from api.client import Client
    from api.routes.views import CheckView


def follow(client: "Client", check_id: str, *, silent: bool = False) -> "CheckView":
    """The check once it has ended, with a line at every change; interrupting ends it."""
    last = ""

    def tell(check: "CheckView") -> None:
        nonlocal last
        now = line(check)
        if now != last and not silent:
            say(now)
            last = now

    try:
        return client.checks.wait(check_id, pause_s=1.0, seen=tell)
    except KeyboardInterrupt:
        client.checks.cancel(check_id)
        complain(f"{check_id} was cancelled")
        raise typer.Exit(130) from None


def line(check: "CheckView") -> str:
    """How far it is, in one line."""
    if check.finished_at is not None:
        return check.state
    progress = check.progress or {}
    told = [check.state, f"{progress.get('ended', 0)} of {progress.get('of', '?')} measurements"]
    if check.waiting_for:
        told.append(f"waiting for {check.waiting_for}")
    return " · ".join(told)


def show_check(check: "CheckView") -> None:
    """Writes what a check found."""
    result = check.result or {}
    say(f"{check.workload} on {target_text(check.target)}: {len(result['trials'])} measurements")
    show_fields(facts(result))
    rows = [
        (f"{each['seconds']} s", each["replicates"], percent(each["difference"], 2))
        for each in result["resolution"]
    ]
    show_table(("Time per candidate", "Replicates", "Smallest difference"), rows, "")
    for error in result["errors"]:
        complain(error)


def facts(result: Mapping[str, Any]) -> dict[str, str]:
    """What there is to tell, as words."""
    low, high = percent(result["ratio_low"], 2), percent(result["ratio_high"], 2)
    costs = ", ".join(
        f"{name} {seconds(result[key])}"
        for name, key in (("set-up", "setup_s"), ("timing", "timing_s"))
    )
    return {
        "A/A ratio": f"{percent(result['ratio'], 2)} [{low}, {high}]",
        "within 1 %": percent(result["within_1_percent"], 0),
        "within 2 %": percent(result["within_2_percent"], 0),
        "intervals that hold 1": percent(result["coverage"], 0),
        "processes differ by": f"{percent(result['between_sd'], 2)} (standard deviation)",
        "rounds of one differ by": percent(result["within_sd"], 2),
        "a replicate costs": f"{seconds(result['replicate_s'])} ({costs})",
        "latency": milliseconds(result["reference_ms"]),
        "screening resolves": percent(result["screening"], 2),
    }


def target_text(target: Mapping[str, Any]) -> str:
    """A target in words."""
    return (
        f"{target['runtime']} with {target['provider']}, batch {target['batch_size']}, "
        f"{target['threads']} thread(s)"
    )


def seconds(value: object) -> str:
    """A short span of time."""
    return f"{value:.2f} s" if isinstance(value, int | float) else DASH
