"""`ktbench inspect`: what a network looks like, and which methods suit it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktbench.cli.options import AsJson

if TYPE_CHECKING:
    from ktbench.records import Item
    from ktbench.tasks._contract import Signature

Network = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="A student as in a matrix: resnet8, '{resnet8: {width: 0.5}}', net.py:Net, "
        "timm:resnet18.",
        show_default=False,
    ),
]


def inspect(
    network: Network,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="NETWORK", help="The teacher that methods would read; else itself."),
    ] = None,
    side: Annotated[int, typer.Option(min=1, help="Side of the images, in pixels.")] = 32,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the images.")] = 3,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show a network's stages, parameters and FLOPs, and which methods suit it.

    The network is built and takes one pass; nothing is trained. Naming code runs that code.
    """
    from ktbench.tasks.image_classification import image_signature

    signature = image_signature(classes, (channels, side, side))
    seen = _looked_at(_item(network), signature)
    other = seen if teacher is None else _looked_at(_item(teacher), signature)
    fits = _fits(seen, other, signature)
    if as_json:
        print(json.dumps(seen.described | {"methods": fits}, indent=1))
        return
    _print(seen, other, fits)


@dataclass(frozen=True)
class _Seen:
    label: str
    shapes: Any
    parameters: int
    flops: int

    @property
    def described(self) -> dict[str, Any]:
        shapes = self.shapes
        return {
            "network": self.label,
            "parameters": self.parameters,
            "flops": self.flops,
            "stages": dict(zip(shapes.names, map(list, shapes.stages), strict=True)),
            "stem": None if shapes.stem is None else list(shapes.stem),
            "embedding": shapes.embedding,
            "pre-activations": shapes.preacts,
        }


def _item(text: str) -> Item:
    """Read a network as a matrix names it."""
    import yaml

    from ktbench import catalogue
    from ktbench.records import Item, KtbenchError

    trouble = f"{text!r} names no network: write NAME or '{{NAME: {{SETTING: VALUE}}}}'"
    try:
        entry = yaml.safe_load(text) if text.lstrip().startswith("{") else text
        name, settings = catalogue.named(entry)
        return Item(name=name, settings=settings or {})
    except (yaml.YAMLError, ValueError, AttributeError) as error:
        raise KtbenchError(trouble) from error


def _looked_at(item: Item, signature: Signature) -> _Seen:
    from ktbench.networks.outline import forward_flops, outline

    seen = outline(item, signature, ".")
    return _Seen(item.label, seen.shapes, seen.parameters, forward_flops(item, signature, "."))


def _fits(student: _Seen, teacher: _Seen, signature: Signature) -> dict[str, str]:
    """Return for every method an empty text, or why it does not suit the pair."""
    from ktbench import catalogue
    from ktbench.records import KtbenchError
    from ktbench.transfer_methods._contract import Setting

    setting = Setting(
        student=student.shapes,
        teacher=teacher.shapes,
        num_classes=signature.outputs,
        train_size=10_000,
        batch_size=64,
    )
    fits = {}
    for name in catalogue.methods():
        try:
            config = catalogue.method_config(name, {})
        except KtbenchError:  # it asks for settings of its own, such as the parts of a sum
            continue
        fits[name] = catalogue.method(name).incompatible(config, setting) or ""
    return fits


def _print(seen: _Seen, other: _Seen, fits: dict[str, str]) -> None:
    from ktbench.cli.output import print_table
    from ktbench.records import printable

    print(printable(f"{seen.label}: {seen.parameters:,} parameters, {seen.flops:,} FLOPs a pass"))
    shapes = seen.shapes
    rows = [["stem", _size(shapes.stem)]] if shapes.stem is not None else []
    rows += [[name, _size(size)] for name, size in zip(shapes.names, shapes.stages, strict=True)]
    rows += [["embedding", str(shapes.embedding)]] if shapes.embedding is not None else []
    print_table("what methods can read", ["output", "size"], rows)
    if not shapes.stages:
        print("It shows no stages: name them with `stages: [...]`, or `stages: auto`.")
    whose = "itself" if other is seen else other.label
    print(printable(f"methods that suit it, taught by {whose}:"))
    print("  " + ", ".join(name for name, reason in fits.items() if not reason))
    refused = [[name, reason] for name, reason in fits.items() if reason]
    if refused:
        print_table("methods that do not", ["method", "reason"], refused)


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
