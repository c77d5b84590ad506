// A disk in memory for the tests: tells each call on standard output, and fails in many ways at certain blocks.
// TestDisk KIND SOCKET [NAME=VALUE]...; ends when its standard input does.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;
using Userdisk;

internal sealed class BareDisk : StorageUnitBase
{
}

internal sealed class MemoryDisk : StorageUnitBase
{
    private const ulong Throws = 100;
    private const ulong Sense = 101;
    private const ulong WaitsForNext = 102;
    private const ulong EndsWait = 103;
    private const ulong FillsNothing = 104;
    private const ulong Busy = 105;
    private const ulong CallsWait = 106;
    private const ulong CallsShutdown = 107;

    private readonly ManualResetEvent proceed = new ManualResetEvent(false);
    private readonly bool lastFlushFails;
    private byte[] bytes;
    private StorageUnitHost host;

    internal MemoryDisk(bool lastFlushFails)
    {
        this.lastFlushFails = lastFlushFails;
    }

    public override void Started(StorageUnitHost host)
    {
        this.host = host;
        bytes = new byte[host.BlockCount * host.BlockLength];
        Tell("Started");
    }

    public override void Stopped(StorageUnitHost host)
    {
        Tell("Stopped");
    }

    public override void Read(byte[] buffer, ulong address, uint count, bool flush, ref StorageUnitStatus status)
    {
        Tell("Read {0} {1} {2}", address, count, flush);
        if (!Special(address, ref status))
            Array.Copy(bytes, At(address), buffer, 0, At(count));
    }

    public override void Write(byte[] buffer, ulong address, uint count, bool flush, ref StorageUnitStatus status)
    {
        Tell("Write {0} {1} {2}", address, count, flush);
        if (!Special(address, ref status))
            Array.Copy(buffer, 0, bytes, At(address), At(count));
    }

    public override void Flush(ulong address, uint count, ref StorageUnitStatus status)
    {
        Tell("Flush {0} {1}", address, count);
        if (count == 0 && lastFlushFails)
            throw new IOException("the test's flush");
        Special(address, ref status);
    }

    public override void Unmap(UnmapDescriptor[] descriptors, ref StorageUnitStatus status)
    {
        Tell("Unmap {0}", string.Join(" ", descriptors.Select(d => d.BlockAddress + "+" + d.BlockCount)));
        foreach (UnmapDescriptor descriptor in descriptors)
            if (!Special(descriptor.BlockAddress, ref status))
                Array.Clear(bytes, At(descriptor.BlockAddress), At(descriptor.BlockCount));
    }

    private bool Special(ulong address, ref StorageUnitStatus status)
    {
        switch (address)
        {
            case Throws:
                throw new InvalidOperationException("the test's exception");
            case Sense:
                status.SetSense(SenseKey.MediumError, Asc.UnrecoveredReadError, 0x1122334455667788);
                status.ASCQ = 4;
                return true;
            case WaitsForNext:
                Tell("waits");
                proceed.WaitOne();
                return false;
            case EndsWait:
                proceed.Set();
                return false;
            case FillsNothing:
                return true;
            case Busy:
                status.ScsiStatus = ScsiStatus.Busy;
                return true;
            case CallsWait:
                host.Wait();
                return true;
            case CallsShutdown:
                host.Shutdown();
                return false;
            default:
                return false;
        }
    }

    private int At(ulong blocks)
    {
        return (int)(blocks * host.BlockLength);
    }

    private static void Tell(string format, params object[] values)
    {
        lock (Console.Out)
        {
            Console.Out.WriteLine(format, values);
            Console.Out.Flush();
        }
    }
}

internal static class TestDisk
{
    private static int Main(string[] arguments)
    {
        var values = new Dictionary<string, string>();
        foreach (string argument in arguments.Skip(2))
            values.Add(argument.Split('=')[0], argument.Split('=')[1]);
        Func<string, string, string> value = (name, standard) => values.ContainsKey(name) ? values[name] : standard;
        StorageUnitBase unit = arguments[0] == "bare"
            ? (StorageUnitBase)new BareDisk() : new MemoryDisk(value("lastflush", "") == "fails");
        using (var host = new StorageUnitHost(unit))
        {
            host.Guid = Guid.Parse("4112a9a1-f079-4f3d-ba53-2d5df27d28b5");
            host.BlockCount = ulong.Parse(value("blocks", "1024"));
            host.BlockLength = uint.Parse(value("length", "512"));
            host.ProductId = "RawDisk";
            host.WriteProtected = value("protected", "0") == "1";
            host.CacheSupported = value("cache", "1") == "1";
            host.UnmapSupported = value("unmap", "1") == "1";
            host.EjectDisabled = value("noeject", "0") == "1";
            host.MaxTransferLength = uint.Parse(value("transfer", "65536"));
            host.ThreadCount = int.Parse(value("threads", "1"));
            host.DebugMask = uint.Parse(value("debug", "0"));
            host.Start(arguments[1]);
            Console.Out.WriteLine("ready");
            Console.Out.Flush();
            new Thread(() =>
            {
                Console.In.ReadToEnd();
                host.Shutdown();
            }) { IsBackground = true }.Start();
            try
            {
                host.Wait();
            }
            catch (IOException error)
            {
                Console.Error.WriteLine("Wait: " + error.Message);
                return 3;
            }
        }
        return 0;
    }
}
