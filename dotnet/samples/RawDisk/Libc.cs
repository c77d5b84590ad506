// Calls of the C library for files. .NET's FileStream has one position for all threads, cannot punch holes, and
// in Mono its Flush(true) calls fsync but does not say when that failed: a disk must.
using System;
using System.IO;
using System.Runtime.InteropServices;

namespace Userdisk.Samples
{
    internal static class Libc
    {
        private const int Interrupted = 4; // EINTR
        private const int NotSupported = 95; // EOPNOTSUPP
        private const int NotImplemented = 38; // ENOSYS
        private const int LockExclusive = 2; // LOCK_EX
        private const int LockAtOnce = 4; // LOCK_NB
        private const int PunchHole = 3; // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

        // False: another process has it.
        internal static bool TryLock(int file)
        {
            return flock(file, LockExclusive | LockAtOnce) == 0;
        }

        // All of it; what is behind the end of the file is an error. Raises IOException.
        internal static unsafe void Read(int file, byte[] buffer, int length, long offset)
        {
            fixed (byte* start = buffer)
                for (int done = 0; done < length;)
                {
                    long count = (long)pread64(file, start + done, (UIntPtr)(length - done), offset + done);
                    if (count == 0)
                        throw new EndOfStreamException("the file ends at " + (offset + done));
                    if (count < 0)
                        Fail("read");
                    else
                        done += (int)count;
                }
        }

        // All of it. Raises IOException.
        internal static unsafe void Write(int file, byte[] buffer, int length, long offset)
        {
            fixed (byte* start = buffer)
                for (int done = 0; done < length;)
                {
                    long count = (long)pwrite64(file, start + done, (UIntPtr)(length - done), offset + done);
                    if (count < 0)
                        Fail("write");
                    else
                        done += (int)count;
                }
        }

        // To stable storage, past the drive's cache. Raises IOException.
        internal static void Flush(int file)
        {
            while (fdatasync(file) != 0)
                Fail("flush");
        }

        // False: the file system has no holes. Raises IOException.
        internal static bool Punch(int file, long offset, long length)
        {
            while (fallocate64(file, PunchHole, offset, length) != 0)
            {
                int error = Marshal.GetLastWin32Error();
                if (error == NotSupported || error == NotImplemented)
                    return false;
                Fail("unmap");
            }
            return true;
        }

        // Returns if the call has to be made again.
        private static void Fail(string what)
        {
            int error = Marshal.GetLastWin32Error();
            if (error != Interrupted)
                throw new IOException("cannot " + what + ": " + Marshal.PtrToStringAnsi(strerror(error)));
        }

        [DllImport("libc")]
        private static extern IntPtr strerror(int error);

        [DllImport("libc", SetLastError = true)]
        private static extern int flock(int file, int operation);

        [DllImport("libc", SetLastError = true)]
        private static extern unsafe IntPtr pread64(int file, byte* buffer, UIntPtr count, long offset);

        [DllImport("libc", SetLastError = true)]
        private static extern unsafe IntPtr pwrite64(int file, byte* buffer, UIntPtr count, long offset);

        [DllImport("libc", SetLastError = true)]
        private static extern int fdatasync(int file);

        [DllImport("libc", SetLastError = true)]
        private static extern int fallocate64(int file, int mode, long offset, long length);
    }
}
