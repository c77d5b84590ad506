// Lines for people: errors, and with a mask a line for each request and each response.
using System;
using System.IO;
using System.Threading;

namespace Userdisk
{
    internal sealed class Log
    {
        private readonly TextWriter errors;
        private readonly TextWriter debug;
        private readonly uint mask;
        private readonly string program;

        // mask: bit 1 << kind for each kind of request that has lines in the debug log.
        internal Log(TextWriter errors, TextWriter debug, uint mask)
        {
            this.errors = TextWriter.Synchronized(errors ?? TextWriter.Null);
            this.debug = TextWriter.Synchronized(debug ?? TextWriter.Null);
            this.mask = mask;
            program = Path.GetFileNameWithoutExtension(AppDomain.CurrentDomain.FriendlyName);
        }

        internal void Error(string message)
        {
            try
            {
                errors.WriteLine("userdisk: " + message);
                errors.Flush();
            }
            catch (IOException)
            {
                // Nobody reads it any more; the disk goes on.
            }
        }

        internal void Started(Request request)
        {
            if (!Wanted(request.Kind))
                return;
            string what = request.Kind == Kind.Unmap ? "Count=" + request.Count
                : "BlockAddress=" + Halves(request.BlockAddress) + ", BlockCount=" + request.Count;
            if (request.Kind == Kind.Read || request.Kind == Kind.Write)
                what += ", FUA=" + (request.Flush ? 1 : 0);
            Line(request, ">>" + Name(request.Kind) + what);
        }

        internal void Ended(Request request, StorageUnitStatus status)
        {
            if (!Wanted(request.Kind))
                return;
            string what = "Status=GOOD";
            if (status.Failed)
                what = string.Format("Status={0:X2} Sense={1:X}/{2:X2}/{3:X2}", status.ScsiStatus, status.SenseKey,
                    status.ASC, status.ASCQ);
            if ((status.Flags & StorageUnitStatus.InformationValid) != 0)
                what += ", Information=" + Halves(status.Information);
            Line(request, "<<" + Name(request.Kind) + what);
        }

        private bool Wanted(Kind kind)
        {
            return mask != 0 && (kind > Kind.Unmap || kind == Kind.Reserved || (mask & 1u << (int)kind) != 0);
        }

        private void Line(Request request, string text)
        {
            try
            {
                debug.WriteLine("{0}[TID={1:x4}]: {2:x16}: {3}", program, Thread.CurrentThread.ManagedThreadId,
                    request.Hint, text);
                debug.Flush();
            }
            catch (IOException)
            {
                // As above.
            }
        }

        private static string Name(Kind kind)
        {
            return (Enum.IsDefined(typeof(Kind), kind) && kind != Kind.Reserved ? kind.ToString() : "INVLD")
                .PadRight(6);
        }

        private static string Halves(ulong value)
        {
            return string.Format("{0:x8}:{1:x8}", value >> 32, (uint)value);
        }
    }
}
