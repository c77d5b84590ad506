// Requests on their way to the dispatcher threads, in a fixed number of slots: what a client can make us hold.
using System;
using System.Collections.Generic;
using System.Threading;

namespace Userdisk
{
    // A request, whose it is, and its data.
    internal sealed class Slot
    {
        internal readonly byte[] Header = new byte[Wire.LengthBytes + Wire.HeaderLength];
        internal readonly byte[] Buffer;
        internal Session Session;
        internal Request Request;

        internal Slot(uint length)
        {
            Buffer = new byte[length];
        }
    }

    internal sealed class WorkQueue
    {
        private const int WaitingSlots = 32; // above one for each thread
        private const uint WaitingBytes = 16 << 20; // of their buffers, if that is less

        private readonly object guard = new object();
        private readonly Queue<Slot> ready = new Queue<Slot>();
        private readonly Stack<Slot> free = new Stack<Slot>();
        private readonly uint bufferLength;
        private int unmade;
        private bool stopped;

        internal WorkQueue(int threads, uint bufferLength)
        {
            this.bufferLength = bufferLength;
            unmade = threads + (int)Math.Max(1, Math.Min(WaitingSlots, WaitingBytes / bufferLength));
        }

        // A slot for the next request; waits until there is one.
        internal Slot Rent()
        {
            lock (guard)
            {
                while (free.Count == 0 && unmade == 0)
                    Monitor.Wait(guard);
                if (free.Count != 0)
                    return free.Pop();
                unmade--;
            }
            return new Slot(bufferLength);
        }

        internal void Return(Slot slot)
        {
            slot.Session = null;
            lock (guard)
            {
                free.Push(slot);
                Monitor.PulseAll(guard);
            }
        }

        internal void Add(Slot slot)
        {
            lock (guard)
            {
                ready.Enqueue(slot);
                Monitor.PulseAll(guard);
            }
        }

        // The next request; null: there will be none.
        internal Slot Take()
        {
            lock (guard)
            {
                while (ready.Count == 0 && !stopped)
                    Monitor.Wait(guard);
                return ready.Count == 0 ? null : ready.Dequeue();
            }
        }

        // After the last session has ended.
        internal void Stop()
        {
            lock (guard)
            {
                stopped = true;
                Monitor.PulseAll(guard);
            }
        }
    }
}
