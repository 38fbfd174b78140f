"""`ktbench devices check`, `setup` and `remove`, and `ktbench measure`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from ktbench.devices._contract import Transport

Host = Annotated[
    str, typer.Argument(metavar="HOST", help="As ssh takes it: a name, or an alias of its file.")
]
Python = Annotated[
    str, typer.Option(metavar="PYTHON", help="Interpreter on the board; none of a virtualenv.")
]
RuntimePython = Annotated[
    str, typer.Option(metavar="PYTHON", help="Interpreter on the device with the runtime.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="What the host is, of `ktbench list devices`; it decides what counts."
    ),
]
Setting = Annotated[
    str | None, typer.Option(metavar="NAME", help="Set on a board meanwhile, and put back.")
]
_Came = TypeVar("_Came")


def add_to(app: typer.Typer) -> None:
    """Add the commands to those of `ktbench devices`."""
    app.command("check")(check)
    app.command("setup")(setup)
    app.command("remove")(remove)


def check(
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST", show_default=False, help="As ssh takes it; this machine when left out."
        ),
    ] = None,
    profile: Profile = None,
    matrix: Annotated[
        Path | None, typer.Option(metavar="MATRIX.yaml", help="Check the devices of a matrix.")
    ] = None,
    python: RuntimePython = "python3",
    as_json: AsJson = False,
) -> None:
    """Say what a device is, what it can run and what it is missing: of this machine, or of HOST."""
    from ktbench.cli.measured import device_of
    from ktbench.cli.output import check_devices
    from ktbench.records import KtbenchError

    if matrix is None:
        devices = [device_of(host or "local", profile, python=python)]
    elif host is not None or profile is not None:
        given = f"--profile {profile}" if host is None else host
        raise KtbenchError(f"{given}: the matrix names its devices: leave one of the two out")
    else:
        from ktbench.matrix import load
        from ktbench.matrix import plan as make_plan

        devices = list(make_plan(load(matrix)).devices)
    raise typer.Exit(check_devices(devices, as_json=as_json))


def setup(host: Host, python: Python = "python3") -> None:
    """Install runtimes that fit a board over SSH; it needs neither internet nor pip."""
    from ktbench.boards import set_up

    ready = _over_ssh(host, python, lambda way: set_up(way, host, _tell))
    for note in ready.notes:
        _tell(f"note: {note}")
    _tell(f"{host} is ready: {', '.join(ready.runtimes)}")
    _tell(f"next: ktbench devices check {host}; undo: ktbench devices remove {host}")


def remove(host: Host) -> None:
    """Remove everything that ktbench has put on a board."""
    from ktbench.boards import take_down

    removed = _over_ssh(host, "python3", lambda way: take_down(way, host))
    _tell(f"{host}: nothing of ktbench is left ({removed.bytes / 1e6:.0f} MB removed)")


def measure(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL.onnx|MODEL.tflite…", show_default=False)
    ],
    device: Annotated[
        str, typer.Option(metavar="NAME", help="`local`, or a host of the SSH configuration.")
    ] = "local",
    profile: Profile = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Threads of the runtime (default: 1); may repeat."),
    ] = None,
    mode: Annotated[str, typer.Option(metavar="quick|full", help="How long to time.")] = "quick",
    repeats: Annotated[int, typer.Option(min=1, help="Fresh processes per model.")] = 3,
    provider: Annotated[
        str,
        typer.Option(
            metavar="cpu|xnnpack|cuda|tensorrt", help="What the runtime runs models with."
        ),
    ] = "cpu",
    scenario: Annotated[
        str,
        typer.Option(
            metavar="single_stream|offline|sustained",
            help="One input after the other, batches of a free batch axis, or ten minutes on end.",
        ),
    ] = "single_stream",
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs per run of `offline`.")] = 32,
    governor: Setting = None,
    power_mode: Setting = None,
    python: RuntimePython = "python3",
    as_json: AsJson = False,
) -> None:
    """Measure any model files on a device: load, first inference and latency percentiles.

    Several files are one deployment: they take turns on the device, and cost the way there once.
    """
    from ktbench.cli.measured import device_of, measure_models

    spec = device_of(
        device,
        profile,
        threads=tuple(threads or [1]),
        mode=mode,
        repeats=repeats,
        provider=provider,
        scenario=scenario,
        batch_size=batch_size,
        governor=governor,
        power_mode=power_mode,
        python=python,
    )
    raise typer.Exit(measure_models(models, spec, as_json=as_json))


def _tell(line: str) -> None:
    from ktbench.records import printable

    print(printable(line), flush=True)


def _over_ssh(host: str, python: str, do: Callable[[Transport], _Came]) -> _Came:
    from ktbench import catalogue
    from ktbench.devices._contract import DeviceError
    from ktbench.devices.transport import open_transport
    from ktbench.records import KtbenchError

    profile: Any = catalogue.device("ssh")
    try:
        transport = open_transport(profile, host, python)
    except DeviceError as error:
        raise KtbenchError(str(error)) from error
    try:
        return do(transport)
    finally:
        transport.close()
