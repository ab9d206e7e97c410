"""Which secrets of `secateur up` each of its processes is given: those that it cannot do without.

Everything else that looks like a secret stays with the supervisor.
"""

import re
from collections.abc import Mapping

SERVERS = ("api", "collector", "worker")
PLACES = ("DATABASE_URL", "REDIS_URL", "ARTIFACT_URL")
_OF_DATABASE = re.compile(r"PG[A-Z]+")
_OF_STORE = re.compile(r"(AWS|AZURE|GOOGLE|GCP|GCS|S3|FSSPEC)_\w+")


def secrets_for(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that the process `name` needs although they are secrets."""
    if not name.startswith(SERVERS):
        return {}
    if name == "api":
        return dict(environment)  # keys of users, addresses that devices are told
    has_store = "://" in environment.get("ARTIFACT_URL", "")
    return {
        variable: value
        for variable, value in environment.items()
        if variable in PLACES
        or _OF_DATABASE.fullmatch(variable)
        or (has_store and _OF_STORE.fullmatch(variable))
    }
