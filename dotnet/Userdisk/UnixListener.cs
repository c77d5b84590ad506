// A listening Unix socket and its file: for the owner only; the file of a server that is gone is replaced.
using System;
using System.IO;
using System.Net.Sockets;
using System.Text;

namespace Userdisk
{
    internal sealed class UnixListener
    {
        private const int LongestPath = 107; // bytes of sun_path without its end
        private const int Backlog = 4; // clients that wait for their turn

        private readonly string path;
        private readonly Socket socket;
        private readonly Libc.FileIdentity? file;

        // Raises IOException, in one line.
        internal UnixListener(string path)
        {
            this.path = path;
            if (Encoding.UTF8.GetByteCount(path) > LongestPath)
                throw Failure("the path is longer than " + LongestPath + " bytes");
            socket = NewSocket();
            try
            {
                string folder = Path.GetDirectoryName(Path.GetFullPath(path));
                if (!Directory.Exists(folder))
                    throw new IOException("there is no folder " + folder);
                using (new FolderLock(folder))
                {
                    MakeRoom();
                    socket.Bind(new UnixDomainSocketEndPoint(path));
                    Libc.OwnerOnly(path); // before anybody can connect: it does not listen yet
                    file = Libc.Identify(path);
                    socket.Listen(Backlog);
                }
            }
            catch (Exception error) when (error is SocketException || error is IOException)
            {
                socket.Close();
                throw Failure(error.Message);
            }
        }

        // Raises SocketException, also when Stop has been called.
        internal Socket Accept()
        {
            return socket.Accept();
        }

        // From any thread: ends Accept, now and later. The file is removed if it is still this server's.
        internal void Stop()
        {
            try
            {
                Libc.FileIdentity? now = Libc.Identify(path);
                if (now.HasValue && file.HasValue && now.Value.Equals(file.Value))
                    Libc.Remove(path);
            }
            catch (IOException)
            {
                // Its folder is gone, or no longer ours.
            }
            Libc.Shutdown(socket);
        }

        // After the last Accept: a thread on its way into it would wait on a descriptor that is somebody else's.
        internal void Close()
        {
            Stop();
            socket.Close();
        }

        private void MakeRoom()
        {
            Libc.FileIdentity? found = Libc.Identify(path);
            if (!found.HasValue)
                return;
            if (!found.Value.IsSocket)
                throw new IOException("there is a file that is not a socket");
            using (Socket probe = NewSocket())
            {
                probe.Blocking = false; // a full queue of a living server does not make us wait
                try
                {
                    probe.Connect(new UnixDomainSocketEndPoint(path));
                }
                catch (SocketException error)
                {
                    if (error.SocketErrorCode == SocketError.ConnectionRefused)
                    {
                        Libc.Remove(path);
                        return;
                    }
                }
            }
            throw new IOException("another server listens there");
        }

        private IOException Failure(string why)
        {
            return new IOException("cannot listen on " + path + ": " + why);
        }

        private static Socket NewSocket()
        {
            return new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        }
    }
}
