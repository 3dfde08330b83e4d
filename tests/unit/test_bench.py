"""What scripts/bench is made of, as far as it needs no mount: its figures, reports and what real work is made from."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from bench_peers import chart, clients, report, rows, work
from bench_peers.clients import Load, Sample
from bench_peers.report import Results
from bench_peers.rows import FULL, QUICK, Row

REPOSITORY = Path(__file__).parents[2]
LITTLE = replace(QUICK, small_files=7, git_files=5, modules=3, c_files=2, packages=2)
CREATE = Row("create", "create <and> write", "µs")
CLONE = Row("clone", "git clone", "s", "bindfs")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The script, which has no ``.py``."""
    loader = importlib.machinery.SourceFileLoader("bench_script", str(REPOSITORY / "scripts/bench"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def results() -> Results:
    measured = Results(
        setting={"cores": 2, "Linux": "6.18", "machine": "busy"},
        peers=["ext4", "empty", "bindfs", "rclone", "vfs"],
        missing={"rclone": "rclone is not installed"},
        left_out=["rsync: no rsync (Debian: apt install rsync)"],
        failures=["bindfs, git: it broke"],
    )
    measured.values = {
        ("create", "ext4"): [1.0],
        ("create", "empty"): [100.0, 300.0, 200.0, 250.0, 150.0],
        ("create", "vfs"): [300.0, 100.0, 200.0],
        ("clone", "bindfs"): [2.0],
        ("clone", "vfs"): [3.0],
    }
    return measured


@pytest.mark.parametrize(
    ("values", "low_high"),
    [([3.0], (3.0, 3.0)), ([3.0, 1.0, 2.0], (1.0, 3.0)), ([5.0, 1.0, 2.0, 3.0, 4.0], (2.0, 4.0))],
)
def test_spread_is_the_quartiles_or_of_few_values_the_extremes(
    values: list[float], low_high: tuple[float, float]
) -> None:
    assert report.spread(values) == low_high


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_table_names_what_is_missing_left_out_and_failed(results: Results) -> None:
    text = report.table(results, [CREATE, CLONE])
    lines = text.splitlines()
    (create,) = [line for line in lines if line.startswith("create")]
    (clone,) = [line for line in lines if line.startswith("git clone")]
    assert create.split("(empty)")[1].split() == ["1.00", "0.01", "200", "1.00", "-", "missing", "200", "1.00"]
    assert clone.split("(bindfs)")[1].split() == ["-", "-", "2.00", "1.00", "missing", "3.00", "1.50"]
    assert lines[lines.index(create) + 1].split() == ["1.00..1.00", "150..250", "100..300"]
    for said in ("rclone is MISSING", "left out: rsync", "FAILED: bindfs, git: it broke"):
        assert said in text


def test_markdown_has_ratios_and_stresses_vfs(results: Results) -> None:
    assert report.markdown(results, [CREATE, CLONE]).splitlines() == [
        "|  | ext4 | empty | bindfs | rclone | vfs |",
        "| --- | --- | --- | --- | --- | --- |",
        "| create <and> write, µs | 1.00 (0.01) | 200 | - | missing | **200 (1.00)** |",
        "| git clone, s | - | - | 2.00 | missing | **3.00 (1.50)** |",
    ]


def test_json_can_be_shown_again(results: Results, tmp_path: Path) -> None:
    report.write_json(results, [CREATE, CLONE], tmp_path / "json")
    assert report.read_json(tmp_path / "json") == (results, [CREATE, CLONE])


def test_many_clients_have_a_table_of_their_own(results: Results, tmp_path: Path) -> None:
    results.loads = [
        ("bindfs", Load(4, "", 2000, 0.5, 1, 2, 3, "stat", "")),
        ("vfs", Load(4, "", 1000, 1, 2, 3, 4, "unlink", "90 % computes")),
        ("vfs", Load(4, "with gc", 900, 1, 2, 3, 5, "stat", "")),
        ("vfs", Load(1, "", 100, 1, 2, 3, 9, "rename", "10 % idle")),
    ]
    assert report.load_lines(results) == [
        ["clients", "bindfs", "vfs"],
        ["1", "-", "100/s; 1.00 / 2.00 / 3.00 / 9.00"],
        ["4", "2,000/s; 0.500 / 1.00 / 2.00 / 3.00", "1,000/s; 1.00 / 2.00 / 3.00 / 4.00"],
        ["4 with gc", "-", "900/s; 1.00 / 2.00 / 3.00 / 5.00"],
    ]
    longest = "vfs, 1 clients: 9.00 ms, rename; the daemon: 10 % idle"
    assert longest in report.stalls(results)
    assert f"longest: {longest}" in report.table(results, [])
    assert f"- {longest}\n" in report.markdown(results, [CREATE])
    report.write_json(results, [CREATE, CLONE], tmp_path / "json")
    assert report.read_json(tmp_path / "json") == (results, [CREATE, CLONE])


def test_clients_leave_as_many_files_as_they_found(tmp_path: Path) -> None:
    found = clients.load(tmp_path, 3, 0.05)
    assert found.per_s > 0
    assert found.p50_ms <= found.p99_ms <= found.p999_ms <= found.longest_ms
    assert [len(list((tmp_path / f"client-{number}").iterdir())) for number in range(3)] == [clients.FILES] * 3


def test_a_client_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="client failed"):
        clients.load(tmp_path / "missing", 2, 0.01)


def test_cause_of_a_wait_is_what_the_daemon_did_meanwhile() -> None:
    samples = [
        Sample(0, ["idle", "idle"], 0),
        Sample(10, ["fdatasync of a/b (jbd2)", "idle"], 0),
        Sample(20, ["fdatasync of a/b (jbd2)", "fsync of c/d (blk)"], 0),
        Sample(30, ["computes", "idle"], 10),
        Sample(40, ["computes", "idle"], 10),
        Sample(90, ["idle", "idle"], 90),
    ]
    assert clients.cause_of(samples, 5, 45) == (
        "50 % fdatasync of a/b (jbd2), 50 % computes, it waits for a core 25 % of the time, "
        "another thread: 25 % fsync of c/d (blk)"
    )
    assert clients.cause_of(samples, 50, 60) == ""


def test_chart_is_xml_with_a_mark_for_each_peer_measured(results: Results) -> None:
    drawn = ET.fromstring(chart.chart(results, [CREATE, CLONE, Row("new", "not measured", "s")]))
    texts = [element.text or "" for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    tips = [element.text or "" for element in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert "create <and> write" in texts
    assert "not measured" not in texts
    assert "rclone" not in texts
    assert "empty: 200 µs, 1.00 times vfs" in tips
    assert "bindfs: 2.00 s, 0.67 times vfs" in tips


def test_chart_keeps_what_is_far_away_inside() -> None:
    left, right = chart.LABEL_PX, chart.LABEL_PX + chart.PLOT_PX
    assert [chart.place(times) for times in (1e-9, 1, 1e9)] == pytest.approx([left, (left + right) / 2, right])


def test_every_row_has_a_key_of_its_own_and_a_title(bench: ModuleType) -> None:
    keys = [row.key for row in bench.ROWS]
    assert len(keys) == len(set(keys))
    for row in bench.ROWS:
        for scale in (FULL, QUICK):
            assert "{" not in rows.titled(row, scale).title


def test_every_program_that_a_job_needs_has_a_package() -> None:
    assert {name for job in work.JOBS for name in job.programs} <= set(work.PACKAGES)


def test_options_make_a_scale(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--size", "2M", "--rounds", "4", "--set", "modules=9"])
    assert bench.scale_of(bench.parse_arguments()) == replace(QUICK, big_bytes=2 << 20, rounds=4, modules=9)


@pytest.mark.parametrize("wrong", [["--set", "modules=0"], ["--set", "nothing=1"], ["--rows", "x"], ["--peers", "x"]])
def test_wrong_options_are_refused(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, wrong: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *wrong])
    with pytest.raises(SystemExit):
        bench.parse_arguments()


def test_peers_begin_in_turn(bench: ModuleType) -> None:
    assert [bench.in_turn(["a", "b", "c"], number) for number in (0, 1, 5)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
    ]


def content_of(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_trees_are_the_same_each_time_and_new_in_each_round(tmp_path: Path) -> None:
    first, again, second = (tmp_path / name for name in ("first", "again", "second"))
    for directory in (first, again, second):
        directory.mkdir()
    one = content_of(work.small_tree(first, 0, LITTLE))
    assert len(one) == LITTLE.small_files
    assert content_of(work.small_tree(again, 0, LITTLE)) == one
    assert not set(one.values()) & set(content_of(work.small_tree(second, 1, LITTLE)).values()) - {b""}


def test_each_round_changes_every_file_of_the_git_repository(tmp_path: Path) -> None:
    repository = work.git_repository(tmp_path, 0, LITTLE)
    before = content_of(repository / "copy-0")
    assert len(before) == LITTLE.git_files
    assert work.git_repository(tmp_path, 1, LITTLE) == repository
    after = content_of(repository / "copy-0")
    assert all(after[name] != content for name, content in before.items())


def test_wheel_has_valid_modules(tmp_path: Path) -> None:
    with zipfile.ZipFile(work.wheel(tmp_path, 0, LITTLE)) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".py")]
        assert len(modules) == LITTLE.modules
        for name in modules:
            compile(archive.read(name), name, "exec")


def test_npm_project_has_a_file_for_each_dependency(tmp_path: Path) -> None:
    project = work.npm_project(tmp_path, 0, LITTLE)
    needs = json.loads((project / "package.json").read_text())["dependencies"]
    assert len(needs) == LITTLE.packages
    for name, place in needs.items():
        with tarfile.open(project / place.removeprefix("file:")) as archive:
            assert len(archive.getnames()) == work.PACKAGE_FILES
            manifest = archive.extractfile("package/package.json")
            assert manifest is not None
            assert json.load(manifest)["name"] == name


def test_rows_are_chosen_by_group(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--rows", "small,clients"])
    assert bench.parse_arguments().rows == [*(row.key for row in rows.SMALL_ROWS), "list", "clients"]


def test_c_project_compiles(tmp_path: Path) -> None:
    if missing := [name for name in ("make", "gcc") if not work.shutil.which(name)]:
        pytest.skip(f"no {', '.join(missing)}")
    project = work.c_project(tmp_path, 0, LITTLE)
    subprocess.run(["make", "-s", "-C", project], check=True)
    assert (project / "program").exists()
