#!/usr/bin/env python3
"""Carry out deploy/Dockerfile without a container engine, and run a command as its user.

    .ci/dockerfile.py FOLDER COMMAND...        as root, with debootstrap and unshare

Each FROM is a fresh minimal Debian of the image's release in FOLDER; RUN lines are executed in it by
chroot, COPY lines copied, and COMMAND runs in the last stage with its ENV, USER and WORKDIR, its own /proc
and a /dev/shm of its own. What a real engine adds (layers, namespaces, the image's own base) is not shown
by this. PIP_CERT, where set, is passed on with the file it names.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[1]
KNOWN = {"FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
INSIDE = """
set -e
/bin/mount -t proc proc "$ROOT/proc"
/bin/mount --bind /dev "$ROOT/dev"
/bin/mount -t tmpfs -o size=256m,mode=1777 tmpfs "$ROOT/dev/shm"
exec /usr/sbin/chroot ${CHROOT_USER:+--userspec="$CHROOT_USER"} "$ROOT" /bin/sh -c "$1"
"""


@dataclass
class Stage:
    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": os.defpath + ":/usr/sbin:/sbin"})
    user: str = ""
    workdir: str = "/"

    def run(self, command: str) -> None:
        """Execute as the stage's user in its folder; ends the program when it fails."""
        kept = {"DEBIAN_FRONTEND": "noninteractive"}
        if certificates := os.environ.get("PIP_CERT"):
            inside = self.root / "ci-certificates.crt"
            shutil.copyfile(certificates, inside)
            kept["PIP_CERT"] = "/" + inside.name
        group = f"{self.user}:{self.user}" if self.user else ""
        script = f"cd {shlex.quote(self.workdir)} && {{ {command}; }}"
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        done = subprocess.run(
            [*isolated, "/bin/bash", "-c", INSIDE, "dockerfile", script],
            env=kept
            | self.env
            | {"ROOT": str(self.root), "CHROOT_USER": group, "HOME": self.workdir},
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{command}: ended with {done.returncode}")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(word, rest) of each instruction, continued lines joined. SystemExit for one that is not known."""
    lines = [line for line in path.read_text().split("\n") if not line.lstrip().startswith("#")]
    found = []
    for line in "\n".join(lines).replace("\\\n", " ").split("\n"):
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word not in KNOWN:
            raise SystemExit(f"{path}: {word} is none of {', '.join(sorted(KNOWN))}")
        found.append((word, rest.strip()))
    return found


def base(image: str, folder: Path) -> Path:
    """A minimal system of that image's release, made once."""
    match = re.fullmatch(r"debian:(\w+)-slim", image)
    if match is None:
        raise SystemExit(f"{image} is no debian:RELEASE-slim")
    root = folder / f"base-{match[1]}"
    if not root.exists():
        making = folder / f"making-{match[1]}"
        subprocess.run(["debootstrap", "--variant=minbase", match[1], str(making)], check=True)
        making.rename(root)
    return root


def copy(stage: Stage, stages: dict[str, Stage], words: list[str]) -> None:
    """COPY [--from=STAGE] SOURCE... TARGET."""
    origin = CONTEXT
    if words[0].startswith("--from="):
        origin = stages[words.pop(0).removeprefix("--from=")].root
    *sources, target = words
    into = stage.root / os.path.join(stage.workdir, target).lstrip("/")
    for source in sources:
        found = origin / source.lstrip("/")
        if found.is_dir():
            shutil.copytree(found, into, symlinks=True, dirs_exist_ok=True)
        else:
            is_folder = target.endswith("/") or len(sources) > 1
            into.mkdir(parents=True, exist_ok=True) if is_folder else None
            shutil.copy2(found, into / found.name if is_folder else into)


def main(folder: Path, command: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    start: list[str] = []
    for word, rest in instructions(CONTEXT / "deploy" / "Dockerfile"):
        print(f"-- {word} {rest}", flush=True)
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            root = folder / f"stage-{len(stages)}"
            shutil.rmtree(root, ignore_errors=True)
            subprocess.run(["cp", "-a", base(image, folder), root], check=True)
            shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
            stage = stages[name or str(len(stages))] = Stage(root)
            continue
        assert stage is not None, f"{word} before FROM"
        if word == "RUN":
            stage.run(rest)
        elif word == "COPY":
            copy(stage, stages, rest.split())
        elif word == "ENV":
            key, _, value = rest.partition("=")
            stage.env[key] = value
        elif word == "USER":
            stage.user = rest
        elif word == "WORKDIR":
            stage.workdir = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "ENTRYPOINT":
            start = json.loads(rest)
    assert stage is not None
    assert stage.user not in ("", "root"), "the image must not run as root"
    stage.run(shlex.join([*start, "--help"]) + " >/dev/null")
    print(f"-- {shlex.join(command)}", flush=True)
    stage.run(shlex.join(command))


if __name__ == "__main__":
    if len(sys.argv) < 3 or os.geteuid():
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
