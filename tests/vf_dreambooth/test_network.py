"""Whether a server can be reached."""

import socket
import time

import pytest

from vf_dreambooth import network


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_listening_server_and_a_closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert network.answers(address)
    assert not network.answers(address)


def test_a_proxy_is_asked_instead(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert network.answers("https://nowhere.invalid")
    assert not network.answers("https://nowhere.invalid")


def test_a_silent_server_is_not_waited_for():
    began = time.monotonic()
    assert not network.answers("http://192.0.2.1")  # an address of documentation, where nobody is
    assert not network.answers("https://nowhere.invalid")
    assert time.monotonic() - began < 2 * network.PATIENCE + 2
