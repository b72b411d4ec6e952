"""The pages: made here, without script, every text of a user shown as text, complete in one answer."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from live import NASTY, environment

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
RUN_PAGES = ["/runs/run-a", "/runs/run-b", "/runs/run-c", "/runs/run-x", "/runs/run-w"]
PAGES = ["/", "/schema", *RUN_PAGES, "/?metric_name=loss", f"/?metric_name={quote(NASTY)}"]
ELEMENTS = """
    html head meta title link style body header strong nav main section div h1 h2 h3 p ul li a span i b table thead tbody tr th td
    dl dt dd details summary pre code img time svg line polyline circle
"""
ATTRIBUTES = """
    class id href rel lang charset name content scope data-label datetime title role viewbox points cx cy r x1 x2 y1 y2 src alt
    loading
"""


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.attributes, self.links, self.ids, self.words, self.open = [], [], [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append(name)
        self.attributes += attributes
        self.links += [value for key, value in attributes if key in {"href", "src"}]
        self.ids += [value for key, value in attributes if key == "id"]
        if name not in {"meta", "link", "img", "br"}:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page(server, path):
    """A page as a browser asks for it, parsed; every element is closed."""
    answer = server.get(path, Accept=BROWSER)
    assert (answer.status, answer.header("content-type")) == (200, "text/html; charset=utf-8"), answer
    found = Page(answer.text)
    assert found.open == []
    return found


@pytest.mark.parametrize("path", PAGES)
def test_a_page_holds_no_script_and_nothing_from_elsewhere(server, path):
    """Only known elements and attributes, no handler, no style attribute, no address outside this server."""
    found = page(server, path)
    assert set(found.elements) <= set(ELEMENTS.split())
    assert {name for name, _ in found.attributes} <= set(ATTRIBUTES.split())
    assert all(link.startswith(("/", "#", "data:,")) and not link.startswith("//") for link in found.links)
    source = server.get(path, Accept=BROWSER).text.lower()
    assert [word for word in ("<script", "javascript:", "http-equiv", "@import", "url(") if word in source] == []


@pytest.mark.parametrize("path", PAGES)
def test_the_policy_names_the_style_sheet_by_its_hash(server, path):
    """The inline style sheet is the one that the policy's hash allows, and nothing else is allowed."""
    answer = server.get(path, Accept=BROWSER)
    (style,) = re.findall("<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert answer.header("content-security-policy") == (
        f"default-src 'none'; style-src 'self' 'sha256-{digest}'; img-src 'self' data:; form-action 'none'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    assert " style=" not in answer.text


@pytest.mark.parametrize("path", ["/", "/runs/run-x", f"/?metric_name={quote(NASTY)}"])
def test_markup_in_users_texts_comes_out_as_text(server, path):
    """Names, notes, tags, projects, datasets, parameters, metrics, files: shown letter by letter, never as markup."""
    found = page(server, path)
    assert found.text.count(NASTY) >= (8 if path.startswith("/runs") else 4)
    assert "alert" not in " ".join(name for name, _ in found.attributes)
    assert found.elements.count("script") == 0
    assert found.elements.count("img") == 0


def test_what_a_run_printed_is_text(server):
    """Neither closes its element nor brings a control character to the page; what was left out stands where it was."""
    found = page(server, "/runs/run-x")
    assert f"… 1,204 lines left out </pre>{NASTY}" in found.text
    assert "… 2 lines left out" in found.text
    source = server.get("/runs/run-x", Accept=BROWSER).text
    assert "\x1b" not in source
    assert "\x07" not in source
    assert "Use of the machine" in found.text
    first = page(server, "/runs/run-a")
    assert "Console epoch 1 epoch 2 careful" in first.text
    assert "gpu/0/power_watts" in first.text
    assert "Console" not in page(server, "/runs/run-b").text.partition("As JSON:")[0]


def test_the_check_for_markup_can_fail():
    """The parser that the tests above use sees a script where there is one."""
    found = Page(f"<p>{NASTY}</p>")
    assert "script" in found.elements
    assert ("onerror", "alert(2)") in found.attributes


def test_text_is_escaped_wherever_it_stands():
    """The one function that makes markup escapes children, attribute values and control characters."""
    from ailab_api.markup import Html, facts, pairs, table, tag

    assert tag("a", '<b>"', href="x\"'<y>") == '<a href="x&quot;&#x27;&lt;y&gt;">&lt;b&gt;&quot;</a>'
    assert tag("p", tag("b", "<"), None, False, 0) == "<p><b>&lt;</b>0</p>"
    assert tag("p", "a\x00b\x1b\ud800") == "<p>a\ufffdb\ufffd\ufffd</p>"
    assert tag("p", Html("<i></i>")) == "<p><i></i></p>"
    for made in (facts({"<k>": "<v>"}), pairs({"<k>": "<v>"}), table([("<k>", "")], [["<v>"]])):
        assert "<k>" not in made
        assert "<v>" not in made


# -- what stands on them -----------------------------------------------------------------------------------------------


def test_home_shows_totals_leaderboard_and_newest(server):
    """Counts by status, the best by accuracy, every run with parameters, metrics and note, links to the JSON and the API."""
    found = page(server, "/")
    assert "6 runs 5 completed 1 failed" in found.text
    assert "Best by accuracy" in found.text
    first, second, third = (found.text.index(name) for name in ("1 first 0.975", "2 second 0.8", "3 third 0.4"))
    assert first < second < third
    assert "PUBLISH: good" in found.text
    assert "model_name svm" in found.text
    assert {"/runs", "/schema", "/changes", "/?metric_name=loss"} <= set(found.links)
    for run_id in ("run-a", "run-b", "run-c", "run-x", "run-big", "run-w"):
        assert {f"/runs/{run_id}", f"/runs/{run_id}?format=json"} <= set(found.links)


def test_home_ranks_by_another_metric(server):
    """?metric_name= chooses, and the best loss is the lowest."""
    found = page(server, "/?metric_name=loss")
    assert "Best by loss" in found.text
    assert found.text.index("1 first 0.05") < found.text.index("2 second 0.25")
    assert "No run has this metric" in page(server, "/?metric_name=nothing").text


def test_a_run_has_a_page_for_browsers_and_json_for_all_others(server):
    """GET /runs/{id} is JSON unless Accept puts text/html before it; `format` overrules; caches are told."""
    for accept, html in {
        None: False, "*/*": False, "application/json": False, BROWSER: True, "text/html": True,
        "text/html;q=0.5, application/json": False,
        "application/json;q=0.5, text/html": True, "text/*": True, "text/html, application/json": False, "text/html;q=x": False,
        ",;=,;q=;": False, "TEXT/HTML": True, "text/html;q=0": False, "image/*": False,
    }.items():  # fmt: skip
        answer = server.get("/runs/run-a", **({"Accept": accept} if accept else {}))
        assert answer.header("content-type").startswith("text/html" if html else "application/json"), accept
        assert "Accept" in answer.all("vary")
    assert server.get("/runs/run-a?format=json", Accept=BROWSER).json()["run_id"] == "run-a"
    assert server.get("/runs/run-a?format=html").header("content-type").startswith("text/html")
    missing = server.get("/runs/run-q", Accept=BROWSER)
    assert (missing.status, missing.header("content-type")) == (404, "application/problem+json")


def test_a_runs_page_shows_everything(server):
    """Status, note, parameters, metrics, a curve per metric and figure of the machine, files with their addresses, origin."""
    found = page(server, "/runs/run-a")
    for words in (
        "first", "completed", "baseline", "PUBLISH: good", "model_name svm", "optimizer/name sgd", "accuracy 0.975",
        "last 0.05 max 1",
        "step 0 to 19 min 0.05", "run id run-a", "make_store.py", "note first try PUBLISH: good",
    ):  # fmt: skip
        assert words in found.text, words
    assert found.elements.count("svg") == 4
    assert "/artifacts/run-a/download/checkpoints/model.joblib" in found.links
    assert ("src", "/artifacts/run-a/download/plots/plot.png") in found.attributes
    assert f"ValueError: {NASTY} Traceback" in page(server, "/runs/run-c").text


def test_curves_leave_a_gap_where_there_is_no_number(server):
    """NaN and infinities are not drawn, and the last value is told as it is."""
    source = server.get("/runs/run-b", Accept=BROWSER).text
    loss = source[source.index("<h3>loss</h3>") :]
    assert loss.count("<polyline") == 1
    assert "last 0.25" in loss
    assert not re.search(r"(points|c[xy])=\"[^\"]*(nan|inf)", source)


@pytest.mark.parametrize(
    ("values", "strokes"),
    [
        ([1.0], 1), ([5.0, 5.0], 1), ([1.0, "NaN", 2.0], 2), (["NaN"], 0), (["Infinity", "-Infinity"], 0),
        ([-1.7e308, 1.7e308], 1),
        ([5e-324, 0.0], 1), ([10**400, 1], 1), ([], 0),
    ],
)  # fmt: skip
def test_every_curve_can_be_drawn(values, strokes):
    """Single points, flat lines, gaps, the greatest and smallest doubles: coordinates are always numbers inside the drawing."""
    from ailab.queries import MetricPoint
    from ailab_api.pages.figures import HEIGHT, WIDTH, chart

    drawn = chart("k", [MetricPoint(key="k", step=i, time="", value=v) for i, v in enumerate(values)])
    assert drawn.count("<polyline") == strokes
    for x, y in re.findall(r"([-\d.einfa]+),([-\d.einfa]+)", " ".join(re.findall('points="([^"]*)"', drawn))):
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= HEIGHT


def test_pages_of_empty_and_odd_runs(start, tmp_path):
    """A run without anything, one that still runs, 200 metrics, texts of 100,000 characters: each has its page."""
    source = """
import sys, ailab
d = sys.argv[1]
with ailab.start_run(id="bare", dir=d): pass
with ailab.start_run(id="wide", dir=d, params={f"p{i}": i for i in range(300)}) as run:
    run.log({f"m{i:03}": float(i) for i in range(200)})
with ailab.start_run("n" * 100_000, id="long", dir=d, params={"k" * 1000: "v" * 100_000}) as run:
    run.note("x" * 100_000)
    run.log({"big": 10**40, "flag": True})
"""
    subprocess.run([sys.executable, "-c", source, str(tmp_path / "lab")], env=environment(), check=True, timeout=60)
    live = start(dir=tmp_path / "lab")
    for path in ("/", "/runs/bare", "/runs/wide", "/runs/long"):
        page(live, path)
    assert "140 more metrics are in the JSON" in page(live, "/runs/wide").text


# -- the manual --------------------------------------------------------------------------------------------------------


def test_the_manual_lists_every_route(server, routes):
    """/schema has method, path, summary, parameters, errors and an example of every operation of the document."""
    found = page(server, "/schema")
    assert {operation["operationId"] for *_, operation in routes} <= set(found.ids)
    for verb, _, template, operation in routes:
        assert f"{verb} {template}" in found.text
        assert operation["summary"] in found.text
        for parameter in operation.get("parameters", []):
            assert parameter["description"] in found.text
    assert "/schema/openapi.json" in found.links


def test_curl_lines_of_the_manual_parse(server, routes):
    """Each route has a curl line for this very server, whose words a shell reads as they are meant."""
    source = server.get("/schema").text
    lines = [Page(line).words[0] for line in re.findall("<pre>(curl .*?)</pre>", source, re.DOTALL)]
    assert len(lines) == len(routes)
    for line, (verb, _, _, operation) in zip(lines, routes, strict=True):
        words = shlex.split(line)
        assert words[-1].startswith(f"{server.url}/"), line
        content = operation.get("requestBody", {}).get("content", {})
        assert ("-d" in words, "-F" in words) == ("application/json" in content, "multipart/form-data" in content)
        assert ("-X" in words) == (verb != "GET")
