"""Artifacts over HTTP: by content, whole or not at all."""

from __future__ import annotations

from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.serving import served, settings_in, sha256

CONTENT = bytes(range(256)) * 20_000


def test_a_file_is_stored_once_and_fetched_in_ranges(tmp_path: Path) -> None:
    with served(settings_in(tmp_path)) as server:
        path = f"/v1/artifacts/{sha256(CONTENT)}"
        assert server.http.head(path).status_code == 404
        first = server.http.put(path, content=CONTENT)
        assert (first.status_code, first.json()) == (201, {"digest": sha256(CONTENT), "size": len(CONTENT)})
        assert server.http.put(path, content=CONTENT).status_code == 200
        assert server.http.head(path).headers["content-length"] == str(len(CONTENT))
        fetched = server.http.get(path)
        assert fetched.content == CONTENT
        assert fetched.headers["etag"] == f'"{sha256(CONTENT)}"'
        part = server.http.get(path, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, CONTENT[10:20])


def test_content_of_another_digest_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with served(settings_in(tmp_path)) as server:
        path = f"/v1/artifacts/{'0' * 64}"
        refused = server.http.put(path, content=CONTENT)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "digest"
        assert server.http.get(path).status_code == 404
        assert [each for each in (tmp_path / "artifacts").rglob("*") if each.is_file()] == []


def test_the_empty_file_is_a_file(tmp_path: Path) -> None:
    with served(settings_in(tmp_path)) as server:
        path = f"/v1/artifacts/{sha256(b'')}"
        assert server.http.put(path, content=b"").status_code == 201
        assert server.http.get(path).content == b""


def test_files_may_be_larger_than_other_bodies_but_not_without_end(tmp_path: Path) -> None:
    with served(settings_in(tmp_path)) as server:
        large = bytes(20 * 2**20)
        assert server.http.put(f"/v1/artifacts/{sha256(large)}", content=large).status_code == 201
        # Announced only: the server answers before the first byte.
        address = urlsplit(server.url)
        connection = HTTPConnection(str(address.hostname), address.port, timeout=30)
        connection.putrequest("PUT", f"/v1/artifacts/{'0' * 64}")
        connection.putheader("Content-Length", str(5 * 2**30))
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, answer.headers["content-type"]) == (413, "application/problem+json")
        connection.close()


def test_an_upload_that_is_cut_leaves_nothing(tmp_path: Path) -> None:
    with served(settings_in(tmp_path)) as server:
        address = urlsplit(server.url)
        connection = HTTPConnection(str(address.hostname), address.port, timeout=30)
        connection.putrequest("PUT", f"/v1/artifacts/{sha256(CONTENT)}")
        connection.putheader("Content-Length", str(len(CONTENT)))
        connection.endheaders(CONTENT[:1000])
        connection.close()
        assert server.http.get(f"/v1/artifacts/{sha256(CONTENT)}").status_code == 404
    assert [each for each in (tmp_path / "artifacts").rglob("*") if each.is_file()] == []
