"""Print what each extra of ktbench adds to an environment, in megabytes and packages.

    python scripts/sizes.py

Sizes are those of the files installed in the environment that runs this, which must hold all
extras. A package counts for an extra if ktbench alone would not install it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("onnx", "tflite", "hub", "ray", "all")


def needed(name: str, extras: frozenset[str], packages: set[tuple[str, str]]) -> None:
    """Add the (package, extra) pairs that a package with some extras installs to `packages`."""
    try:
        requirements = distribution(name).requires or []
    except PackageNotFoundError:  # for another system, or replaced by a provider of its own
        return
    for extra in ("", *extras):
        if (name, extra) in packages:
            continue
        packages.add((name, extra))
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": extra}):
                needed(canonicalize_name(requirement.name), frozenset(requirement.extras), packages)


def closure(*extras: str) -> set[str]:
    """Return the packages that ktbench installs with some extras."""
    packages: set[tuple[str, str]] = set()
    needed("ktbench", frozenset(extras), packages)
    return {name for name, _ in packages} - {"ktbench"}


def megabytes(packages: set[str]) -> float:
    """Return the size of the packages' installed files."""
    files = (file for name in packages for file in distribution(name).files or ())
    return sum(place.stat().st_size for f in files if (place := f.locate()).is_file()) / 1e6


def main() -> None:
    """Print one line for ktbench alone and one for each extra."""
    core = closure()
    torch = megabytes({"torch"})
    print(f"{'ktbench':8} {megabytes(core):6.0f} MB  {len(core):3} packages, torch {torch:.0f} MB")
    for extra in EXTRAS:
        more = closure(extra) - core
        print(f"[{extra}]".ljust(8), f"{megabytes(more):6.0f} MB  {len(more):3} more packages")


if __name__ == "__main__":
    main()
