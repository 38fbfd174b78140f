"""Values that mean nothing, or far too much, are refused in a line with their place and at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ktbench import matrix
from ktbench.matrix import MatrixError
from ktbench.matrix.size_limits import MOST_CELLS
from ktbench.networks.weights import read_torch
from ktbench.records import KtbenchError, one_line, printable
from ktbench.system.files import MOST_WEIGHTS
from ktbench.system.machine import usable_cores
from tests.support.running import Commands, write_matrix

GOOD = """\
data: {source: digits, train_size: 60, validation_size: 30, test_size: 40}
teachers: [{student: resnet8, name: T}]
students: [resnet8]
methods: [kd]
seeds: 1
train: {epochs: 2, batch_size: 30}
"""


def refused(line: str) -> str:
    """The one problem of a good matrix with this line in place of the one of its key."""
    key = line.partition(":")[0]
    kept = [good for good in GOOD.splitlines() if not good.startswith(f"{key}:")]
    with pytest.raises(MatrixError) as caught:
        matrix.plan(matrix.loads("\n".join([*kept, line]) + "\n"))
    [problem] = str(caught.value).splitlines()
    assert problem.isprintable() and problem.startswith("matrix.yaml:")
    return problem


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../etc/x", "is a name, not a path"),
        ("/abs", "is a name, not a path"),
        ("a/b", "is a name, not a path"),
        (r'"a\\b"', "is a name, not a path"),
        (".", "must neither begin nor end with a dot"),
        ("..", "must neither begin nor end with a dot"),
        ("trailing.", "must neither begin nor end with a dot"),
        ('""', "must not be empty"),
        ('"  "', "must not be empty"),
        ('" lead"', "must not begin or end with a space"),
        ('"trail "', "must not begin or end with a space"),
        ("x" * 201, "at most 200 bytes"),
        ("é" * 101, "at most 200 bytes"),
        (r'"a\0b"', "control character U+0000"),
        (r'"\e[31mred"', "control character U+001B"),
        (r'"\e]0;title\a"', "control character U+001B"),
        (r'"\u009bred"', "control character U+009B"),
        (r'"two\nlines"', "control character U+000A"),
        (r'"\u2028"', "control character U+2028"),
        (r'"\u202edrawkcab"', "control character U+202E"),
        (r'"\ud800"', "control character U+D800"),
        ("CON", "stands for a device"),
        ("nul.txt", "stands for a device"),
        ("Lpt1", "stands for a device"),
        ("5", "must be text"),
        ("[a]", "must be text"),
    ],
)
def test_a_name_that_is_no_name_is_refused(name: str, said: str) -> None:
    problem = refused(f"name: {name}")
    assert problem.startswith("matrix.yaml:7: name: ") and said in problem


@pytest.mark.parametrize("name", ["ünïcödé", "日本語", "A study (v2), é", "a:b", "con-trol", "🙂"])
def test_letters_of_every_script_are_names(name: str) -> None:
    assert matrix.plan(matrix.loads(f"name: {name}\n{GOOD}")).name == name


@pytest.mark.parametrize("file", ["..yaml", "\x1b[31m.yaml", " .yaml", "CON.yaml"])
def test_a_file_whose_name_cannot_be_the_matrixs_asks_for_one(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text(GOOD)
    with pytest.raises(MatrixError, match="give the matrix a name") as caught:
        matrix.load(tmp_path / file)
    assert str(caught.value).isprintable()
    (tmp_path / file).write_text(f"name: good\n{GOOD}")
    assert matrix.plan(matrix.load(tmp_path / file)).name == "good"


@pytest.mark.parametrize(
    "line",
    [
        r'teachers: [{student: resnet8, name: "\e[31m"}]',
        r'devices: [{local: {name: "\e[31m"}}]',
        r'data: {source: folder, path: "pictures\a"}',
        r'"na\eme": x',
        r'students: ["\e[2J"]',
    ],
)
def test_no_text_of_a_matrix_holds_what_a_terminal_acts_on(line: str) -> None:
    assert "control character U+00" in refused(line)


def test_what_is_told_of_names_and_errors_is_printable(ktbench: Commands, tmp_path: Path) -> None:
    for name in ("no\x1b[2J.yaml", "no\udcff.yaml", "no\x9b31m.yaml", "no\u202e.yaml"):
        answer = ktbench("plan", tmp_path / name)
        assert answer.code == 2 and answer.error.isprintable() and "no\\" in answer.error
    ktbench.report = True
    assert ktbench("report", tmp_path / "no\x1b[2J").error.isprintable()
    odd = ValueError("a\x1b]0;title\x07 \ud800 of\nseveral lines")
    assert one_line(odd) == "ValueError: a\\x1b]0;title\\x07 \\ud800 of several lines"
    assert str(KtbenchError("x\x1b[2J\ny")) == "x\\x1b[2J\ny"
    assert printable("plain text, é 日本 🙂") == "plain text, é 日本 🙂"


def test_an_error_that_cannot_say_itself_is_told_by_its_kind() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert one_line(OddError()) == "OddError"


@pytest.mark.slow
def test_a_terminal_of_ascii_gets_escapes_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "日本.yaml").write_text(GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "ktbench", "plan", "日本.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
    )
    assert done.returncode == 0 and b"\\u65e5\\u672c: 2 cells" in done.stdout, done.stderr


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "value",
    ["true", "1_0", "0x10", "1:30", "010", "0o10", ".inf", ".nan", "2024-01-01", "1e400", '"5"',
     "-1", "0", "10000001", "9" * 30, "yes", "[1]", "~", "1.5"],
)  # fmt: skip
def test_a_count_is_a_whole_number_in_decimal_digits(value: str) -> None:
    for line in (f"train: {{epochs: {value}}}", f"train: {{epochs: 1, batch_size: {value}}}"):
        if "batch" not in line or value not in ("10000001",):
            assert refused(line).startswith("matrix.yaml:6: train.")


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("train: {epochs: 2, lr: true}", "train.lr: must be a number"),
        ("train: {epochs: 2, lr: 1e400}", "train.lr: must be a finite number"),
        ("train: {epochs: 2, lr: -.inf}", "train.lr: must be a finite number"),
        ("train: {epochs: 2, lr: '0.1'}", "train.lr: must be a number"),
        ("train: {epochs: 2, weight_decay: -1}", "train.weight_decay: must be at least 0"),
        ("train: {epochs: 2, batch_size: 2000000}", "train.batch_size: must be at most 1,048,576"),
        ("seeds: [9223372036854775808]", "seeds[0]: is a whole number beyond 64 bits"),
        ("seeds: [18446744073709551616]", "seeds[0]: is a whole number beyond 64 bits"),
        ("seeds: [true]", "seeds[0]: must be a whole number"),
        ("seeds: [1.5]", "seeds[0]: must be a whole number"),
        ("numeric: {threads: 1000000}", "numeric.threads: must be at most 1024"),
        ("numeric: {compile: yes}", "numeric.compile: must be true or false"),
        ("data: {source: digits, image_size: 100000}", "data.image_size: must be at most 8192"),
        pytest.param(
            "data: {source: digits, image_size: 8192}",
            "1,797 images of 1×8192×8192 take",
            marks=pytest.mark.slow,
        ),
        ("data: {source: digits, augment: {flip: yes}}", "augment.flip: must be true or false"),
        ("data: {source: digits, augment: {crop_padding: 8}}", "crop_padding: must be below the 8"),
        ("data: {source: digits, augment: {crop_padding: -1}}", "crop_padding: must be at least 0"),
        ("data: {source: folder, path: /dev/zero}", "data: /dev/zero: is a device"),
        ("devices: [{local: {threads: 1000000}}]", "local.threads: must be at most 1024"),
        ("devices: [{local: {threads: []}}]", "local.threads: must not be empty"),
        ("devices: [{local: {repeats: 1000000000}}]", "local.repeats: must be at most 10000"),
        ("devices: [{ssh: {host: 'me@pi:22'}}]", "ssh.host: 'me@pi:22' names a port"),
        ("devices: [{ssh: {host: 'ssh://pi'}}]", "ssh.host: 'ssh://pi' is a URL"),
        ("students: [{resnet8: {width: 1000000}}]", "width: resnet8(width=1e+06) cannot be built"),
        ("students: [{resnet8: {width: 1e300}}]", "students[0].resnet8.width: "),
        ("students: [{resnet8: {width: true}}]", "resnet8.width: must be a number"),
        ("teacher: {wait_seconds: 1e300}", "teacher.wait_seconds: must be at most"),
        ("teacher: {source: cached, cap_gb: .inf}", "teacher.cap_gb: must be a finite number"),
        ("x: " + "[" * 100 + "]" * 100, "nested too deeply: 32 levels at most"),
        ("x: " + "{a: " * 3000, "nested too deeply: 32 levels at most"),
    ],
)  # fmt: skip
def test_a_number_beyond_what_it_can_mean_is_refused_at_its_place(line: str, where: str) -> None:
    assert where in refused(line)


def test_the_largest_seed_that_tables_hold_is_taken() -> None:
    planned = matrix.plan(matrix.loads(GOOD.replace("seeds: 1", f"seeds: [{2**63 - 1}]")))
    assert planned.cells[0].seed == 2**63 - 1


@pytest.mark.slow
def test_more_threads_than_cores_are_refused_before_a_run_and_planned_elsewhere(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = write_matrix(tmp_path / "m.yaml", numeric={"threads": usable_cores() + 1})
    answer = ktbench("run", path, "--quiet")
    assert answer.code == 2 and "numeric.threads" in answer.error
    assert "cores that this process may use" in answer.error
    assert ktbench("plan", path).code == 0


# ---------------------------------------------------------------- what nobody could pay


def _values(count: int) -> str:
    return "[" + ", ".join(str(n / 1000) for n in range(1, count + 1)) + "]"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (
            f"methods: [{{kd: {{weight: {_values(1000)}, temperature: {_values(1000)}, "
            f"ce_weight: {_values(1000)}}}}}]",
            ["1,000,000,001 cells", "31 years"],
        ),
        (
            f"teachers: [{{student: resnet8, seed: {list(range(1000))}, train: {{lr: "
            f"{_values(1000)}, momentum: {_values(1000)[:-6]}]}}}}]",
            ["teachers: asks for", "more than the 10,000"],
        ),
        ("seeds: 10000\nbudget: " + str(list(range(1, 1001))), ["20,000,000 cells", "days"]),
        (f"students: [{{resnet8: {{width: {_values(1500)}}}}}]", ["1,500 variants are too many"]),
        (
            "include: {seed: "
            + str(list(range(10_000)))
            + ", method: [kd, none, attention, fitnet,"
            " hint, at, x, y, z, w, v, u, t]}",
            ["include"],
        ),
    ],
)
@pytest.mark.slow
def test_a_sweep_that_explodes_is_refused_with_what_it_would_take(
    line: str, parts: list[str]
) -> None:
    with pytest.raises(MatrixError) as caught:
        kept = [g for g in GOOD.splitlines() if not g.startswith(line.partition(":")[0] + ":")]
        matrix.loads("\n".join([*kept, line]) + "\n")
    for part in parts:
        assert part in str(caught.value)


def test_a_hundred_thousand_cells_are_the_most_of_a_plan() -> None:
    wide = GOOD.replace("seeds: 1", "seeds: 10000") + "budget: [1, 2, 3, 4, 5, 6]\n"
    with pytest.raises(MatrixError, match=f"120,000 cells, more than the {MOST_CELLS:,}"):
        matrix.loads(wide)


@pytest.mark.slow
def test_images_on_which_a_pass_takes_minutes_are_told_with_their_operations() -> None:
    text = GOOD.replace("{source: digits,", "{source: digits, image_size: 4096,")
    planned = matrix.plan(matrix.loads(text))
    assert not planned.cells
    assert "FLOPs for one image of 1×4096×4096" in planned.skips[0].reason


@pytest.mark.slow
def test_a_plan_of_centuries_is_refused_with_its_estimate(
    ktbench: Commands, tmp_path: Path
) -> None:
    train: dict[str, Any] = {"epochs": 10_000_000, "batch_size": 30}
    path = write_matrix(tmp_path / "m.yaml", train=train, seeds=10_000)
    answer = ktbench("plan", path)
    assert answer.code == 2 and not answer.out
    assert "estimate: " in answer.error and "years" in answer.error


# ---------------------------------------------------------------- files without an end


def test_what_is_no_regular_file_is_refused_wherever_a_file_is_named(
    ktbench: Commands, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    for name in ("/dev/zero", "pipe.onnx"):
        assert "not a regular file" in ktbench("plan", name).error
        assert "not a regular file" in ktbench("run", name).error
    for name in ("zero.onnx", "pipe.onnx"):
        assert "not a regular file" in ktbench("measure", name).error
        with pytest.raises(KtbenchError, match="not a regular file"):
            read_torch(tmp_path / name)
        own = {"student": "resnet8", "name": "own", "checkpoint": name}
        path = write_matrix(tmp_path / "m.yaml", teachers=[own])
        assert "teachers[0].checkpoint" in (error := ktbench("plan", path).error)
        assert "not a regular file" in error


def test_a_file_far_too_large_is_refused_by_its_size(ktbench: Commands, tmp_path: Path) -> None:
    for name in ("big.yaml", "big.onnx", "big.pt"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(MOST_WEIGHTS + 1)
    assert "more than the 1 MiB" in ktbench("plan", "big.yaml").error
    assert "more than the 1 GiB" in ktbench("measure", "big.onnx").error
    with pytest.raises(KtbenchError, match="more than the 64 GiB"):
        read_torch(tmp_path / "big.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: caf\xe9\n".encode("latin-1"), "not UTF-8 text"),
        (GOOD.encode("utf-16"), "not UTF-8 text"),
        (GOOD.encode() + b"x: \0\n", "m.yaml:7: not valid YAML"),
        (GOOD.encode() + b"\ttabs: 1\n", "m.yaml:7: not valid YAML: a tab"),
        (GOOD.encode() + b"seeds: 2\n", "m.yaml:5: seeds: is given twice, on lines 5 and 7"),
        (b"a: &a [*a]\n", "aliases make the file grow"),
        (b"<<: 5\n", "`<<` takes a mapping"),
        (b"x" * 2_000_000, "more than the 1 MiB"),
        (b'x: "\\U0011ffff"\n', "not valid YAML"),
    ],
)
def test_a_file_that_is_no_text_of_a_matrix_is_told_in_one_line(
    ktbench: Commands, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    answer = ktbench("plan", "m.yaml")
    assert answer.code == 2 and said in answer.error and answer.error.isprintable()


def test_a_mark_of_byte_order_is_passed_over(ktbench: Commands, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert ktbench("plan", "m.yaml").code == 0


def test_a_folder_whose_name_is_no_text_is_told(ktbench: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "odd\udcff"
    folder.mkdir()
    write_matrix(folder / "m.yaml")
    answer = ktbench("run", folder / "m.yaml", "--results", "r")
    assert answer.code == 2 and "rename the folder" in answer.error
