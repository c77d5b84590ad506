// Serves one disk on a Unix socket: takes clients one after the other, runs their requests on dispatcher threads.
using System;
using System.Net.Sockets;
using System.Threading;

namespace Userdisk
{
    internal sealed class PipeServer
    {
        private const int PauseAfterFailure = 100; // milliseconds: no busy loop when accept fails

        private readonly object guard = new object();
        private readonly UnixListener listener;
        private readonly StorageUnitParameters disk;
        private readonly Operations operations;
        private readonly Log log;
        private readonly WorkQueue queue;
        private readonly Thread[] dispatchers;
        private Session session;
        private bool stopping;

        internal PipeServer(UnixListener listener, StorageUnitParameters disk, Operations operations, int threads,
            Log log)
        {
            this.listener = listener;
            this.disk = disk;
            this.operations = operations;
            this.log = log;
            queue = new WorkQueue(threads, disk.MaxTransferLength);
            dispatchers = new Thread[threads];
            for (int i = 0; i < threads; i++)
                dispatchers[i] = new Thread(Dispatch) { Name = "userdisk dispatcher " + i };
        }

        // Serves until Stop; then every operation has ended.
        internal void Run()
        {
            foreach (Thread dispatcher in dispatchers)
                dispatcher.Start();
            while (NextClient())
            {
            }
            listener.Close();
            queue.Stop();
            foreach (Thread dispatcher in dispatchers)
                dispatcher.Join();
        }

        internal bool IsDispatcher(Thread thread)
        {
            return Array.IndexOf(dispatchers, thread) >= 0;
        }

        // From any thread, any number of times. Operations under way end by themselves; Run returns then.
        internal void Stop()
        {
            lock (guard)
            {
                if (stopping)
                    return;
                stopping = true;
                if (session != null)
                    session.Abandon();
                listener.Stop();
            }
        }

        private bool NextClient()
        {
            try
            {
                Socket socket = listener.Accept();
                lock (guard)
                {
                    session = new Session(socket, disk, queue, log);
                    if (stopping)
                        session.Abandon();
                }
                session.Run();
            }
            catch (SocketException error)
            {
                lock (guard)
                    if (stopping)
                        return false;
                log.Error("cannot take a client: " + error.Message);
                Thread.Sleep(PauseAfterFailure);
            }
            lock (guard)
            {
                session = null;
                return !stopping;
            }
        }

        private void Dispatch()
        {
            for (Slot slot = queue.Take(); slot != null; slot = queue.Take())
            {
                if (slot.Session.Gone)
                {
                    slot.Session.Finish(slot);
                    continue;
                }
                log.Started(slot.Request);
                StorageUnitStatus status = operations.Run(slot.Request, slot.Buffer);
                log.Ended(slot.Request, status);
                slot.Session.Answer(slot, status);
            }
        }
    }
}
