"""What `ailab.capture` promises: nothing secret in what it returns, nothing of the user's touched, never an exception.

Real repositories, real processes, real package folders. Tokens are put together here, so that no scanner of this
repository takes them for real ones.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailab import capture, redaction
from ailab.repository import DIFF_BYTES, FILE_BYTES, FILES_BYTES, Code, _Git, _GitFailure, _redact_diff, _status, capture_code

BODY = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
SOURCE = str(Path(capture.__file__).parents[1])
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may change owners")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """No settings of the person who runs the tests: neither of git nor secrets of theirs."""
    for name in list(os.environ):
        if name.startswith("GIT_") or redaction.is_secret_name(name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "someone")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "someone@example.org")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def git(folder, *arguments) -> str:
    done = subprocess.run(["git", "-C", os.fspath(folder), *arguments], check=True, capture_output=True)
    return done.stdout.decode("utf-8", "replace").strip()


def make_repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "train.py").write_text("rate = 0.1\nsteps = 10\n")
    (folder / "README.md").write_text("hello\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.fixture
def repository(tmp_path) -> Path:
    return make_repository(tmp_path / "lab")


def python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, check=False, env=os.environ | {"PYTHONPATH": SOURCE} | environment
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def words(text: str) -> list[str]:
    return text.split()


# -- names -------------------------------------------------------------------------------------------------------------

SECRET_NAMES = words("""
    password PASSWORD db_password db.password spring.datasource.password userPassword PGPASSWORD MYSQL_PWD passphrase
    DB_PASS pass secret client_secret clientSecret AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID SECRET_KEY token --token
    hub_token HF_TOKEN GITHUB_TOKEN accessToken refresh_token auth_tokens api_key apiKey APIKey API_KEY_2 --api-key
    x-api-key OPENAI_API_KEY WANDB_API_KEY private_key AccountKey credentials Authorization Proxy-Authorization Cookie
    SLACK_WEBHOOK_URL GITHUB_PAT BASIC_AUTH use_auth_token db_password_value
""")
PLAIN_NAMES = words("""
    max_tokens num_tokens tokens tokenizer --tokenizer token_count --token_count TOKENIZERS_PARALLELISM pad_token eos_token
    next_token next_page_token special_tokens token_type_ids secretary keyboard monkey key keys sort_key random_key
    public_key GPG_KEY passed forward_pass bypass compass author authors PWD OLDPWD SSH_AUTH_SOCK HF_TOKEN_PATH -p p
    no_password num_passwords cookie_name secret_name learning_rate path pattern credit _
""")


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_name_is_told(name):
    """A name whose last words say secret is one, in each way of writing names."""
    assert redaction.is_secret_name(name)


@pytest.mark.parametrize("name", ["", "-" * 300, *PLAIN_NAMES])
def test_a_plain_name_is_left_alone(name):
    """Counts, tokenizers, sort keys and the working folder hold no secret."""
    assert not redaction.is_secret_name(name)


# -- texts -------------------------------------------------------------------------------------------------------------

REDACTED_ROWS = {
    # what the row shows: (text, the secret in it, the text that is left)
    "option": ("train.py --token s3cr3t --lr 3", "s3cr3t", "train.py --token [redacted] --lr 3"),
    "option with =": ("--hub_token=s3cr3t x", "s3cr3t", "--hub_token=[redacted] x"),
    "option, quoted": ("--password 'a b' x", "a b", "--password '[redacted]' x"),
    "options in a list": ('["--api-key", "s3cr3t", "--lr", "1"]', "s3cr3t", '["--api-key", "[redacted]", "--lr", "1"]'),
    "shell": ("API_KEY=s3cr3t python x.py", "s3cr3t", "API_KEY=[redacted] python x.py"),
    "export": ("export DB_PASSWORD='s3 cr3t'", "s3 cr3t", "export DB_PASSWORD='[redacted]'"),
    "yaml": ("  password: s3cr3t  # local", "s3cr3t", "  password: [redacted]  # local"),
    "yaml, several words": ("password: correct horse battery", "correct horse battery", "password: [redacted]"),
    "yaml, quoted": ('password: "s3cr3t"', "s3cr3t", 'password: "[redacted]"'),
    "yaml, block": ("secret: |\n  s3cr3t\n  more\nb: 1\n", "s3cr3t\n  more", "secret: |\n  [redacted]\n  [redacted]\nb: 1\n"),
    "yaml, list": ("api_keys: [s3cr3t, other]", "s3cr3t, other", "api_keys: [redacted]]"),
    "ini": ("passwd = two words", "two words", "passwd = [redacted]"),
    "json": ('{"api_key": "s3cr3t", "lr": 1}', "s3cr3t", '{"api_key": "[redacted]", "lr": 1}'),
    "json, small": ('{"token":12345,"max":5}', "12345", '{"token":[redacted],"max":5}'),
    "json in json": (r'{"a": "{\"token\": \"s3cr3t\"}"}', "s3cr3t", r'{"a": "{\"token\": \"[redacted]\"}"}'),
    "json, line of a notebook": (r'"a\ntoken = \"s3cr3t\"\n",', "s3cr3t", r'"a\ntoken = \"[redacted]\"\n",'),
    "toml": ("client_secret = 's3cr3t'", "s3cr3t", "client_secret = '[redacted]'"),
    "python": ('api_key = "s3cr3t"', "s3cr3t", 'api_key = "[redacted]"'),
    "python, annotated": ('api_key: str | None = "s3cr3t"', "s3cr3t", 'api_key: str | None = "[redacted]"'),
    "python, argument": ('login(user="me", password="s3cr3t", n=1)', "s3cr3t", 'login(user="me", password="[redacted]", n=1)'),
    "python, environment": ('os.environ["HF_TOKEN"] = "s3cr3t"', "s3cr3t", 'os.environ["HF_TOKEN"] = "[redacted]"'),
    "python, default": ('os.getenv("API_KEY", "s3cr3t")', "s3cr3t", 'os.getenv("API_KEY", "[redacted]")'),
    "python, next line": ('SECRET = (\n    "s3cr3t"\n)', "s3cr3t", 'SECRET = (\n    "[redacted]"\n)'),
    "python, list": ('API_KEYS = ["s3cr3t", "t0ken"]', "t0ken", 'API_KEYS = ["[redacted]", "[redacted]"]'),
    "python, three quotes": ('SECRET = """s3\ncr3t\n"""', "s3\ncr3t", 'SECRET = """[redacted]\n[redacted]\n"""'),
    "python, comparison": ('if password == "s3cr3t":', "s3cr3t", 'if password == "[redacted]":'),
    "ruby": ("'secret' => 's3cr3t'", "s3cr3t", "'secret' => '[redacted]'"),
    "powershell": ('$env:API_KEY = "s3cr3t"', "s3cr3t", '$env:API_KEY = "[redacted]"'),
    "escaped quote": (r'password = "s3\"cr3t" # x', r"s3\"cr3t", 'password = "[redacted]" # x'),
    "quote that never closes": ('password = "s3cr3t', "s3cr3t", 'password = "[redacted]'),
    "signs in a value": ("DB_PASSWORD=(s3{c]r3t", "(s3{c]r3t", "DB_PASSWORD=[redacted]"),
    "url": ("https://user:s3cr3t@host/x", "user:s3cr3t", "https://[redacted]@host/x"),
    "url, token alone": (f"https://ghp_{BODY}@host/x.git", f"ghp_{BODY}", "https://[redacted]@host/x.git"),
    "url, git": ("git+https://t0ken@host/x", "t0ken", "git+https://[redacted]@host/x"),
    "url, database": ("postgresql://u:p%40ss@db:5432/x", "p%40ss", "postgresql://[redacted]@db:5432/x"),
    "url, @ in the password": ("redis://:a@b@host:1", "a@b", "redis://[redacted]@host:1"),
    "url, escaped in json": (r'"https:\/\/u:s3cr3t@host"', "s3cr3t", r'"https:\/\/[redacted]@host"'),
    "query": ("GET /x?api_key=s3cr3t&n=1", "s3cr3t", "GET /x?api_key=[redacted]&n=1"),
    "query, signature": ("https://h/x?n=1&sig=s3cr3t&m=2", "s3cr3t", "https://h/x?n=1&sig=[redacted]&m=2"),
    "query, several": ("?api_key=s3cr3t&X-Amz-Signature=s3cr3t", "s3cr3t", "?api_key=[redacted]&X-Amz-Signature=[redacted]"),
    "header": ('curl -H "Authorization: Bearer s3cr3t" u', "s3cr3t", 'curl -H "Authorization: Bearer [redacted]" u'),
    "header, line": ("Authorization: Basic dXNlcjpw", "dXNlcjpw", "Authorization: Basic [redacted]"),
    "header, own": ("curl -H 'X-Api-Key: s3cr3t' u", "s3cr3t", "curl -H 'X-Api-Key: [redacted]' u"),
    "header, python": ('{"Authorization": "Bearer s3cr3t"}', "s3cr3t", '{"Authorization": "Bearer [redacted]"}'),
    "header, signed": ("Authorization: AWS4-HMAC a=1, Signature=s3", "Signature=s3", "Authorization: AWS4-HMAC [redacted]"),
    "bearer in prose": ("sent Bearer abc123def456ghi7 twice", "abc123def456ghi7", "sent Bearer [redacted] twice"),
}  # fmt: skip

SHAPES = {
    "huggingface": "hf_" + BODY,
    "openai": "sk-" + BODY,
    "openai, letters only": "sk-" + "abcdefghijklmnopqrstuvwx",
    "openai, project": "sk-proj-" + BODY + "_-" + BODY,
    "anthropic": "sk-ant-" + "api03-" + BODY,
    "github, personal": "ghp_" + BODY,
    "github, app": "gho_" + BODY,
    "github, server": "ghs_" + BODY,
    "github, fine-grained": "github_pat_" + "11ABC_" + BODY,
    "gitlab": "glpat-" + "abcDEF123_456-789xyz",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "aws, session": "ASIA" + "IOSFODNN7EXAMPLE",
    "slack": "xoxb-" + "1234567890-abcdefABCDEF",
    "slack, hook": "hooks.slack.com/services/" + "T000/B000/XXXXyyyy",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "s1gn_-ature",
    "google": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "npm": "npm_" + BODY,
    "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + BODY,
    "docker": "dckr_pat_" + "abcDEF123456_-xyz789",
    "nvidia": "nvapi-" + BODY,
    "stripe": "sk_live_" + BODY,
    "wandb": "wandb_v1_" + BODY,
}

KEPT = """
max_tokens=5 num_tokens=7 n_tokens = 3
--max_tokens 5 --token_count 3 --tokenizer gpt2
tokenizer: "gpt2", token_type_ids=[1, 2]
secretary=joe keyboard: "us" monkey=3 turkey='x'
key=loss sort_key="x" public_key: abc ?key=loss
pad_token="<pad>", eos_token = "</s>", next_token = 17
columns=["token", "pos", "lemma"]
for token in tokens: print(token)
token = tokenizer.decode(ids)
token = os.environ["HF_TOKEN"]
api_key = getpass.getpass("Enter: ")
f(token=args.token, password=password)
def f(token: str, api_key: str | None = None, x: int = 3) -> str:
password: Optional[str] = None
if not token: return None
token: null
"password": "", "secret": None, token=False
password: ${DB_PASSWORD} and ${{ secrets.PASSWORD }}
url = f"https://{user}:{password}@host"
headers = {"Authorization": f"Bearer {token}"}
log("password: %s", value); parser.add_argument("--token", "-t", help="the token")
ssh://git@github.com/a/b abfss://box@account.dfs.core.windows.net/x git@github.com:a/b.git
https://host:8000/@scope/package?n=1&max_tokens=5
risk-assessment-2020-of-something-long disk-image-1234567890-abcdefghij
hf_hub_download sk-learn npm_config_registry pypi-publish eyJhbGciOi AKIA1
the bearer of responsibilities; standardisation: a token of thanks; password reset
-----BEGIN CERTIFICATE-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A
-----END CERTIFICATE-----
commit 1b2c3d4e5f60718293a4b5c6d7e8f90123456789
""".strip().split("\n")


@pytest.mark.parametrize("row", REDACTED_ROWS)
def test_a_value_of_a_secret_name_is_redacted(row):
    """Of each way to give a value to a secret name only the value is lost, and a second pass changes nothing."""
    text, secret, left = REDACTED_ROWS[row]
    assert secret in text
    assert redaction.redact(text) == left
    assert secret not in left
    assert redaction.redact(left) == left


@pytest.mark.parametrize("row", SHAPES)
@pytest.mark.parametrize(
    "around", ["{}", "see {}, please", "x={}\n", '"{}"', r"one\n{}\ntwo", "https://host/{}?x", "+  {}", "a%3D{}"]
)
def test_a_token_of_known_shape_is_redacted(row, around):
    """A token is known by its shape, without a name, wherever it stands."""
    token = SHAPES[row]
    text = around.format(token)
    assert token in text
    left = redaction.redact(text)
    assert token[-8:] not in left
    assert left.replace("hooks.slack.com/services/", "") == around.format("[redacted]")


@pytest.mark.parametrize("text", KEPT)
def test_a_text_without_secrets_stays_as_it_is(text):
    """Ordinary configuration, source code and prose come back unchanged."""
    assert redaction.redact(text) == text


@pytest.mark.parametrize("sign", ["", "+", "-", " "])
@pytest.mark.parametrize("kind", ["RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"])
def test_a_private_key_is_redacted_line_by_line(sign, kind):
    """Of a key the marks stay and each line keeps its place and the sign of a diff."""
    body = [f"{sign}{'QUJD' * 16}", f"{sign}ZZZZ=="]
    text = "\n".join([f"{sign}-----BEGIN {kind}-----", *body, f"{sign}-----END {kind}-----", f"{sign}after"])
    left = redaction.redact(text)
    assert left.split("\n") == [
        f"{sign}-----BEGIN {kind}-----", f"{sign}[redacted]", f"{sign}[redacted]", f"{sign}-----END {kind}-----", f"{sign}after",
    ]  # fmt: skip
    assert redaction.redact(left) == left


def test_a_private_key_without_an_end_is_redacted_as_far_as_it_goes():
    """A key that is cut off loses the lines that look like one, and no others."""
    text = f"x\n-----BEGIN PRIVATE KEY-----\n{'QUJD' * 16}\n{'QUJD' * 16}\nplain words here\n"
    assert redaction.redact(text) == "x\n-----BEGIN PRIVATE KEY-----\n[redacted]\n[redacted]\nplain words here\n"


def test_a_private_key_in_a_json_string_is_redacted():
    """The key of a service account, on one line with line ends written out, is redacted."""
    text = json.dumps({"x": "-----BEGIN PRIVATE KEY-----\n" + "QUJD" * 16 + "\n-----END PRIVATE KEY-----\n", "y": 1})
    assert redaction.redact(text) == '{"x": "-----BEGIN PRIVATE KEY-----[redacted]-----END PRIVATE KEY-----\\n", "y": 1}'


def test_values_of_secret_environment_variables_are_redacted_everywhere(monkeypatch):
    """The exact value of a variable with a secret name goes, without name or shape beside it; short values stay."""
    text = "we use purple-elephant, purple-elephant-two and tiny, path /opt/plain-value"
    assert redaction.redact(text) == text
    monkeypatch.setenv("MY_API_KEY", "purple-elephant")
    monkeypatch.setenv("OTHER_API_KEY", "purple-elephant-two")
    monkeypatch.setenv("DB_PASSWORD", "tiny")
    monkeypatch.setenv("SOME_PATH", "/opt/plain-value")
    assert redaction.redact(text) == "we use [redacted], [redacted] and tiny, path /opt/plain-value"


def test_a_secret_variable_of_several_lines_is_redacted_line_by_line(monkeypatch):
    """A value with line ends is found line by line, also inside a diff, and the number of lines stays."""
    monkeypatch.setenv("SIGNING_KEY", "first-line-of-it\nsecond-line-of-it\n")
    assert redaction.redact("+first-line-of-it\n+second-line-of-it\n") == "+[redacted]\n+[redacted]\n"


def test_a_secret_that_is_an_ordinary_word_does_not_hide_other_secrets(monkeypatch):
    """Where a password is the word "password", the values of names with that word are redacted all the same."""
    monkeypatch.setenv("DB_PASSWORD", "password")
    assert "s3cr3t" not in redaction.redact('password = "s3cr3t"')


def test_argv_is_redacted_by_option_and_by_content():
    """A secret option hides its value, in the same or the next argument; everything else stays, one for one."""
    argv = [
        "train.py", "--token", "s3cr3t", "--hub_token=s3cr3t", "-p", "8000", "--max_tokens", "5", "--password", "--lr", "0.1",
        "model.api_key=s3 cr3t", "+db.password=s3cr3t", "-Dsecret=s3cr3t", "Authorization: Bearer s3cr3t", "hf_" + BODY,
        "--api-keys", "s3cr3t", "s3cr3t2", "--config", '{"token": "s3cr3t"}', "https://u:s3cr3t@h", "--token", "none", "--token",
    ]  # fmt: skip
    assert sum("s3" in argument for argument in argv) == 10
    assert redaction.redact_argv(argv) == [
        "train.py", "--token", "[redacted]", "--hub_token=[redacted]", "-p", "8000", "--max_tokens", "5", "--password", "--lr",
        "0.1", "model.api_key=[redacted]", "+db.password=[redacted]", "-Dsecret=[redacted]", "Authorization: Bearer [redacted]",
        "[redacted]", "--api-keys", "[redacted]", "[redacted]", "--config", '{"token": "[redacted]"}', "https://[redacted]@h",
        "--token", "none", "--token",
    ]  # fmt: skip


PIECES = st.sampled_from(
    [
        *words(
            "token password api_key max_tokens -- = : ( [ { } ) ] , + - | :// @ ? & Authorization hf_ sk- eyJ . abc 123 é İ # str"
        ),
        *words('-----BEGIN -----END PRIVATE KEY----- QUJDQUJDQUJDQUJDQUJD [redacted] ${ ` \' " """ \\ Bearer \\n'),
        *(" ", "\n", "\r\n", "\t", "Bearer ", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join), st.sampled_from(["+", "-", " "]))
def test_lines_and_their_first_signs_stay(text, sign):
    """Whatever the text, redaction keeps the number of lines and, in a diff, the sign in front of each."""
    diff = "".join(f"{sign}{line}\n" for line in text.split("\n"))
    left = redaction.redact(diff)
    assert [line[:1] for line in left.split("\n")] == [line[:1] for line in diff.split("\n")]


HOSTILE = {
    # what the row is: (how the text begins, what it repeats)
    "one word": ("", "a"),
    "names": ("", "token"),
    "names with digits": ("", "token1"),
    "assignments": ("", "token=a\n"),
    "dots": ("", "token=a.b"),
    "spaces": ("", "token    "),
    "open quotes": ("", 'token="'),
    "two kinds of quotes": ("", "token='a token=\""),
    "three quotes": ("", 'token="""'),
    "escaped quotes": ("", 'token=\\"'),
    "escapes": ("", "\\"),
    "brackets": ("", "token=["),
    "braces": ("", "token={"),
    "a list": ("API_KEYS=[", "'a',"),
    "placeholders": ("", "token='{a}"),
    "annotations": ("", "token: str["),
    "blocks": ("", "token: |\n"),
    "a block": ("token: |\n", "  a\n"),
    "urls": ("", "://a@"),
    "at": ("https://", "@"),
    "shapes": ("", "sk-"),
    "jwt": ("", "eyJ"),
    "jwt parts": ("", "eyJaaaa."),
    "bearer": ("", "Bearer "),
    "keys": ("", "-----BEGIN PRIVATE KEY-----\n"),
    "a key": ("-----BEGIN PRIVATE KEY-----\n", "QUJDQUJDQUJDQUJD\n"),
}


def hostile(row: str, size: int) -> str:
    begin, unit = HOSTILE[row]
    return begin + unit * (size // len(unit))


def seconds(text: str) -> float:
    begun = time.process_time()
    redaction.redact(text)
    return time.process_time() - begun


@pytest.mark.parametrize("row", HOSTILE)
def test_redaction_takes_linear_time(row):
    """Eight times the hostile text takes about eight times as long; a quadratic rule would take sixty-four."""
    seconds(hostile(row, 64))
    small = min(seconds(hostile(row, 65536)) for _ in range(3))
    assert seconds(hostile(row, 8 * 65536)) < 24 * max(small, 0.002)


@pytest.mark.long
@pytest.mark.parametrize("row", HOSTILE)
def test_four_mebibytes_of_hostile_text_are_no_trap(row):
    """A diff of the largest size, made to be slow, is redacted within seconds."""
    assert seconds(hostile(row, 4 * 1024 * 1024)) < 30


# -- who and where -----------------------------------------------------------------------------------------------------


def test_importing_capture_is_light():
    """`import ailab.capture` loads neither git, subprocess, shlex, psutil nor the metadata of packages."""
    loaded = python(
        "-c", "import sys; before = set(sys.modules); import ailab.capture; print(*(set(sys.modules) - before))"
    ).split()
    assert "ailab.capture" in loaded
    assert not {"git", "subprocess", "shlex", "importlib.metadata", "psutil", "pynvml", "hashlib", "selectors"} & set(loaded)


def test_host_user_and_boot_are_the_same_in_another_process():
    """Host, user and boot name the machine, not the process."""
    code = "from ailab import capture; print(capture.host_name(), capture.user_name(), capture.boot_id(), sep='|')"
    assert python("-c", code) == f"{capture.host_name()}|{capture.user_name()}|{capture.boot_id()}"
    assert capture.host_name()


@root
def test_a_user_whom_no_database_knows_has_a_name():
    """In a container with a bare number for a user, the number is the name."""
    code = "import os; from ailab import capture; os.setuid(54321); print(capture.user_name())"
    assert python("-c", code, LOGNAME="", USER="", LNAME="", USERNAME="") == "uid-54321"


@linux
def test_a_process_start_is_read_past_any_name(tmp_path):
    """The start of a process is right although its name holds blanks and brackets."""
    program = tmp_path / "a) R 1 (b"
    shutil.copy(shutil.which("sleep"), program)
    with subprocess.Popen([program, "60"]) as process:
        try:
            begun = capture.process_start(process.pid)
            since_boot = psutil.Process(process.pid).create_time() - psutil.boot_time()
            assert begun / os.sysconf("SC_CLK_TCK") == pytest.approx(since_boot, abs=2)
        finally:
            process.kill()


def test_a_process_that_is_gone_has_no_start():
    """Neither a number without a process nor a process that has ended and waits to be collected has a start."""
    assert capture.process_start(os.getpid()) == capture.process_start(os.getpid()) is not None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        until = time.monotonic() + 30
        while capture.process_start(process.pid) is not None and time.monotonic() < until:
            time.sleep(0.01)
        assert capture.process_start(process.pid) is None
    assert [capture.process_start(pid) for pid in (process.pid, 0, -1)] == [None, None, None]


def test_the_command_is_the_one_that_was_launched(tmp_path):
    """The command has interpreter and module as typed, quoted for a shell, secrets taken out."""
    (tmp_path / "job.py").write_text("from ailab import capture\nprint(capture.command_line())\n")
    path = os.pathsep.join((SOURCE, str(tmp_path)))
    done = python("-m", "job", "--name", "a b", "--token", "s3cr3t", PYTHONPATH=path)
    assert done == f"{sys.executable} -m job --name 'a b' --token '[redacted]'"


SPAWN = (
    "from multiprocessing import get_context\n    p = get_context('spawn').Process(target=show)\n    p.start()\n    p.join()\n"
)
LOKY = "from joblib import Parallel, delayed\n    print(*Parallel(2)([delayed(capture.command_line)()]))\n"


@pytest.mark.parametrize("start", [SPAWN, LOKY], ids=["multiprocessing", "joblib"])
def test_the_command_of_a_child_is_that_of_its_parent(tmp_path, start):
    """A spawned child tells the script that people know, not the call that started the child."""
    if start is LOKY:
        pytest.importorskip("joblib")
    head = "from ailab import capture\ndef show():\n    print(capture.command_line())\nif __name__ == '__main__':\n    "
    (tmp_path / "job.py").write_text(head + start)
    assert python(str(tmp_path / "job.py"), "--lr", "1").endswith(f"{tmp_path / 'job.py'} --lr 1")


def test_a_command_is_text_and_bounded():
    """Bytes that are no UTF-8 and commands without end come back as text that can be stored."""
    assert capture.command_line(["a", os.fsdecode(b"\xff b")]) == "a '\ufffd b'"
    long = capture.command_line(["x" * 100_000])
    assert long.endswith("[cut: 100000 characters in all]")
    assert len(long) < 70_000


# -- the environment ---------------------------------------------------------------------------------------------------


def test_the_environment_describes_this_interpreter_and_machine():
    """Python, cores and memory are those that the standard library and psutil tell."""
    found = capture.capture_environment()
    assert found.python_version == ".".join(map(str, sys.version_info[:3]))
    assert found.implementation.lower() == sys.implementation.name
    assert found.host == capture.host_name()
    assert found.device.cores_logical == os.cpu_count()
    assert found.device.cores_physical == psutil.cpu_count(logical=False)
    assert found.device.memory_bytes == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert found.device.cpu


def test_packages_are_those_that_the_standard_library_finds():
    """The fast way to read names and versions finds what `importlib.metadata` finds, sorted, each once."""
    expected = {}
    for found in importlib.metadata.distributions():
        if found.read_text("direct_url.json") is None:
            expected.setdefault(found.name.lower().replace("_", "-").replace(".", "-"), f"{found.name}=={found.version}")
    packages = capture.capture_environment().packages
    assert {line for line in packages if "@" not in line and not line.startswith("-e")} == set(expected.values())
    assert packages == sorted(packages, key=str.lower)


def distribution(
    folder: Path, name: str, version: str, direct_url: dict | None = None, *, head: str = "Metadata-Version: 2.1\n"
) -> None:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"{head}Name: {name}\nVersion: {version}\nSummary: x\n\nName: not me\nVersion: 9\n")
    if direct_url is not None:
        (place / "direct_url.json").write_text(json.dumps(direct_url))


def test_packages_are_written_as_pip_freeze_writes_them(tmp_path, monkeypatch):
    """The first on sys.path wins; direct and editable installs show their origin, without credentials."""
    first, second = tmp_path / "first", tmp_path / "second"
    distribution(first, "Zope.thing", "1.0")
    distribution(second, "zope_thing", "2.0")
    distribution(first, "deep", "1.5", head="Metadata-Version: 2.1\n" + "Classifier: x\n" * 400)
    git_origin = {"url": "https://me:s3cr3t@host/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}, "subdirectory": "sub"}
    distribution(first, "from-git", "1.0", git_origin)
    distribution(first, "from-file", "1.0", {"url": "file:///tmp/x.whl", "archive_info": {"hash": "sha256=12"}})
    distribution(first, "mine", "0.3", {"url": "file:///home/me/my%20code", "dir_info": {"editable": True}})
    (first / "old.egg-info").mkdir()
    (first / "old.egg-info" / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: old\nVersion: 3\n")
    (first / "older.egg-info").write_text("Metadata-Version: 1.0\nName: older\nVersion: 4\n")
    (first / "~ip-1.dist-info").mkdir()
    (first / "broken-1.dist-info").mkdir()
    (first / "broken-2.dist-info").mkdir()
    (first / "broken-2.dist-info" / "METADATA").write_text("Name: broken\n\nVersion: 2\n")
    monkeypatch.setattr(sys, "path", [str(first), str(second), str(tmp_path / "none"), *sys.path])
    found = capture.capture_environment()
    ours = [
        line for line in found.packages if any(name in line for name in ("ope", "from-", "mine", "old", "deep", "ip-", "broken"))
    ]
    assert [line for line in ours if "openpyxl" not in line and "scope" not in line] == [
        "-e /home/me/my code  # mine==0.3",
        "deep==1.5",
        "from-file @ file:///tmp/x.whl#sha256=12",
        "from-git @ git+https://host/r.git@abc#subdirectory=sub",
        "old==3",
        "older==4",
        "Zope.thing==1.0",
    ]
    assert len(found.problems) == 2
    assert all("broken" in problem for problem in found.problems)


def test_variables_are_an_allow_list(monkeypatch):
    """Only named variables are kept, never job ids or secrets, and a secret inside one is redacted."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_NODELIST", "node[1-9]")
    monkeypatch.setenv("HF_TOKEN", "hf_" + BODY)
    monkeypatch.setenv("XLA_FLAGS", "--dump=https://u:s3cr3t@host")
    found = capture.capture_environment().variables
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["XLA_FLAGS"] == "--dump=https://[redacted]@host"
    assert not {"SLURM_JOB_ID", "SLURM_NODELIST", "HF_TOKEN", "PATH", "HOME"} & set(found)


def test_an_environment_is_the_same_from_run_to_run():
    """Two processes, two jobs, the same bytes: the SHA-256 of an environment is its identity."""
    code = "import msgspec; from ailab import capture; print(msgspec.json.encode(capture.capture_environment()).decode())"
    first = python("-c", code, SLURM_JOB_ID="1")
    assert first == python("-c", code, SLURM_JOB_ID="2")
    assert msgspec.json.decode(first, type=capture.Environment).packages


def test_gpus_are_read_from_nvml_and_let_go():
    """Names, memory and driver come from NVIDIA's library, old (bytes) and new (text), which is shut down again."""
    calls = []
    nvml = SimpleNamespace(
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlSystemGetDriverVersion=lambda: b"535.1",
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda _: "A100",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=80 << 30),
    )
    assert capture._gpus_of_nvml(nvml) == [capture.Gpu(name="A100", memory_bytes=80 << 30, driver="535.1")]
    assert calls == ["init", "shutdown"]


def test_gpus_are_read_from_the_driver_without_its_library(tmp_path):
    """Where pynvml is not installed, the driver's own folder tells the models."""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA L4\nIRQ: 5\n")
    (tmp_path / "version").write_text("550.2\n")
    found = capture._gpus_of_driver(str(tmp_path / "gpus"), str(tmp_path / "version"))
    assert found == [capture.Gpu(name="NVIDIA L4", driver="550.2")]
    assert capture._gpus_of_driver(str(tmp_path / "none"), str(tmp_path / "version")) == []


# -- the code: repositories of all kinds -------------------------------------------------------------------------------


def test_a_clean_repository_is_its_commit(repository):
    """Without changes a commit, a branch and the script's name say it all, and nothing is a problem."""
    code = capture_code(str(repository), str(repository / "train.py"))
    assert code == Code(git_hash=git(repository, "rev-parse", "HEAD"), branch="main", script="train.py")


def test_commit_and_diff_give_back_the_files(repository, tmp_path):
    """The diff applied to a fresh clone gives the changed tree: text, binary, new, deleted, moved, odd names, modes."""
    (repository / "data.bin").write_bytes(bytes(range(256)) * 40)
    (repository / "old.txt").write_text("will move\n" * 20)
    (repository / "gone.txt").write_text("x\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "second")
    (repository / "data.bin").write_bytes(bytes(reversed(range(256))) * 40)
    (repository / "train.py").write_text("rate = 0.2\nsteps = 10\nname = 'ü'\n")
    (repository / "gone.txt").unlink()
    (repository / "README.md").chmod(0o755)
    git(repository, "mv", "old.txt", "new name é.txt")
    (repository / "added.py").write_text("token = tokenizer.decode(ids)\nmax_tokens = 5\n")
    git(repository, "add", "added.py")
    code = capture_code(str(repository), None)
    assert (code.dirty, code.problems, code.files) == (True, [], {})
    git(tmp_path, "clone", "-q", str(repository), "copy")
    git(tmp_path / "copy", "checkout", "-q", code.git_hash)
    (tmp_path / "diff").write_text(code.diff, newline="")
    git(tmp_path / "copy", "apply", "--binary", str(tmp_path / "diff"))
    assert tree(tmp_path / "copy") == tree(repository)


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes()) for path in files}


def test_settings_of_the_user_do_not_change_the_diff(repository):
    """Prefixes, colours, context, quoting and relative paths that a user has set leave the diff as it is."""
    (repository / "train.py").write_text("rate = 0.3\nsteps = 10\n")
    Path(os.fsdecode(os.path.join(os.fsencode(repository), b"\xff.py"))).write_text("x = 1\n")
    git(repository, "add", ".")
    (repository / "sub").mkdir()
    before = capture_code(str(repository), None)
    assert "+rate = 0.3" in before.diff
    assert r'"b/\377.py"' in before.diff
    user = "diff.noprefix=true color.ui=always diff.context=0 diff.relative=true diff.mnemonicPrefix=true core.quotePath=false"
    for setting in (*words(user), "diff.renames=copies", "status.showUntrackedFiles=no", "status.relativePaths=true"):
        git(repository, "config", *setting.split("="))
    assert capture_code(str(repository / "sub"), None) == before


def test_a_folder_deep_inside_means_the_whole_repository(repository):
    """Captured from a subfolder, names are relative to the top and all changes are seen."""
    (repository / "pkg").mkdir()
    (repository / "pkg" / "run.py").write_text("x = 1\n")
    (repository / "train.py").write_text("changed = 1\n")
    code = capture_code(str(repository / "pkg"), str(repository / "pkg" / "run.py"))
    assert (code.script, code.files, code.dirty) == ("pkg/run.py", {"pkg/run.py": "x = 1\n"}, True)
    assert "+changed = 1" in code.diff


def test_a_repository_without_a_commit_shows_what_is_staged(tmp_path):
    """Before the first commit there is no hash; staged files are a diff against nothing, others are untracked."""
    folder = tmp_path / "new"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "staged.py").write_text("a = 1\n")
    git(folder, "add", "staged.py")
    (folder / "loose.py").write_text("b = 2\n")
    code = capture_code(str(folder), None)
    assert (code.git_hash, code.branch, code.dirty, code.files) == (None, "main", True, {"loose.py": "b = 2\n"})
    assert "+a = 1" in code.diff
    assert code.problems == ["no commit yet: the diff is against an empty tree"]


def test_a_detached_head_has_no_branch(repository):
    """A checked-out commit is a hash without a branch."""
    git(repository, "checkout", "-q", "--detach")
    code = capture_code(str(repository), None)
    assert (code.git_hash, code.branch, code.problems) == (git(repository, "rev-parse", "HEAD"), None, [])


def test_a_worktree_has_its_own_branch_and_changes(repository, tmp_path):
    """A linked worktree is captured for itself."""
    git(repository, "worktree", "add", "-q", "-b", "trial", str(tmp_path / "other"))
    (tmp_path / "other" / "train.py").write_text("changed = 1\n")
    code = capture_code(str(tmp_path / "other"), str(tmp_path / "other" / "train.py"))
    assert (code.branch, code.dirty, code.script, code.problems) == ("trial", True, "train.py", [])
    assert not capture_code(str(repository), None).dirty


def test_a_bare_repository_is_a_commit_and_nothing_to_compare(repository, tmp_path):
    """Without a working tree there are a hash, a branch, a reason and the script's text."""
    git(tmp_path, "clone", "-q", "--bare", str(repository), "bare.git")
    (tmp_path / "run.py").write_text("x = 1\n")
    script = str(tmp_path / "run.py")
    code = capture_code(str(tmp_path / "bare.git"), script)
    assert (code.git_hash, code.branch, code.dirty, code.diff) == (git(repository, "rev-parse", "HEAD"), "main", False, "")
    assert code.files == {script: "x = 1\n"}
    assert code.problems == [f"no working tree here: {tmp_path / 'bare.git'}"]


def test_a_submodule_that_changed_is_named(repository, tmp_path):
    """A moved submodule is in the diff; changes inside it are not, and the capture says so."""
    inner = make_repository(tmp_path / "inner")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "lib")
    git(repository, "commit", "-q", "-m", "with lib")
    (repository / "lib" / "left-by-a-build").write_text("x")
    assert not capture_code(str(repository), None).dirty
    (repository / "lib" / "train.py").write_text("changed = 1\n")
    code = capture_code(str(repository), None)
    assert (code.dirty, code.problems) == (True, ["changes inside submodules are not in the diff: lib"])
    assert "-dirty" in code.diff


@pytest.mark.parametrize("name", [b"two words", "ümläut".encode(), b"not\xffutf8", b"line\nend", b"-C", b"[x]*?"])
def test_folders_of_any_name_work(tmp_path, name):
    """Blanks, bytes that are no UTF-8 and signs with a meaning elsewhere are only names; the result can be stored."""
    folder = make_repository(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))))
    inner = os.path.join(os.fsencode(folder), name)
    os.mkdir(inner)
    Path(os.fsdecode(os.path.join(inner, name + b".py"))).write_text("x = 1\n")
    code = capture_code(str(folder), os.fsdecode(os.path.join(inner, name + b".py")))
    shown = name.decode("utf-8", "replace")
    assert (code.branch, code.files, code.script) == ("main", {f"{shown}/{shown}.py": "x = 1\n"}, f"{shown}/{shown}.py")
    assert code.problems == []
    assert msgspec.json.decode(msgspec.json.encode(code), type=Code) == code


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:s3cr3t@host/a/b.git", "https://host/a/b.git"),
        ("https://ghp_s3cr3t@github.com/a/b", "https://github.com/a/b"),
        ("https://me:s3/cr3t@host/a.git", "https://host/a.git"),
        ("ssh://git@host:22/a/b.git", "ssh://git@host:22/a/b.git"),
        ("ssh://git:s3cr3t@host/a/b.git", "ssh://git@host/a/b.git"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("https://host:8443/@scope/a.git", "https://host:8443/@scope/a.git"),
        ("/srv/git/a b.git", "/srv/git/a b.git"),
    ],
)
def test_the_remote_has_no_credentials(repository, url, shown):
    """A remote is where others find the code, without user, password or token."""
    git(repository, "remote", "add", "origin", url)
    code = capture_code(str(repository), None)
    assert (code.remote, code.problems) == (shown, [])


def test_the_remote_is_that_of_the_branch(repository):
    """Of several remotes the one of the branch counts, then origin, then any."""
    git(repository, "remote", "add", "backup", "https://b/x")
    assert capture_code(str(repository), None).remote == "https://b/x"
    git(repository, "remote", "add", "origin", "https://o/x")
    assert capture_code(str(repository), None).remote == "https://o/x"
    git(repository, "config", "branch.main.remote", "backup")
    assert capture_code(str(repository), None).remote == "https://b/x"


# -- the code: nothing secret, everything bounded ----------------------------------------------------------------------


def test_a_diff_is_redacted_and_keeps_its_lines(repository):
    """Secrets in added, removed and context lines go; every line and its sign stays."""
    settings_file = repository / "settings.yaml"
    settings_file.write_text("password: old-s3cr3t\nrate: 1\napi_key: kept-s3cr3t\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "oops")
    settings_file.write_text(
        "password: new-s3cr3t\nrate: 2\napi_key: kept-s3cr3t\n"
        "-----BEGIN PRIVATE KEY-----\nQUJDs3cr3t\n-----END PRIVATE KEY-----\n"
    )
    raw = git(repository, "diff", "HEAD", "--binary") + "\n"
    assert raw.count("s3cr3t") == 4
    code = capture_code(str(repository), None)
    assert "s3cr3t" not in code.diff
    assert [line[:1] for line in code.diff.split("\n")] == [line[:1] for line in raw.split("\n")]
    assert {"+password: [redacted]", "-password: [redacted]", " api_key: [redacted]", "+rate: 2", "+[redacted]"} <= set(
        code.diff.split("\n")
    )


def test_source_code_keeps_its_references(repository):
    """In source code a value without quotes is a name and stays, so that the diff still applies."""
    (repository / "train.py").write_text("token = word\nrun(api_key=key, token=line.strip())\npassword = 's3cr3t'\n")
    (repository / "other.py").write_text("token = word\n")
    code = capture_code(str(repository), None)
    assert "+token = word\n+run(api_key=key, token=line.strip())\n+password = '[redacted]'\n" in code.diff
    assert code.files == {"other.py": "token = word\n"}


def test_tracked_files_that_are_secrets_stay_out_of_the_diff(repository):
    """A changed .env is named and not shown, although it is tracked."""
    (repository / "my conf").mkdir()
    (repository / "my conf" / ".env").write_text("COLOUR=green\n")
    git(repository, "add", "-f", ".")
    git(repository, "commit", "-q", "-m", "oops")
    (repository / "my conf" / ".env").write_text("COLOUR=blue\n")
    (repository / "train.py").write_text("changed = 1\n")
    assert "blue" in git(repository, "diff", "HEAD")
    code = capture_code(str(repository), None)
    assert "blue" not in code.diff
    assert "+changed = 1" in code.diff
    assert code.problems == ["left out of the diff, secret by name: my conf/.env"]


def test_untracked_files_are_read_if_small_text_and_no_secret(repository):
    """Of untracked files small texts are kept, redacted; what is left out is named with its reason."""
    (repository / ".gitignore").write_text("ignored.txt\n")
    (repository / "ignored.txt").write_text("x")
    (repository / "conf.yaml").write_text("password: s3cr3t\nname: ü\n")
    (repository / "big.csv").write_text("x" * (FILE_BYTES + 1))
    (repository / "picture.png").write_bytes(b"\x89PNG\x00\xff")
    (repository / "latin.txt").write_bytes("ü".encode("latin-1"))
    (repository / "link.txt").symlink_to("/etc/hostname")
    make_repository(repository / "nested")
    secret = words(".env server.pem id_rsa tls.key credentials.json store.p12 .netrc .npmrc .pypirc prod.env")
    for name in secret:
        (repository / name).write_text("s3cr3t")
    code = capture_code(str(repository), None)
    assert code.files == {".gitignore": "ignored.txt\n", "conf.yaml": "password: [redacted]\nname: ü\n"}
    assert sorted(code.problems) == [
        "untracked files left out, a repository of its own: nested/",
        f"untracked files left out, larger than {FILE_BYTES} bytes: big.csv",
        "untracked files left out, not readable (Too many levels of symbolic links): link.txt",
        "untracked files left out, not text: latin.txt, picture.png",
        "untracked files left out, secret by name: " + ", ".join(sorted(secret)),
    ]
    assert not code.dirty


def test_a_pipe_among_untracked_files_does_not_block(repository):
    """A pipe is not listed by git, and a script that is one is left out instead of waited for."""
    os.mkfifo(repository / "pipe.py")
    code = capture_code(str(repository), str(repository / "pipe.py"))
    assert code.problems == [f"the script is left out, not a regular file: {repository / 'pipe.py'}"]


def test_untracked_files_are_bounded_in_number_and_size(repository):
    """At most 100 files and 2 MiB together, source code first; how much is left out is said."""
    for number in range(150):
        (repository / f"a{number:03}.log").write_text("x")
    (repository / "zz.py").write_text("important = 1\n")
    code = capture_code(str(repository), None)
    assert len(code.files) == 100
    assert code.files["zz.py"] == "important = 1\n"
    assert code.problems[0].startswith("untracked files left out, more than 100 files: a099.log")
    assert code.problems[0].endswith("and 31 more")
    for number in range(12):
        (repository / f"b{number:02}.py").write_text("#" * (FILE_BYTES - 1))
    code = capture_code(str(repository), None)
    assert sum(map(len, code.files.values())) <= FILES_BYTES
    assert ("b07.py" in code.files, "b08.py" in code.files) == (True, False)
    assert any(f"more than {FILES_BYTES} bytes together: " in problem for problem in code.problems)


def test_a_huge_diff_is_cut_with_a_line_that_says_so(repository):
    """Beyond 4 MiB a diff ends at a whole line and a marker with the size it would have had."""
    (repository / "train.py").write_text("".join(f"value_{number} = {number}\n" for number in range(400_000)))
    whole = len(subprocess.run(["git", "-C", repository, "diff", "HEAD", "--binary"], capture_output=True, check=True).stdout)
    assert whole > DIFF_BYTES
    code = capture_code(str(repository), None)
    note = f"the diff is cut: in all it has {whole} bytes, the limit is {DIFF_BYTES} bytes"
    assert code.diff.endswith(f"\n[ailab: {note}]\n")
    assert code.problems == [note]
    assert DIFF_BYTES - 1024 < len(code.diff.encode()) <= DIFF_BYTES


def test_a_cut_diff_ends_at_a_whole_line(repository):
    """Where redaction makes a huge diff short, the line that was cut in the middle is not in it."""
    (repository / "train.py").write_text("".join(f'password = "{number:0900}"\n' for number in range(6000)))
    code = capture_code(str(repository), None)
    assert set(code.diff.split("\n")[7:-2]) == {'+password = "[redacted]"'}
    assert len(code.diff) < 200_000


def test_a_binary_patch_is_not_redacted(repository, tmp_path):
    """Compressed bytes can look like a name with a value; changing them would break the patch."""
    (repository / "data.bin").write_bytes(os.urandom(200_000))
    git(repository, "add", "data.bin")
    code = capture_code(str(repository), None)
    patch = code.diff.partition("GIT binary patch\n")[2]
    assert patch
    fake = code.diff.replace(patch.split("\n")[1], "zpwd=abcdefgh;token=abc" + "A" * 30, 1)
    assert _redact_diff(fake) == fake
    assert redaction.redact(fake) != fake


def test_bytes_that_are_not_utf8_are_shown_and_said(repository):
    """A diff of a file in another encoding is text with U+FFFD and a problem that says so."""
    (repository / "train.py").write_bytes("name = 'Jürgen'\n".encode("latin-1"))
    code = capture_code(str(repository), None)
    assert "+name = 'J\ufffdrgen'" in code.diff
    assert code.problems == ["the diff has bytes that are not UTF-8; they show as U+FFFD"]


def test_a_script_that_git_does_not_know_is_kept(repository, tmp_path):
    """A script that is ignored, or lies outside the repository, is in `files`, because no commit has it."""
    (repository / ".git" / "info" / "exclude").write_text("scratch/\n")
    (repository / "scratch").mkdir()
    (repository / "scratch" / "try.py").write_text("x = 1\n")
    code = capture_code(str(repository), str(repository / "scratch" / "try.py"))
    assert (code.script, code.files) == ("scratch/try.py", {"scratch/try.py": "x = 1\n"})
    outside = tmp_path / "elsewhere.py"
    outside.write_text("y = 2\n")
    code = capture_code(str(repository), str(outside))
    assert (code.script, code.files) == (str(outside), {str(outside): "y = 2\n"})


def test_a_script_reached_by_a_link_has_its_name_in_the_repository(repository, tmp_path):
    """A linked folder leads to the same names as the repository itself."""
    (tmp_path / "link").symlink_to(repository)
    code = capture_code(str(tmp_path / "link"), str(tmp_path / "link" / "train.py"))
    assert (code.script, code.files) == ("train.py", {})


# -- the code: nothing of the user's is touched or started -------------------------------------------------------------


def index(folder: Path) -> tuple[int, int, bytes]:
    found = (folder / ".git" / "index").stat()
    return found.st_ino, found.st_mtime_ns, (folder / ".git" / "index").read_bytes()


def test_the_index_is_never_written_nor_locked(repository):
    """Stale entries, which `git status` would refresh on disk, stay as they are; a lock of another git does not matter."""
    (repository / "README.md").write_text("changed\n")
    os.utime(repository / "train.py", (1, 1))
    before = index(repository)
    assert capture_code(str(repository), None).dirty
    assert index(repository) == before
    (repository / ".git" / "index.lock").write_text("")
    assert capture_code(str(repository), None).problems == []
    (repository / ".git" / "index.lock").unlink()
    git(repository, "status")
    assert index(repository) != before


def test_programs_that_a_repository_names_are_not_started(repository, tmp_path):
    """Neither monitor, hook, external diff nor textconv of a repository runs; plain git would start them."""
    marker = tmp_path / "started"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {marker}\nexit 1\n')
    program.chmod(0o755)
    shutil.copy(program, repository / ".git" / "hooks" / "post-index-change")
    (repository / ".git" / "info" / "attributes").write_text("*.py diff=own\n")
    for name in ("core.fsmonitor", "diff.external", "diff.own.textconv", "diff.own.command", "core.pager", "core.askPass"):
        git(repository, "config", name, str(program))
    (repository / "train.py").write_text("changed = 1\n")
    code = capture_code(str(repository), str(repository / "train.py"))
    assert not marker.exists()
    assert "+changed = 1" in code.diff
    subprocess.run(["git", "-C", repository, "diff", "HEAD"], capture_output=True, check=False)
    assert marker.exists()


# -- the code: what can go wrong ---------------------------------------------------------------------------------------


def test_outside_a_repository_the_script_is_the_code(tmp_path):
    """Without git's help the running script's text, redacted, is what there is, and the reason is said."""
    script = tmp_path / "run.py"
    script.write_text("api_key = 's3cr3t'\n")
    code = capture_code(str(tmp_path), str(script))
    assert code == Code(
        script=str(script), files={str(script): "api_key = '[redacted]'\n"}, problems=[f"not in a git repository: {tmp_path}"]
    )


@pytest.mark.parametrize("script", [None, "missing.py", ".env", "folder", "nul\0.py"])
@pytest.mark.parametrize("folder", ["missing", "file.txt", "nul\0", ""])
def test_nothing_that_is_missing_or_odd_raises(tmp_path, monkeypatch, folder, script):
    """Folders and scripts that are not there, not readable or no names at all are problems, not exceptions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / ".env").write_text("s3cr3t")
    (tmp_path / "folder").mkdir()
    code = capture_code(folder and str(tmp_path / folder), script)
    assert (code.git_hash, code.files) == (None, {})
    assert code.problems
    assert "s3cr3t" not in str(code)


def test_without_a_git_binary_the_script_is_the_code(tmp_path):
    """Where git is not installed GitPython still imports, the reason is said, and its variable is put back."""
    (tmp_path / "run.py").write_text("x = 1\n")
    code = (
        "import os, sys, msgspec; from ailab import repository; found = repository.capture_code('.', sys.argv[1]);"
        "print(msgspec.json.encode([found, 'GIT_PYTHON_REFRESH' in os.environ, 'git' in sys.modules]).decode())"
    )
    found, leaked, imported = json.loads(python("-c", code, str(tmp_path / "run.py"), PATH=str(tmp_path)))
    assert (found["git_hash"], found["problems"]) == (None, ["git is not installed"])
    assert found["files"] == {str(tmp_path / "run.py"): "x = 1\n"}
    assert (leaked, imported) == (False, True)


def test_without_gitpython_the_script_is_the_code(tmp_path):
    """Where GitPython is missing, or a module of the user's has its name, the reason is said."""
    (tmp_path / "git.py").write_text("mine = True\n")
    code = "from ailab import repository; print(*repository.capture_code('.', None).problems)"
    path = os.pathsep.join((str(tmp_path), SOURCE))
    assert python("-c", code, PYTHONPATH=path) == f"the module named git is not GitPython: {tmp_path / 'git.py'}"
    (tmp_path / "git.py").write_text("import no_such_module\n")
    assert python("-c", code, PYTHONPATH=path) == "GitPython cannot be imported: No module named 'no_such_module'"


def fake_git(folder: Path, monkeypatch, script: str) -> None:
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_git_that_hangs_is_stopped(repository, tmp_path, monkeypatch):
    """A call that takes too long is ended, with all its output so far given up, and the reason is said."""
    slow = _Git(str(repository), seconds=0.3)
    fake_git(tmp_path / "bin", monkeypatch, "echo begun\nexec sleep 60")
    begun = time.monotonic()
    with pytest.raises(_GitFailure, match=r"git status took longer than 0\.3 s"):
        slow.tell("status")
    assert time.monotonic() - begun < 20


def test_a_child_of_git_that_keeps_a_pipe_open_is_not_waited_for(repository, tmp_path, monkeypatch):
    """A program that git left behind, with git's error output in its hands, does not delay the answer."""
    quick = _Git(str(repository), seconds=20)
    fake_git(tmp_path / "bin", monkeypatch, "sleep 30 >/dev/null &\necho done")
    begun = time.monotonic()
    assert quick.tell("status") == b"done\n"
    assert time.monotonic() - begun < 15


def test_a_git_that_complains_at_length_does_not_block(repository, tmp_path, monkeypatch):
    """Megabytes of warnings fill no pipe that nobody reads, and of the answer only what was asked for is kept."""
    patient = _Git(str(repository), seconds=60)
    fake_git(tmp_path / "bin", monkeypatch, "head -c 3000000 /dev/zero | tr '\\0' w >&2\nhead -c 3000000 /dev/zero\nexit 3")
    answer = patient.ask("status", limit=1000)
    assert (answer.status, len(answer.output), answer.size_bytes, answer.late) == (3, 1000, 3_000_000, False)
    assert 16_000 < len(answer.error) < 17_000


def test_untracked_files_are_given_up_before_the_commit(repository, tmp_path, monkeypatch):
    """Where listing untracked files takes too long, the commit is still told."""
    real = shutil.which("git")
    slow = _Git(str(repository), seconds=2)
    fake_git(tmp_path / "bin", monkeypatch, f'case "$*" in *untracked-files=all*) exec sleep 60;; esac\nexec {real} "$@"')
    problems = []
    status = _status(slow, problems)
    assert (
        status.commit
        == subprocess.run([real, "-C", repository, "rev-parse", "HEAD"], capture_output=True, check=True).stdout.decode().strip()
    )
    assert problems == ["untracked files left out: git status took longer than 2 s"]


@root
def test_a_repository_of_another_user_is_said(repository):
    """Where git refuses a repository because of its owner, the reason names safe.directory."""
    for path in (repository, repository / ".git"):
        os.chown(path, 54321, 54321)
    code = capture_code(str(repository), str(repository / "train.py"))
    assert code.git_hash is None
    assert code.problems == [f"git refuses a repository of another user (safe.directory): {repository}"]
    assert list(code.files) == [str(repository / "train.py")]


def test_damage_in_a_repository_is_said(repository):
    """A repository whose objects are gone gives a reason and the script, not an exception."""
    shutil.rmtree(repository / ".git" / "objects")
    code = capture_code(str(repository), str(repository / "train.py"))
    assert code.git_hash is None
    assert len(code.problems) == 1


def test_results_are_values_that_can_be_stored(repository):
    """What is captured is frozen and survives JSON."""
    (repository / "x.py").write_text("x = 1\n")
    for found in (capture.capture_environment(), capture_code(str(repository), None)):
        assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
        with pytest.raises(AttributeError):
            found.problems = []
