"""The disk of unit.py for nbdkit's Python plugin: views of a bytearray. nbdkit imports it."""

API_VERSION = 2

_memory = memoryview(b"")


def config(key: str, value: str) -> None:
    global _memory
    if key != "size":
        raise RuntimeError(f"there is no parameter {key}")
    _memory = memoryview(bytearray(int(value)))


def open(readonly: bool) -> int:  # noqa: A001 - its name is the plugin's interface
    return 1


def get_size(handle: int) -> int:
    return len(_memory)


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    buffer[:] = _memory[offset : offset + len(buffer)]


def pwrite(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    _memory[offset : offset + len(buffer)] = buffer
