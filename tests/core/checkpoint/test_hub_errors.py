import pytest
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from ferrule.checkpoint.hub_errors import explain_hub_error, is_unreachable
from ferrule.checkpoint.location import HubRepo

REPO = HubRepo(name="org/model")
URL = "https://hub.example"


class Response:
    """As much of an HTTP response as the client's errors look at."""

    def __init__(self, status_code):
        self.status_code = status_code
        self.headers = {}
        self.request = None


def http_error(status, message="a message"):
    return HfHubHTTPError(f"{status} Error", response=Response(status), server_message=message)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (http_error(500), True),
        (http_error(503), True),
        (http_error(401), False),
        (http_error(429), False),
        (HTTPError("connection refused"), True),
        (OfflineModeIsEnabled("offline"), True),
        (LocalEntryNotFoundError("not cached"), True),
        (OSError("disk full"), False),
    ],
)
def test_no_usable_answer_is_told_from_a_refusal(error, expected):
    assert is_unreachable(error) is expected


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "token is not valid"), (403, "permission"), (429, "Wait")]
)
def test_refusal_says_status_reason_and_next_step(status, hint):
    error = explain_hub_error(http_error(status), REPO, URL)
    assert error.message == f"{URL} refused org/model with HTTP status {status}: a message"
    assert hint in error.hint


def test_refusal_without_a_reason_says_what_the_client_says():
    assert "418 Error" in explain_hub_error(http_error(418, None), REPO, URL).message


def test_no_connection_says_why():
    error = LocalEntryNotFoundError("not cached")
    error.__cause__ = HTTPError("Connection refused")
    explained = explain_hub_error(error, REPO, URL)
    assert explained.message.endswith(f"{URL} cannot be reached: Connection refused")


def test_full_disk_is_passed_on():
    error = explain_hub_error(OSError(28, "No space left on device"), REPO, URL)
    assert "No space left on device" in error.message
