// A lock on a folder: of two servers that find a dead socket there, one replaces it, the other then sees it.
using System;
using System.Threading;

namespace Userdisk
{
    internal sealed class FolderLock : IDisposable
    {
        private const int Pause = 10; // milliseconds
        private const int Tries = 200;

        private readonly int descriptor;

        // Who cannot have the lock in two seconds goes on: whoever may open the folder could keep it for ever.
        internal FolderLock(string folder)
        {
            descriptor = Libc.OpenFolder(folder);
            for (int i = 0; descriptor >= 0 && i < Tries && !Libc.TryLock(descriptor); i++)
                Thread.Sleep(Pause);
        }

        public void Dispose()
        {
            if (descriptor >= 0)
                Libc.Close(descriptor);
        }
    }
}
