"""Names of the Redis streams, of their group and of their one field. Knows nothing of who reads or
writes them."""

GROUP = "agent"
CONSUMER = "agent"
FIELD = "m"


def requests_stream(device_id: str) -> str:
    """The stream that the server fills and only this device reads."""
    return f"secateur:device:{device_id}:requests"


def results_stream(device_id: str) -> str:
    """The stream that only this device writes and only the server reads."""
    return f"secateur:device:{device_id}:results"


def device_user(device_id: str) -> str:
    """The ACL user name of a device."""
    return f"device-{device_id}"
