"""`userdisk resize` of a running instance: unit, device, and the processes that come next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.attach.test_device import blocks_of, opened
from tests.cli.serving import LIMIT
from tests.launcher.kit import Stable, attached, needs_devices

MIB = 1 << 20


def userdisk(stable: Stable, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "userdisk", *map(str, arguments)],
        env={**os.environ, "USERDISK_RUN": f"{stable.folder}/run"},
        capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_attached_instance_is_resized_by_each_of_its_names(stable: Stable) -> None:
    needs_devices()
    image = stable.image(16 * MIB)
    status = stable.start(stable.spec(str(image), attach=attached()))
    names = [str(image), status.device, status.target, "disk"]
    for number, name in enumerate(names, 1):
        size = (16 + 8 * number) * MIB
        assert userdisk(stable, "resize", name, "+8M").endswith(f"now {size >> 20} MiB")
        sectors = Path("/sys/block", Path(status.device).name, "size").read_text()
        assert (image.stat().st_size, int(sectors) * 512) == (size, size)
        stable.wait(lambda now, size=size: now.size == size)  # type: ignore[misc]
        if number % 2:
            stable.again(stable.kill_unit())
        with opened(Path(status.device)) as disk:
            assert os.pwrite(disk, blocks_of(b"end!" * 1024), size - 4096) == 4096
    userdisk(stable, "resize", "disk", "8M", "--shrink")
    assert image.stat().st_size == 8 * MIB
    stable.wait(lambda now: now.size == 8 * MIB)
    stable.stop()


def test_a_served_instance_is_resized(stable: Stable) -> None:
    image = stable.image(16 * MIB)
    stable.start(stable.spec(str(image)))
    assert userdisk(stable, "resize", "disk", "24M") == "disk: 16 MiB, now 24 MiB"
    stable.wait(lambda now: now.size == 24 * MIB)
    stable.again(stable.kill_unit())
    assert stable.status().size == 24 * MIB
    assert userdisk(stable, "resize", image, "24M").endswith("has 24 MiB already")
    stable.stop()


def test_an_image_that_was_made_with_a_size_comes_back_with_its_own(stable: Stable) -> None:
    image = stable.folder / "new.img"
    stable.start(stable.spec(str(image), options={"size": "16M"}))
    assert userdisk(stable, "resize", "disk", "24M") == "disk: 16 MiB, now 24 MiB"
    stable.again(stable.kill_unit())
    assert userdisk(stable, "resize", "disk", "24M").endswith("has 24 MiB already")
    stable.stop()


KEPT = """
from userdisk import StorageUnit


class Kept(StorageUnit):
    block_count = 2048
    persistent = True

    def read(self, lba, blocks, fua):
        return bytes(blocks * 512)

    def write(self, lba, data, fua):
        pass

    def take_size(self, parameters):
        super().take_size(parameters)
"""


def test_a_class_that_takes_sizes_has_them_in_its_next_process(stable: Stable) -> None:
    needs_devices()
    (stable.folder / "kept.py").write_text(KEPT)
    status = stable.start(stable.spec(f"{stable.folder}/kept.py:Kept", attach=attached()))
    userdisk(stable, "resize", status.device, "4M")
    stable.again(stable.kill_unit())
    with opened(Path(status.device)) as disk:
        assert os.pwrite(disk, blocks_of(b"end!" * 1024), 4 * MIB - 4096) == 4096
    stable.stop()


GROWS = """
import threading
from userdisk import StorageUnit


class Grows(StorageUnit):
    block_count = 2048

    def read(self, lba, blocks, fua):
        return bytes(blocks * 512)

    def write(self, lba, data, fua):
        threading.Timer(0, self.resized, (8192,)).start()
"""


def test_a_class_that_grows_by_itself(stable: Stable) -> None:
    needs_devices()
    (stable.folder / "grows.py").write_text(GROWS)
    status = stable.start(stable.spec(f"{stable.folder}/grows.py:Grows", attach=attached()))
    assert status.size == MIB
    sectors = Path("/sys/block", Path(status.device).name, "size")
    with opened(Path(status.device)) as disk:
        os.pwrite(disk, blocks_of(bytes(4096)), 0)
    stable.wait(lambda now: now.size == 4 * MIB)
    stable.until(lambda: int(sectors.read_text()) == 8192)
    stable.stop()
