// rawdisk: a file becomes a disk. Exit status 0: ended by a signal; 1: failed; 2: wrong command line.
using System;
using System.IO;
using System.Linq;
using Mono.Unix;
using Mono.Unix.Native;

namespace Userdisk.Samples
{
    internal static class Program
    {
        private const int SignalCheck = 500; // milliseconds

        private static int Main(string[] arguments)
        {
            try
            {
                Options options = Options.Parse(arguments);
                if (options.Help)
                {
                    Console.Out.Write(Options.Usage);
                    return 0;
                }
                Serve(options);
                return 0;
            }
            catch (UsageException error)
            {
                return Failed(2, error.Message + "; rawdisk -? prints the options");
            }
            catch (Exception error) when (error is IOException || error is UnauthorizedAccessException)
            {
                return Failed(1, error.Message);
            }
        }

        private static int Failed(int status, string message)
        {
            Console.Error.WriteLine("rawdisk: " + message);
            return status;
        }

        private static void Serve(Options options)
        {
            // From now on a signal waits until it is asked for.
            UnixSignal[] signals =
            {
                new UnixSignal(Signum.SIGINT), new UnixSignal(Signum.SIGTERM), new UnixSignal(Signum.SIGHUP),
            };
            using (TextWriter debug = options.DebugMask == 0 || options.DebugFile == "-"
                ? Console.Error : new StreamWriter(options.DebugFile, true))
            using (var host = new StorageUnitHost(new RawDiskUnit(options)))
            {
                host.DebugLog = debug;
                host.Start(options.Socket);
                Console.Out.WriteLine("rawdisk: {0}: {1} blocks of {2} bytes{3}{4}{5}, guid {6}, at {7}",
                    options.File, host.BlockCount, host.BlockLength, host.WriteProtected ? ", write protected" : "",
                    host.CacheSupported ? ", cache" : "", host.UnmapSupported ? ", unmap" : "", host.Guid,
                    options.Socket);
                Console.Out.Flush();
                do // WaitAny does not see a signal that came before it began to wait
                    UnixSignal.WaitAny(signals, SignalCheck);
                while (!signals.Any(signal => signal.IsSet));
                host.Shutdown();
                host.Wait();
            }
        }
    }
}
