// The command line of rawdisk: one letter for each option, a table of what they set.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;

namespace Userdisk.Samples
{
    /// <summary>A command line that is wrong: one line that says what.</summary>
    internal sealed class UsageException : Exception
    {
        internal UsageException(string message) : base(message)
        {
        }
    }

    internal sealed class Options
    {
        internal const string Usage =
            "usage: rawdisk -f FILE -p SOCKET [OPTION VALUE]...\n"
            + "  -f FILE      file that holds the disk; made if it is missing\n"
            + "  -p SOCKET    path of the Unix socket to serve at\n"
            + "  -c N         number of blocks (1048576)\n"
            + "  -l N         bytes of a block (512)\n"
            + "  -i TEXT      product id, 1 to 16 characters (RawDisk-dotnet)\n"
            + "  -r TEXT      product revision, 1 to 4 characters (1.0)\n"
            + "  -W 0|1       writes are allowed (1)\n"
            + "  -C 0|1       writes may stay in the cache until a flush (1)\n"
            + "  -U 0|1       unmap is supported (1)\n"
            + "  -d N         debug log: sum of 2 reads, 4 writes, 8 flushes, 16 unmaps; -1 all (0)\n"
            + "  -D FILE      where the debug log goes, at the file's end; - is standard error (-)\n"
            + "  -?           this text\n";

        internal string File;
        internal string Socket;
        internal ulong BlockCount = 1 << 20;
        internal uint BlockLength = 512;
        internal string ProductId = "RawDisk-dotnet";
        internal string Revision = "1.0";
        internal bool WritesAllowed = true;
        internal bool Cache = true;
        internal bool Unmap = true;
        internal uint DebugMask;
        internal string DebugFile = "-";
        internal bool Help;

        // Raises UsageException.
        internal static Options Parse(string[] arguments)
        {
            var options = new Options();
            var table = new Dictionary<string, Action<string, string>>
            {
                { "-f", (name, value) => options.File = NotEmpty(name, value) },
                { "-p", (name, value) => options.Socket = NotEmpty(name, value) },
                { "-c", (name, value) => options.BlockCount = Number(name, value, 1, long.MaxValue) },
                { "-l", (name, value) => options.BlockLength = (uint)Number(name, value, 16, 64 << 20) },
                { "-i", (name, value) => options.ProductId = Text(name, value, 16) },
                { "-r", (name, value) => options.Revision = Text(name, value, 4) },
                { "-W", (name, value) => options.WritesAllowed = Number(name, value, 0, 1) == 1 },
                { "-C", (name, value) => options.Cache = Number(name, value, 0, 1) == 1 },
                { "-U", (name, value) => options.Unmap = Number(name, value, 0, 1) == 1 },
                { "-d", (name, value) => options.DebugMask =
                    value == "-1" ? uint.MaxValue : (uint)Number(name, value, 0, uint.MaxValue) },
                { "-D", (name, value) => options.DebugFile = NotEmpty(name, value) },
            };
            for (int i = 0; i < arguments.Length; i += 2)
            {
                string name = arguments[i];
                if (name == "-?")
                {
                    options.Help = true;
                    return options;
                }
                if (!table.ContainsKey(name))
                    throw new UsageException("unknown option: " + name);
                if (i + 1 == arguments.Length)
                    throw new UsageException(name + " needs a value");
                table[name](name, arguments[i + 1]);
            }
            if (options.File == null)
                throw new UsageException("-f FILE is needed");
            if (options.Socket == null)
                throw new UsageException("-p SOCKET is needed");
            if (options.BlockCount > (ulong)long.MaxValue / options.BlockLength)
                throw new UsageException("-c and -l make a disk of 2^63 bytes or more");
            return options;
        }

        private static string NotEmpty(string name, string value)
        {
            if (value.Length == 0)
                throw new UsageException(name + " needs a path");
            return value;
        }

        private static string Text(string name, string value, int longest)
        {
            if (value.Length == 0 || value.Length > longest || value.Any(c => c < ' ' || c > '~'))
                throw new UsageException(name + " needs 1 to " + longest + " printable ASCII characters");
            return value;
        }

        private static ulong Number(string name, string value, ulong smallest, ulong largest)
        {
            ulong number;
            if (!ulong.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out number)
                || number < smallest || number > largest)
                throw new UsageException(
                    name + " needs a number from " + smallest + " to " + largest + ", not " + value);
            return number;
        }
    }
}
