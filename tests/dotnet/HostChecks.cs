// What needs no client: parameters and their rules, status values, partition tables. Prints each failure; the
// exit status is their number.
using System;
using System.IO;
using System.Linq;
using Userdisk;

internal sealed class NoDisk : StorageUnitBase
{
    internal Exception InInit;
    internal Exception InStarted;

    public override void Init(StorageUnitHost host)
    {
        if (InInit != null)
            throw InInit;
        host.BlockCount += 1;
    }

    public override void Started(StorageUnitHost host)
    {
        if (InStarted != null)
            throw InStarted;
    }
}

internal static class HostChecks
{
    private static string folder;
    private static int failures;
    private static int checks;

    private static int Main(string[] arguments)
    {
        folder = arguments[0];
        Statuses();
        Flags();
        Rules();
        Life();
        Tables();
        Console.WriteLine("{0} checks, {1} failures", checks, failures);
        return failures;
    }

    private static void Statuses()
    {
        var status = new StorageUnitStatus { ASCQ = 9, Information = 9, Flags = 9 };
        status.SetSense(SenseKey.MediumError, Asc.WriteError);
        Equal("sense", "2 3 12 0 0 0", Text(status));
        status.SetSense(SenseKey.MediumError, Asc.UnrecoveredReadError, 0xFFFFFFFFFF);
        Equal("information", "2 3 17 0 1099511627775 256", Text(status));
    }

    private static string Text(StorageUnitStatus status)
    {
        return string.Join(" ", status.ScsiStatus, status.SenseKey, status.ASC, status.ASCQ, status.Information,
            status.Flags);
    }

    private static void Flags()
    {
        StorageUnitHost host = Good();
        foreach (bool on in new[] { true, false, true })
        {
            host.WriteProtected = host.CacheSupported = host.UnmapSupported = host.EjectDisabled = on;
            Equal("flags", on, host.WriteProtected && host.CacheSupported && host.UnmapSupported && host.EjectDisabled);
            Equal("any flag", on, host.WriteProtected || host.CacheSupported || host.UnmapSupported
                || host.EjectDisabled);
        }
        host.ProductId = "sixteen letters!";
        host.ProductRevisionLevel = "four";
        Equal("product", "sixteen letters!", host.ProductId);
        Equal("revision", "four", host.ProductRevisionLevel);
    }

    private static void Rules()
    {
        Refused("guid", "Guid is not set", host => host.Guid = Guid.Empty);
        Refused("no blocks", "BlockCount is 0", host => host.BlockCount = ulong.MaxValue); // Init adds 1
        Refused("too many", "2^63", host => host.BlockCount = 1ul << 54);
        Refused("block length", "BlockLength is below 16", host => host.BlockLength = 15);
        Refused("block length 0", "BlockLength is below 16", host => host.BlockLength = 0);
        Refused("transfer 0", "MaxTransferLength", host => host.MaxTransferLength = 0);
        Refused("transfer", "multiple of BlockLength", host => host.MaxTransferLength = 65537);
        Refused("transfer below", "multiple of BlockLength", host => host.BlockLength = 1 << 17);
        Refused("transfer above", "above 67108864", host => host.MaxTransferLength = 1 << 30);
        Refused("product", "ProductId must have 1 to 16", host => host.ProductId = "seventeen letters");
        Refused("no product", "ProductId must have 1 to 16", host => host.ProductId = null);
        Refused("umlaut", "printable ASCII", host => host.ProductId = "Pl\u00e4tte");
        Refused("control", "printable ASCII", host => host.ProductId = "a\tb");
        Refused("revision", "1 to 4", host => host.ProductRevisionLevel = "1.0.0");
        Refused("threads", "ThreadCount must be 1", host => host.ThreadCount = 0);
        Refused("threads", "ThreadCount must be 1", host => host.ThreadCount = 257);
        Raises<ArgumentException>("no path", "path", () => Good().Start(""));
        Raises<ArgumentNullException>("no unit", "unit", () => new StorageUnitHost(null));
    }

    private static void Refused(string what, string message, Action<StorageUnitHost> change)
    {
        Raises<ArgumentException>(what, message, () =>
        {
            StorageUnitHost host = Good();
            change(host);
            host.Start(Socket("refused"));
        });
        Equal(what + ": no socket", false, Directory.EnumerateFileSystemEntries(folder).Any());
    }

    private static void Life()
    {
        var unit = new NoDisk { InInit = new InvalidDataException("init") };
        Raises<InvalidDataException>("Init", "init", () => Good(unit).Start(Socket("a")));
        unit = new NoDisk { InStarted = new InvalidDataException("started") };
        Raises<InvalidDataException>("Started", "started", () => Good(unit).Start(Socket("a")));
        Equal("no socket is left", false, Directory.EnumerateFileSystemEntries(folder).Any());

        using (StorageUnitHost host = Good())
        {
            host.Wait(); // nothing to wait for
            host.Start(Socket("a"));
            Raises<InvalidOperationException>("twice", "started", () => host.Start(Socket("b")));
            Raises<InvalidOperationException>("fixed", "fixed", () => host.BlockCount = 7);
            Raises<InvalidOperationException>("fixed", "fixed", () => host.WriteProtected = true);
            Raises<InvalidOperationException>("fixed", "fixed", () => host.ThreadCount = 7);
            Raises<IOException>("taken", "another server listens", () => Good().Start(Socket("a")));
            host.Shutdown();
            host.Shutdown();
            host.Wait();
            host.Wait();
        }
        Equal("no socket is left", false, Directory.EnumerateFileSystemEntries(folder).Any());

        File.WriteAllText(Socket("file"), "mine");
        Raises<IOException>("a file", "not a socket", () => Good().Start(Socket("file")));
        Equal("the file", "mine", File.ReadAllText(Socket("file")));
        File.Delete(Socket("file"));
        Raises<IOException>("long", "longer than 107 bytes", () => Good().Start(Socket(new string('x', 108))));
        Raises<IOException>("folder", "there is no folder", () => Good().Start(Socket("none/a")));
    }

    private static void Tables()
    {
        var first = new Partition { Type = 7, BlockAddress = 8, BlockCount = 1048568 };
        Table("one", "00 00 09 00 07 45 04 41 08 00 00 00 F8 FF 0F 00", first);
        first.Active = true;
        first.Type = 0x83;
        Table("active", "80 00 09 00 83 45 04 41 08 00 00 00 F8 FF 0F 00", first);
        // One track ends at sector 63 of the same head; far blocks have the last place that can be said.
        Table("track", "00 00 02 00 07 00 3F 00 01 00 00 00 3E 00 00 00",
            new Partition { Type = 7, BlockAddress = 1, BlockCount = 62 });
        Table("far", "00 FE FF FF 07 FE FF FF 00 00 00 80 FF FF FF 7F",
            new Partition { Type = 7, BlockAddress = 1u << 31, BlockCount = (1u << 31) - 1 });

        var four = Enumerable.Range(0, 5).Select(i => new Partition
        {
            Type = (byte)(i + 1), BlockAddress = (ulong)(10 * i + 1), BlockCount = 10,
        }).ToArray();
        var sector = new byte[512];
        PartitionTable.Define(four.Take(4).ToArray(), 0xA1B2C3D4, sector);
        Equal("types", "1 2 3 4", string.Join(" ", new[] { 450, 466, 482, 498 }.Select(at => sector[at])));
        Equal("signature", "D4-C3-B2-A1", BitConverter.ToString(sector, 440, 4));
        Equal("boot code", "CD-18-F4-EB-FD-00", BitConverter.ToString(sector, 0, 6));
        Equal("end", "55-AA", BitConverter.ToString(sector, 510, 2));

        Action<string, string, Partition[]> refused = (what, message, partitions) =>
            Raises<ArgumentException>(what, message, () => PartitionTable.Define(partitions, 0, sector));
        refused("five", "room for 4", four);
        refused("overlap", "1 and 2 overlap", new[] { four[0], new Partition { BlockAddress = 10, BlockCount = 1 } });
        refused("block 0", "block 1 or later", new[] { new Partition { BlockAddress = 0, BlockCount = 1 } });
        refused("empty", "not empty", new[] { new Partition { BlockAddress = 1, BlockCount = 0 } });
        refused("end", "below block 2^32", new[] { new Partition { BlockAddress = 1, BlockCount = uint.MaxValue } });
        refused("wrap", "below block 2^32", new[] { new Partition { BlockAddress = 2, BlockCount = ulong.MaxValue } });
        Raises<ArgumentException>("short", "512 bytes", () =>
            PartitionTable.Define(new Partition[0], 0, new byte[511]));
    }

    private static void Table(string what, string expected, Partition partition)
    {
        var sector = new byte[512];
        PartitionTable.Define(new[] { partition }, 0, sector);
        Equal(what, expected.Replace(' ', '-'), BitConverter.ToString(sector, 446, 16));
    }

    private static StorageUnitHost Good(StorageUnitBase unit = null)
    {
        return new StorageUnitHost(unit ?? new NoDisk()) { Guid = Guid.NewGuid(), BlockCount = 9 };
    }

    private static string Socket(string name)
    {
        return Path.Combine(folder, name);
    }

    private static void Raises<T>(string what, string message, Action action) where T : Exception
    {
        string got = "nothing";
        try
        {
            action();
        }
        catch (Exception error)
        {
            if (error is T && error.Message.Contains(message))
                got = null;
            else
                got = error.ToString();
        }
        Equal(what + " raises " + typeof(T).Name + " " + message, null, got);
    }

    private static void Equal(string what, object expected, object got)
    {
        checks++;
        if (Equals(expected, got))
            return;
        failures++;
        Console.WriteLine("{0}: expected {1}, got {2}", what, expected, got);
    }
}
