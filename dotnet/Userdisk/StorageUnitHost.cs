// Makes a disk of a unit: its parameters, and its life from Start to Wait.
using System;
using System.IO;
using System.Threading;

namespace Userdisk
{
    /// <summary>
    /// Serves one StorageUnitBase on a Unix socket, by WinSpd's pipe protocol.
    ///
    /// Set the parameters before Start, or in the unit's Init; later they are fixed (InvalidOperationException).
    /// Shutdown may be called from any thread; all else belongs to one.
    /// </summary>
    public sealed class StorageUnitHost : IDisposable
    {
        private const int MostThreads = 256;

        private readonly StorageUnitBase unit;
        private readonly StorageUnitParameters parameters = new StorageUnitParameters();
        private readonly ManualResetEvent ended = new ManualResetEvent(false);
        private int threadCount = 1;
        private TextWriter errorLog = Console.Error;
        private TextWriter debugLog = Console.Error;
        private uint debugMask;
        private bool begun;
        private volatile PipeServer server;
        private Thread serving;
        private Operations operations;
        private volatile bool shutdown;
        private volatile bool flushed = true;

        /// <summary>A host for this unit; nothing begins yet.</summary>
        public StorageUnitHost(StorageUnitBase unit)
        {
            if (unit == null)
                throw new ArgumentNullException("unit");
            this.unit = unit;
        }

        /// <summary>The unit that it serves.</summary>
        public StorageUnitBase StorageUnit
        {
            get { return unit; }
        }

        /// <summary>Who the disk is: not empty, no other disk's, and the same each time it is served.</summary>
        public Guid Guid
        {
            get { return parameters.Guid; }
            set { Settable().Guid = value; }
        }

        /// <summary>How many blocks the disk has; at least 1.</summary>
        public ulong BlockCount
        {
            get { return parameters.BlockCount; }
            set { Settable().BlockCount = value; }
        }

        /// <summary>Bytes of a block; 512 if not set, at least 16.</summary>
        public uint BlockLength
        {
            get { return parameters.BlockLength; }
            set { Settable().BlockLength = value; }
        }

        /// <summary>What the disk is called: 1 to 16 printable ASCII characters.</summary>
        public string ProductId
        {
            get { return parameters.ProductId; }
            set { Settable().ProductId = value; }
        }

        /// <summary>Its version: 1 to 4 printable ASCII characters.</summary>
        public string ProductRevisionLevel
        {
            get { return parameters.ProductRevisionLevel; }
            set { Settable().ProductRevisionLevel = value; }
        }

        /// <summary>Writes and unmaps are refused.</summary>
        public bool WriteProtected
        {
            get { return parameters.WriteProtected; }
            set { Settable().WriteProtected = value; }
        }

        /// <summary>
        /// The unit has a cache: a write may be volatile until Flush. If not, every write has its flush argument
        /// set, and Flush is not called.
        /// </summary>
        public bool CacheSupported
        {
            get { return parameters.CacheSupported; }
            set { Settable().CacheSupported = value; }
        }

        /// <summary>The unit has Unmap.</summary>
        public bool UnmapSupported
        {
            get { return parameters.UnmapSupported; }
            set { Settable().UnmapSupported = value; }
        }

        /// <summary>Desktops should not offer to eject the disk.</summary>
        public bool EjectDisabled
        {
            get { return parameters.EjectDisabled; }
            set { Settable().EjectDisabled = value; }
        }

        /// <summary>
        /// Bytes of the largest read or write: a multiple of BlockLength, 64 KiB if not set, at most 64 MiB.
        /// </summary>
        public uint MaxTransferLength
        {
            get { return parameters.MaxTransferLength; }
            set { Settable().MaxTransferLength = value; }
        }

        /// <summary>
        /// How many operations may run at once, 1 to 256. 1 if not set: then a class needs no locks.
        /// </summary>
        public int ThreadCount
        {
            get { return threadCount; }
            set
            {
                Settable();
                if (value < 1 || value > MostThreads)
                    throw new ArgumentException("ThreadCount must be 1 to " + MostThreads);
                threadCount = value;
            }
        }

        /// <summary>Where errors are told, a line or a trace each; standard error if not set; null: nowhere.</summary>
        public TextWriter ErrorLog
        {
            get { return errorLog; }
            set { Settable(); errorLog = value; }
        }

        /// <summary>Where the lines of DebugMask go; standard error if not set; null: nowhere.</summary>
        public TextWriter DebugLog
        {
            get { return debugLog; }
            set { Settable(); debugLog = value; }
        }

        /// <summary>Which operations have lines in DebugLog: 2 reads, 4 writes, 8 flushes, 16 unmaps; 0 none.</summary>
        public uint DebugMask
        {
            get { return debugMask; }
            set { Settable(); debugMask = value; }
        }

        /// <summary>
        /// Serve at this path of a Unix socket, for the owner of this process only. Returns when clients can
        /// connect; they are served one after the other. Calls the unit's Init and Started.
        /// Raises ArgumentException for wrong parameters, IOException if it cannot listen there,
        /// InvalidOperationException if called twice, and what Init and Started raise; then there is no disk.
        /// </summary>
        public void Start(string path)
        {
            if (string.IsNullOrEmpty(path))
                throw new ArgumentException("the path of a socket is needed");
            Settable();
            unit.Init(this);
            parameters.Check();
            begun = true;
            var log = new Log(errorLog, debugLog, debugMask);
            StorageUnitParameters disk = parameters.Copy();
            var listener = new UnixListener(path);
            try
            {
                unit.Started(this);
            }
            catch
            {
                listener.Close();
                throw;
            }
            operations = new Operations(unit, disk, log);
            serving = new Thread(() => Serve(log)) { Name = "userdisk server" };
            server = new PipeServer(listener, disk, operations, threadCount, log);
            if (shutdown) // asked for by Started
                server.Stop();
            serving.Start();
        }

        /// <summary>
        /// End: no operation begins any more, clients are disconnected, the socket's file is removed. Returns at
        /// once. From any thread, also from an operation, any number of times.
        /// </summary>
        public void Shutdown()
        {
            shutdown = true;
            if (server != null)
                server.Stop();
        }

        /// <summary>
        /// Wait until the disk has ended: after Shutdown, when the last operation has, the cache was flushed and
        /// the unit's Stopped has returned. Raises IOException if that flush failed: what was written may be
        /// lost; InvalidOperationException from an operation of this disk, for which it would wait for ever.
        /// </summary>
        public void Wait()
        {
            if (server == null)
                return;
            if (Thread.CurrentThread == serving || server.IsDispatcher(Thread.CurrentThread))
                throw new InvalidOperationException("Wait was called from an operation: call Shutdown");
            ended.WaitOne();
            if (!flushed)
                throw new IOException("the last flush failed: what was written may be lost");
        }

        /// <summary>Shutdown and Wait. What Wait would raise is in the error log only.</summary>
        public void Dispose()
        {
            Shutdown();
            try
            {
                Wait();
            }
            catch (IOException)
            {
                // Told in the log; Dispose must not hide another exception.
            }
        }

        private void Serve(Log log)
        {
            server.Run();
            flushed = operations.FlushAll();
            try
            {
                unit.Stopped(this);
            }
            catch (Exception error)
            {
                log.Error("Stopped failed: " + error);
            }
            ended.Set();
        }

        private StorageUnitParameters Settable()
        {
            if (begun)
                throw new InvalidOperationException("the disk has been started: its parameters are fixed");
            return parameters;
        }
    }
}
