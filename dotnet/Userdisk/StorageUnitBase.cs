// What a user's disk derives from.
namespace Userdisk
{
    /// <summary>Blocks that are no longer needed.</summary>
    public struct UnmapDescriptor
    {
        /// <summary>The first of them.</summary>
        public ulong BlockAddress;
        /// <summary>How many.</summary>
        public uint BlockCount;
    }

    /// <summary>
    /// A disk: derive from it and override what the disk can do.
    ///
    /// Operations run on the host's dispatcher threads and may block; with a ThreadCount above 1 they overlap.
    /// Ranges are within the disk, nothing is written to a write-protected one: the host has checked that.
    /// An operation fails by status.SetSense, or by any exception: the host logs it and answers with a read
    /// error or a write error. The disk goes on in both cases.
    ///
    /// An operation that a class does not have fails as an invalid command. Success would be a lie: a client
    /// would take the old bytes of the buffer for data, or believe that something was stored.
    /// </summary>
    public abstract class StorageUnitBase
    {
        /// <summary>Before the disk exists: set the host's parameters. An exception ends Start.</summary>
        public virtual void Init(StorageUnitHost host)
        {
        }

        /// <summary>The disk exists, and nothing has been asked of it. An exception ends Start.</summary>
        public virtual void Started(StorageUnitHost host)
        {
        }

        /// <summary>After the last operation: release what the disk has.</summary>
        public virtual void Stopped(StorageUnitHost host)
        {
        }

        /// <summary>
        /// Fill the first blockCount x BlockLength bytes of the buffer. It may be longer; what is not filled
        /// is zero. With flush, what is in a cache for these blocks goes to stable storage first.
        /// </summary>
        public virtual void Read(byte[] buffer, ulong blockAddress, uint blockCount, bool flush,
            ref StorageUnitStatus status)
        {
            NotSupported(ref status);
        }

        /// <summary>
        /// Store the first blockCount x BlockLength bytes of the buffer, which is the host's again afterwards.
        /// With flush, return when they are on stable storage.
        /// </summary>
        public virtual void Write(byte[] buffer, ulong blockAddress, uint blockCount, bool flush,
            ref StorageUnitStatus status)
        {
            NotSupported(ref status);
        }

        /// <summary>
        /// Return when every write that has returned before is on stable storage, at least of these blocks.
        /// A count of 0 is all from the address to the end. Asked only if CacheSupported.
        /// </summary>
        public virtual void Flush(ulong blockAddress, uint blockCount, ref StorageUnitStatus status)
        {
            NotSupported(ref status);
        }

        /// <summary>Blocks that are not needed; they should read as zeros. Asked only if UnmapSupported.</summary>
        public virtual void Unmap(UnmapDescriptor[] descriptors, ref StorageUnitStatus status)
        {
            NotSupported(ref status);
        }

        private static void NotSupported(ref StorageUnitStatus status)
        {
            status.SetSense(SenseKey.IllegalRequest, Asc.InvalidCommand);
        }
    }
}
