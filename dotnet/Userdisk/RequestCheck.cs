// Which requests reach the unit: flags, lengths and ranges, in 64 bits, before anything is done.
namespace Userdisk
{
    internal static class RequestCheck
    {
        // The sense data of a request that is refused, or GOOD. payload: bytes after the request's header.
        internal static StorageUnitStatus Check(StorageUnitParameters disk, Request request, int payload)
        {
            switch (request.Kind)
            {
                case Kind.Read:
                    return Transfer(disk, request, payload, 0);
                case Kind.Write:
                    if (disk.WriteProtected)
                        return Refusal(SenseKey.DataProtect, Asc.WriteProtected);
                    return Transfer(disk, request, payload, Bytes(disk, request.Count));
                case Kind.Flush:
                    return WellFormed(request, payload, 0) ? Range(disk, request.BlockAddress, request.Count)
                        : Refusal(SenseKey.IllegalRequest, Asc.InvalidFieldInCdb);
                case Kind.Unmap:
                    if (!disk.UnmapSupported)
                        return Refusal(SenseKey.IllegalRequest, Asc.InvalidCommand);
                    if (disk.WriteProtected)
                        return Refusal(SenseKey.DataProtect, Asc.WriteProtected);
                    return WellFormed(request, payload, request.Count * (ulong)Wire.DescriptorLength)
                        ? default(StorageUnitStatus) : Refusal(SenseKey.IllegalRequest, Asc.InvalidFieldInCdb);
                default:
                    return Refusal(SenseKey.IllegalRequest, Asc.InvalidCommand);
            }
        }

        // All of them, before the first is unmapped.
        internal static StorageUnitStatus Check(StorageUnitParameters disk, UnmapDescriptor[] descriptors)
        {
            foreach (UnmapDescriptor descriptor in descriptors)
            {
                StorageUnitStatus status = Range(disk, descriptor.BlockAddress, descriptor.BlockCount);
                if (status.Failed)
                    return status;
            }
            return default(StorageUnitStatus);
        }

        internal static StorageUnitStatus Refusal(byte key, byte asc)
        {
            var status = new StorageUnitStatus();
            status.SetSense(key, asc);
            return status;
        }

        private static StorageUnitStatus Transfer(StorageUnitParameters disk, Request request, int payload,
            ulong expected)
        {
            StorageUnitStatus status = Range(disk, request.BlockAddress, request.Count);
            if (status.Failed)
                return status;
            if (Bytes(disk, request.Count) > disk.MaxTransferLength || !WellFormed(request, payload, expected))
                return Refusal(SenseKey.IllegalRequest, Asc.InvalidFieldInCdb);
            return status;
        }

        private static bool WellFormed(Request request, int payload, ulong expected)
        {
            return request.Hint != 0 && (ulong)payload == expected;
        }

        private static ulong Bytes(StorageUnitParameters disk, uint blocks)
        {
            return (ulong)blocks * disk.BlockLength; // 32 bits each: no overflow
        }

        private static StorageUnitStatus Range(StorageUnitParameters disk, ulong address, uint blocks)
        {
            if (address <= disk.BlockCount && blocks <= disk.BlockCount - address)
                return default(StorageUnitStatus);
            var status = new StorageUnitStatus(); // Information: the first block that does not exist
            status.SetSense(SenseKey.IllegalRequest, Asc.LbaOutOfRange,
                address > disk.BlockCount ? address : disk.BlockCount);
            return status;
        }
    }
}
