"""`python -m api.stack.migrate`: brings the database of the environment to the present schema."""

from jobs.migrations import upgrade
from jobs.settings import Settings


def main() -> None:
    """Migrates and returns; safe to run from several places at once."""
    upgrade(Settings().database_url)


if __name__ == "__main__":
    main()
