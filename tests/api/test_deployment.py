"""On a server: the Dockerfile, the unit, the sites for proxies and the README's lines do what they say, as far as that runs here.

No image is built and no unit installed: what those would run is run, with their paths put elsewhere. Proxies are real: one of
our own, and nginx and Caddy where they are installed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import getpass
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile

import pytest
import yaml
from live import ROOT, Live, environment

import ailab
from ailab import views
from ailab_api.access import LIMITS

DEPLOY = ROOT / "docs" / "deploy"
TOKEN = "0123456789abcdef0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NAME = "lab.example"


@pytest.fixture
def tools(tmp_path):
    """A folder with `ailab` and `python`, as an installation has them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, line in {"ailab": f'exec "{sys.executable}" -m ailab "$@"', "python": f'exec "{sys.executable}" "$@"'}.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def run(tmp_path, tools):
    """`run(command, AILAB_…=…)` starts a command that serves; a `Live` once it has printed its address; ended with the test."""
    started = []

    def begin(command, **env):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
            env=environment(**{"PATH": f"{tools}:{os.environ['PATH']}", **env}),
        )  # fmt: skip
        started.append(process)
        url = process.stdout.readline().decode().strip()
        assert url, process.communicate()[1].decode()
        return Live(process, url)

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def token_file(tmp_path):
    """A file with the admin's token."""
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


def has_ipv6():
    """Whether this machine has an IPv6 loopback."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def free_port():
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_address_that_is_printed_answers(run, token_file, host):
    """The first one here without a token, the others with one; what no browser can ask for is not printed."""
    if host == "::" and not has_ipv6():
        pytest.skip("no IPv6 here")
    command = ["ailab", "serve", "--host", host, "--port", str(free_port()), "--token-file", str(token_file)]
    live = run(command, AILAB_ALLOWED_HOSTS="lab.example,lab.example:8443")
    port = live.address[1]
    assert live.url == f"http://{'127.0.0.1' if host == '0.0.0.0' else '[::1]'}:{port}"
    assert live.get("/whoami").json()["anonymous"]
    told = live.process.stderr.readline().decode().rstrip("\n")
    assert b"AILAB_ALLOWED_HOSTS" in live.process.stderr.readline()
    urls = told.removeprefix("from other machines, with a token: ").split(", ")
    assert urls[-2:] == [f"http://lab.example:{port}", "http://lab.example:8443"]
    for url in urls:
        elsewhere = Live(live.process, url)
        elsewhere.address = live.address if "lab.example" in url else elsewhere.address
        assert (elsewhere.get("/whoami").status, elsewhere.ask("GET", "/whoami", BEARER).status) == (401, 200), url
    assert live.ask("GET", "/health", host=f"{host}:{port}" if host == "0.0.0.0" else f"[{host}]:{port}").status == 421


def test_on_loopback_nothing_more_is_said(run):
    """Nobody else reaches it, so there is nothing to tell."""
    live = run(["ailab", "serve", "--port", str(free_port())])
    assert live.get("/health").status == 200
    live.process.terminate()
    assert live.process.stderr.read() == b""


# -- Docker ------------------------------------------------------------------------------------------------------------


def instructions(text):
    """(word, rest) of each instruction of a Dockerfile, continued lines joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


DOCKER = instructions((ROOT / "Dockerfile").read_text())


def last(word):
    """What the last instruction of a kind says."""
    return [rest for found, rest in DOCKER if found == word][-1]


def ignored(path):
    """Whether .dockerignore keeps a path out: the last pattern that fits it, or a folder above it, counts."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern, parts = line.strip().removeprefix("!"), path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        places = parts if pattern.startswith("**/") else above
        if pattern and not pattern.startswith("#") and any(fnmatch.fnmatchcase(p, pattern.removeprefix("**/")) for p in places):
            out = not line.startswith("!")
    return out


def copied():
    """The paths that the first stage copies from the checkout."""
    return [path for word, rest in DOCKER if word == "COPY" and "--from" not in rest for path in rest.split()[:-1]]


def test_ignored_is_read_as_docker_does():
    """The helper tells what is let through."""
    assert not ignored("ailab/views/views.sql")
    assert all(
        ignored(path) for path in (".git/config", "events/segments/x.jsonl", "ailab/__pycache__/x.pyc", "api/README.md", "x")
    )


def test_the_image_has_a_wheel_of_what_is_copied(tmp_path):
    """Every path is there and let through, and from those alone a wheel with both packages whole is built."""
    context = tmp_path / "src"
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not ignored(path), path
        place = context / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, place)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    done = subprocess.run(build, cwd=context, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    expected = {path.relative_to(base).as_posix() for base in (ROOT, ROOT / "api") for path in base.glob("ailab*/**/*.py")}
    assert expected <= inside
    assert {"ailab/views/views.sql", "ailab_api/app.py"} <= inside


def test_the_image_is_small_and_nobody_is_root():
    """Short official images, a numeric user, a volume that this user's store lies in, commands in exec form."""
    assert [rest.split()[0] for word, rest in DOCKER if word == "FROM"] == ["python:3.12-slim"] * 2
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last("USER"))
    after = DOCKER[[word for word, _ in DOCKER].index("USER") :]
    assert not {"RUN", "COPY", "ADD"} & {word for word, _ in after}
    (volume,) = json.loads(last("VOLUME"))
    assert f"AILAB_DIR={volume}/" in last("ENV")
    assert f"--home-dir {volume} " in last("RUN")
    assert isinstance(json.loads(last("CMD")), list)


def test_the_command_and_the_check_of_the_image(run, token_file, tmp_path):
    """CMD serves everybody with a token, HEALTHCHECK says 0 while it does and 1 when it does not; SIGTERM ends it."""
    port = str(free_port())
    command = [{"8000": port, "/run/secrets/ailab_token": str(token_file)}.get(word, word) for word in json.loads(last("CMD"))]
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    check = [sys.executable, *(word.replace("8000", port) for word in check[1:])]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
    (tmp_path / "lost+found").mkdir()
    live = run(command, AILAB_DIR=str(tmp_path / "events"))
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    assert live.ask("GET", "/whoami", {**BEARER, "Via": "x"}).json()["by"] == "token-file"
    assert live.ask("GET", "/runs", {"Via": "x"}).status == 401
    code, err = live.end()
    assert code == -signal.SIGTERM
    assert [line for line in err.splitlines() if not line.startswith(("from other machines", "hint: "))] == []


# -- systemd -----------------------------------------------------------------------------------------------------------


def unit():
    """The settings of the unit, a list of values for each."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "ailab.service").read_text().splitlines():
        name, equals, text = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(text)
    return found


def test_the_unit_runs(run, tmp_path, tools):
    """What systemd would start lets in who has the credential, and nobody else, goes by its name, and ends by its signal."""
    said, port = unit(), str(free_port())
    (credential,) = said["LoadCredential"]
    (tmp_path / credential.partition(":")[0]).write_text(TOKEN)
    (command,) = said["ExecStart"]
    words = shlex.split(command.replace("%d", str(tmp_path)).replace("8000", port))
    assert words[0] == "/opt/ailab/bin/ailab"
    env = dict(text.replace("%S/ailab", str(tmp_path)).split("=", 1) for text in said["Environment"])
    live = run([str(tools / "ailab"), *words[1:]], **env)
    assert (tmp_path / "events" / "ailab-store.json").exists()
    assert live.ask("GET", "/runs").status == 401
    assert live.ask("GET", "/runs", BEARER, host=NAME).status == 200
    assert live.ask("GET", "/runs", BEARER, host="evil.example").status == 421
    assert live.end(getattr(signal, *said["KillSignal"])) == (-signal.SIGTERM, "")
    assert 7 < int(*said["TimeoutStopSec"]) < 90


def test_the_unit_is_no_root_and_can_write_its_store_alone():
    """A user of its own, the system read-only, no new rights."""
    said = unit()
    assert said["User"] == ["ailab"]
    assert (said["ProtectSystem"], said["NoNewPrivileges"], said["CapabilityBoundingSet"]) == (["strict"], ["yes"], [""])
    assert said["StateDirectory"] == ["ailab"]
    assert not {"ReadWritePaths", "AmbientCapabilities"} & set(said)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path):
    """No word about it from systemd-analyze; a setting that is none is told."""
    text = (DEPLOY / "ailab.service").read_text().replace("/opt/ailab/bin/ailab", "/bin/true")

    def verify(content):
        (tmp_path / "ailab.service").write_text(content)
        return subprocess.run(["systemd-analyze", "verify", str(tmp_path / "ailab.service")], capture_output=True, check=False)

    done = verify(text)
    assert (done.returncode, b"ailab.service" in done.stderr) == (0, False), done.stderr
    assert b"ailab.service" in verify(text.replace("ProtectSystem=strict", "ProtectSystem=mostly")).stderr


# -- proxies -----------------------------------------------------------------------------------------------------------


class Through(Live):
    """A client of a server behind a proxy, at an address of its own, that asks for the server's name."""

    def __init__(self, port, source="127.0.0.2"):
        super().__init__(None, f"http://127.0.0.1:{port}")
        self.source = source

    def connect(self):
        return socket.create_connection(self.address, timeout=20, source_address=(self.source, 0))

    def ask(self, method, path, headers=(), body=b"", host=NAME):
        return super().ask(method, path, headers, body, host)


@contextlib.contextmanager
def own_proxy(port, folder):
    """A proxy that passes on what comes, with the client's address behind those that it is told."""

    def pipe(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(client, address):
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as upstream:
            data = b""
            while b"\r\n\r\n" not in data and (piece := client.recv(1 << 16)):
                data += piece
            head, _, rest = data.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            told = [line.partition(b":")[2].strip() for line in lines if line.lower().startswith(b"x-forwarded-for:")]
            kept = [line for line in lines if not line.lower().startswith(b"x-forwarded-for:")]
            kept.append(b"X-Forwarded-For: " + b", ".join([*told, address[0].encode()]))
            upstream.sendall(b"\r\n".join(kept) + b"\r\n\r\n" + rest)
            threading.Thread(target=pipe, args=(client, upstream), daemon=True).start()
            pipe(upstream, client)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept(), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@contextlib.contextmanager
def program(command, port, folder):
    """A proxy that is a program of its own, once it listens."""
    with open(folder / "proxy.log", "w+b") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={"HOME": str(folder), "PATH": os.environ["PATH"]}
        )
        until = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert process.poll() is None and time.monotonic() < until, (folder / "proxy.log").read_text()  # noqa: PT018
            time.sleep(0.05)
        try:
            yield port
        finally:
            process.terminate()
            process.wait(10)


def nginx(port, folder):
    """Nginx with the site of `docs/deploy`, without its certificate."""
    listen = free_port()
    site = re.sub(r"\n\s*ssl_\w+ [^\n]*", "", (DEPLOY / "nginx.conf").read_text())
    site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{listen}").replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    places = "".join(f"{what}_temp_path {folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; {places}\n{site}\n}}"
    )
    return program(["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")], listen, folder)


def caddy(port, folder):
    """Caddy with the site of `docs/deploy`, without its certificate."""
    listen = free_port()
    site = (DEPLOY / "Caddyfile").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    site = site.replace(f"{NAME} {{", f"http://{NAME}:{listen} {{")
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + site)
    return program(["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")], listen, folder)


PROXIES = {"ours": own_proxy, "nginx": nginx, "caddy": caddy}
needs_addresses = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="127.0.0.2 is an address on Linux alone")


@pytest.fixture
def behind(run, token_file, tmp_path, request):
    """`behind(kind, AILAB_…=…)`: a server, and the port of a proxy in front of it."""

    def begin(kind, **env):
        if kind != "ours" and shutil.which(kind) is None:
            pytest.skip(f"{kind} is not installed")
        command = ["ailab", "serve", "--port", str(free_port()), "--token-file", str(token_file)]
        live = run(command, AILAB_DIR=str(tmp_path / "lab"), AILAB_ALLOWED_HOSTS=NAME, **env)
        (tmp_path / "proxy").mkdir()
        proxy = PROXIES[kind](live.address[1], tmp_path / "proxy")
        port = proxy.__enter__()
        request.addfinalizer(lambda: proxy.__exit__(None, None, None))
        return live, port

    return begin


@needs_addresses
@pytest.mark.parametrize("kind", PROXIES)
def test_a_proxy_passes_on_what_matters(behind, tmp_path, kind):
    """Who asks and from where, an upload of 12 MB, changes from our own pages, a stream as it comes."""
    live, port = behind(kind, AILAB_TRUSTED_PROXIES="127.0.0.1")
    client = Through(port)
    told = client.ask("GET", "/whoami", BEARER).json()
    assert (told["role"], told["address"], told["anonymous"]) == ("admin", "127.0.0.2", False)
    assert client.ask("GET", "/whoami").status == 401
    rows = b"a,b\n" + b"1,2\n" * 3_000_000
    assert client.ask("POST", "/datasets?file=a.csv", {**BEARER, "Content-Type": "text/csv"}, rows).status == 201
    page = {**BEARER, "Origin": f"https://{NAME}", "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
    assert client.ask("POST", "/projects", page, b'{"name": "Iris"}').status == 201
    assert client.ask("POST", "/projects", {**page, "Origin": "https://evil.example"}, b'{"name": "Wine"}').status == 403
    with client.connect() as stream:
        lines = [f"GET /stream HTTP/1.1\r\nHost: {NAME}\r\nAccept: text/event-stream", f"Authorization: Bearer {TOKEN}"]
        stream.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        data = b""
        while b"event: start" not in data:
            data += stream.recv(4096)
        ailab.start_run(id="far", dir=tmp_path / "lab").finish()
        while b'"run_id":"far"' not in data:
            piece = stream.recv(4096)
            assert piece, data
            data += piece
    assert live.process.poll() is None


def guesses(client):
    """How an address fares that shows wrong tokens, each from another place if it were believed."""
    return [
        client.ask("GET", "/runs", {"Authorization": f"Bearer guess-{n}", "X-Forwarded-For": f"10.9.8.{n}"}).status
        for n in range(LIMITS["failures"] + 1)
    ]


@needs_addresses
@pytest.mark.parametrize("kind", PROXIES)
def test_a_forged_address_evades_no_limit(behind, kind):
    """Who guesses is shut out whatever they write into X-Forwarded-For, and nobody else is."""
    _, port = behind(kind, AILAB_TRUSTED_PROXIES="127.0.0.1")
    assert guesses(Through(port))[-2:] == [401, 429]
    assert Through(port).ask("GET", "/runs", BEARER).status == 429
    assert Through(port, "127.0.0.3").ask("GET", "/runs", BEARER).status == 200


@needs_addresses
def test_without_a_trusted_proxy_all_clients_are_one(behind):
    """Control, and what the README warns of: one guesser shuts out whoever was not there before."""
    _, port = behind("ours")
    assert Through(port).ask("GET", "/whoami", BEARER).json()["address"] == "127.0.0.1"
    assert guesses(Through(port))[-2:] == [401, 429]
    assert Through(port, "127.0.0.3").ask("GET", "/runs", BEARER).status == 200
    assert Through(port, "127.0.0.3").ask("GET", "/runs", {"Authorization": "Bearer another"}).status == 429


@needs_addresses
def test_only_the_proxy_is_believed(behind):
    """Somebody who comes past it says what they like; networks mean all of their addresses."""
    live, _ = behind("ours", AILAB_TRUSTED_PROXIES="127.0.0.64/26, ::1")

    def address(source, forwarded):
        client = Through(live.address[1], source)
        return client.ask("GET", "/whoami", {**BEARER, "X-Forwarded-For": forwarded}).json()["address"]

    assert address("127.0.0.2", "10.0.0.9") == "127.0.0.2"
    assert address("127.0.0.70", "10.0.0.9") == "10.0.0.9"
    assert address("127.0.0.70", "10.0.0.9, 127.0.0.71") == "10.0.0.9"
    assert address("127.0.0.70", "10.0.0.9, 10.0.0.8") == "10.0.0.8"
    assert address("127.0.0.70", "<script>") == ""


@needs_addresses
def test_a_proxy_without_headers_makes_nobody_admin(behind):
    """What looks like a person at this machine is refused where a proxy is known to be there; control: elsewhere it is not."""
    live, _ = behind("ours", AILAB_TRUSTED_PROXIES="127.0.0.1")
    assert live.get("/runs").status == 401
    assert live.get("/health").status == 200
    assert live.ask("GET", "/runs", BEARER).status == 200
    assert Through(live.address[1], "127.0.0.2").ask("GET", "/runs", host="localhost").status == 200


# -- the README --------------------------------------------------------------------------------------------------------


def blocks(heading, language="sh"):
    """The blocks of a section of the README."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def shell(text, tools, folder, **env):
    """Run lines in one shell; what they print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env=environment(PATH=f"{tools}:{os.environ['PATH']}", **env),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_readme_serves_others_and_ships_to_them(run, tools, tmp_path):
    """The lines of "On a server" in order, with a free port and the server in the background; then those of "Train here"."""
    port = str(free_port())
    make, serve, ask = blocks("On a server")[0].replace("8000", port).splitlines()
    shell(make, tools, tmp_path)
    live = run(shlex.split(serve), AILAB_DIR=str(tmp_path / "lab"))
    assert json.loads(shell(ask, tools, tmp_path))["role"] == "admin"
    (train,) = blocks("Train here, look there")
    text = (tmp_path / "token").read_text().strip()
    lines = re.sub(r"ailab_…", text, train.replace("https://lab.example", live.url))
    assert lines.count(text) == lines.count(live.url) == 1
    desk = tmp_path / "desk"
    desk.mkdir()
    source = 'import sys, ailab\nwith ailab.start_run(id=sys.argv[1] if sys.argv[1:] else "now"):\n    ailab.log({"loss": 0.5})\n'
    (desk / "train.py").write_text(source)
    shell("python train.py before", tools, desk)
    shell(lines, tools, desk)
    there = views.open_lab(tmp_path / "lab")
    assert there.rows("SELECT run_id, status FROM base.run_table ORDER BY 1") == [("before", "completed"), ("now", "completed")]
    there.close()


def test_the_readme_names_what_the_files_say():
    """Settings, paths and numbers of the section are those of the files, and the scraper's lines are YAML with a credential."""
    section = (ROOT / "README.md").read_text().partition("\n## On a server\n")[2].partition("\n## ")[0]
    for setting in (f"AILAB_ALLOWED_HOSTS={NAME}", "AILAB_TRUSTED_PROXIES=127.0.0.1"):
        assert setting in section
        assert all(setting in (DEPLOY / name).read_text() for name in ("ailab.service", "nginx.conf", "Caddyfile"))
    assert {str(path.relative_to(ROOT)) for path in DEPLOY.iterdir()} <= set(re.findall(r"docs/deploy/[\w.]+", section))
    (docker,) = [block for block in blocks("On a server") if block.startswith("docker")]
    run = docker.splitlines()[1]
    (volume,) = json.loads(last("VOLUME"))
    assert f":{volume} " in run
    assert f':{json.loads(last("CMD"))[-1]}:ro"' in run
    (scrape,) = yaml.safe_load(blocks("On a server", "yaml")[0])["scrape_configs"]
    assert scrape["authorization"].keys() == {"credentials_file"}
