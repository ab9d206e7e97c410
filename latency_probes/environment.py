"""The environment of a child that runs what is not ours, models and their runtimes: no secrets.

Every variable stays that does not look like a secret, because a vendor's runtime may need it.
"""

import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASS|PWD|AUTH|CREDENTIAL|CONNECTION_STRING|(_|^)(URL|URI|DSN)$"
    r"|^(AWS|AZURE|GOOGLE|GCP|GCS|S3|FSSPEC|CELERY|PG)_?",
    re.IGNORECASE,
)
# SECATEUR_AUTH says whether keys are on, and workers must know.
_HARMLESS = frozenset({"PWD", "OLDPWD", "SECATEUR_AUTH", "TOKENIZERS_PARALLELISM"})
_USER_IN_ADDRESS = re.compile(r"://[^/\s]*@")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that neither their name nor an address with a user in it makes a secret."""
    return {
        name: value
        for name, value in environment.items()
        if name in _HARMLESS or not (_SECRET_NAME.search(name) or _USER_IN_ADDRESS.search(value))
    }
