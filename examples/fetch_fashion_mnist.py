"""Fetches Fashion-MNIST (Xiao et al. 2017, MIT licence): four gzipped IDX files, checked.

    python -m examples.fetch_fashion_mnist --out DIR

Uses the Debian package `dataset-fashion-mnist`, unpacked without root, where apt is there, and
the data set's public address otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

PACKAGE = "dataset-fashion-mnist"
PUBLIC_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"
    ),
    "train-labels-idx1-ubyte.gz": (
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"
    ),
}


class FetchError(Exception):
    """The data set could not be had; the message says what was tried."""


def is_complete(folder: Path) -> bool:
    """Whether all four files are there with the right digests."""
    return all(
        (folder / name).is_file()
        and hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in SHA256.items()
    )


def run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise FetchError(f"{command[0]}: {said[-1] if said else error}") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{command[0]} took longer than {error.timeout:.0f} s") from error


def download_package(folder: Path) -> None:
    """`apt-get download`; with package lists of our own if the machine has none."""
    try:
        run(["apt-get", "download", PACKAGE], folder)
    except FetchError:
        private = ["-o", f"Dir::State={folder}/state", "-o", f"Dir::Cache={folder}/cache"]
        (folder / "state/lists/partial").mkdir(parents=True)
        (folder / "cache/archives/partial").mkdir(parents=True)
        run(["apt-get", *private, "update"], folder)
        run(["apt-get", *private, "download", PACKAGE], folder)


def from_debian(out: Path) -> None:
    """Takes the files out of the Debian package, without root."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise FetchError("apt-get and dpkg-deb are not on this machine")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        download_package(folder)
        package = next(folder.glob(f"{PACKAGE}*.deb"))
        run(["dpkg-deb", "-x", str(package), "unpacked"], folder)
        for name in SHA256:
            shutil.copy(next(folder.glob(f"unpacked/**/{name}")), out / name)


def from_public_address(out: Path) -> None:
    """Downloads the files from the address that the data set's authors publish."""
    try:
        for name in SHA256:
            reply = httpx.get(f"{PUBLIC_ADDRESS}/{name}", timeout=60.0, follow_redirects=True)
            (out / name).write_bytes(reply.raise_for_status().content)
    except httpx.HTTPError as error:
        raise FetchError(str(error) or type(error).__name__) from error


def fetch(out: Path) -> None:
    """Puts the four files into `out`; does nothing if they are there already.

    Raises:
        FetchError: no source worked; says what each one answered and what to do by hand.
    """
    out.mkdir(parents=True, exist_ok=True)
    reasons = []
    for name, source in {
        "Debian package": from_debian,
        "public address": from_public_address,
    }.items():
        if is_complete(out):
            return
        try:
            source(out)
        except FetchError as error:
            reasons.append(f"  {name}: {error}")
    if not is_complete(out):
        reasons.append(f"Put {', '.join(SHA256)} into {out} by hand and start again.")
        raise FetchError("Fashion-MNIST could not be fetched:\n" + "\n".join(reasons))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    try:
        fetch(parser.parse_args().out)
    except FetchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
