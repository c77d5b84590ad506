"""The disk that is measured: the tutorial's class, with views instead of copies of its memory."""

from userdisk import Buffer, Inline, StorageUnit


class Ram(StorageUnit):
    block_count = 2097152  # of 512 bytes: 1 GiB
    inline = Inline.ALL  # nothing here waits for anything
    live_reads = True  # `read` returns memory that a later `write` changes

    def open(self) -> None:
        self.memory = memoryview(bytearray(self.block_count * 512))

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return self.memory[lba * 512 : (lba + blocks) * 512]

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self.memory[lba * 512 : lba * 512 + len(data)] = data
