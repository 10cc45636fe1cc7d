"""The files of the page and how they are served."""

from __future__ import annotations

import re

import pytest
from test_api_server import assert_problem
from trading_kit import Api, running_api


@pytest.fixture
async def api():  # type: ignore[no-untyped-def]
    async with running_api() as found:
        yield found


async def test_the_page_has_a_strict_policy_and_no_code_or_style_of_its_own(api: Api) -> None:
    answer = await api.get("/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert f"ws://{api.url.removeprefix('http://')}" in policy
    text = answer.body.decode()
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert "<style" not in text
    assert re.search(r'\son\w+="|\sstyle="', text) is None
    assert re.search(r"https?://", text) is None


async def test_files_are_loaded_again_only_when_they_changed(api: Api) -> None:
    answer = await api.get("/web/app.js")
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    again = await api.get("/web/app.js", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    other = await api.get("/web/app.js", headers={"If-None-Match": '"another"'})
    assert other.status == 200


@pytest.mark.parametrize(
    "path", ["/web/nothing.js", "/web/../views.py", "/web/%2e%2e/views.py", "/web/"]
)
async def test_unknown_files_of_the_page_are_not_found(api: Api, path: str) -> None:
    assert (await api.get(path)).status == 404


async def test_the_page_is_served_under_the_names_of_the_node_alone(api: Api) -> None:
    answer = await api.get("/", headers={"Host": "evil.example"})
    assert_problem(answer, 403, "forbidden_host")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    "path", ["/", "/web/app.js", "/v1/markets", "/v1/session", "/docs", "/v2/platform/status"]
)
async def test_pages_of_others_cannot_load_anything(api: Api, site: str, path: str) -> None:
    for mode, destination in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe")):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": destination}
        assert_problem(await api.get(path, headers=headers), 403, "forbidden_origin")
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await api.get(path, headers=link)).status == 200
