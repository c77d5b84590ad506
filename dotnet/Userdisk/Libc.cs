// The few calls of the C library that .NET's own classes lack: modes, kinds and locks of files, shutdown.
using System;
using System.IO;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Userdisk
{
    internal static class Libc
    {
        private const int NoEntry = 2; // ENOENT
        private const int CurrentFolder = -100; // AT_FDCWD
        private const int NoFollow = 0x100; // AT_SYMLINK_NOFOLLOW
        private const uint TypeModeAndInode = 0x103; // STATX_TYPE, STATX_MODE, STATX_INO
        private const int KindMask = 0xF000; // S_IFMT
        private const int SocketKind = 0xC000; // S_IFSOCK

        private const int CloseOnExec = 0x80000; // O_CLOEXEC
        private const int LockExclusive = 2; // LOCK_EX
        private const int LockAtOnce = 4; // LOCK_NB
        private const int ShutReadWrite = 2; // SHUT_RDWR

        // What tells a file from one that later has its name.
        internal struct FileIdentity
        {
            internal bool IsSocket;
            internal ulong Inode;
            internal ulong Device;
        }

        // null: there is no such file. Raises IOException. statx has one layout on every machine.
        internal static FileIdentity? Identify(string path)
        {
            var bytes = new byte[256];
            if (statx(CurrentFolder, path, NoFollow, TypeModeAndInode, bytes) != 0)
            {
                if (Marshal.GetLastWin32Error() == NoEntry)
                    return null;
                throw Failure();
            }
            return new FileIdentity
            {
                IsSocket = (BitConverter.ToUInt16(bytes, 28) & KindMask) == SocketKind,
                Inode = BitConverter.ToUInt64(bytes, 32),
                Device = BitConverter.ToUInt64(bytes, 136),
            };
        }

        // Raises IOException.
        internal static void OwnerOnly(string path)
        {
            if (chmod(path, 0x180) != 0) // 0600
                throw Failure();
        }

        // Raises IOException.
        internal static void Remove(string path)
        {
            if (unlink(path) != 0)
                throw Failure();
        }

        // Ends what waits for the other side, now and later; also accept. Mono's Socket.Shutdown refuses sockets
        // that listen. The socket must be open.
        internal static void Shutdown(Socket socket)
        {
            shutdown((int)socket.Handle, ShutReadWrite);
        }

        // A descriptor that Close takes; below 0: it cannot be opened.
        internal static int OpenFolder(string path)
        {
            return open(path, CloseOnExec);
        }

        // False: somebody else has the lock, or there are none.
        internal static bool TryLock(int descriptor)
        {
            return flock(descriptor, LockExclusive | LockAtOnce) == 0;
        }

        // Also unlocks.
        internal static void Close(int descriptor)
        {
            close(descriptor);
        }

        // Not Win32Exception: in Mono its messages are those of Windows' numbers.
        private static IOException Failure()
        {
            return new IOException(Marshal.PtrToStringAnsi(strerror(Marshal.GetLastWin32Error())));
        }

        [DllImport("libc")]
        private static extern IntPtr strerror(int error);

        [DllImport("libc", SetLastError = true)]
        private static extern int shutdown(int socket, int how);

        [DllImport("libc", SetLastError = true)]
        private static extern int open(string path, int flags);

        [DllImport("libc", SetLastError = true)]
        private static extern int flock(int descriptor, int operation);

        [DllImport("libc", SetLastError = true)]
        private static extern int close(int descriptor);

        [DllImport("libc", SetLastError = true)]
        private static extern int chmod(string path, uint mode);

        [DllImport("libc", SetLastError = true)]
        private static extern int unlink(string path);

        [DllImport("libc", SetLastError = true)]
        private static extern int statx(int folder, string path, int flags, uint mask, byte[] result);
    }
}
