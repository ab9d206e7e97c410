"""What can keep `secateur up` from coming up.

StackError
├── AlreadyRunning     the home directory belongs to a stack that runs
├── UnsafeBinding      a public address without authentication, or with the embedded broker
├── PortInUse          somebody else listens on the chosen port
├── BrokerUnavailable  Valkey did not start, or REDIS_URL does not answer
├── DatabaseUnavailable  DATABASE_URL cannot be used
├── HomeUnusable       the home directory cannot be made, read or written
├── NotYet             a child has to wait for something; the message names it
└── NotReady           the API did not become ready in time
"""


class StackError(Exception):
    """The stack cannot run; the message says what to change."""


class AlreadyRunning(StackError):
    """Another `secateur up` holds the home directory."""


class UnsafeBinding(StackError):
    """The address would expose a stack that is not fit for it."""


class PortInUse(StackError):
    """The chosen port is taken."""


class BrokerUnavailable(StackError):
    """The broker does not answer."""


class DatabaseUnavailable(StackError):
    """The database cannot be used."""


class HomeUnusable(StackError):
    """The home directory cannot be made, read or written."""


class NotYet(StackError):
    """A child cannot be started yet; the message is a noun: what it waits for."""


class NotReady(StackError):
    """The API did not become ready in time."""
