// The parameters of a disk: their rules, and the 128 bytes in which a client gets them.
using System;
using System.Text;

namespace Userdisk
{
    /// <summary>What a disk is. Checked by Start, and fixed from then on.</summary>
    internal sealed class StorageUnitParameters
    {
        internal const int Length = 128;
        internal const uint SmallestBlock = Wire.DescriptorLength;
        internal const uint LargestTransfer = 64 << 20;
        internal const int ProductIdLength = 16;
        internal const int RevisionLength = 4;

        internal Guid Guid;
        internal ulong BlockCount;
        internal uint BlockLength = 512;
        internal string ProductId = "Userdisk";
        internal string ProductRevisionLevel = "1.0";
        internal bool WriteProtected;
        internal bool CacheSupported;
        internal bool UnmapSupported;
        internal bool EjectDisabled;
        internal uint MaxTransferLength = 64 << 10;

        internal StorageUnitParameters Copy()
        {
            return (StorageUnitParameters)MemberwiseClone();
        }

        // Raises ArgumentException.
        internal void Check()
        {
            Require(Guid != Guid.Empty, "Guid", "is not set: a disk needs one of its own");
            Require(BlockCount != 0, "BlockCount", "is 0: a disk has at least one block");
            Require(BlockLength >= SmallestBlock, "BlockLength", "is below " + SmallestBlock);
            Require(BlockCount <= (ulong)long.MaxValue / BlockLength, "BlockCount",
                "makes a disk of 2^63 bytes or more");
            Require(MaxTransferLength <= LargestTransfer, "MaxTransferLength", "is above " + LargestTransfer);
            Require(MaxTransferLength != 0 && MaxTransferLength % BlockLength == 0, "MaxTransferLength",
                "is not a multiple of BlockLength");
            CheckText(ProductId, "ProductId", ProductIdLength);
            CheckText(ProductRevisionLevel, "ProductRevisionLevel", RevisionLength);
        }

        internal byte[] Encode()
        {
            var bytes = new byte[Length];
            Guid.ToByteArray().CopyTo(bytes, 0);
            Wire.PutU64(bytes, 16, BlockCount);
            Wire.PutU32(bytes, 24, BlockLength);
            Encoding.ASCII.GetBytes(ProductId).CopyTo(bytes, 28);
            Encoding.ASCII.GetBytes(ProductRevisionLevel).CopyTo(bytes, 44);
            bool[] flags = { WriteProtected, CacheSupported, UnmapSupported, EjectDisabled };
            for (int bit = 0; bit < flags.Length; bit++)
                bytes[52] |= (byte)(flags[bit] ? 1 << bit : 0);
            Wire.PutU32(bytes, 56, MaxTransferLength);
            return bytes;
        }

        private static void CheckText(string text, string name, int longest)
        {
            Require(!string.IsNullOrEmpty(text) && text.Length <= longest, name,
                "must have 1 to " + longest + " characters");
            foreach (char c in text)
                Require(c >= ' ' && c <= '~', name, "must be printable ASCII");
        }

        private static void Require(bool right, string name, string message)
        {
            if (!right)
                throw new ArgumentException(name + " " + message);
        }
    }
}
