// Runs a request against the user's class: arguments, exceptions as sense data, and the lines of the debug log.
using System;

namespace Userdisk
{
    internal sealed class Operations
    {
        private readonly StorageUnitBase unit;
        private readonly StorageUnitParameters disk;
        private readonly Log log;

        internal Operations(StorageUnitBase unit, StorageUnitParameters disk, Log log)
        {
            this.unit = unit;
            this.disk = disk;
            this.log = log;
        }

        // The request has passed RequestCheck. The buffer has its payload, and gets what is read.
        internal StorageUnitStatus Run(Request request, byte[] buffer)
        {
            try
            {
                return Call(request, buffer);
            }
            catch (Exception error)
            {
                log.Error(request.Kind + " of " + request.Count + " at " + request.BlockAddress + " failed: " + error);
                // Of an unmap, too: a client that hears of success may rely on zeros.
                return RequestCheck.Refusal(SenseKey.MediumError,
                    request.Kind == Kind.Read ? Asc.UnrecoveredReadError : Asc.WriteError);
            }
        }

        // Everything that the unit still has in a cache. What failed is logged, and told.
        internal bool FlushAll()
        {
            if (!disk.CacheSupported || disk.WriteProtected)
                return true;
            StorageUnitStatus status = Run(new Request { Kind = Kind.Flush }, null);
            if (status.Failed)
                log.Error("the last flush failed: what was written may be lost");
            return !status.Failed;
        }

        private StorageUnitStatus Call(Request request, byte[] buffer)
        {
            var status = new StorageUnitStatus();
            bool flush = request.Flush || !disk.CacheSupported; // no cache: nothing may stay in one
            switch (request.Kind)
            {
                case Kind.Read:
                    Array.Clear(buffer, 0, (int)(request.Count * disk.BlockLength));
                    if (request.Count != 0)
                        unit.Read(buffer, request.BlockAddress, request.Count, flush, ref status);
                    break;
                case Kind.Write:
                    if (request.Count != 0)
                        unit.Write(buffer, request.BlockAddress, request.Count, flush, ref status);
                    break;
                case Kind.Flush:
                    if (disk.CacheSupported) // else each write that was answered is on stable storage
                        unit.Flush(request.BlockAddress, request.Count, ref status);
                    break;
                case Kind.Unmap:
                    UnmapDescriptor[] descriptors = Wire.DecodeDescriptors(buffer, request.Count);
                    status = RequestCheck.Check(disk, descriptors);
                    if (!status.Failed && descriptors.Length != 0)
                        unit.Unmap(descriptors, ref status);
                    break;
            }
            return status;
        }
    }
}
