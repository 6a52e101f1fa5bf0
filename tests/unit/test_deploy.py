"""What deploy/ says is what the programs have: options, keys of the settings, folders of the image.

systemd-analyze and the steps of the Dockerfile are run by .ci/run; here the files are read.
"""

import configparser
import re
import shlex
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
import typer

from arena.writer.cli import config
from arena.writer.cli import writer as cli

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
APP: Any = typer.main.get_command(cli.app)


def options_of(command: str) -> set[str]:
    return {name for param in APP.commands[command].params for name in param.opts}


def unit() -> configparser.RawConfigParser:
    parsed = configparser.RawConfigParser(strict=True)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string((DEPLOY / "arena-writer.service").read_text())
    return parsed


@pytest.mark.parametrize("line", ["ExecStartPre", "ExecStart"])
def test_the_unit_starts_the_program_with_options_it_has(line: str) -> None:
    program, command, *words = shlex.split(unit()["Service"][line])
    assert program == "/opt/arena/bin/arena-writer"
    known = options_of(command) | (options_of("run") if command == "config" else set())
    given = [word for word in words if word.startswith("--")]
    assert given
    assert set(given) <= known


def test_the_unit_waits_for_ready_and_lets_the_watchdog_bite() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert service["ExecReload"].endswith("kill -HUP $MAINPID")
    assert service["Restart"] == "on-failure"
    assert int(service["TimeoutStopSec"]) > 10  # the feed thread alone is given 10 s
    # Each would hide what the writer needs; the unit says what.
    for broken in ("PrivateTmp", "RemoveIPC", "PrivateUsers", "PrivateNetwork", "ProcSubset"):
        assert broken not in service


def test_unit_image_and_compose_file_name_the_same_settings() -> None:
    path = "/etc/pool-state-arena/arena-writer.toml"
    assert path in unit()["Service"]["ExecStart"]
    assert path in (DEPLOY / "Dockerfile").read_text()
    assert path in (DEPLOY / "compose.yml").read_text()


def test_the_example_settings_are_settings(tmp_path: Path) -> None:
    text = (DEPLOY / "arena-writer.toml").read_text()
    # What is commented out must hold as well, one at a time.
    for line in ["", *re.findall(r"^# ([a-z-]+ = .*)$", text, re.M)]:
        path = tmp_path / "arena-writer.toml"
        path.write_text(f"{text}\n{line}\n")
        context = APP.commands["run"].resolve("run", ["--config", str(path)], None)
        found = {each.key: each for each in config.settings(context)}
        for key, value in tomllib.loads(path.read_text()).items():
            assert found[key].source == "file"
            assert str(getattr(found[key].value, "value", found[key].value)) == str(value)


def test_the_image_does_not_run_as_root_and_starts_a_run() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().split("\n")
    last = [line for line in lines if line.startswith(("USER", "ENTRYPOINT", "CMD"))]
    assert last[0] == "USER arena"
    assert last[1:] == [
        'ENTRYPOINT ["arena-writer"]',
        'CMD ["run", "--config", "/etc/pool-state-arena/arena-writer.toml"]',
    ]


def test_the_image_copies_every_folder_the_package_is_made_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {
        path.split("/")[0]
        for path in typing.cast(
            dict[str, str], project["tool"]["setuptools"]["package-dir"]
        ).values()
    }
    copied = re.findall(r"^COPY (\w+) \w+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert set(copied) == folders


def test_the_lock_file_names_every_dependency_with_hashes_and_no_host() -> None:
    lines = (ROOT / "requirements.lock").read_text().split("\n")
    text = "\n".join(line for line in lines if not line.startswith("#"))
    entries = re.split(r"\n(?=\S)", text.strip())
    locked = set()
    for entry in entries:
        name, _, rest = entry.partition("==")
        locked.add(name)
        assert re.fullmatch(r"[\w.]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+", rest), (
            entry
        )
    assert "://" not in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["writer"],
    ]
    names = {re.split(r"[\[><=]", each)[0].replace("_", "-") for each in wanted}
    assert names <= locked
    assert "nkeys" in locked  # of an extra of a dependency
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert "--require-hashes" in dockerfile
    for line in dockerfile.split("\n"):
        if "/pip " in line:
            assert "--require-hashes" in line or "--no-index" in line or "--no-deps" in line, line


def test_variables_of_the_compose_file_are_settings() -> None:
    text = (DEPLOY / "compose.yml").read_text()
    names = set(re.findall(r"^\s+(ARENA_WRITER_\w+):", text, re.M))
    known = {"ARENA_WRITER_" + param.name.upper() for param in APP.commands["run"].params}
    assert names
    assert names <= known
