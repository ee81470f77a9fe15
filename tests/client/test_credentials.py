"""Which server the client uses, and with which token."""

from __future__ import annotations

import traceback

import pytest

from nestor.errors import ClientError, NoToken
from nestor.remote import credentials
from nestor.remote.client import Client


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.delenv("NESTOR_SERVER", raising=False)
    monkeypatch.delenv("NESTOR_TOKEN", raising=False)
    monkeypatch.setenv("NESTOR_CREDENTIALS", str(tmp_path / "credentials.json"))
    return tmp_path / "credentials.json"


def test_without_a_token_the_sentence_says_where_to_get_one():
    with pytest.raises(NoToken, match=r"No token is known for http://example\.org\. Pass token=…, or set NESTOR_TOKEN"):
        Client("http://example.org")


def test_an_argument_beats_the_environment_beats_the_file(file, monkeypatch):
    file.write_text('{"http://example.org": "from-file"}')
    assert credentials.find_token("http://example.org") == "from-file"
    monkeypatch.setenv("NESTOR_TOKEN", "from-environment")
    assert credentials.find_token("http://example.org") == "from-environment"
    assert credentials.find_token("http://example.org", "given") == "given"


def test_a_token_goes_to_its_own_server_only(file):
    file.write_text('{"http://127.0.0.1:8000": "mine"}')
    assert credentials.find_token("http://localhost:8000/") == "mine"
    for other in ("http://127.0.0.1:8001", "https://127.0.0.1:8000", "http://example.org"):
        with pytest.raises(NoToken):
            credentials.find_token(other)


def test_the_server_written_last_is_the_default(file, monkeypatch):
    assert credentials.find_server() == credentials.DEFAULT_SERVER
    file.write_text('{"http://first:1": "a", "http://second:2/": "b"}')
    assert credentials.find_server() == "http://second:2"
    monkeypatch.setenv("NESTOR_SERVER", "third:3")
    assert credentials.find_server() == "http://third:3"


@pytest.mark.parametrize(
    ("printed", "address", "token"),
    [
        ("http://127.0.0.1:8000/#token=nst_a", "http://127.0.0.1:8000", "nst_a"),
        (" http://127.0.0.1:8000/ ", "http://127.0.0.1:8000", None),
        ("127.0.0.1:8000/#token=nst_a&study=1", "http://127.0.0.1:8000", "nst_a"),
        ("http://127.0.0.1:8000/#study=1&trial=2", "http://127.0.0.1:8000", None),
        ("https://host/prefix/api/v1/studies?name=x", "https://host/prefix", None),
        ("https://host/prefix/docs/", "https://host/prefix", None),
        ("http://[::1]:8000/readyz", "http://[::1]:8000", None),
    ],
)
def test_a_printed_address_is_one(file, monkeypatch, printed, address, token):
    file.write_text(f'{{"{address}": "saved"}}')
    assert credentials.find_server(printed) == address
    assert credentials.find_token(printed) == (token or "saved")
    assert credentials.find_token(printed, "given") == "given"
    monkeypatch.setenv("NESTOR_SERVER", printed)
    assert Client().server == address
    assert "token" not in repr(Client())


def test_a_malformed_address_is_refused_without_the_token_behind_it(file):
    with pytest.raises(ClientError) as refused:
        credentials.find_server("ftp://x/#token=nst_secret")
    assert "nst_secret" not in str(refused.value)


def test_an_invalid_server_address_is_refused_with_an_example():
    with pytest.raises(ClientError, match=r"'ftp://x' is not the address of a server\. Write it like http"):
        credentials.find_server("ftp://x")


@pytest.mark.parametrize("content", ["{", "[]", '{"http://x": 1}'])
def test_a_broken_file_is_named(file, content):
    file.write_text(content)
    with pytest.raises(ClientError, match=r"credentials\.json .*Fix or delete it"):
        credentials.find_token("http://x")


def test_the_error_of_a_broken_file_quotes_no_token(file):
    file.write_text('{"http://x": "nst_secret", "http://y": 1}')
    with pytest.raises(ClientError) as refused:
        credentials.find_token("http://x")
    shown = "".join(traceback.format_exception(refused.value))
    assert "nst_secret" not in shown
