// The file behind the disk: opened for this process alone, read, written, flushed and emptied by ranges of bytes.
using System;
using System.IO;

namespace Userdisk.Samples
{
    internal sealed class BackingFile : IDisposable
    {
        private static readonly byte[] Zeros = new byte[64 << 10];

        private readonly FileStream stream;
        private readonly int descriptor;
        private readonly object flushing = new object();
        private bool punches = true;
        private IOException lost;

        // Opens the file, or makes it with this size. Raises IOException, UnauthorizedAccessException.
        internal BackingFile(string path, long size, bool writable)
        {
            bool make = !File.Exists(path);
            stream = new FileStream(path, make ? FileMode.CreateNew : FileMode.Open,
                writable || make ? FileAccess.ReadWrite : FileAccess.Read, FileShare.ReadWrite);
            try
            {
                descriptor = (int)stream.SafeFileHandle.DangerousGetHandle();
                if (!stream.CanSeek)
                    throw new IOException(path + " is not a file");
                if (!Libc.TryLock(descriptor))
                    throw new IOException(path + " is in use by another process");
                IsNew = stream.Length == 0 && stream.CanWrite;
                if (IsNew)
                    stream.SetLength(size);
                if (stream.Length != size)
                    throw new IOException(path + " has " + stream.Length + " bytes, but a disk of this form has "
                        + size + ": change -c or -l");
            }
            catch
            {
                stream.Dispose();
                throw;
            }
        }

        // It was empty.
        internal bool IsNew { get; private set; }

        // All of it, or IOException. From any thread, as the others.
        internal void Read(byte[] buffer, int length, long offset)
        {
            Libc.Read(descriptor, buffer, length, offset);
        }

        internal void Write(byte[] buffer, int length, long offset)
        {
            Libc.Write(descriptor, buffer, length, offset);
        }

        // After a flush that failed the kernel takes what it could not store for stored, and the next flush would
        // succeed. What was written is lost all the same, so every later flush fails, too.
        internal void Flush()
        {
            lock (flushing)
            {
                if (lost != null)
                    throw new IOException("an earlier flush failed: " + lost.Message);
                try
                {
                    Libc.Flush(descriptor);
                }
                catch (IOException error)
                {
                    lost = error;
                    throw;
                }
            }
        }

        // Exactly this range reads as zeros afterwards, and takes no space where the file system has holes.
        internal void Zero(long offset, long length)
        {
            if (length == 0)
                return;
            if (punches && !Libc.Punch(descriptor, offset, length))
                punches = false;
            if (punches)
                return;
            for (long end = offset + length; offset < end;)
            {
                int count = (int)Math.Min(Zeros.Length, end - offset);
                Libc.Write(descriptor, Zeros, count, offset);
                offset += count;
            }
        }

        public void Dispose()
        {
            stream.Dispose();
        }
    }
}
