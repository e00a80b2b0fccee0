"""Reports over loopback: what reports have written and nothing else, for this machine alone."""

import http.client
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fasttrain.errors import EnvironmentProblem
from fasttrain.report import build as rebuilding
from fasttrain.report import serve as serving
from fasttrain.store.store import Store

from .pages import decreed  # noqa: F401

pytestmark = pytest.mark.usefixtures("decreed")


@pytest.fixture
def store(fasttrain, tiny) -> Path:
    assert fasttrain("sweep", tiny, "--store", "grid", "--quiet", "--plr", "1e-2").code == 0
    return tiny.parent / "grid"


def _ask(address: str, path: str, host: str | None = None, method: str = "GET"):
    """The status, headers and content of an answer; the path is sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=600)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def test_index_page_and_files_of_a_store(store, tmp_path):
    report = store / "report"
    empty = Store.open(tmp_path / "empty", create=True).path
    with serving.serving({"grid": store, "empty": empty}, 0, 5) as address:
        status, headers, index = _ask(address, "/")
        assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
        assert b'<a href="/grid/report.html">grid</a>' in index and b"Finished: " in index
        assert b"Plan unknown: 0 stages finished" in index and b'content="5"' in index
        _, headers, page = _ask(address, "/grid/report.html?x=1")
        assert page == (report / "report.html").read_bytes()
        (figure,) = report.glob("figures/*.svg")
        _, headers, picture = _ask(address, f"/grid/figures/{figure.name}")
        assert headers["Content-Type"] == "image/svg+xml" and picture == figure.read_bytes()
        assert headers["X-Content-Type-Options"] == "nosniff"
        status, headers, nothing = _ask(address, "/grid/results.csv", method="HEAD")
        assert (status, nothing) == (200, b"") and int(headers["Content-Length"]) > 0
        # Not there yet, in the other.
        assert _ask(address, "/empty/report.html")[0] == 404
        assert _ask(address, "/", method="POST")[0] == 501


@pytest.mark.parametrize(
    "path",
    [
        "/grid",
        "/grid/",
        "/other/report.html",
        "/grid/../store.json",
        "/grid/%2e%2e/store.json",
        "/grid/figures/../../store.json",
        "/grid/figures/.written.json",
        "/grid/figures",
        "/grid//etc/passwd.html",
        "/grid/linked.html",
        "/grid/results.txt",
        "/grid/%00.html",
        "//report.html",
    ],
)
def test_nothing_else_is_served(store, tmp_path, path):
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    (store / "report" / "linked.html").symlink_to(secret)
    (store / "report" / "results.txt").write_text("mine")
    with serving.serving({"grid": store}, 0, 5) as address:
        assert _ask(address, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_foreign_name_for_this_machine_is_refused(store, host):
    with serving.serving({"grid": store}, 0, 5) as address:
        port = urlsplit(address).port
        assert _ask(address, "/", host=f"localhost:{port}")[0] == 200
        assert _ask(address, "/", host=host)[0] == 403


def test_a_store_that_is_gone_is_named_and_the_others_are_shown(store, tmp_path):
    gone = tmp_path / "gone"
    with serving.serving({"gone": gone, "grid": store}, 0, 5) as address:
        _, _, index = _ask(address, "/")
    assert f"{gone}: no such store".encode() in index and b"Finished: " in index


def test_a_taken_port_is_one_line(store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(EnvironmentProblem, match=f"port {port} of 127.0.0.1.*--port"),
            serving.serving({"grid": store}, port, 5),
        ):
            pass


def test_pages_follow_their_stores_and_stay_behind_still(store, tmp_path, monkeypatch, capsys):
    other = Store.open(tmp_path / "grid", create=True).path
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        page = (store / "report" / "report.html").read_text()
        assert 'data-refresh="2"' in page and (other / "report" / "report.html").exists()
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(rebuilding.time, "sleep", sleep)
    assert serving.serve([store, other], 0, 0.5) == 0
    assert looks == [0.5, 0.5]
    first, *rebuilt = capsys.readouterr().out.splitlines()
    assert first.startswith("serving grid, grid~2 at http://127.0.0.1:")
    # Each at the first look and at the end; nothing had changed at the second.
    assert len(rebuilt) == 4
    assert "data-refresh" not in (store / "report" / "report.html").read_text().split("<head")[0]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "serve needs at least one store"),
        (["grid", "--port", "70000"], "--port 70000: must be 0 to 65535"),
        (["grid", "--interval", "0"], "--interval 0: must be 0.1 to 86400 seconds"),
        (["nothing"], "nothing"),
    ],
)
def test_mistakes_are_told_at_the_door(fasttrain, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    outcome = fasttrain("serve", *arguments)
    assert outcome.code in (1, 2) and words in outcome.err and len(outcome.err.splitlines()) == 1
