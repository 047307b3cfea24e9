"""The documentation holds together, and with the code: links, generated parts, names of metrics and files."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import yaml

from docs.pages import DOCS, ROOT, RUNBOOK, blocks, code_spans, headings, links, pages
from runwire.observe.findings import Stage
from runwire.observe.metrics import Invariant
from runwire.server.docs import DocsSite
from runwire.server.table import API_ROUTES
from runwire.settings import Role, Settings
from scripts import script
from telemetry.tables import code, table

render_docs = script("render_docs")
PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
METRICS = {code(row[0]) for row in table("Metrics")}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if parts.fragment:
            assert parts.fragment in [anchor for _, _, anchor in headings(target)], link


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_one_title_and_headings_of_distinct_anchors(page: Path) -> None:
    found = headings(page)
    assert [level for level, _, _ in found].count(1) == 1
    assert found[0][0] == 1
    anchors = [anchor for _, _, anchor in found]
    assert len(anchors) == len(set(anchors))
    assert max(level for level, _, _ in found) <= 4, "the site makes no anchors deeper than that"


def test_every_page_can_be_reached_from_the_index() -> None:
    """A decision is reached through the list of decisions, every other page directly."""
    indexes = (DOCS / "index.md", DOCS / "decisions" / "index.md")
    linked = {(index.parent / urlsplit(link).path).resolve() for index in indexes for link in links(index)}
    assert linked == set(DOCS.rglob("*.md")) - {DOCS / "index.md"}


@pytest.mark.parametrize("name", render_docs.GENERATED)
def test_generated_parts_are_what_the_code_says_now(name: str) -> None:
    path, content = render_docs.GENERATED[name]
    page = path.read_text()
    assert page == render_docs.rendered(page, name, content()), "run `make docs`"


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="settings:begin"):
        render_docs.rendered("# A page", "settings", "")


@pytest.mark.parametrize("page", PAGES)
def test_every_metric_named_is_one_that_is_exported(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"\brunwire_[a-z0-9_]+", text):
        bare = re.sub(r"_(bucket|count|sum)$", "", name)
        not_metrics = {"runwire_migrations", "runwire_claimable", "runwire_dirty", "runwire_tenant", "runwire_let_look"}
        assert name in METRICS | not_metrics or bare in METRICS, name


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_named_exists(page: Path) -> None:
    known = {f"RUNWIRE_{name.upper()}" for name in Settings.model_fields} | {
        "RUNWIRE_TOKEN",
        "RUNWIRE_URL",
    }  # the client's
    assert set(re.findall(r"\bRUNWIRE_[A-Z0-9_]+", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page: Path) -> None:
    for span in code_spans(page):
        path = span.partition("::")[0]
        if re.fullmatch(r"(src|tests|docs|scripts|alerts|dashboards|benchmarks)/[\w./-]*", path):
            assert (ROOT / path).exists(), span
        if span.endswith("Dockerfile") or span == "pyproject.toml":
            assert (ROOT / span).exists(), span


def test_every_metric_with_its_labels_in_the_runbook_has_these_values() -> None:
    labels = {code(row[0]): row[3] for row in table("Metrics")}
    for name, label, value in re.findall(r'(runwire_[a-z_]+)\{(\w+)="(\w+)"\}', RUNBOOK.read_text()):
        assert label in labels[name]
        assert value in labels[name]


def test_every_threshold_leads_to_a_heading_of_the_runbook() -> None:
    text = RUNBOOK.read_text()
    rows = text.split("<!-- thresholds:begin -->")[1].split("<!-- thresholds:end -->")[0].strip().splitlines()[2:]
    anchors = {anchor for _, _, anchor in headings(RUNBOOK)}
    assert len(rows) >= 14
    for row in rows:
        (anchor,) = re.findall(r"\]\(#([\w-]+)\)", row)
        assert anchor in anchors


def test_every_role_is_in_the_tables_of_roles() -> None:
    for page, written in (("operations.md", "| `{}` |"), ("deploying.md", "`runwire serve --role {}")):
        text = (DOCS / page).read_text()
        for role in Role:
            assert written.format(role.value) in text, (page, role)


def test_the_runbook_has_the_chapters_on_call_looks_for() -> None:
    chapters = [text for level, text, _ in headings(RUNBOOK) if level == 2]
    wanted = ["Run stuck", "Outbox lag", "Manual nudge", "Rebuild stream", "Client flapping", "Sequence gap"]
    assert [chapter for chapter in chapters if chapter in wanted] == wanted
    assert {"Thresholds", "Schema health", "Retention", "Failure patterns", "Escalate"} <= set(chapters)


def test_every_disconnect_and_publish_failure_reason_is_explained_in_the_runbook() -> None:
    values = {code(row[0]): row[3] for row in table("Metrics")}
    spans = set(code_spans(RUNBOOK))
    for metric in ("runwire_sse_disconnects_total", "runwire_publish_failures_total"):
        reasons = values[metric].partition(":")[2].split(",")
        assert {reason.strip() for reason in reasons} <= spans


def test_every_stage_of_a_diagnosis_is_explained_in_the_runbook() -> None:
    assert {stage.value for stage in Stage} <= set(code_spans(RUNBOOK))


def test_every_invariant_that_is_audited_is_explained_in_the_runbook() -> None:
    assert {invariant.value for invariant in Invariant} <= set(code_spans(RUNBOOK))


def test_every_route_of_the_api_is_in_the_protocol() -> None:
    spans = {span.partition("?")[0] for span in code_spans(DOCS / "protocol.md")}
    for route in API_ROUTES:
        assert f"{route.method} {route.shown_path}" in spans


@pytest.mark.parametrize("page", PAGES)
def test_fenced_blocks_say_their_language_or_are_pictures(page: Path) -> None:
    known = {"sql", "sh", "python", "js", "json"}
    for block in blocks(page, "sql", "sh", "python", "js", "json", "bash", "console", "text"):
        assert block.language in known, block.where


def test_the_site_shows_every_page_without_leftovers_of_its_source() -> None:
    site = DocsSite(DOCS)
    for page in ("", *site.pages):
        content = site.content(page)
        assert content is not None, page
        html = content.body.decode()
        assert "&lt;!--" not in html, page
        assert html.count("<h1") == 1, page
        assert ".md" not in re.sub(r"<code>.*?</code>", "", html, flags=re.DOTALL), page


def test_no_page_of_the_site_needs_inline_style_or_script() -> None:
    site = DocsSite(DOCS)
    for page in ("", *site.pages):
        content = site.content(page)
        assert content is not None
        html = content.body.decode()
        assert re.findall(r'<(?:[^>]*\s(?:style|on\w+)=|style\b|script(?![^>]*\ssrc="[^":]*"))', html) == [], page


def test_every_alert_leads_to_a_heading_of_a_page_that_the_service_serves() -> None:
    rules = yaml.safe_load((ROOT / "alerts" / "alert-rules.yaml").read_text())
    urls = [
        rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    ]
    assert len(urls) > 20
    site = DocsSite(DOCS)
    for url in urls:
        parts = urlsplit(url)
        content = site.content(parts.path.removeprefix("/docs/"))
        assert content is not None, url
        assert f' id="{parts.fragment}"' in content.body.decode(), url


def test_the_site_serves_every_picture_its_pages_show() -> None:
    site = DocsSite(DOCS)
    for page in ("", *site.pages):
        content = site.content(page)
        assert content is not None
        for source in re.findall(r'<img src="([^"]*)"', content.body.decode()):
            picture = site.content(urljoin(f"/docs/{page}", source).removeprefix("/docs/"))
            assert picture is not None, (page, source)
            assert picture.media_type.startswith("image/"), source
