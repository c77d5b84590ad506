// Which requests reach the unit: flags, lengths and ranges, in 64 bits, before anything is done.
namespace Userdisk
{
    internal static class RequestCheck
    {
        // The sense data of a request that is refused, or GOOD. payload: bytes after the request's header.
        internal static StorageUnitStatus Check(StorageUnitParameters disk, Request request, int payload)
        {
            if (request.Kind == Kind.Reserved || request.Kind > Kind.Unmap)
                return Refusal(SenseKey.IllegalRequest, Asc.InvalidCommand);
            if (request.Hint == 0)
                return Refusal(SenseKey.IllegalRequest, Asc.InvalidFieldInCdb);
            if (disk.WriteProtected && (request.Kind == Kind.Write || request.Kind == Kind.Unmap))
                return Refusal(SenseKey.DataProtect, Asc.WriteProtected);
            if (request.Kind == Kind.Unmap)
                return Unmap(disk, request, payload);
            StorageUnitStatus status = Range(disk, request.BlockAddress, request.Count);
            ulong moved = request.Kind == Kind.Flush ? 0 : (ulong)request.Count * disk.BlockLength; // no overflow
            ulong expected = request.Kind == Kind.Write ? moved : 0;
            if (!status.Failed && (moved > disk.MaxTransferLength || (ulong)payload != expected))
                return Refusal(SenseKey.IllegalRequest, Asc.InvalidFieldInCdb);
            return status;
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

        private static StorageUnitStatus Unmap(StorageUnitParameters disk, Request request, int payload)
        {
            if (!disk.UnmapSupported)
                return Refusal(SenseKey.IllegalRequest, Asc.InvalidCommand);
            if ((ulong)payload != (ulong)request.Count * Wire.DescriptorLength)
                return Refusal(SenseKey.IllegalRequest, Asc.InvalidFieldInParameterList);
            return default(StorageUnitStatus);
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
