"""A disk in ten lines: 64 MiB of memory."""

from userdisk import StorageUnit


class Disk(StorageUnit):
    block_count = 131072  # blocks of 512 bytes: 64 MiB

    def open(self):
        self.memory = bytearray(self.block_count * 512)

    def read(self, lba, blocks, fua):
        return self.memory[lba * 512 : (lba + blocks) * 512]

    def write(self, lba, data, fua):
        self.memory[lba * 512 : lba * 512 + len(data)] = data
