// A DOS partition table (MBR) of up to four partitions, as it is in the first 512 bytes of a disk.
using System;

namespace Userdisk
{
    /// <summary>One partition.</summary>
    public struct Partition
    {
        /// <summary>What is in it: 7 NTFS or exFAT, 0x0C FAT32, 0x83 Linux.</summary>
        public byte Type;
        /// <summary>It is what a PC boots from.</summary>
        public bool Active;
        /// <summary>Its first block; not 0, where the table is.</summary>
        public ulong BlockAddress;
        /// <summary>Its length.</summary>
        public ulong BlockCount;
    }

    /// <summary>Makes partition tables.</summary>
    public static class PartitionTable
    {
        private const int Most = 4;
        private const int Length = 512;
        private const int Entries = 446;
        private const int EntryLength = 16;
        private const int SignatureAt = 440;
        private const uint Heads = 255;
        private const uint SectorsOfTrack = 63;
        private const uint LastCylinder = 1023; // what cannot be said is said as the last place
        // int 18h; hlt; jmp back: "no disk to boot from"
        private static readonly byte[] BootCode = { 0xCD, 0x18, 0xF4, 0xEB, 0xFD };

        /// <summary>
        /// Write the table into the first 512 bytes of the buffer. signature tells disks apart: Windows changes
        /// one that it has seen on another disk. Raises ArgumentException if there are more than 4 partitions,
        /// if one is empty, begins at block 0, ends above 2^32 blocks or overlaps another.
        /// </summary>
        public static void Define(Partition[] partitions, uint signature, byte[] buffer)
        {
            if (partitions.Length > Most)
                throw new ArgumentException("a partition table has room for 4 partitions");
            if (buffer.Length < Length)
                throw new ArgumentException("a partition table needs 512 bytes");
            for (int i = 0; i < partitions.Length; i++)
            {
                Check(partitions[i]);
                for (int j = 0; j < i; j++)
                    if (Overlap(partitions[i], partitions[j]))
                        throw new ArgumentException("partitions " + (j + 1) + " and " + (i + 1) + " overlap");
            }
            Array.Clear(buffer, 0, Length);
            BootCode.CopyTo(buffer, 0);
            Wire.PutU32(buffer, SignatureAt, signature);
            for (int i = 0; i < partitions.Length; i++)
                Encode(buffer, Entries + i * EntryLength, partitions[i]);
            buffer[Length - 2] = 0x55;
            buffer[Length - 1] = 0xAA;
        }

        private static void Check(Partition partition)
        {
            if (partition.BlockAddress == 0 || partition.BlockCount == 0)
                throw new ArgumentException("a partition begins at block 1 or later, and is not empty");
            if (partition.BlockAddress > uint.MaxValue || partition.BlockCount > uint.MaxValue
                || partition.BlockAddress + partition.BlockCount > uint.MaxValue)
                throw new ArgumentException("a partition ends below block 2^32 in a DOS partition table");
        }

        private static bool Overlap(Partition one, Partition other)
        {
            return one.BlockAddress < other.BlockAddress + other.BlockCount
                && other.BlockAddress < one.BlockAddress + one.BlockCount;
        }

        private static void Encode(byte[] buffer, int at, Partition partition)
        {
            buffer[at] = (byte)(partition.Active ? 0x80 : 0);
            EncodePlace(buffer, at + 1, (uint)partition.BlockAddress);
            buffer[at + 4] = partition.Type;
            EncodePlace(buffer, at + 5, (uint)(partition.BlockAddress + partition.BlockCount - 1));
            Wire.PutU32(buffer, at + 8, (uint)partition.BlockAddress);
            Wire.PutU32(buffer, at + 12, (uint)partition.BlockCount);
        }

        // Cylinder, head and sector of a block.
        private static void EncodePlace(byte[] buffer, int at, uint block)
        {
            uint cylinder = block / (Heads * SectorsOfTrack);
            uint head = block / SectorsOfTrack % Heads;
            uint sector = block % SectorsOfTrack + 1;
            if (cylinder > LastCylinder)
            {
                cylinder = LastCylinder;
                head = Heads - 1;
                sector = SectorsOfTrack;
            }
            buffer[at] = (byte)head;
            buffer[at + 1] = (byte)(sector | cylinder >> 2 & 0xC0);
            buffer[at + 2] = (byte)cylinder;
        }
    }
}
