"""What the command line makes of what nobody should type, and of streams that are closed or full: one line and an exit
code, never a traceback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from vfs.cli import buckets, helper, lifecycles, mounting, mounts, output
from vfs.cli.main import COMMANDS, MEANT, cli, run
from vfs.cli.mounts import Mount
from vfs.cli.output import Cell, Column, Failure
from vfs.cli.usage import nearest
from vfs.store import Store

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vfs(capsys: pytest.CaptureFixture[str]) -> Run:
    def runner(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return runner


def in_a_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "vfs", *arguments], timeout=60, check=False, **options)


def all_commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group, by its words."""
    pending: list[tuple[tuple[str, ...], click.Command]] = [((), cli)]
    while pending:
        words, command = pending.pop()
        if isinstance(command, click.Group):
            for word in command.list_commands(click.Context(command)):
                below = command.get_command(click.Context(command), word)
                assert below is not None
                pending.append(((*words, word), below))
        else:
            yield words, command


# -- names that are nearly right --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("lst", ["list", "show"], "list"),
        ("--jsn", ["--json", "--help"], "--json"),
        ("-json", ["--json", "--help"], "--json"),
        ("--json", ["--version", "--help"], None),
        ("remove", ["restore", "umount"], None),
        ("--read", ["--read-only", "--rights"], "--read-only"),
        ("--re", ["--read-only", "--reach"], None),
        ("", ["list"], None),
        ("x", [], None),
    ],
)
def test_the_nearest_is_named_or_nothing(word: str, known: list[str], found: str | None) -> None:
    assert nearest(word, known) == (f", the nearest is {found!r}" if found else "")


@pytest.mark.parametrize(("word", "found"), MEANT.items())
def test_what_others_call_it_leads_to_it(vfs: Run, word: str, found: str) -> None:
    assert found in COMMANDS
    code, _, err = vfs(word, "file")
    assert (code, err) == (2, f"vfs: No such command {word!r}, the nearest is {found!r}; see `vfs --help`\n")


@pytest.mark.parametrize("line", [["log", "f", "g"], ["log", "f", "g", "h"], ["restore", "f", "g", "h"]])
def test_one_file_at_a_time(vfs: Run, line: list[str]) -> None:
    code, _, err = vfs(*line)
    assert code == 2
    assert "this takes one file at a time" in err
    assert "one file at a time" not in vfs("s3", "key", "list", "a", "b")[2]


# -- arguments that cannot be right -----------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in, from where nothing is mounted, on a machine with no mount of vfs."""

    def spawn(order: object) -> None:
        pytest.fail(f"would have mounted {order}")

    monkeypatch.setattr(mounting, "spawn", spawn)
    monkeypatch.setattr(mounts, "all_mounts", lambda: [Mount("/", "ext4", "/dev/vda")])
    monkeypatch.chdir(tmp_path)
    return tmp_path


ODD = {
    "empty": "",
    "a dash": "-",
    "the root": "/",
    "here": ".",
    "above": "../..",
    "a device": "/dev/null",
    "an endless device": "/dev/zero",
    "a file of proc": "/proc/self/mem",
    "no UTF-8": "\udcff",
    "newlines": "a\nb\r\n",
    "what moves the cursor": "\x1b[2J\u202e\u2028\x85",
    "long": "a" * 5000,
    "deep": "a/" * 3000,
    "a URL": "s3://bucket/key",
    "negative": "-1",
    "huge": "9" * 400,
    "not a number": "nan",
    "infinite": "inf",
    "an address": "a..b:9000",
    "digits of another script": "\u0663",
    "quotes": "\"'`$(x)\\",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    ("words", "command"),
    # install-service takes nothing, and would install.
    [pytest.param(*found, id=" ".join(found[0])) for found in all_commands() if found[1].params],
)
@pytest.mark.usefixtures("nowhere")
def test_no_argument_and_no_option_ends_in_a_traceback(
    vfs: Run, words: tuple[str, ...], command: click.Command, odd: str
) -> None:
    arguments = [odd for one in command.params if isinstance(one, click.Argument)]
    required = [
        part for one in command.params if isinstance(one, click.Option) and one.required for part in (one.opts[0], odd)
    ]
    options = [one for one in command.params if isinstance(one, click.Option) and not (one.is_flag or one.hidden)]
    named = [one.opts[0] for one in options]
    lines = [[*required, "--", *arguments], *([*required, name, odd, "--", *arguments] for name in named)]
    for line in lines:
        code, _, err = vfs(*words, *line)
        assert code in (0, 1, 2), line
        assert err.count("\n") == (1 if code else 0), err
        assert "\x1b" not in err
        if odd == "" and arguments:
            assert code == 2, line


def test_nothing_is_not_taken_for_here(vfs: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a variable that is not set."""
    Store.open(nowhere / "store").close()
    monkeypatch.chdir(nowhere / "store")
    for line in (["check", ""], ["gc", ""], ["mount", "", nowhere], ["mount", nowhere / "new", ""], ["umount", ""]):
        code, out, err = vfs(*line)
        assert (code, out) == (2, "")
        assert "it is empty; see `vfs " in err


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("url", ["s3://bucket", "oss://b/k", "https://example.com/", "FILE:///home"])
def test_remote_buckets_are_not_there_yet(vfs: Run, capsys: pytest.CaptureFixture[str], url: str) -> None:
    for line in (["mount", url, "/mnt"], ["mount", "/x", url], ["check", url], ["log", url], ["bucket", "create", url]):
        code, _, err = vfs(*line)
        assert code == 2
        assert f"{url} is a URL, and there are no remote buckets yet" in err
    assert helper.run([url, "/mnt"]) == helper.MOUNT_FAILED
    assert "there are no remote buckets yet" in capsys.readouterr().err


def test_a_path_that_looks_like_a_url_is_a_path(vfs: Run, nowhere: Path) -> None:
    (nowhere / "s3:").mkdir()
    Store.open(nowhere / "s3:" / "store").close()
    assert vfs("check", "s3://store")[0] == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["trace", "--seconds", "nan", "/"], "--seconds is 0 to"),
        (["trace", "--seconds", "1e300", "/"], "--seconds is 0 to"),
        (["s3", "key", "create", "--bucket", "\udcff", "store"], "is no bucket name"),
        (["gc", "a" * 5000], "File name too long"),
    ],
)
def test_values_that_no_system_call_takes(vfs: Run, nowhere: Path, line: list[str], words: str) -> None:
    Store.open(nowhere / "store").close()
    code, _, err = vfs(*line)
    assert code == 2
    assert words in err


def test_a_host_that_dns_cannot_say(tmp_path: Path) -> None:
    done = in_a_process("serve", str(tmp_path / "store"), "--s3", "a..b:9000", capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"vfs: cannot listen on a..b:9000: ")
    assert done.stderr.count(b"\n") == 1


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A bucket at any path; what is set there."""
    found = {"user.vfs.lifecycle": b"[]", "user.vfs.lock": b"off"}
    facts = {"Path": "/docs", "Versioning": "Enabled", "Purge": "command", "MfaDelete": False}
    found["facts"] = facts  # type: ignore[assignment]
    monkeypatch.setattr(lifecycles, "existing", lambda path: facts)
    monkeypatch.setattr(buckets, "existing", lambda path: facts)
    monkeypatch.setattr(os, "getxattr", lambda path, name: found[name])
    monkeypatch.setattr(os, "setxattr", lambda path, name, value: found.update({name: value}))
    return found


@pytest.fixture
def facts(bucket: dict[str, bytes]) -> dict[str, Any]:
    """What `existing` tells of the bucket."""
    return bucket["facts"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"Rules"',
        "{}",
        '{"Rules": 1}',
        '{"Rules": [[[]]]}',
        '{"Rules": []}',
        '{"Rules": [{"ID": "\\udcff", "Status": "Enabled", "Prefix": "", "Expiration": {"Days": 1}}]}',
        '{"Rules": [{"ID": "x", "Status": "Enabled", "Prefix": "\\udcff", "Expiration": {"Days": 1}}]}',
        '{"Rules": [{"Status": "Enabled", "Prefix": "", "Expiration": {"Days": %s}}]}' % ("9" * 400),
        '{"Rules": [{"Status": "Enabled", "Prefix": "", "Expiration": {"Days": %s}}]}' % ("9" * 5000),
        '{"Rules": [{"Status": "Enabled", "Prefix": "", "Expiration": {"Days": NaN}}]}',
        "[" * 100_000,
        '{"Rules": ' * 20_000,
        "\x00",
        " " * (2 << 20),
    ],
)
def test_rules_that_are_none_are_not_loaded(vfs: Run, bucket: dict[str, bytes], tmp_path: Path, text: str) -> None:
    (tmp_path / "rules").write_text(text)
    code, out, err = vfs("lifecycle", "load", "/docs", tmp_path / "rules")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert bucket["user.vfs.lifecycle"] == b"[]"


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("option", ["--noncurrent-days", "--keep", "--expire-days", "--abort-days"])
@pytest.mark.parametrize("value", ["-1", "9" * 400, "nan", "", "1.5", "\udcff"])
def test_numbers_of_a_rule(vfs: Run, option: str, value: str) -> None:
    code, _, err = vfs("lifecycle", "set", "/docs", option, value)
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.usefixtures("bucket")
def test_the_name_of_a_rule_is_text(vfs: Run) -> None:
    code, _, err = vfs("lifecycle", "set", "/docs", "\udcff", "--expire-days", "1")
    assert code == 2
    assert "is UTF-8" in err
    assert vfs("lifecycle", "set", "/docs", "r", "--prefix", "\udcff", "--expire-days", "1")[0] == 0


# -- files of a store that make no sense ------------------------------------------------------------------------------

SENSELESS = {
    "deep arrays": "x = " + "[" * 100_000,
    "closed deep arrays": "x = " + "[" * 5000 + "]" * 5000,
    "deep tables": "x = " + "{a = " * 5000,
    "long dotted keys": "a." * 20_000 + "b = 1",
    "deep headers": "[" + "a." * 20_000 + "b]",
    "a huge number": "poll_us = " + "9" * 5000,
    "a number over 64 bits": "poll_us = " + "9" * 400,
    "an infinite number": "commit_interval = 1e999",
    "no date": "commit_interval = 9999-99-99",
    "a date": "commit_interval = 2026-11-20",
    "NUL": "x = \0",
    "NUL in a path": 's3_certificate = "\\u0000"\ns3_certificate_key = "\\u0000"',
    "a large file": "#" * (2 << 20),
    "an unknown setting": 'colour = "red"',
    "another type": "s3_domains = [1, [2]]",
    "the same twice": "poll_us = 1\npoll_us = 1",
}


@pytest.mark.parametrize("text", SENSELESS.values(), ids=SENSELESS)
@pytest.mark.parametrize("name", ["config.toml", "store.toml", "s3-keys", "scrub.json", "lock"])
def test_a_file_of_the_store_that_makes_no_sense(vfs: Run, store: Path, name: str, text: str) -> None:
    (store / name).write_text(text)
    for line in (["gc", store], ["check", store], ["s3", "key", "list", store], ["lifecycle", "log", store]):
        code, _, err = vfs(*line)
        assert code in (0, 2), line
        assert err.count("\n") == (1 if code else 0), err
        if code:
            assert f"{store / name}" in err or f"{store} has no format" in err, err
    needed = {"config.toml": ["gc", store], "store.toml": ["check", store], "s3-keys": ["s3", "key", "list", store]}
    if name in needed and (name, text) != ("config.toml", SENSELESS["NUL in a path"]):  # which the endpoint refuses
        assert vfs(*needed[name])[0] == 2


# -- what nobody can take back ----------------------------------------------------------------------------------------

COMPLIANCE = ["lock", "/docs", "compliance", "--days", "30"]


def test_compliance_is_not_begun_unasked(vfs: Run, bucket: dict[str, bytes]) -> None:
    code, out, err = vfs(*COMPLIANCE)
    assert (code, out) == (2, "")
    assert "stays for 30 days; not even root removes it sooner" in err
    assert "--yes" in err
    assert bucket["user.vfs.lock"] == b"off"
    assert vfs(*COMPLIANCE, "--yes")[0] == 0
    assert bucket["user.vfs.lock"] == b"compliance 30 days"


def test_what_can_be_taken_back_is_not_asked_for(vfs: Run, bucket: dict[str, bytes]) -> None:
    assert vfs("lock", "/docs", "governance", "--years", "1")[:2] == (0, "governance 1 year\n")
    assert bucket["user.vfs.lock"] == b"governance 1 years"


def test_object_lock_says_that_it_is_for_ever(
    vfs: Run, bucket: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vfs("lock", "/docs") == (0, "off\n", "")
    told = "/docs has object lock now, for ever, and so it stays Enabled\n"
    assert vfs("lock", "/docs", "on") == (0, "on\n", told)
    assert vfs("lock", "/docs", "on") == (0, "on\n", "")
    assert vfs("lock", "/docs", "governance", "--days", "2") == (0, "governance 2 days\n", "")

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "setxattr", refuse)
    code, _, err = vfs("versioning", "/docs", "suspended")
    assert (code, "object lock, which is for ever" in err) == (1, True)
    bucket["user.vfs.lock"] = b"off"
    assert "which cannot become Suspended" in vfs("versioning", "/docs", "suspended")[2]


@pytest.mark.parametrize(("state", "noted"), [("Enabled", False), ("Suspended", True), ("Unversioned", True)])
def test_never_keeps_nothing_where_there_is_no_versioning(
    vfs: Run, facts: dict[str, Any], state: str, noted: bool
) -> None:
    facts |= {"Versioning": state, "Purge": "never"}
    code, out, err = vfs("bucket", "purge", "/docs", "never")
    assert (code, out) == (0, "never\n")
    assert (f"/docs is {state}: what is overwritten or deleted there is lost all the same" in err) == noted
    assert vfs("bucket", "purge", "/docs")[2] == "", "it is told when it is set"


def test_a_rule_that_never_may_purge_is_noted(vfs: Run, facts: dict[str, Any]) -> None:
    assert vfs("lifecycle", "set", "/docs", "--keep", "1") == (0, "default: purges old versions, but keeps 1\n", "")
    facts["Purge"] = "never"
    assert "its rules purge nothing" in vfs("lifecycle", "set", "/docs", "--noncurrent-days", "1")[2]
    assert vfs("lifecycle", "set", "/docs", "--expire-days", "1")[2] == ""


@pytest.mark.usefixtures("bucket")
def test_numbers_are_told_as_people_say_them(vfs: Run) -> None:
    assert vfs("lifecycle", "set", "/docs", "--expire-days", "1")[1] == "default: deletes after 1 day\n"
    assert vfs("lifecycle", "set", "/docs", "b", "--abort-days", "2")[1] == "b: gives uploads up after 2 days\n"
    assert vfs("lifecycle", "remove", "/docs", "b")[1] == "1 rule is left\n"
    assert vfs("lifecycle", "remove", "/docs")[1] == "0 rules are left\n"
    code, _, err = vfs("lifecycle", "set", "/docs", "--keep", "0")
    assert (code, err) == (2, "vfs: --keep is 1 or more; to keep none, say --noncurrent-days without it\n")
    assert vfs("lifecycle", "set", "/docs", "--keep", "0", "--noncurrent-days", "3")[0] == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 130)])
def test_on_a_terminal_somebody_is_asked(
    vfs: Run, bucket: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    def ask(*_: object) -> str:
        if not answer:
            raise EOFError
        return answer.rstrip()

    monkeypatch.setattr("click.termui.visible_prompt_func", ask)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(output, "errors_on_terminal", lambda: True)
    assert vfs(*COMPLIANCE)[0] == code
    assert bucket["user.vfs.lock"] == (b"off" if code else b"compliance 30 days")


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    Store.open(tmp_path / "store").close()
    return tmp_path / "store"


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", line, sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_output_that_cannot_be_written_is_an_error(store: Path) -> None:
    for where in (">/dev/full", ">&-"):
        for command in ("check", "check --json", "s3 key create"):
            done = shell(f'"$0" -m vfs {command} "$1" {where}', store)
            assert done.returncode == 1, (command, where)
            assert done.stderr.startswith("vfs: cannot write the output: ")
            assert done.stderr.count("\n") == 1, done.stderr


def test_errors_that_cannot_be_told_leave_the_exit_code(store: Path) -> None:
    for where in ("2>/dev/full", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        assert shell(f'"$0" -m vfs check "$1/missing" {where}', store).returncode == 2, where


@pytest.mark.parametrize("command", ["check", "check --json", "--help"])
def test_a_reader_that_went_away(store: Path, command: str) -> None:
    done = shell(f'"$0" -m vfs {command} "$1" | true; echo ${{PIPESTATUS[0]}}', store)
    assert done.stderr == ""


def test_names_are_shown_as_they_are_where_that_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    name = "müller 写真 \U0001f600 \udcff \x1b\x9b\u2028\u202e\x7f"
    output.write_json({"Store": name})
    told = capsys.readouterr().out
    assert json.loads(told) == {"Store": name}
    assert "müller 写真 \U0001f600 \\udcff" in told
    assert told.strip().isprintable()
    output.write_json_list([name])
    assert json.loads(capsys.readouterr().out) == [name]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_the_output(tmp_path: Path, encoding: str) -> None:
    store = tmp_path / "müller 写真 \U0001f600"
    Store.open(store).close()
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = in_a_process("check", str(store), capture_output=True, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "is clean" in done.stdout.decode("utf-8" if encoding == "ascii" else encoding)  # by click
    code = f"from vfs.cli import output; output.write_json({str(store)!r})"
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60, check=True).stdout
    assert json.loads(told.decode(encoding)) == str(store)


@pytest.mark.parametrize("columns", ["", "0", "1", "-5", "x", "9" * 30])
def test_any_width(store: Path, columns: str) -> None:
    for line in (["--help"], ["check", str(store)], ["mount", "--help"]):
        done = in_a_process(*line, capture_output=True, env={**os.environ, "COLUMNS": columns, "TERM": "dumb"})
        assert (done.returncode, done.stderr) == (0, b"")


def test_the_help_of_every_command_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    groups = [("bucket",), ("lifecycle",), ("s3",), ("s3", "key")]
    for words in [(), *groups, *(words for words, _ in all_commands())]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "80")
            assert run([*words, "-h"]) == 0
        for line in capsys.readouterr().out.splitlines():
            assert len(line) <= 80, f"vfs {' '.join(words)} -h: {line}"


# -- what answers below a mount point ---------------------------------------------------------------------------------

FACTS = {
    "Name": "docs",
    "Versioning": "Enabled",
    "Created": "2026-11-20T15:16:17Z",
    "Versions": 3,
    "Bytes": 1200,
    "Compression": "off",
    "Purge": "command",
    "MfaDelete": False,
    "Unversioned": [],
}


@pytest.fixture
def three_mounts(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Mounts, and what is answered for their buckets: mine/docs, hers/docs, last/docs. An error is raised."""
    answers: dict[str, object] = {f"/{who}/docs": FACTS for who in ("mine", "hers", "last")}

    def answer(path: str, name: str) -> bytes:
        found = answers.get(path, OSError(61, "No data available"))
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, bytes) else json.dumps(found).encode()

    mounted = [
        Mount("/", "ext4", "/dev/vda"),
        *(Mount(f"/{who}", "fuse.vfs", "/s") for who in ("mine", "hers", "last")),
    ]
    monkeypatch.setattr(mounts, "all_mounts", lambda: mounted)
    monkeypatch.setattr(os, "getxattr", answer)
    monkeypatch.setattr(os, "listdir", lambda path: ["docs"])
    return answers


def listed(out: str) -> list[str]:
    return [line.split("\t")[0] for line in out.splitlines()]


def test_what_is_closed_to_somebody_is_passed_over(vfs: Run, three_mounts: dict[str, object]) -> None:
    three_mounts["/hers"] = PermissionError(13, "Permission denied")
    code, out, err = vfs("bucket", "list")
    assert (code, listed(out), err) == (0, ["/mine/docs", "/last/docs"], "vfs: /hers: Permission denied\n")
    code, out, err = vfs("bucket", "list", "--json")
    assert (code, [one["Path"] for one in json.loads(out)]) == (0, ["/mine/docs", "/last/docs"])
    code, out, err = vfs("bucket", "list", "/hers")
    assert (code, out, err) == (1, "", "vfs: /hers: Permission denied\n")
    three_mounts["/hers"] = OSError(61, "No data available")
    three_mounts["/hers/docs"] = PermissionError(13, "Permission denied")  # a bucket in a mount of a team
    code, out, err = vfs("bucket", "list")
    assert (code, listed(out), err) == (0, ["/mine/docs", "/last/docs"], "vfs: /hers/docs: Permission denied\n")


def test_the_list_of_buckets_fits_a_terminal(
    vfs: Run, three_mounts: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    three_mounts["/mine/docs"] = FACTS | {"Versioning": "Unversioned", "Versions": 12_345_678, "Bytes": (1 << 30) - 1}
    three_mounts["/hers/docs"] = FACTS | {"Compression": "zstd"}
    out = vfs("bucket", "list")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "/mine/docs  Unversioned  off" in out
    assert "2026-11-20\n" in out


@pytest.mark.parametrize(
    "line",
    [
        "bucket purge {} never",
        "bucket show {}",
        "bucket list {}",
        "bucket create {}/new",
        "versioning {} enabled",
        "lock {}",
        "lifecycle show {}",
        "log {}/f",
        "restore {}/f",
        "purge {}/f 20261120T151617.000001Z",
        "gc {}",
        "trace {}",
    ],
)
def test_a_mount_that_is_closed_is_not_taken_for_none(
    vfs: Run, three_mounts: dict[str, object], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """The kernel hides a mount even from root, unless its user says allow_other."""
    really = os.stat

    def stat(path: Any, *rest: Any, **more: Any) -> os.stat_result:
        if str(path).startswith("/hers"):
            raise PermissionError(13, "Permission denied")
        return really(path, *rest, **more)

    monkeypatch.setattr(os, "stat", stat)
    code, out, err = vfs(*line.format("/hers/docs").split())
    assert (code, out) == (1, "")
    assert " is closed to you: it is in another user's mount without allow_other\n" in err


@pytest.mark.parametrize(
    "line",
    [
        "s3 key create {}",
        "s3 key list {}",
        "check {}",
        "rebuild {}",
        "serve {} --s3 0",
        "mount {} /tmp",
        "lifecycle log {}",
    ],
)
@pytest.mark.usefixtures("three_mounts")
def test_a_mount_is_no_store(vfs: Run, line: str) -> None:
    assert vfs(*line.format("/mine").split()) == (2, "", "vfs: /mine is a mount; its store is /s\n")


@pytest.mark.parametrize("line", ["lock {}/docs on", "versioning {}", "log {}/docs/f", "bucket show {}/docs"])
def test_a_path_in_a_store_is_not_one_in_a_mount(vfs: Run, store: Path, line: str) -> None:
    code, _, err = vfs(*line.format(store).split())
    assert code == 2
    assert f"it is in the store {store}; name its place in a mount of that store, or do it over S3\n" in err


def test_what_cannot_be_read_is_told_behind_what_can(vfs: Run, three_mounts: dict[str, object]) -> None:
    three_mounts["/hers"] = OSError(107, "Transport endpoint is not connected")
    code, out, err = vfs("bucket", "list")
    assert (code, listed(out)) == (1, ["/mine/docs", "/last/docs"])
    assert err == "vfs: /hers: the daemon of this mount has died; mount the store again (vfs mount)\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"[]",
        b"1",
        b"{}",
        b"[" * 100_000,
        FACTS | {"Bytes": "x"},
        FACTS | {"Created": "now"},
        {"Name": "docs"},
    ],
)
def test_an_answer_that_is_none_of_this_vfs(vfs: Run, three_mounts: dict[str, object], answer: object) -> None:
    three_mounts["/hers/docs"] = answer
    code, out, err = vfs("bucket", "list")
    assert (code, listed(out)) == (1, ["/mine/docs", "/last/docs"])
    assert err == "vfs: /hers/docs: another version of vfs serves this mount; mount the store again\n"


# -- mountinfo --------------------------------------------------------------------------------------------------------


def test_names_in_mountinfo_that_look_like_ends_of_lines() -> None:
    name = "a\\040b\\011c\\012d\\134e\\043f\r\x0b\x0c\x1c\x85\u2028\udcffü"
    text = f"22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:30 / /mnt/{name} rw - fuse.vfs /s/{name} rw\n"
    plain = "a b\tc\nd\\e#f\r\x0b\x0c\x1c\x85\u2028\udcffü"
    assert mounts.parse_mountinfo(text) == [
        Mount("/", "ext4", "/dev/vda"),
        Mount(f"/mnt/{plain}", "fuse.vfs", f"/s/{plain}"),
    ]


def test_where_nothing_is_mounted_not_even_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a chroot."""
    assert mounts.parse_mountinfo("") == []
    monkeypatch.setattr(mounts, "all_mounts", list)
    with pytest.raises(Failure, match="is not on a vfs mount"):
        mounts.mount_of("/home")


def test_a_cell_of_any_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_table((Column("n"),), [[Cell("\udcff\n\t\x1b")]])
    assert capsys.readouterr().out == "\\xff\\n\\t\\x1b\n"
