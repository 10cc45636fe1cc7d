"""The files of the page and how they are served."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from api_kit import Api, running_api
from test_api_server import assert_problem

from node.api.web_page import page_files


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


async def test_nothing_is_loaded_from_elsewhere() -> None:
    for name, file in page_files().items():
        text = file.body.decode()
        for found in re.findall(r"""(?:import|from|fetch\(|url\()\s*["'](\S+?)["']""", text):
            assert found.startswith(("./", "../", "/")), (name, found)


async def test_every_import_is_there_and_every_module_is_used() -> None:
    files = page_files()
    reached, to_do = set[str](), ["app.js", "docs.js"]
    while to_do:
        name = to_do.pop()
        if name in reached:
            continue
        reached.add(name)
        folder = name.rpartition("/")[0]
        for found in re.findall(r"""from "(\.\S+?)";""", files[name].body.decode()):
            parts = folder.split("/") if folder else []
            for part in found.split("/"):
                if part == "..":
                    parts.pop()
                elif part != ".":
                    parts.append(part)
            to_do.append("/".join(parts))
    shapes = {"core/types.js"}  # imported by comments only
    assert {name for name in files if name.endswith(".js")} == reached | shapes


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
async def test_what_is_no_file_of_the_page_is_not_there(api: Api, path: str) -> None:
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


async def test_the_session_names_the_caller(api: Api) -> None:
    found = (await api.get("/v1/session")).json
    assert (found["operator"], found["account"], found["key"]) == (True, 0, None)
    assert found["permissions"] == ["read", "trade"]


async def test_all_files_are_in_the_package() -> None:
    folder = resources.files("node").joinpath("web")
    assert {entry.name for entry in folder.iterdir() if entry.is_file()} >= {"index.html", "app.js"}
    assert "core/decimal.js" in page_files()
