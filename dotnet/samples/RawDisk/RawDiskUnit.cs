// A disk in a file: what each operation does with the file.
using System;
using System.IO;

namespace Userdisk.Samples
{
    internal sealed class RawDiskUnit : StorageUnitBase
    {
        private const int PartitionAt = 4096; // bytes, or block 1 if blocks are longer
        private const byte PartitionType = 7; // NTFS, exFAT

        private readonly Options options;
        private BackingFile file;

        internal RawDiskUnit(Options options)
        {
            this.options = options;
        }

        public override void Init(StorageUnitHost host)
        {
            host.BlockCount = options.BlockCount;
            host.BlockLength = options.BlockLength;
            host.ProductId = options.ProductId;
            host.ProductRevisionLevel = options.Revision;
            host.WriteProtected = !options.WritesAllowed;
            host.CacheSupported = options.Cache;
            host.UnmapSupported = options.Unmap;
            host.MaxTransferLength = TransferLength(options.BlockLength);
            host.DebugMask = options.DebugMask;
            host.ThreadCount = 2;
            file = new BackingFile(options.File, (long)options.BlockCount * options.BlockLength,
                options.WritesAllowed);
            host.Guid = Identity.Of(options.File);
            if (file.IsNew)
                Partition(host.Guid);
        }

        public override void Stopped(StorageUnitHost host)
        {
            file.Dispose();
        }

        public override void Read(byte[] buffer, ulong blockAddress, uint blockCount, bool flush,
            ref StorageUnitStatus status)
        {
            if (flush)
                file.Flush();
            file.Read(buffer, (int)Bytes(blockCount), Bytes(blockAddress));
        }

        public override void Write(byte[] buffer, ulong blockAddress, uint blockCount, bool flush,
            ref StorageUnitStatus status)
        {
            file.Write(buffer, (int)Bytes(blockCount), Bytes(blockAddress));
            if (flush)
                file.Flush();
        }

        public override void Flush(ulong blockAddress, uint blockCount, ref StorageUnitStatus status)
        {
            file.Flush();
        }

        public override void Unmap(UnmapDescriptor[] descriptors, ref StorageUnitStatus status)
        {
            foreach (UnmapDescriptor descriptor in descriptors)
                file.Zero(Bytes(descriptor.BlockAddress), Bytes(descriptor.BlockCount));
            if (!options.Cache)
                file.Flush();
        }

        // Ranges are within the disk, whose bytes a long can count.
        private long Bytes(ulong blocks)
        {
            return (long)blocks * options.BlockLength;
        }

        // About 64 KiB, in whole blocks.
        private static uint TransferLength(uint blockLength)
        {
            const uint wanted = 64 << 10;
            return blockLength > wanted ? blockLength : wanted / blockLength * blockLength;
        }

        // One partition over the new disk, if there is room for one and the table can say where it ends.
        private void Partition(Guid guid)
        {
            ulong start = Math.Max(1, PartitionAt / options.BlockLength);
            if (options.BlockLength < 512 || options.BlockCount <= start || options.BlockCount > uint.MaxValue)
                return;
            var table = new byte[options.BlockLength];
            var partition = new Partition
            {
                Type = PartitionType, BlockAddress = start, BlockCount = options.BlockCount - start,
            };
            PartitionTable.Define(new[] { partition }, BitConverter.ToUInt32(guid.ToByteArray(), 0), table);
            file.Write(table, table.Length, 0);
        }
    }
}
