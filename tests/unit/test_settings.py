"""Every setting: its names, its order, and that a bad one costs itself and nothing else."""

from __future__ import annotations

import os

import pytest

import ailab
from ailab import settings
from ailab.errors import SettingError

VALUES = {
    # setting: (text in the environment, value)
    "dir": ("/data/lab", "/data/lab"),
    "project": ("Iris", "Iris"),
    "run_name": ("first", "first"),
    "run_id": ("exp-1", "exp-1"),
    "group": ("g", "g"),
    "tags": ("a, b,,c ", ("a", "b", "c")),
    "seed": ("42", 42),
    "dataset_id": ("iris@v1", "iris@v1"),
    "mode": ("DISABLED", "disabled"),
    "strict": ("yes", True),
    "silent": ("on", True),
    "durable": ("TRUE", True),
    "auto_compact": ("0", False),
    "system_metrics": ("off", False),
    "console": ("no", False),
    "api_url": ("http://lab:8000", "http://lab:8000"),
    "token": ("t", "t"),
    "allowed_hosts": ("lab, lab.example", ("lab", "lab.example")),
    "cors_origins": ("http://a", ("http://a",)),
    "trusted_proxies": ("127.0.0.1,10.0.0.0/8", ("127.0.0.1", "10.0.0.0/8")),
    "model": ("m", "m"),
    "installation": ("ours", "ours"),
    "wandb_project": ("w", "w"),
}
DEFAULTS = settings.Settings()


@pytest.fixture(autouse=True)
def nothing_is_set(clean_world, monkeypatch):
    """Not even that tests start no compaction."""
    monkeypatch.delenv("AILAB_AUTO_COMPACT")


def test_every_setting_is_tested_here():
    assert set(VALUES) == set(settings.Settings.__struct_fields__)


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_is_taken_from_argument_environment_dotenv_table_default_in_this_order(tmp_path, monkeypatch, name):
    """Each place counts above those behind it; texts mean the same everywhere."""
    text, value = VALUES[name]
    variable = settings.variables(name)[0]
    assert getattr(settings.load(), name) == getattr(DEFAULTS, name)
    shown = (
        f'"{text}"'
        if not isinstance(value, int)
        else text
        if isinstance(value, int) and not isinstance(value, bool)
        else f'"{text}"'
    )
    (tmp_path / "pyproject.toml").write_text(f"[tool.ailab]\n{name} = {shown}\n")
    assert getattr(settings.load(), name) == value
    first = "1" if isinstance(value, bool) and not value else "0" if isinstance(value, bool) else "7" if name == "seed" else "on"
    below = settings._parse(name, first, "")
    (tmp_path / ".env").write_text(f"{variable}={first}\n")
    assert getattr(settings.load(), name) == below
    monkeypatch.setenv(variable, text)
    assert getattr(settings.load(), name) == value
    settings.configure(**{name: first})
    assert getattr(settings.load(), name) == below
    assert getattr(settings.load(**{name: text}), name) == value
    settings.configure(**{name: None})
    assert getattr(settings.load(**{name: None}), name) == value


def test_the_names_of_other_tools_count_behind_ours(monkeypatch):
    monkeypatch.setenv("PROJECT_NAME", "theirs")
    monkeypatch.setenv("MODELLAB_SEED", "7")
    monkeypatch.setenv("MODELLAB_API_URL", "http://old")
    monkeypatch.setenv("WANDB_PROJECT", "w")
    found = settings.load()
    assert (found.project, found.installation, found.seed, found.api_url, found.wandb_project) == (
        "theirs", "theirs", 7, "http://old", "w",
    )  # fmt: skip
    monkeypatch.setenv("AILAB_PROJECT", "ours")
    monkeypatch.setenv("AILAB_SEED", "8")
    monkeypatch.setenv("AILAB_API_URL", "http://new")
    found = settings.load()
    assert (found.project, found.installation, found.seed, found.api_url) == ("ours", "theirs", 8, "http://new")


def test_only_our_names_of_a_dotenv_are_read_and_nothing_is_exported(tmp_path, monkeypatch):
    """The nearest file counts, with quotes, comments, `export` and blanks as people write them."""
    (tmp_path / ".env").write_text("AILAB_PROJECT=far\n")
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (tmp_path / "deep" / ".env").write_text(
        "# a comment\n"
        "export AILAB_PROJECT='my project' # said\n"
        'AILAB_GROUP = "a # b"\n'
        "AILAB_DATASET_ID=iris@v1 # the first\n"
        "AILAB_RUN_NAME=\n"
        "AWS_SECRET_ACCESS_KEY=swordfish\n"
        "PATH=/nowhere\n"
        "AILAB_NO_SUCH_SETTING=1\n"
        "rubbish\n"
        "AILAB_TOKEN=a=b=c\n"
    )
    monkeypatch.chdir(folder)
    found = settings.load()
    assert (found.project, found.group, found.dataset_id, found.run_name, found.token) == (
        "my project", "a # b", "iris@v1", None, "a=b=c",
    )  # fmt: skip
    assert "AILAB_PROJECT" not in os.environ
    assert os.environ["PATH"] != "/nowhere"
    assert "swordfish" not in repr(settings._dotenv(str(folder)))


BAD = {
    "AILAB_SEED": ("many", "no whole number"),
    "AILAB_MODE": ("sideways", "no mode"),
    "AILAB_STRICT": ("perhaps", "no switch"),
    "AILAB_SILENT": ("perhaps", "no switch"),
    "AILAB_DURABLE": ("2", "no switch"),
}


@pytest.mark.parametrize("variable", BAD)
def test_a_bad_text_is_an_error_that_says_where_and_what_is_allowed(monkeypatch, variable):
    text, reason = BAD[variable]
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingError, match=f"{variable}: {text!r} is {reason}") as problem:
        settings.load()
    assert problem.value.hint.startswith("allowed: ")


@pytest.mark.parametrize("variable", BAD)
def test_a_bad_setting_costs_itself_and_nothing_else(store_dir, monkeypatch, capsys, variable):
    """One warning names it; every other setting of every other place holds, and training goes on."""
    monkeypatch.setenv(variable, BAD[variable][0])
    monkeypatch.setenv("AILAB_PROJECT", "kept")
    monkeypatch.setenv("AILAB_TAGS", "a,b")
    with ailab.start_run("x", group="g") as run:
        run.log({"a": 1})
    said = capsys.readouterr().err
    assert said.count("ailab:") == 1
    assert variable in said
    assert (run.project, run._setting.tags, run._setting.group, run.mode) == ("kept", ("a", "b"), "g", "on")
    assert run.store.path == str(store_dir)


def test_a_bad_setting_raises_in_strict(store_dir, monkeypatch):
    monkeypatch.setenv("AILAB_SEED", "many")
    monkeypatch.setenv("AILAB_STRICT", "1")
    with pytest.raises(SettingError, match="AILAB_SEED"):
        ailab.start_run("x")
    monkeypatch.delenv("AILAB_STRICT")
    with pytest.raises(SettingError, match="AILAB_SEED"):
        ailab.start_run("x", strict=True)
    assert not store_dir.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[tool.ailab\n",
        "[tool.ailab]\ncolour = 1\n",
        "[tool.ailab]\nseed = 'x'\n",
        "[tool]\nailab = 5 # tool.ailab\n",
        "[tool.ailab]\nproject = 5\n",
    ],
)
def test_a_pyproject_that_is_wrong_never_stops_training(store_dir, tmp_path, capsys, text):
    (tmp_path / "pyproject.toml").write_text(text)
    with ailab.start_run("x") as run:
        run.log({"a": 1})
    assert run.mode == "on"
    said = capsys.readouterr().err
    assert said.count("ailab:") == (0 if "project = 5" in text else 1)
    assert "pyproject" in said or "tool.ailab" in said or "project = 5" in text


def test_a_pyproject_without_us_is_not_parsed(tmp_path):
    """Somebody else's broken file is none of our business."""
    (tmp_path / "pyproject.toml").write_bytes(b"[broken\n\xff\xfe")
    (tmp_path / ".env").write_bytes(b"\xff\xfeAILAB_PROJECT=x\nAILAB_GROUP=g\n")
    assert settings.load().group == "g"


def test_a_folder_in_place_of_a_file_sets_nothing(tmp_path):
    (tmp_path / ".env").mkdir()
    (tmp_path / "pyproject.toml").mkdir()
    assert settings.load() == DEFAULTS


def test_a_table_has_real_values(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.ailab]\ntags = ["a", "b"]\nstrict = true\nseed = 3\ndir = "lab"\n')
    found = settings.load()
    assert (found.tags, found.strict, found.seed, found.dir) == (("a", "b"), True, 3, "lab")


@pytest.mark.parametrize(
    ("given", "mode"), [("online", "on"), ("offline", "on"), ("", "on"), ("off", "disabled"), ("Disabled ", "disabled")]
)
def test_modes_of_other_tools_are_known(monkeypatch, given, mode):
    monkeypatch.setenv("AILAB_MODE", given)
    assert settings.load().mode == mode


def test_configure_refuses_what_is_no_setting():
    with pytest.raises(SettingError, match="no setting 'projct'") as problem:
        settings.configure(projct="x")
    assert "project" in problem.value.hint
    with pytest.raises(SettingError, match="seed="):
        settings.configure(seed="x")
