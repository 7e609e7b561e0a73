"""The page: what is served at `/`, and what it does in headless Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.application import make_http
from serve_app.api.routes.page import load_page
from serve_app.http.keys import KeyRing, RequireKeys
from serve_app.http.replies import Failure, make_reply
from serve_app.served.models import Models
from serve_app.served.service import ModelService, ServiceLimits
from t5enc.options import EncoderOptions
from t5enc.recipes import Recipe
from t5enc.text_encoder import TextEncoder
from tests.serve_app.browser import Tab, find_browser, run_browser
from tests.serve_app.serving import serve

KEY = "a key that is long enough"
LIMIT = 32
TEXTS = ["A red fox.", "Two <b>grey</b> herons & a boat.", "word " * 40]
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@dataclass
class Site:
    """Addresses of one application: as it is, under a prefix, behind a key, and overloaded at first."""

    url: str
    prefixed: str
    locked: str
    busy: str
    service: ModelService


class RefuseFirst:
    """ASGI middleware: the queue is full when the first two requests for embeddings come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._left = 2

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/embed") or not self._left:
            await self._app(scope, receive, send)
            return
        self._left -= 1
        failure = Failure(status=429, kind="Overloaded", message="the queue is full", headers={"Retry-After": "1"})
        await make_reply(scope, failure)(scope, receive, send)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    options = EncoderOptions.from_mapping({"model": "builtin:tiny", "max_length": LIMIT})
    limits = ServiceLimits(max_length=LIMIT, max_texts=8)
    services = [ModelService(name, options, limits) for name in ("tiny", "other")]
    models = Models(services)
    locked = make_http(models, middlewares=[Middleware(RequireKeys, keys=KeyRing(values=[KEY]))])
    busy = make_http(models, middlewares=[Middleware(RefuseFirst)])
    mounts = {"/m/tiny": make_http(models), "/locked": locked, "/busy": busy, "/": make_http(models)}
    with serve(Starlette(routes=[Mount(path, app) for path, app in mounts.items()])) as url:
        yield Site(url, f"{url}/m/tiny/", f"{url}/locked/", f"{url}/busy/", services[0])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = find_browser()
    if program is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with run_browser(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    """A browser that must not complain of anything."""
    browser.complaints.clear()
    browser.hosts.clear()
    yield browser
    assert browser.complaints == []


def show(tab: Tab, url: str, texts: list[str], **window: Any) -> None:
    """Open the page and type captions; returns when their tokens and similarities are there."""
    tab.open(url, **window)
    tab.wait_for("document.querySelectorAll('#matrix td').length")
    tab.type_into("#captions", "\n".join(texts))
    tab.wait_for(f"!document.querySelector('.stale') && document.querySelectorAll('#texts li').length == {len(texts)}")


def read_all(tab: Tab, selector: str) -> list[str]:
    """The texts of all elements that match."""
    found = tab.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)")
    return list(found)


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [(BROWSER, True), ("text/html", True), ("*/*", False), ("application/json", False), ("text/html;q=0, */*", False),
     ("image/png", False)],
)  # fmt: skip
def test_browsers_get_the_page_and_others_health(site: Site, accept: str, is_page: bool) -> None:
    answer = httpx2.get(site.url, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.content == (load_page()[0] if is_page else b"")


def test_health_at_the_root_tells_of_a_sick_model(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.service, "is_healthy", lambda: False)
    answer = httpx2.get(site.url)
    assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")
    assert httpx2.get(f"{site.url}/stats").json()["models"]["tiny"]["is_healthy"] is False
    assert httpx2.get(site.url, headers={"Accept": BROWSER}).status_code == 200


def test_the_page_is_whole_and_names_no_other_host(site: Site) -> None:
    answer = httpx2.get(site.url, headers={"Accept": BROWSER})
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Vary"] == "Accept"
    assert re.findall(r"https?://|url\(|@import|src=", answer.text) == []
    assert "page.js" not in answer.text


def test_stats_count_what_was_encoded(site: Site) -> None:
    before = httpx2.get(f"{site.url}/stats").json()
    httpx2.post(f"{site.url}/embed", json={"inputs": ["counted once", "counted once"]}).raise_for_status()
    after = httpx2.get(f"{site.url}/stats").json()
    assert (after["default"], list(after["models"])) == ("tiny", ["tiny", "other"])
    assert after["replica"] == before["replica"]
    assert after["models"]["tiny"]["texts"] == before["models"]["tiny"]["texts"] + 1
    assert after["models"]["other"] == before["models"]["other"]
    assert after["models"]["tiny"]["max_queued_tokens"] == ServiceLimits().queue_tokens


def test_stats_want_a_key_and_the_page_does_not(site: Site) -> None:
    assert httpx2.get(f"{site.locked}stats").status_code == 401
    assert httpx2.get(site.locked, headers={"Accept": BROWSER}).status_code == 200


def test_captions_show_their_tokens_lengths_and_cuts(site: Site, tab: Tab) -> None:
    show(tab, site.url, TEXTS)
    pieces = [[span.token for span in site.service.split_text(text)] for text in TEXTS]
    assert read_all(tab, "#texts .length") == [f"{len(text)} tokens" for text in pieces]
    assert read_all(tab, "#texts li:nth-child(2) .pieces span") == pieces[1]
    assert read_all(tab, "#texts .cut") == [f"cut to {LIMIT}"]
    assert len(read_all(tab, "#texts .dropped")) == len(pieces[2]) - LIMIT
    assert read_all(tab, "#texts li:nth-child(3) .pieces span:last-child:not(.dropped)") == ["</s>"]
    assert read_all(tab, "#texts b") == []


def test_similarities_are_those_of_the_encoder(site: Site, tab: Tab) -> None:
    encoder = TextEncoder.from_pretrained("builtin:tiny", max_length=LIMIT)
    vectors = encoder.encode(TEXTS).pooled("mean", normalize=True)
    show(tab, site.url, TEXTS)
    found = [float(text.replace("\u2212", "-")) for text in read_all(tab, "#matrix tbody td")]
    assert found == pytest.approx((vectors @ vectors.T).flatten().tolist(), abs=0.006)
    assert read_all(tab, "#matrix tbody th")[1] == f"2 {TEXTS[1]}"


@pytest.fixture(scope="module")
def recipe_site() -> Iterator[str]:
    """A service with a recipe of its own, which lets others be as long as they are."""
    short = Recipe(name="short", clean="lower", max_length=24, attends_pads=True, rows="all")
    service = ModelService("tiny", EncoderOptions(model="builtin:tiny", recipe=short), ServiceLimits(max_texts=8))
    with serve(make_http(Models([service]))) as url:
        yield url


def choose_recipe(tab: Tab, name: str) -> None:
    """Pick a recipe as a reader does; returns when what it makes of the captions is there."""
    tab.evaluate("document.querySelector('main').classList.add('stale')")
    tab.evaluate(f"document.querySelector('#recipe').value = {json.dumps(name)}")
    tab.evaluate("document.querySelector('#recipe').dispatchEvent(new Event('change'))")
    tab.wait_for("!document.querySelector('.stale')")


def test_a_services_own_recipe_is_chosen_and_shows_what_it_makes_of_captions(
    recipe_site: str, tab: Tab, tmp_path: Path
) -> None:
    show(tab, recipe_site, TEXTS)
    assert tab.evaluate("document.querySelector('#recipe').value") == "short"
    assert read_all(tab, "#prompts .made") == [text.lower().strip() for text in TEXTS]
    shown = httpx2.post(f"{recipe_site}/prepare", json={"texts": TEXTS}).json()
    assert read_all(tab, "#prompts .rows") == [f"24 rows kept, {caption['pads']} pads computed" for caption in shown]
    assert [caption["pads"] for caption in shown] == [max(0, 24 - caption["tokens"]) for caption in shown]
    assert read_all(tab, "#prompts .cut") == [f"cut from {shown[2]['tokens']} tokens"]
    assert "short, version 1 (your own)" in read_all(tab, "#about")[0]
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_another_recipe_that_fits_or_none_can_be_chosen(recipe_site: str, tab: Tab) -> None:
    show(tab, recipe_site, TEXTS)
    choose_recipe(tab, "chroma")
    assert read_all(tab, "#prompts .made") == TEXTS
    assert read_all(tab, "#prompts .rows")[0].endswith(" rows kept, 1 pad computed")
    choose_recipe(tab, "none")
    assert read_all(tab, "#prompts li") == []
    assert tab.evaluate("document.querySelector('#made').hidden")


def test_recipes_that_are_too_long_for_a_service_cannot_be_chosen(site: Site, tab: Tab) -> None:
    show(tab, site.url, TEXTS)
    assert read_all(tab, "#recipe option:not(:disabled)") == ["none"]
    title = tab.evaluate("document.querySelector('#recipe option[value=flux]').title")
    assert title == f"recipe: flux has texts of 512 tokens, expected at most {LIMIT}, the most that is served here"


def test_latency_and_live_figures_are_shown(site: Site, tab: Tab) -> None:
    show(tab, site.url, ["never seen before", "nor this"])
    assert re.fullmatch(r"\d+ tokens encoded in \d+ ms, [\d.]+ ms with .*", read_all(tab, "#status")[0])
    load = site.service.snapshot()
    assert load.last_batch_texts == 2
    tab.wait_for(f"document.querySelector('#figures').textContent.includes('{load.last_batch_texts} texts, "
                 f"{load.last_batch_tokens} tokens')")  # fmt: skip
    assert len(read_all(tab, "#figures dd")) == len(read_all(tab, "#figures dt")) == 9
    tab.wait_for("document.querySelector('#line').getAttribute('d').includes('L')")


def test_the_models_of_a_server_can_be_chosen(site: Site, tab: Tab) -> None:
    show(tab, site.url, ["for the other"])
    count = httpx2.get(f"{site.url}/stats").json()["models"]["other"]["texts"]
    tab.evaluate("document.querySelector('#model').value = 'other'")
    tab.evaluate("document.querySelector('#model').dispatchEvent(new Event('change'))")
    tab.wait_for(f"fetch('stats').then((answer) => answer.json()).then((all) => all.models.other.texts > {count})")


def test_a_refusal_is_shown_in_the_servers_words(site: Site, browser: Tab) -> None:
    browser.open(site.url)
    browser.wait_for("document.querySelectorAll('#matrix td').length")
    browser.type_into("#captions", "line\n" * 9)
    assert browser.wait_for("document.querySelector('#status.bad')?.textContent") == (
        "422: batch size 9 > maximum allowed batch size 8"
    )
    browser.type_into("#captions", "line")
    browser.wait_for("!document.querySelector('#status.bad')")


def test_an_overloaded_server_is_asked_again_when_it_said(site: Site, browser: Tab) -> None:
    browser.open(site.busy)
    assert browser.wait_for("document.querySelector('#status.bad')?.textContent") == (
        "429: the queue is full; asking again in 1 s"
    )
    browser.wait_for("!document.querySelector('#status.bad') && document.querySelectorAll('#matrix td').length")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280, 1920])
def test_no_window_is_too_narrow_and_no_other_host_is_asked(
    site: Site, tab: Tab, tmp_path: Path, width: int, scheme: str
) -> None:
    show(tab, site.url, [*TEXTS, "x" * 500], width=width, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background, ink = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(read_rgb(background)) > sum(read_rgb(ink))) is (scheme == "light")
    assert tab.hosts == {site.url.removeprefix("http://")}
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def read_rgb(color: str) -> list[int]:
    """Red, green and blue of `rgb(1, 2, 3)`."""
    return [int(part) for part in re.findall(r"\d+", color)[:3]]


def test_the_page_works_under_a_prefix(site: Site, tab: Tab) -> None:
    show(tab, site.prefixed, TEXTS)
    assert tab.evaluate("document.querySelector('#docs').href") == f"{site.prefixed}docs"


def test_a_server_with_keys_asks_for_one(site: Site, browser: Tab) -> None:
    browser.open(site.locked)
    browser.wait_for("!document.querySelector('#keyform').hidden")
    browser.type_into("#key", KEY)
    browser.evaluate("document.querySelector('#keyform button').click()")
    browser.wait_for("document.querySelectorAll('#matrix td').length")
    assert browser.evaluate("document.querySelector('#keyform').hidden")
